"""What holds for every file of cluster/: it is checked, holds no secret, and names no image that changes."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.cluster.cluster_files import CLUSTER, ROOT

# Which test holds a file: a new one is given its place here, and its check there.
_CHECKS = {
    "run.yaml": "test_machines.py",
    "image/Dockerfile": "test_image.py",
    "image/Dockerfile.dockerignore": "test_image.py",
    "image/constraints.txt": "test_image.py",
    "kubernetes/*.yaml": "test_kubernetes.py",
    "ray-up/aws.yaml": "test_ray_up.py",
    "ray-up/gcp.yaml": "test_ray_up.py",
    "skypilot/pipeline.yaml": "test_machines.py",
    "runtime-env/*.yaml": "test_machines.py",
    "*/*.sh": "test_machines.py",
    "slurm/pipeline.sbatch": "test_machines.py",
}
# Those of operations, which has its own tests.
_OTHERS = ("monitoring/",)

_SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}"  # an access key of AWS
    r"|\bhf_[A-Za-z0-9]{20,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\beyJ[A-Za-z0-9_-]{20,}\."  # a JSON web token
    # A name of a secret with a value that is no reference, no placeholder and no null.
    r"|(?i:secret_access_key|access_key_id|api_key|password|passwd|(?:hf|auth|access|bearer)_token)"
    r"[\"']?\s*[:=]\s*[\"']?(?!\$|null\b|~|token\b|\{)[A-Za-z0-9+/_-]{8,}"
)
_MOVING_IMAGE = re.compile(r"(?:\bimage:\s+|^FROM\s+)(?:&\w+\s+)?[\w./-]+(?::(?:latest|nightly)\b|\s*$|\s+#)")


def _files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "cluster"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _uncovered(names: list[str]) -> list[str]:
    ours = [name for name in names if not name.startswith(_OTHERS)]
    return [name for name in ours if not any(Path(name).match(pattern) for pattern in _CHECKS)]


def test_every_file_is_held_by_a_test() -> None:
    assert _uncovered([path.relative_to(CLUSTER).as_posix() for path in _files()]) == []
    for pattern, test in _CHECKS.items():
        assert list(CLUSTER.glob(pattern)), pattern
        assert (Path(__file__).parent / test).is_file()


@pytest.mark.parametrize("name", ["ray-up/azure.yaml", "skypilot/other.yaml", "slurm/x.py", "new/thing.yaml"])
def test_a_file_without_a_check_is_found(name: str) -> None:
    assert _uncovered([name]) == [name]


def test_no_file_holds_a_secret() -> None:
    found = [f"{path.name}: {match[0]}" for path in _files() for match in _SECRETS.finditer(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY", True),
        ("key: AKIA" + "ABCDEFGHIJKLMNOP", True),
        ("export HF_TOKEN=hf_" + "a" * 30, True),
        ("WANDB_API_KEY: 0123456789abcdef", True),
        ("password: hunter2hunter2", True),
        ("HF_TOKEN: null", False),
        ("export HF_TOKEN=$value", False),
        ('--secret RAY_AUTH_TOKEN="$(ray get-auth-token)"', False),
        ("authOptions: {mode: token}", False),
    ],
)
def test_secrets_are_recognised(text: str, found: bool) -> None:
    assert bool(_SECRETS.search(text)) is found


def test_no_image_changes_under_its_name() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in _files()
        for line in path.read_text().splitlines()
        if _MOVING_IMAGE.search(line) and not line.lstrip().startswith("#")
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("image: rayproject/ray:latest", True),
        ("image: rayproject/ray", True),
        ("image: &image rayproject/ray:nightly # SET", True),
        ("FROM python", True),
        ("FROM python:3.11.13-slim-bookworm", False),
        ("image: &image registry.example.com/stic-ray:0.1.0 # SET", False),
        ("image: *image", False),
    ],
)
def test_moving_images_are_recognised(line: str, found: bool) -> None:
    assert bool(_MOVING_IMAGE.search(line)) is found
