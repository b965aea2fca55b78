"""Stages and trainings on nodes that are lost."""

from dataclasses import replace

import pytest

from stic_ray.planner.simulate import (
    Batches,
    Nodes,
    Steps,
    losses_at_rate,
    no_losses,
    run_batches,
    run_steps,
)

_STAGE = Batches(units=400, batch=10, batch_s=2.0, slots_per_node=2, start_s=5.0, slot_start_s=5.0)
_TRAINING = Steps(steps=100, step_s=1.0, start_s=10.0, restart_s=10.0, checkpoint_every=20)


def _nodes(count: int, *, standing: int | None = None, delay_s: float = 0.0, detect_s: float = 0.0) -> Nodes:
    return Nodes(count=count, standing=count if standing is None else standing, delay_s=delay_s, detect_s=detect_s)


@pytest.mark.parametrize(("nodes", "seconds"), [(1, 5 + 20 * 2.0), (2, 5 + 10 * 2.0), (10, 5 + 2 * 2.0), (20, 5 + 2.0)])
def test_stage_takes_its_start_and_rounds_of_batches(nodes: int, seconds: float) -> None:
    outcome = run_batches(_STAGE, _nodes(nodes), no_losses())
    assert outcome.seconds == pytest.approx(seconds)
    assert (outcome.redone, outcome.losses, outcome.ends) == (0.0, 0, True)


def test_more_slots_than_batches_help_no_more_and_are_called_the_bound() -> None:
    outcome = run_batches(_STAGE, _nodes(30), no_losses())
    assert outcome.seconds == pytest.approx(7.0)
    assert outcome.bound == "batches"


def test_last_batch_is_as_short_as_it_is_small() -> None:
    outcome = run_batches(replace(_STAGE, units=5, slots_per_node=1), _nodes(1), no_losses())
    assert outcome.seconds == pytest.approx(5 + 1.0)
    assert run_batches(replace(_STAGE, units=0), _nodes(1), no_losses()).seconds == 5.0


def test_pool_takes_no_more_slots_than_it_may() -> None:
    outcome = run_batches(replace(_STAGE, max_slots=4), _nodes(10), no_losses())
    assert outcome.seconds == pytest.approx(5 + 10 * 2.0)


def test_shared_resource_bounds_the_stage_however_many_nodes() -> None:
    stage = replace(_STAGE, shared_s={"driver": 0.1, "storage": 1.0})
    few, many = (run_batches(stage, _nodes(count), no_losses()) for count in (8, 64))
    assert few.bound == many.bound == "storage"
    assert few.seconds == pytest.approx(40 * 1.0 + 2.0) == many.seconds


def test_nodes_that_are_asked_for_come_later() -> None:
    whole = run_batches(_STAGE, _nodes(2), no_losses())
    grown = run_batches(_STAGE, _nodes(2, standing=1, delay_s=8.0), no_losses())
    alone = run_batches(_STAGE, _nodes(1), no_losses())
    assert whole.seconds < grown.seconds < alone.seconds
    assert grown.seconds == pytest.approx(whole.seconds + 4.0)  # half of what the other node missed


def test_slots_fill_the_nodes_that_stand_before_others_are_asked_for() -> None:
    fits = run_batches(replace(_STAGE, max_slots=2), _nodes(4, standing=1, delay_s=300.0), no_losses())
    assert fits.seconds == pytest.approx(5 + 20 * 2.0)
    # Four slots are on two nodes: a third and a fourth are not started, so that none of them is lost either.
    four = replace(_STAGE, max_slots=4)
    grown = run_batches(four, _nodes(4, standing=1, delay_s=8.0), iter([(20.0, 2), (21.0, 3)]))
    assert grown.seconds == pytest.approx(5 + 10 * 2.0 + 4.0)
    assert grown.losses == 0


def test_node_that_was_asked_for_is_lost_with_its_own_slots() -> None:
    nodes = _nodes(2, standing=1, delay_s=8.0)
    stage = replace(_STAGE, max_slots=3)  # two on the first node, one on the second
    first, second = (run_batches(stage, nodes, iter([(20.0, node)])) for node in (0, 1))
    assert [first.redone, second.redone] == pytest.approx([20 / 400, 10 / 400])
    early = run_batches(stage, nodes, iter([(4.0, 1)]))  # it does not stand yet
    assert (early.losses, early.seconds) == (0, run_batches(stage, nodes, no_losses()).seconds)


def test_lost_batches_are_done_again_when_the_node_is_missed() -> None:
    outcome = run_batches(_STAGE, _nodes(1, delay_s=3.0, detect_s=1.0), iter([(10.0, 0)]))
    # At 10 s two rounds are done; the third, of two batches, is lost. The node is missed at 11 s, stands at 14 s and
    # works at 19 s on what is left: 18 rounds.
    assert outcome.seconds == pytest.approx(19 + 18 * 2.0)
    assert outcome.redone == pytest.approx(20 / 400)
    assert outcome.losses == 1


