"""The training driver on what an earlier process left."""

from pathlib import Path

import pytest

from stic_ray.artifacts import Plan
from stic_ray.train import driver

_PLAN = Plan(stage="stage1", code_version=1, identity={}, kind=driver.MODEL)


@pytest.mark.parametrize(("snapshot", "stands"), [('{"checkpoint_results": []}', True), ("", False), ('{"a": ', False)])
def test_checkpoints_whose_list_was_cut_off_are_removed(tmp_path: Path, snapshot: str, stands: bool) -> None:
    work = tmp_path / "checkpoints"
    (work / _PLAN.fingerprint).mkdir(parents=True)
    (work / _PLAN.fingerprint / "checkpoint_manager_snapshot.json").write_text(snapshot)
    driver.remove_damaged(str(work), _PLAN)
    assert work.exists() is stands


def test_no_checkpoints_are_no_fault(tmp_path: Path) -> None:
    driver.remove_damaged(str(tmp_path / "checkpoints"), _PLAN)
    assert list(tmp_path.iterdir()) == []


def test_name_of_the_list_is_ray_trains() -> None:
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME

    assert driver.SNAPSHOT == CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
