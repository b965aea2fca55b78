"""The short version of `make bench NAME=kills`: one kill in each kind of stage; and Ctrl-C."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from e2e_project import Project

from kill_rounds import audit, compare, kill_round, references
from stic_ray.leases import LEASE

pytestmark = pytest.mark.slow


KILLED = ("responses", "stage1")


def test_driver_killed_in_a_stage_of_each_kind_loses_and_doubles_nothing(finished: Project, project: Project) -> None:
    config = (finished.home / "own.yaml").read_text()
    (project.home / "own.yaml").write_text(config)  # the same inputs, another store
    project.take(finished, "samples", "descriptions", "fitting", "stage2")  # not killed here: no need to make them
    undisturbed = references(finished.run_home)
    stages = {role: undisturbed[role] for role in KILLED}
    hit = kill_round(project.command(), project.home, project.store, stages, random.Random(1), whole_node=False)
    assert hit
    found = compare(undisturbed, references(project.run_home))
    assert found.faults == [] and audit(project.run_home) == []
    assert (found.num_lost, found.num_double, found.num_different_draws) == (0, 0, 0)
    assert found.num_texts > 0
    assert found.num_different_texts <= 0.001 * found.num_texts


CONTROL = (
    "stage1_control={loss: {type: SftLoss}, weights: {type: Lora, rank: 4, lora_alpha: 8}, lr: 1e-3, epochs: 1, "
    "global_batch: 4}"
)


def test_ctrl_c_in_training_is_one_line_and_the_rerun_with_another_alpha_makes_no_pair_again(
    finished: Project, tmp_path: Path
) -> None:
    """A training and its control run at once when it comes. What stage 1's loss changes is counted in the store."""
    project = finished.copy(tmp_path / "stopped")
    overrides = ("stage1.loss.alpha=0.7", CONTROL)
    # What a shell starts in the background ignores Ctrl-C, and so would the driver.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    driver = subprocess.Popen(
        project.command(*overrides), cwd=project.home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 120
    while len(list(project.store.glob(f"stage1*/{LEASE}"))) < 2:
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(3)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130, said[-3000:]
    assert "Traceback" not in said and said.endswith("interrupted: run the same command again to go on from here\n")
    assert project.made() == finished.made()
    project.finish(*overrides)
    added = sorted(name.rpartition("-")[0] for name in project.made() - finished.made())
    assert added == ["descriptions", "fitting", "stage1", "stage1_control", "stage2"]
    assert audit(project.run_home) == []