def test_what_a_lost_slot_had_waits_for_it_and_other_slots_do_the_rest() -> None:
    stage = replace(_STAGE, units=60, slots_per_node=1)
    outcome = run_batches(stage, _nodes(2, delay_s=20.0, detect_s=1.0), iter([(6.0, 1)]))
    # Missed at 7 s, there at 27 s, at work at 32 s on the batch that was lost and the one that was to come.
    assert outcome.seconds == pytest.approx(32 + 2 * 2.0)
    assert outcome.redone == pytest.approx(10 / 60)


def test_what_was_not_yet_in_a_file_goes_with_its_node() -> None:
    plain, held = (
        run_batches(replace(_STAGE, held_units=units), _nodes(1), iter([(10.0, 0)])) for units in (0.0, 40.0)
    )
    assert held.redone == pytest.approx(plain.redone + 40 / 400)
    assert held.seconds > plain.seconds


def test_nodes_that_are_lost_faster_than_anything_is_done_end_nothing() -> None:
    losses = losses_at_rate(3600.0, 1, seed=0)
    outcome = run_batches(_STAGE, _nodes(1, delay_s=5.0), losses)
    assert not outcome.ends


def test_losses_by_chance_are_as_many_as_their_rate_says_and_the_same_again() -> None:
    def times(seed: int) -> list[tuple[float, int]]:
        losses = losses_at_rate(0.5, 40, seed)
        return [next(losses) for _ in range(2000)]

    found = times(1)
    assert found == times(1) != times(2)
    assert found[-1][0] / 2000 == pytest.approx(3600 / 20, rel=0.1)
    assert {node for _, node in found} == set(range(40))
    assert list(losses_at_rate(0.0, 40, 0)) == []


def test_many_batches_are_moved_together_without_changing_the_time() -> None:
    stage = replace(_STAGE, units=4_000_000.0)
    outcome = run_batches(stage, _nodes(10), no_losses())
    assert outcome.seconds == pytest.approx(5 + 400_000 / 20 * 2.0, rel=0.01)


def test_training_takes_its_start_and_steps() -> None:
    assert run_steps(_TRAINING, _nodes(1), no_losses()).seconds == pytest.approx(110.0)


def test_training_waits_for_nodes_that_it_asks_for() -> None:
    nodes = _nodes(2, standing=1, delay_s=30.0)
    assert run_steps(_TRAINING, nodes, no_losses()).seconds == pytest.approx(110.0)
    assert run_steps(replace(_TRAINING, nodes_used=2), nodes, no_losses()).seconds == pytest.approx(140.0)


def test_training_goes_on_from_its_last_checkpoint() -> None:
    outcome = run_steps(_TRAINING, _nodes(1, delay_s=3.0, detect_s=2.0), iter([(10.0 + 50.5, 0)]))
    assert outcome.redone == pytest.approx(10 / 100)  # of 50 steps 40 are saved
    assert outcome.seconds == pytest.approx(60.5 + 2 + 3 + 10 + 60)


def test_training_that_is_told_saves_first() -> None:
    training = replace(_TRAINING, saves_first=True)
    outcome = run_steps(training, _nodes(1), iter([(10.0 + 50.5, 0)]))
    assert outcome.redone == 0.0
    assert outcome.seconds == pytest.approx(60.5 + 10 + 50)


def test_training_is_not_touched_by_nodes_that_it_does_not_use() -> None:
    outcome = run_steps(replace(_TRAINING, nodes_used=2), _nodes(8), iter([(20.0, 5), (30.0, 2)]))
    assert outcome.seconds == pytest.approx(110.0)
    assert outcome.losses == 0


def test_elastic_training_goes_on_at_once_and_slower() -> None:
    training = replace(_TRAINING, nodes_used=2, checkpoint_every=10)
    nodes = _nodes(2, delay_s=30.0)
    waits, goes_on = (
        run_steps(replace(training, elastic=elastic), nodes, iter([(10.0 + 50.5, 0)])).seconds
        for elastic in (False, True)
    )
    assert waits == pytest.approx(60.5 + 30 + 10 + 50)
    # It works from 70.5 s on, two seconds a step until the node is there at 90.5 s: ten steps, then forty.
    assert goes_on == pytest.approx(70.5 + 10 * 2 + 40)


def test_training_that_never_gets_to_a_checkpoint_does_not_end() -> None:
    training = replace(_TRAINING, checkpoint_every=50)
    assert not run_steps(training, _nodes(1), losses_at_rate(3600 / 5.0, 1, seed=0)).ends


def test_losses_without_number_end_the_simulation_and_not_the_stage() -> None:
    many = losses_at_rate(1e9, 1000, seed=0)
    outcome = run_batches(replace(_STAGE, units=4e6), _nodes(1000, delay_s=600.0), many)
    assert (outcome.ends, outcome.bound) == (False, "losses")
    outcome = run_steps(replace(_TRAINING, steps=10**6), _nodes(1000), losses_at_rate(1e7, 1000, seed=0))
    assert (outcome.ends, outcome.bound) == (False, "losses")
