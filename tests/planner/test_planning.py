"""Plans of a run by stage, on clusters of all kinds."""

from dataclasses import replace

import pytest

from stic_ray.planner.clusters import Cluster
from stic_ray.planner.planning import (
    Plan,
    Planned,
    Setting,
    make_plan,
    num_training_steps,
    scale,
    step_seconds,
    stops_scaling,
    wall,
)
from stic_ray.planner.rates import Rates, rates_of_runs
from tests.planner.small_run import embedded, make_run

_INPUTS = {"images": 960.0, "questions": 1000.0}
_NODE = Cluster(cpus=2.0, driver_s=0.0)


@pytest.fixture(scope="module")
def rates(tmp_path_factory: pytest.TempPathFactory) -> Rates:
    home = tmp_path_factory.mktemp("runs")
    return rates_of_runs([make_run(home / "a", start_s=9.0), make_run(home / "b", start_s=11.0)])


def _plan(rates: Rates, cluster: Cluster = _NODE, *overrides: str) -> Plan:
    return make_plan(Setting(config=embedded(*overrides), cluster=cluster), rates, _INPUTS)


def _stage(plan: Plan, role: str) -> Planned:
    return next(stage for stage in plan.stages if stage.rate.role == role)


def test_stage_takes_its_start_and_its_share_of_the_slots(rates: Rates) -> None:
    responses = _stage(_plan(rates), "responses")
    assert responses.units == 960
    assert responses.seconds.value == pytest.approx(10 + 960 * 0.1 / 2)  # two actors
    assert responses.rate.requests * responses.units == 1920
    alone = _stage(_plan(rates, _NODE, "execution.pool.max_size=1", "execution.pool.min_size=1"), "responses")
    assert alone.seconds.value == pytest.approx(10 + 960 * 0.1)


def test_stage_of_questions_does_not_grow_with_the_images(rates: Rates) -> None:
    assert _stage(_plan(rates), "predictions_base").units == 100


def test_training_takes_its_steps_and_is_made_beside_its_control_where_there_is_room(rates: Rates) -> None:
    plan = _plan(rates)
    stage = _stage(plan, "stage1")
    assert stage.units == 60
    assert stage.seconds.value == pytest.approx(20 + 30.0)
    assert [[each.rate.role for each in group] for group in plan.groups][4] == ["stage1", "stage1_control"]
    assert plan.seconds.value == pytest.approx(sum(wall(group).value for group in plan.groups))
    narrow = _plan(rates, replace(_NODE, cpus=1.0))
    assert max(len(group) for group in narrow.groups) == 1
    assert narrow.seconds.value > plan.seconds.value + 49


def test_training_steps_follow_items_epochs_and_what_is_held_out(rates: Rates) -> None:
    rate = next(rate for rate in rates.stages if rate.role == "stage1")
    training = embedded().stage1
    assert training is not None
    assert num_training_steps(training, rate, 10.0) == 60
    assert num_training_steps(replace(training, epochs=1, global_batch=64), rate, 10.0) == 15
    assert num_training_steps(replace(training, steps=7), rate, 10.0) == 7


def test_interval_holds_what_is_shared_and_what_is_not(rates: Rates) -> None:
    plan = _plan(rates)
    responses, scores = _stage(plan, "responses").seconds, _stage(plan, "pairs_scores").seconds
    assert responses.deviation > 0
    assert set(responses.spread) & set(scores.spread) == set()
    low, high = plan.seconds.interval(plan.freedom)
    assert low < plan.seconds.value < high


def test_hours_are_those_of_what_is_held(rates: Rates) -> None:
    on_gpus = ("execution.pool.num_gpus=1", "execution.train_gpus=1")
    plan = _plan(rates, Cluster(cpus=8.0, gpus=2.0, gpu="H100", driver_s=0.0), *on_gpus)
    responses = _stage(plan, "responses")
    assert responses.gpus == 2
    assert responses.gpu_hours.value == pytest.approx(2 * responses.seconds.value / 3600)
    assert _stage(plan, "pairs").gpus == 0


def test_money_is_nodes_while_they_stand(rates: Rates) -> None:
    assert _plan(rates).money is None
    cluster = Cluster(nodes=3, cpus=2.0, node_hour_price=6.0, driver_s=0.0)
    plan = _plan(rates, cluster)
    assert plan.money is not None
    assert plan.money.value == pytest.approx(3 * 6.0 * plan.seconds.value / 3600)
    grown = _plan(rates, replace(cluster, min_nodes=1))
    assert grown.money is not None
    assert grown.money.value < 0.7 * plan.money.value  # two actors need one node


def test_trainings_made_together_share_a_node(rates: Rates) -> None:
    cluster = Cluster(nodes=4, cpus=96.0, node_hour_price=30.0, min_nodes=1, driver_s=0.0)
    plan = _plan(rates, cluster)
    assert [stage.nodes for stage in plan.stages if stage.rate.kind == "training"] == [1, 1]
    assert plan.money is not None
    assert plan.money.value == pytest.approx(30.0 * plan.seconds.value / 3600)
    narrow = _plan(rates, replace(cluster, cpus=1.0))
    trainings = next(group for group in narrow.groups if len(group) == 2)
    assert narrow.money is not None
    by_group = sum(wall(group).value * max(stage.nodes for stage in group) for group in narrow.groups)
    assert narrow.money.value == pytest.approx(30.0 * (by_group + wall(trainings).value) / 3600)


