"""How much there is to do, and small runs of it."""

import pytest

from stic_ray.planner.inputs import count_inputs, part_of
from tests.planner.small_run import embedded

_LISTED = {"images": 384.0, "samples": 600.0, "questions": 13642.0}


def test_sources_are_counted_as_far_as_they_are_used() -> None:
    found = count_inputs(embedded("evaluation=null"), {})
    assert found == {"images": 384.0, "samples": 600.0}
    assert count_inputs(embedded("evaluation=null", "unlabeled.sample=null"), {})["images"] == 4000.0


def test_what_is_given_is_not_listed() -> None:
    config = embedded("unlabeled.uri=s3://nowhere/x", "instructions.uri=s3://nowhere/y", "evaluation=null")
    assert count_inputs(config, {"images": 100.0, "samples": 1e6}) == {"images": 100.0, "samples": 600.0}


def test_part_has_a_share_of_every_source_and_of_set_steps() -> None:
    config = embedded("stage1.steps=40")
    part = part_of(config, 0.25, _LISTED, "quarter")
    assert part.unlabeled is not None and part.instructions is not None and part.evaluation is not None
    assert (part.name, part.unlabeled.sample, part.instructions.sample) == ("quarter", 96, 150)
    assert part.stage1 is not None and part.stage1.steps == 10
    assert {name: benchmark.limit for name, benchmark in part.evaluation.test.items()} == {
        "describe_simple": 125,
        "describe_detailed": 125,
        "pope": 125,
        "questions": 125,
        "reading": pytest.approx(114, abs=15),  # not every scene has a question of text alone
    }
    assert part.model == config.model and part.execution == config.execution


def test_part_is_never_empty() -> None:
    part = part_of(embedded("evaluation=null"), 1e-6, _LISTED, "little")
    assert part.unlabeled is not None and part.unlabeled.sample == 1
