"""The image: by hadolint, and whether what it copies and installs is there."""

import re
import shlex
import subprocess
import tomllib
from typing import Any

import pytest
import ray

import stic_ray
from tests.cluster.cluster_files import CLUSTER, ROOT, find_tool, pins, read, read_all

_DOCKERFILE = CLUSTER / "image" / "Dockerfile"
_PINS = CLUSTER / "image" / "constraints.txt"


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, comments left out and lines joined."""
    lines = [line for line in _DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def _extras() -> dict[str, list[str]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return extras


def _lint(text: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([find_tool("hadolint"), "-"], input=text, capture_output=True, text=True, timeout=60)


def test_dockerfile_passes_hadolint() -> None:
    done = _lint(_DOCKERFILE.read_text())
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("line", "damaged"),
    [
        ("USER 1000:100", "USER root"),
        ("FROM python:3.11.13-slim-bookworm", "FROM python:latest"),
        ("pip install --no-cache-dir -c", "pip install -c"),
        ("WORKDIR /opt/stic_ray", "WORKDIR opt"),
    ],
)
def test_damaged_dockerfile_is_refused(line: str, damaged: str) -> None:
    text = _DOCKERFILE.read_text()
    assert line in text
    assert _lint(text.replace(line, damaged)).returncode != 0


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    ignored = (CLUSTER / "image" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    sources = [source for name, rest in _instructions() if name == "COPY" for source in shlex.split(rest)[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == each or source.startswith(f"{each}/") for each in allowed), source
    assert all(any(source == each or source.startswith(f"{each}/") for source in sources) for each in allowed)


def test_extras_that_are_installed_exist() -> None:
    (extras,) = [rest.partition("=")[2] for name, rest in _instructions() if name == "ARG"]
    named = {"docker": extras}
    named |= {cloud: read(f"ray-up/{cloud}.yaml")["setup_commands"][0].split()[-1] for cloud in ("aws", "gcp")}
    (sky,) = re.findall(r"'\.\[(.*)\]'", read("skypilot/pipeline.yaml")["setup"])
    named["sky"] = sky
    (smaller,) = re.findall(r"EXTRAS=(\S+) leaves out", _DOCKERFILE.read_text())
    named["smaller"] = smaller
    for where, names in named.items():
        assert set(names.split(",")) <= set(_extras()), where


def test_pins_are_the_tested_set_and_hold_every_dependency() -> None:
    image, tested = pins(_PINS), pins(ROOT / "constraints.txt")
    assert {name for name in image.keys() & tested.keys() if image[name] != tested[name]} == {
        "numpy",
        "fastapi",
    }  # as vLLM wants them
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (extras,) = [rest.partition("=")[2] for name, rest in _instructions() if name == "ARG"]
    wanted = [*project["dependencies"], *(each for extra in extras.split(",") for each in _extras()[extra])]
    names = {re.split(r"[\[<>=;]", each)[0].lower().replace("_", "-") for each in wanted}
    assert names - image.keys() == set()
    assert image["ray"] == ray.__version__


def test_image_is_named_once_and_by_this_version() -> None:
    (image,) = {
        container["image"]
        for name in ("raycluster", "rayjob")
        for container in _containers(read_all(f"kubernetes/{name}.yaml"))
    }
    assert image.endswith(f":{stic_ray.__version__}")
    assert f"-t {image} ." in _DOCKERFILE.read_text()


def _containers(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        found = [each for each in value.get("containers", []) if "image" in each]
        return [*found, *(each for part in value.values() for each in _containers(part))]
    return [each for part in value for each in _containers(part)] if isinstance(value, list) else []
