"""The rules of the house that a linter does not know, as tests."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "stic_ray"
SCRIPTS = sorted([*(ROOT / "jobs").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
MODULES = sorted(PACKAGE.rglob("*.py"))

_MAX_JOB_LINES = 40
_NAMELESS = {"utils.py", "helpers.py", "common.py", "base.py", "misc.py"}
# `home/ray` is the user's folder in Ray's published container images, which cluster files must name.
_MACHINE_FOLDER = re.compile(r"(?:(?<![\w.~/-])|(?<=//))/(?:home/(?!ray\b)\w|Users/\w|root/\w|work/\w)")
_REGISTRY = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|registry\.npmjs\.org|/opt/(?:pypi|wheels)|index[-]url"
)


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def _tracked_texts() -> Iterator[tuple[Path, str]]:
    """The text files that are, or would be, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():  # deleted, not yet committed
            continue
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            yield path, data.decode("utf-8", errors="replace")


def _lines_that_match(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{_relative(path)}:{number}: {line.strip()[:120]}"
        for path, text in _tracked_texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def test_scripts_shadow_no_standard_module_and_no_installed_package() -> None:
    taken = set(sys.stdlib_module_names) | set(metadata.packages_distributions())
    assert [_relative(script) for script in SCRIPTS if script.stem in taken] == []


def test_jobs_are_thin() -> None:
    lengths = {script.name: len(script.read_text().splitlines()) for script in (ROOT / "jobs").glob("*.py")}
    assert {name: length for name, length in lengths.items() if length > _MAX_JOB_LINES} == {}


def test_jobs_define_nothing_that_runs_on_a_worker() -> None:
    classes = [
        f"{_relative(script)}:{node.lineno}"
        for script in (ROOT / "jobs").glob("*.py")
        for node in _nodes(script)
        if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef | ast.Lambda)
    ]
    assert classes == []


def test_console_scripts_call_functions_that_exist() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts
    for target in scripts.values():
        module, _, function = target.partition(":")
        path = ROOT / (module.replace(".", "/") + ".py")
        assert function in {node.name for node in _nodes(path) if isinstance(node, ast.FunctionDef)}, target


def test_modules_are_named_for_what_they_hold() -> None:
    folders = (PACKAGE, ROOT / "jobs", ROOT / "benchmarks", ROOT / "tests")
    found = [path for folder in folders for path in folder.rglob("*.py") if path.name in _NAMELESS]
    assert [_relative(path) for path in found] == []


def test_library_never_prints() -> None:
    found = [
        f"{_relative(path)}:{node.lineno}"
        for path in MODULES
        for node in _nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_library_runs_no_remote_code_and_unpickles_no_weights() -> None:
    found = [f"{_relative(path)}: {name}" for path in MODULES for node in _nodes(path) for name in _dangers(node)]
    assert found == []


def _dangers(node: ast.AST) -> Iterator[str]:
    """Pickle modules, `torch.load` and `trust_remote_code` set to anything but a literal False."""
    pickles = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in pickles)
    elif isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if module.split(".")[0] in pickles:
            yield module
        yield from (
            f"{module}.{a.name}" for a in node.names if a.name in pickles or (module, a.name) == ("torch", "load")
        )
    elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load":
        yield "torch.load"
    elif isinstance(node, ast.keyword) and node.arg == "trust_remote_code" and ast.unparse(node.value) != "False":
        yield "trust_remote_code"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from ray import cloudpickle", ["ray.cloudpickle"]),
        ("import torch\ntorch.load('x')", ["torch.load"]),
        ("from torch import load", ["torch.load"]),
        ("f(trust_remote_code=True)", ["trust_remote_code"]),
        ("f(trust_remote_code=flag)", ["trust_remote_code"]),
        ("f(trust_remote_code=False)", []),
        ("from safetensors.torch import load_file", []),
    ],
)
def test_dangers_are_recognised(source: str, found: list[str]) -> None:
    assert [name for node in ast.walk(ast.parse(source)) for name in _dangers(node)] == found


def test_library_imports_no_job() -> None:
    roots = {"jobs", "benchmarks", "tests", "harness"}
    found = [
        f"{_relative(path)}:{node.lineno}"
        for path in MODULES
        for node in _nodes(path)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in roots)
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] in roots for alias in node.names))
    ]
    assert found == []


def test_files_name_no_folder_of_a_machine() -> None:
    assert _lines_that_match(_MACHINE_FOLDER) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/{}/someone/x", True),
        ("path='/{}/ab'", True),
        ("file:///{}/x", True),
        ("s3://{}/x", False),
        ("shared/{}/x", False),
        ("../{}/x", False),
    ],
)
@pytest.mark.parametrize("folder", ["home", "Users", "root", "work"])
def test_machine_folders_are_recognised(text: str, folder: str, found: bool) -> None:
    assert bool(_MACHINE_FOLDER.search(text.format(folder))) is found


def test_files_name_no_package_registry() -> None:
    assert _lines_that_match(_REGISTRY) == []
