"""Rates from records, and from files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stic_ray.planner.rates import Rates, StageRate, rates_of_runs, read_rates, write_rates
from tests.planner.small_run import SmallRun, embedded, make_run


def _by_role(rates: Rates) -> dict[str, StageRate]:
    return {rate.role: rate for rate in rates.stages}


def test_records_tell_start_and_unit_apart(tmp_path: Path) -> None:
    rates = rates_of_runs([make_run(tmp_path)])
    found = _by_role(rates)
    responses = found["responses"]
    assert (responses.kind, responses.source, responses.parents) == ("pool", "images", ("listing",))
    assert responses.start_s == pytest.approx(10.0)
    assert responses.unit_s == pytest.approx(0.1)
    assert (responses.requests, responses.tokens_in, responses.tokens_out) == (2.0, 1400.0, 300.0)
    scores = found["pairs_scores"]
    assert [scores.tokens_in, scores.tokens_out] == pytest.approx([300 / 96, 0.0])  # a scorer reads and writes none
    assert responses.bytes == pytest.approx(20.0, abs=20.0)  # ten bytes a row, and the record
    assert rates.inputs == {"images": 96.0, "questions": 1000.0}


def test_kinds_and_sources_follow_from_the_records(tmp_path: Path) -> None:
    found = _by_role(rates_of_runs([make_run(tmp_path)]))
    assert {role: (rate.kind, rate.source) for role, rate in found.items()} == {
        "listing": ("driver", "images"),
        "responses": ("pool", "images"),
        "pairs": ("tasks", "images"),
        "pairs_scores": ("pool", "images"),
        "stage1": ("training", "images"),
        "stage1_control": ("training", "images"),
        "questions": ("driver", "questions"),
        "predictions_base": ("pool", "questions"),
    }
    assert found["listing"].start_s == 1.0


def test_training_is_known_by_its_usual_step_and_what_else_it_took(tmp_path: Path) -> None:
    found = _by_role(rates_of_runs([make_run(tmp_path)]))["stage1"]
    assert (found.units, found.unit_s, found.items, found.global_batch) == (6.0, 0.5, 96.0, 32)
    assert found.start_s == pytest.approx(20.0)  # the first step's delay is of the start
    assert found.together == "stage1" == _by_role(rates_of_runs([make_run(tmp_path / "b")]))["stage1_control"].together


def test_runs_of_several_sizes_are_pooled_with_their_spread(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", 96, start_s=9.0), make_run(tmp_path / "b", 192, start_s=11.0)]
    rates = rates_of_runs(runs)
    found = _by_role(rates)
    assert found["responses"].start_s == pytest.approx(10.0)
    assert found["responses"].unit_s == pytest.approx(0.1)
    assert found["responses"].measured == 2
    assert rates.inputs["images"] == 192.0  # of the last
    assert rates.start_spread == pytest.approx(0.1, abs=0.05)
    assert rates.unit_spread == pytest.approx(0.0, abs=0.1)
    assert rates.freedom > 0


def test_single_run_knows_no_spread(tmp_path: Path) -> None:
    rates = rates_of_runs([make_run(tmp_path)])
    assert (rates.freedom, rates.start_spread) == (0, 0.0)


def test_runs_of_other_stages_are_refused(tmp_path: Path) -> None:
    other = SmallRun(tmp_path / "b", embedded("name=other"))
    other.commit("listing", "listing", 10, {}, inputs=10, seconds=1.0)
    with pytest.raises(ValueError, match=r"not of one configuration: .*responses"):
        rates_of_runs([make_run(tmp_path / "a"), other.finish()])


def test_older_records_are_refused_with_the_remedy(tmp_path: Path) -> None:
    run = SmallRun(tmp_path, embedded())
    run.commit("responses", "responses", 10, {}, inputs=10, seconds=1.0, inputs_per_s=1.0, new_tokens=5.0)
    with pytest.raises(ValueError, match="before records told how long workers worked: calibrate"):
        rates_of_runs([run.finish()])


def test_small_measurements_are_named(tmp_path: Path) -> None:
    few = embedded("name=few", "execution.batch_size=512")
    (note,) = rates_of_runs([make_run(tmp_path, config=few)]).notes
    assert note.startswith("fewer than a batch an actor was measured of responses")


def test_rates_are_read_as_they_were_written(tmp_path: Path) -> None:
    rates = rates_of_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", 192, start_s=12.0)])
    file = tmp_path / "rates.yaml"
    file.write_text(write_rates(rates))
    again = read_rates(str(file))
    assert [rate.role for rate in again.stages] == [rate.role for rate in rates.stages]
    for one, other in zip(again.stages, rates.stages, strict=True):
        assert one.unit_s == pytest.approx(other.unit_s, rel=1e-3)
        assert (one.told_by, one.kind, one.parents) == (other.told_by, other.kind, other.parents)
    assert again.inputs == rates.inputs


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stages: []\ninputs: {}\n", "stages is empty"),
        ("inputs: {}\n", "stages is missing"),
        ("stages: [{role: x}]\ninputs: {}\n", "are missing"),
        ("stages: []\ninputs: {}\nstart_spred: 1\n", "did you mean start_spread"),
    ],
)
def test_wrong_rates_are_refused_by_field(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "rates.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_rates(str(file))
    with pytest.raises(ValueError, match="is no file"):
        read_rates(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unit_s", -5),
        ("units", -1),
        ("gpus", -1),
        ("workers", 0),
        ("global_batch", 0),
        ("freedom", -3),
        ("unit_spread", -1),
    ],
)
def test_impossible_figures_are_refused_by_stage_and_field(tmp_path: Path, name: str, value: Any) -> None:
    rates = rates_of_runs([make_run(tmp_path)])
    if hasattr(rates, name):
        with pytest.raises(ValueError, match=f"^{name} is {value}: it must be 0 or more"):
            replace(rates, **{name: value})
        return
    with pytest.raises(ValueError, match=f"^{rates.stages[0].role}: {name} is {value}: it must be"):
        replace(rates.stages[0], **{name: value})