def test_pool_that_fits_the_standing_node_waits_for_no_other(rates: Rates) -> None:
    one = replace(_NODE, cpus=96.0)
    grown = replace(one, nodes=4, min_nodes=1, start_delay_s=300.0)
    assert _stage(_plan(rates, grown), "responses").seconds.value == pytest.approx(10 + 960 * 0.1 / 2)
    assert _plan(rates, grown).seconds.value == pytest.approx(_plan(rates, one).seconds.value, rel=0.01)


def test_cluster_without_room_for_an_actor_or_a_worker_is_refused(rates: Rates) -> None:
    with pytest.raises(ValueError, match=r"execution\.pool asks for 0\.75 cores and 1 GPUs at once"):
        _plan(rates, _NODE, "execution.pool.num_gpus=1")
    with pytest.raises(ValueError, match="num_train_workers is 4, and 1 nodes hold 2"):
        _plan(rates, _NODE, "execution.num_train_workers=4")


def test_source_that_was_not_measured_is_refused(rates: Rates) -> None:
    setting = Setting(config=embedded(), cluster=_NODE)
    with pytest.raises(ValueError, match="calibrate with the same configuration"):
        make_plan(setting, rates, {"questions": 1000.0})


def test_weights_that_all_read_at_once_delay_the_start(rates: Rates) -> None:
    slow = replace(_NODE, storage_gb_s=0.1)
    setting = Setting(config=embedded(), cluster=slow, model_bytes=10e9)
    found = _stage(make_plan(setting, rates, _INPUTS), "responses")
    assert found.outcome.seconds > 2 * 100  # two actors read 10 GB each at 0.1 GB a second
    assert found.outcome.bound == "reading weights"


def test_actors_beyond_the_batches_start_none_and_read_nothing(rates: Rates) -> None:
    storage = replace(_NODE, storage_gb_s=1.0)
    setting = Setting(config=embedded(), cluster=replace(storage, nodes=1000), model_bytes=10e9, all_nodes=True)
    found = _stage(make_plan(setting, rates, _INPUTS), "predictions_base")
    batch = embedded().execution.batch_size
    batches = -(-100 // batch)
    assert (found.workers, found.nodes) == (batches, -(-batches // 2))
    assert found.outcome.seconds == pytest.approx(batches * 10.0 + batch * 0.1)  # 10 GB each at 1 GB a second
    assert found.outcome.bound == "reading weights"


def test_pool_holds_its_least_size_however_few_batches_there_are(rates: Rates) -> None:
    on_gpus, cluster = ("execution.pool.num_gpus=1", "execution.train_gpus=1"), Cluster(cpus=16.0, gpus=8.0, gpu="H100")
    grows, stands = (
        _plan(rates, cluster, *on_gpus, "execution.pool.max_size=8", f"execution.pool.min_size={least}")
        for least in (1, 8)
    )
    assert [_stage(plan, "predictions_base").gpus for plan in (grows, stands)] == [2.0, 8.0]  # of two batches


def test_faster_slots_take_less(rates: Rates) -> None:
    plain, fast = _plan(rates), _plan(rates, replace(_NODE, relative_speed=2.0))
    assert _stage(fast, "responses").seconds.value == pytest.approx(10 + 960 * 0.1 / 4)
    assert _stage(fast, "stage1").seconds.value == pytest.approx(20 + 15.0)
    assert fast.seconds.value < plain.seconds.value


def test_workers_share_the_batch_until_the_network_is_slower(rates: Rates) -> None:
    rate = next(rate for rate in rates.stages if rate.role == "stage1")
    training = embedded().stage1
    assert training is not None
    setting = Setting(config=embedded(), cluster=replace(_NODE, nodes=32), model_bytes=1e6, blocks=4)
    assert step_seconds(setting, rate, 1, training) == (0.5, False)
    seconds, communicates = step_seconds(setting, rate, 8, training)
    assert seconds == pytest.approx(0.5 / 8) and not communicates
    heavy = replace(setting, model_bytes=100e9)
    seconds, communicates = step_seconds(heavy, rate, 8, training)
    assert communicates and seconds > 2 * 100e9 / 5e9 * 7 / 8  # two workers share a node's 10 GB a second


def test_more_nodes_help_until_the_start_is_all_that_is_left(rates: Rates) -> None:
    setting = Setting(config=embedded(), cluster=replace(_NODE, node_hour_price=1.0))
    found = scale(setting, rates, {"images": 96_000.0, "questions": 1000.0}, [1, 4, 16, 64, 256])
    seconds = [one.seconds for one in found]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] / seconds[1] > 3
    stop = stops_scaling(found)
    assert stop is not None
    best, why = stop
    assert best.nodes < 256 and "stage1" in why
    assert found[-1].money is not None and found[0].money is not None
    assert found[-1].money > found[0].money


def test_losses_make_it_longer_and_at_some_rate_endless(rates: Rates) -> None:
    inputs = {"images": 96_000.0, "questions": 1000.0}

    def at(per_hour: float) -> Plan:
        cluster = replace(_NODE, nodes=4, failures_per_hour=per_hour, start_delay_s=60.0)
        return make_plan(Setting(config=embedded(), cluster=cluster, all_nodes=True), rates, inputs)

    never, some, many = at(0.0), at(2.0), at(2000.0)
    assert never.seconds.value < some.seconds.value
    assert never.ends and some.ends and not many.ends
    assert at(2.0).seconds.value == some.seconds.value
