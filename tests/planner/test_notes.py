"""What a plan says beside its figures."""

from dataclasses import replace
from pathlib import Path

from stic_ray.planner.clusters import Cluster
from stic_ray.planner.notes import notes_of
from stic_ray.planner.planning import Setting, make_plan
from stic_ray.planner.rates import rates_of_runs
from tests.planner.small_run import embedded, make_run


def test_source_of_a_set_size_gets_no_note_and_one_that_grew_does(tmp_path: Path) -> None:
    rates = rates_of_runs([make_run(tmp_path)])
    once = [replace(rate, source="once") if rate.role == "questions" else rate for rate in rates.stages]
    rates = replace(rates, stages=tuple(once))
    inputs = {"images": 384.0, "questions": 1000.0}
    plan = make_plan(Setting(config=embedded(), cluster=Cluster(cpus=2.0)), rates, inputs)
    assert list(notes_of(plan, rates=rates, given={"images": 96.0})) == []
    (note,) = notes_of(plan, rates=rates, given={"images": 384.0})
    assert note.startswith("listing: its time is that of the source that was measured: of 384 images")
