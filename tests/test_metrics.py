"""What a stage's meter tells Ray, and when."""

import time
from typing import Any

import pytest

from stic_ray import metrics
from stic_ray.metrics import Metric, Queue, Rent, StageMeter, Told
from stic_ray.standing import StageProgress


class _Recorder:
    """Stands for Ray's counters and gauges, which only a cluster can be asked for: tests/e2e/test_metrics.py does."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, ...], float] = {}


class _Recorded:
    def __init__(self, recorder: _Recorder, metric: Metric) -> None:
        self._told, self._metric = recorder.told, metric

    def _key(self, labels: dict[str, str]) -> tuple[str, ...]:
        assert labels.keys() == set(self._metric.labels)
        return (self._metric.name.removeprefix("stic_ray_"), *(labels[name] for name in self._metric.labels))

    def set(self, value: float, labels: dict[str, str]) -> None:
        self._told[self._key(labels)] = value

    def inc(self, value: float, labels: dict[str, str]) -> None:
        assert value > 0  # as Ray demands
        self._told[self._key(labels)] = self._told.get(self._key(labels), 0.0) + value


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> _Recorder:
    found = _Recorder()
    monkeypatch.setattr(Metric, "start", lambda self: _Recorded(found, self))
    return found


def _told(**more: Any) -> Told:
    return Told(progress=StageProgress(done=30, total=100, at=0.0, **more.pop("progress", {})), **more)


def test_stage_of_units_tells_what_is_left_waits_and_was_cached(recorder: _Recorder) -> None:
    meter = StageMeter("own", "responses", Rent())
    queue = Queue(num_waiting=8, num_in_work=4, num_retried=2)
    meter.tell(_told(queue=queue, figures={"prompt_tokens": 200.0, "cached_tokens": 50.0, "new_tokens": 9.0}))
    assert recorder.told == {
        ("units_left", "own", "responses"): 70,
        ("units_planned", "own", "responses"): 100,
        ("queue", "own", "responses", "waiting"): 8,
        ("queue", "own", "responses", "in work"): 4,
        ("retried_units", "own", "responses"): 2,
        ("cached_share", "own", "responses"): 0.25,
    }


def test_training_tells_loss_speed_and_checkpoint(recorder: _Recorder) -> None:
    figures = {"loss": 0.5, "tokens_per_s": 900.0}
    StageMeter("own", "stage1", Rent()).tell(_told(progress={"figures": figures}, checkpoint_at=1234.0))
    assert recorder.told == {
        ("units_left", "own", "stage1"): 70,
        ("units_planned", "own", "stage1"): 100,
        ("checkpoint_time", "own", "stage1"): 1234.0,
        ("training_loss", "own", "stage1"): 0.5,
        ("training_tokens_per_s", "own", "stage1"): 900.0,
    }


@pytest.mark.parametrize("price", [None, 0.0, 36.0])
def test_gpu_seconds_add_up_and_cost_where_there_is_a_price(
    price: float | None, recorder: _Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    meter = StageMeter("own", "responses", Rent(num_gpus=2.0, gpu_hour_price=price))
    for _ in range(3):
        now[0] += 5.0
        meter.tell(_told())
    assert recorder.told["gpu_seconds", "own", "responses"] == pytest.approx(30.0)
    cost = recorder.told.get(("cost", "own", "responses"))
    assert cost == (pytest.approx(0.3) if price else None)


def test_metrics_have_names_of_their_own_and_say_what_they_are() -> None:
    names = [metric.name for metric in metrics.ALL]
    assert len(set(names)) == len(names)
    assert all(metric.description and metric.labels[0] == "run" for metric in metrics.ALL)
    listed = {value for value in vars(metrics).values() if isinstance(value, Metric)}
    assert listed == set(metrics.ALL)
