"""The short version of `make bench NAME=kills`: one kill in each kind of stage."""

import random

import pytest
from e2e_project import Project

from kill_rounds import audit, compare, kill_round, references

pytestmark = pytest.mark.slow


KILLED = ("responses", "stage1")


def test_driver_killed_in_a_stage_of_each_kind_loses_and_doubles_nothing(finished: Project, project: Project) -> None:
    config = (finished.home / "own.yaml").read_text()
    (project.home / "own.yaml").write_text(config)  # the same inputs, another store
    undisturbed = references(finished.run_home)
    stages = {role: undisturbed[role] for role in KILLED}
    hit = kill_round(project.command(), project.home, project.store, stages, random.Random(1), whole_node=False)
    assert hit
    found = compare(undisturbed, references(project.run_home))
    assert found.faults == [] and audit(project.run_home) == []
    assert (found.num_lost, found.num_double, found.num_different_draws) == (0, 0, 0)
    assert found.num_texts > 0
    assert found.num_different_texts <= 0.001 * found.num_texts
