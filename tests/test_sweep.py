"""What a sweep takes from a trial's measured models."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from stic_ray import sweep
from stic_ray.config import Config
from stic_ray.evaluate.measured import Measured
from stic_ray.sweep_plan import plan_of


def _figures(config: Config, monkeypatch: pytest.MonkeyPatch, *, recall: float) -> Any:
    block = {"describe_simple": {"chair_i": 0.0, "recall": recall}, "questions": {"accuracy": 40.0}}
    intervals = {"describe_simple": {"chair_i": [0.0, 1.0]}, "questions": {"accuracy": [30.0, 50.0]}}
    blocks = {"stage1": block, "intervals": {"stage1": intervals}}
    monkeypatch.setattr(sweep, "split_block", lambda *_: blocks)
    dev = cast(Measured, SimpleNamespace(predictions={"stage1": None}, truth=None))
    return sweep._figures_of("stage1", {"dev": dev}, plan_of(config))


def test_model_whose_captions_name_nothing_has_no_hallucination_rate(
    embedded_sweep: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = _figures(embedded_sweep, monkeypatch, recall=12.0)
    assert (found["describe_simple/chair_i"].value, found["questions/accuracy"].high) == (0.0, 50.0)
    with pytest.raises(ValueError, match=r"captions of stage1 name nothing that is there \(describe_simple\)"):
        _figures(embedded_sweep, monkeypatch, recall=0.0)
