"""How the planner's bench sums up what was planned and measured."""

import pytest

from plan import compare_stages, summarise_time


def test_stages_made_together_count_once_and_small_ones_not_alone() -> None:
    groups = [["pairs"], ["stage1", "stage1_control"]]
    rounds = []
    for number in (1, 2, 3):
        planned = {"pairs": 1.0, "stage1": 20.0, "stage1_control": 30.0}
        measured = {"pairs": 3.0, "stage1": 25.0, "stage1_control": 24.0 + number}
        rounds.append({1: compare_stages(groups, planned, measured)})
    assert rounds[2][1]["planned"] == 31.0
    assert rounds[2][1]["measured"] == 30.0
    found = summarise_time(rounds)["1x"]
    assert found["ratio"] == pytest.approx(31.0 / 29.0)
    assert found["stages"] == {
        "pairs": pytest.approx(1 / 3),
        "stage1": pytest.approx(0.8),
        "stage1_control": pytest.approx(30 / 26),
    }
    lighter = [{1: compare_stages(groups, {**planned, "pairs": 0.1}, {**measured, "pairs": 0.2})}]
    assert "pairs" not in summarise_time(lighter)["1x"]["stages"]
