"""Scripts by shellcheck, SkyPilot's task by its documented fields, runtime environments by Ray's own reading."""

import copy
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.runtime_env import RuntimeEnv

from stic_ray import launch, preflight
from tests.cluster.cluster_files import CLUSTER, ROOT, check, execution, find_tool, pins, read

_SCRIPTS = sorted([*CLUSTER.rglob("*.sh"), *CLUSTER.rglob("*.sbatch")])
_ENVIRONMENTS = sorted(path.name for path in (CLUSTER / "runtime-env").glob("*.yaml"))


def _shellcheck(script: Path) -> "subprocess.CompletedProcess[str]":
    command = [find_tool("shellcheck"), "--external-sources", "--source-path=SCRIPTDIR", str(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda path: path.name)
def test_script_passes_shellcheck(script: Path) -> None:
    done = _shellcheck(script)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("field", ["setup", "run"])
def test_skypilot_commands_pass_shellcheck(tmp_path: Path, field: str) -> None:
    script = tmp_path / "commands.sh"
    script.write_text(f"#!/usr/bin/env bash\n{read('skypilot/pipeline.yaml')[field]}")
    done = _shellcheck(script)
    assert done.returncode == 0, done.stdout


def test_damaged_script_is_refused(tmp_path: Path) -> None:
    shutil.copytree(CLUSTER / "machines", tmp_path / "machines")
    script = tmp_path / "machines" / "submit.sh"
    script.write_text(script.read_text().replace('"$job" "$@"', "$job $@"))
    assert _shellcheck(script).returncode != 0


def test_scripts_that_are_run_can_be() -> None:
    read_by_others = {"settings.sh", "environment.sh"}
    for script in _SCRIPTS:
        is_run = script.suffix == ".sh" and script.name not in read_by_others
        assert os.access(script, os.X_OK) == is_run, script.name
        assert script.read_text().startswith("#!/usr/bin/env bash\n") or script.name in read_by_others


def test_slurm_job_is_requeued_and_told_before_its_time_is_over() -> None:
    text = (CLUSTER / "slurm" / "pipeline.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.MULTILINE))
    assert "requeue" in options and options["open-mode"] == "append"
    target, signal, seconds = re.fullmatch(r"(B):(USR1)@(\d+)", options["signal"]).groups()  # type: ignore[union-attr]
    assert target == "B" and f"trap 'again=yes; kill \"$client\" 2>/dev/null' {signal}" in text
    stop_s = re.search(r"RAY_JOB_STOP_WAIT_TIME_S:-(\d+)", (CLUSTER / "machines" / "settings.sh").read_text())
    assert stop_s and int(seconds) > int(stop_s[1])
    run = execution()
    gpus = int(options["nodes"]) * int(options["gpus-per-node"])
    assert gpus >= run.num_train_workers * run.train_gpus
    assert int(options["cpus-per-task"]) >= int(options["gpus-per-node"]) * run.train_cpus


def test_run_is_a_configuration_whose_output_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a submitted job reads it, which refuses what is relative."""
    monkeypatch.setenv(preflight._SUBMITTED, "{}")
    config = launch.resolve_config(launch.parse_arguments(["--config", str(CLUSTER / "run.yaml")]))
    assert config.store.startswith("s3://") and config.runs.startswith("s3://")


# SkyPilot


def test_skypilot_task_has_documented_fields_and_its_scripts_are_there() -> None:
    task = read("skypilot/pipeline.yaml")
    check(task, "skypilot_task.json")
    assert task["resources"]["use_spot"] and task["num_nodes"] > 1
    assert set(task["secrets"].values()) == {None}
    named = re.findall(r"cluster/[\w./-]+", task["setup"] + task["run"] + task["envs"]["CONFIG"])
    assert named and all((ROOT / name).is_file() for name in named)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_node", 2),
        ("num_nodes", "2"),
        ("envs", {"BUCKET": 1}),
        ("resources", {"accelerator": "A100:1"}),
        ("resources", {"use_spot": "true"}),
        ("resources", {"job_recovery": {"strategy": "NEXT"}}),
    ],
)
def test_skypilot_damaged_task_is_refused(field: str, value: object) -> None:
    task = copy.deepcopy(read("skypilot/pipeline.yaml"))
    task[field] = value
    with pytest.raises(jsonschema.ValidationError):
        check(task, "skypilot_task.json")


# Runtime environments


def _problem(environment: dict[str, object]) -> str:
    """What Ray would refuse or not read of a runtime environment; it lets unknown fields pass."""
    unknown = environment.keys() - RuntimeEnv.known_fields
    if unknown:
        return f"unknown fields {sorted(unknown)}"
    try:
        RuntimeEnv(**environment)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", _ENVIRONMENTS)
def test_runtime_environment_is_one_of_rays(name: str) -> None:
    environment = read(f"runtime-env/{name}")
    assert _problem(environment) == ""
    assert all(isinstance(value, str) for value in environment["env_vars"].values())


@pytest.mark.parametrize(
    ("field", "value"),
    [("env_var", {}), ("env_vars", {"A": 1}), ("pip", 3), ("config", {"setup_timeout_seconds": "1"}), ("uv", ["ray"])],
)
def test_damaged_runtime_environment_is_found(field: str, value: object) -> None:
    environment = read("runtime-env/packages.yaml")
    environment[field] = value
    assert _problem(environment) != ""


def test_runtime_environment_installs_the_tested_versions_and_no_ray() -> None:
    wanted = dict(each.lower().replace("_", "-").split("==") for each in read("runtime-env/packages.yaml")["pip"])
    tested = {**pins(CLUSTER / "image" / "constraints.txt"), **pins(ROOT / "constraints.txt")}
    assert wanted == {name: tested[name] for name in wanted}
    assert "ray" not in wanted


def test_runtime_environment_leaves_out_what_is_there_and_is_small() -> None:
    excluded = [name.removeprefix("/") for name in read("runtime-env/checkout.yaml")["excludes"]]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    sizes = {
        name: (ROOT / name).stat().st_size
        for name in listed.stdout.split("\0")
        if name and (ROOT / name).is_file() and not any(name.startswith(f"{each}/") for each in excluded)
    }
    assert {"jobs/stic_pipeline.py", "stic_ray/launch.py", "cluster/run.yaml"} <= sizes.keys()
    assert sum(sizes.values()) < 20_000_000


def test_runtime_environments_agree_on_what_both_say() -> None:
    first, second = (yaml.safe_load((CLUSTER / "runtime-env" / name).read_text()) for name in _ENVIRONMENTS)
    assert first["excludes"] == second["excludes"] and first["env_vars"] == second["env_vars"]
