"""A run on a cluster, stage by stage: what each takes, from its rate, its inputs and what it is given to run on."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stic_ray.config import Config, Training
from stic_ray.flow import MAX_UNITS_PER_TASK, TASKS_PER_CPU
from stic_ray.planner import simulate
from stic_ray.planner.clusters import Cluster
from stic_ray.planner.estimates import Estimate, total
from stic_ray.planner.inputs import Inputs
from stic_ray.planner.rates import Rates, StageRate
from stic_ray.planner.simulate import Batches, Losses, Nodes, Outcome, Steps
from stic_ray.records import make_seed
from stic_ray.train.data import num_steps

_BARRIER_S = 1e-6  # a unit on one worker, where all ids meet: 0.87 s a million images in `unique`, on one core
_BARRIERS = ("unique", "selection")
_GATHERS = 2  # FSDP2: a block's weights before its forward and before its backward pass
_LATENCY_S = 20e-6  # of a collective, by doubling of workers
_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is planned: a configuration on a cluster, with what is known of its model.

    `model_bytes` is what a worker reads of it, `blocks` how many it is gathered in; 0 where nobody knows. With
    `all_nodes`, pools and trainings take what the cluster has, whatever the configuration says.
    """

    config: Config
    cluster: Cluster
    model_bytes: float = 0.0
    blocks: int = 0
    concurrent_batches: int = 1
    all_nodes: bool = False
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A stage of the plan. `units` are those of its rate; `workers` the actors, tasks or training workers at a time,
    which hold so many nodes, cores and GPUs."""

    rate: StageRate
    units: float
    seconds: Estimate
    outcome: Outcome
    workers: int
    nodes: int
    cores: float
    gpus: float

    @property
    def bytes(self) -> float:
        """What it leaves in the store."""
        return self.rate.bytes * self.units + self.rate.fixed_bytes

    @property
    def gpu_hours(self) -> Estimate:
        """Of the GPUs that it holds, whether or not they work."""
        return self.seconds.times(self.gpus / _HOUR)

    @property
    def cpu_hours(self) -> Estimate:
        """Of the cores that it holds."""
        return self.seconds.times(self.cores / _HOUR)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The stages in order; those of one group are made at the same time."""

    setting: Setting
    inputs: Inputs
    groups: tuple[tuple[Planned, ...], ...]
    freedom: int
    notes: tuple[str, ...] = ()

    @property
    def stages(self) -> list[Planned]:
        """All stages in the order in which they are made."""
        return [stage for group in self.groups for stage in group]

    @property
    def seconds(self) -> Estimate:
        """From the first to the last."""
        return total(map(wall, self.groups))

    @property
    def money(self) -> Estimate | None:
        """Nodes while they stand, and what a judge's server takes; None without a price."""
        cluster = self.setting.cluster
        if cluster.node_hour_price is None:
            return None
        least = cluster.nodes if cluster.min_nodes is None else cluster.min_nodes
        spent = Estimate(sum(stage.rate.cost * stage.units for stage in self.stages))
        for group in self.groups:
            nodes = max(least, _nodes_of(group, cluster))
            spent += wall(group).times(nodes * cluster.node_hour_price / _HOUR)
        return spent

    @property
    def ends(self) -> bool:
        """Whether it ends, where nodes are lost."""
        return all(stage.outcome.ends for stage in self.stages)


def wall(group: Sequence[Planned]) -> Estimate:
    """How long a group takes that is made at the same time: as long as its longest."""
    return max((stage.seconds for stage in group), key=lambda seconds: seconds.value)


def _nodes_of(group: Sequence[Planned], cluster: Cluster) -> int:
    """The nodes that a group needs: what is made at the same time shares them."""
    cores = sum(stage.cores for stage in group) / cluster.cpus
    gpus = sum(stage.gpus for stage in group) / cluster.gpus if cluster.gpus else 0.0
    needed = max(math.ceil(cores - 1e-9), math.ceil(gpus - 1e-9), *(stage.nodes for stage in group))
    return min(cluster.nodes, needed)


def make_plan(setting: Setting, rates: Rates, inputs: Inputs) -> Plan:
    """What a run of these inputs takes.

    Raises:
        ValueError: a source was not measured, or no node holds an actor or a worker.
    """
    planned = [_plan_stage(setting, rates, rate, inputs) for rate in rates.stages]
    return Plan(
        setting=setting,
        inputs=inputs,
        groups=tuple(_groups(planned, setting.cluster)),
        freedom=rates.freedom,
        notes=rates.notes,
    )


def _groups(planned: Sequence[Planned], cluster: Cluster) -> list[tuple[Planned, ...]]:
    """Trainings that are made together where the cluster has room for both, everything else by itself."""
    groups: list[tuple[Planned, ...]] = []
    for stage in planned:
        before = groups[-1] if groups else ()
        together = bool(before) and stage.rate.together != "" and before[-1].rate.together == stage.rate.together
        cores = sum(each.cores for each in before) + stage.cores
        gpus = sum(each.gpus for each in before) + stage.gpus
        if together and cores <= cluster.nodes * cluster.cpus and gpus <= cluster.nodes * cluster.gpus:
            groups[-1] = (*before, stage)
        else:
            groups.append((stage,))
    return groups


def _plan_stage(setting: Setting, rates: Rates, rate: StageRate, inputs: Inputs) -> Planned:
    scale = _scale(rates, rate, inputs)
    make = _train if rate.kind == "training" else _do_units
    course = make(setting, rates, rate, scale)
    return Planned(rate=rate, seconds=_uncertain(rates, rate, course.outcome), **vars(course))


@dataclass(frozen=True, kw_only=True)
class _Course:
    """How a stage of so many units goes, with how many workers, and the nodes, cores and GPUs that these hold."""

    units: float
    outcome: Outcome
    workers: int
    nodes: int
    cores: float
    gpus: float


def _scale(rates: Rates, rate: StageRate, inputs: Inputs) -> float:
    """How many times what was measured a stage has to do."""
    if rate.source == "once":
        return 1.0
    measured = rates.inputs.get(rate.source, 0.0)
    if measured <= 0 or rate.source not in inputs:
        raise ValueError(
            f"{rate.role}: the rates know of {measured:g} {rate.source} and the configuration of "
            f"{inputs.get(rate.source, 0):g}: calibrate with the same configuration (--calibrate N)"
        )
    return inputs[rate.source] / measured


def _uncertain(rates: Rates, rate: StageRate, outcome: Outcome) -> Estimate:
    """What a stage takes, with the two sides of what was measured: how well its mean is known, which it shares with all
    stages of its rate, and how far a single one is from the mean."""
    start = min(rate.start_s, outcome.seconds)
    work = outcome.seconds - start
    of = rate.role if rate.kind == "training" else rate.stage
    parts: dict[str, float] = {}
    for what, seconds, spread in (("start", start, rates.start_spread), ("unit", work, rates.unit_spread)):
        parts[f"{of}: {what}, mean"] = seconds * spread / math.sqrt(rate.measured)
        parts[f"{rate.role}: {what}"] = seconds * spread
    return Estimate(outcome.seconds, parts)


# Stages of units


def _do_units(setting: Setting, rates: Rates, rate: StageRate, scale: float) -> _Course:
    """A stage of units: in the driver or one worker, in tasks on all cores, or in a pool of actors."""
    execution, cluster, units = setting.config.execution, setting.cluster, rate.units * scale
    if rate.kind == "driver":
        outcome = Outcome(seconds=rate.start_s, redone=0.0, bound="one worker")
        return _Course(units=units, outcome=outcome, workers=1, nodes=1, cores=execution.task_cpus, gpus=0.0)
    if rate.kind == "tasks":
        per_node = max(1, int(cluster.cpus))  # a core does one thing at a time, however small the task
        share = units / (TASKS_PER_CPU * cluster.nodes * cluster.cpus)
        batch = max(min(share, MAX_UNITS_PER_TASK), float(execution.batch_size))
        tasks = _useful(units, batch, per_node * cluster.nodes)
        load = _Load(units=units, batch=batch, workers=tasks, per_node=per_node)
        nodes = min(cluster.nodes, math.ceil(tasks / per_node))
        outcome = _run(setting, rates, rate, load)
        return _Course(units=units, outcome=outcome, workers=tasks, nodes=nodes, cores=float(tasks), gpus=0.0)
    pool = execution.pool
    gpus = pool.num_gpus if rate.on_gpu else 0.0
    per_node = _per_node(cluster, "execution.pool", pool.num_cpus, gpus)
    most = cluster.nodes * per_node
    batch = min(float(execution.batch_size), units) or 1.0
    if setting.all_nodes:
        actors = _useful(units, batch, most)
    else:
        actors = max(_useful(units, batch, min(pool.max_size, most)), min(pool.min_size, most))
    at_once = setting.concurrent_batches if rate.requests and rate.on_gpu else 1  # a scorer answers no request
    load = _Load(units=units, batch=batch, workers=actors, per_node=per_node, at_once=at_once)
    return _Course(
        units=units,
        outcome=_run(setting, rates, rate, load),
        workers=actors,
        nodes=min(cluster.nodes, math.ceil(actors / per_node)),
        cores=pool.num_cpus * actors,
        gpus=gpus * actors,
    )


def _useful(units: float, batch: float, most: int) -> int:
    """How many workers have something to do: no more than there are batches."""
    return max(1, min(most, math.ceil(units / batch)))


@dataclass(frozen=True, kw_only=True)
class _Load:
    """So many units by batches, on workers of which a node holds `per_node`; each has `at_once` batches in work."""

    units: float
    batch: float
    workers: int
    per_node: int
    at_once: int = 1


def _per_node(cluster: Cluster, what: str, cpus: float, gpus: float) -> int:
    """How many actors or workers a node holds."""
    found = min(
        int(cluster.cpus / cpus + 1e-9) if cpus else 10**9,
        int(cluster.gpus / gpus + 1e-9) if gpus else 10**9,
    )
    if found < 1:
        raise ValueError(
            f"{what} asks for {cpus:g} cores and {gpus:g} GPUs at once, and a node of the cluster has {cluster.cpus:g} "
            f"and {cluster.gpus:g}: ask for less, or give larger nodes"
        )
    return found


def _run(setting: Setting, rates: Rates, rate: StageRate, load: _Load) -> Outcome:
    stage = _batches(setting, rates, rate, load)
    outcome = simulate.run_batches(stage, _nodes(setting.cluster), _losses(setting, rate))
    reading = stage.slot_start_s if stage.slot_start_s > 1.5 * rate.start_s else 0.0
    return replace(outcome, bound="reading weights") if reading > outcome.seconds / 2 else outcome


def _batches(setting: Setting, rates: Rates, rate: StageRate, load: _Load) -> Batches:
    cluster, units, batch = setting.cluster, load.units, load.batch
    num_slots, per_node = load.workers * load.at_once, load.per_node * load.at_once
    used = len(set(simulate.place_slots(num_slots, per_node, _nodes(cluster))))
    start = rate.start_s
    shared = {"driver": cluster.driver_s}
    cores = cluster.nodes * cluster.cpus * cluster.relative_speed
    if rate.prepare_s:
        shared["preparing"] = rate.prepare_s * batch / cores
        if not rate.on_gpu or not setting.config.execution.pool.num_gpus:  # actors work on the same cores
            shared["cores"] = shared["preparing"] + rate.unit_s * batch / cores
    if cluster.storage_gb_s is not None:
        read = rates.image_bytes if rate.prepare_s else rate.bytes
        shared["storage"] = read * batch / (cluster.storage_gb_s * 1e9)
        if rate.kind == "pool":
            start = max(start, _reading_s(setting, load.workers))
    barrier = _BARRIER_S * units if rate.stage in _BARRIERS else 0.0
    return Batches(
        units=units,
        batch=batch,
        batch_s=rate.unit_s * batch / cluster.relative_speed,
        slots_per_node=per_node,
        max_slots=num_slots,
        start_s=start + barrier,
        slot_start_s=start,
        shared_s=shared,
        held_units=min(units, setting.config.execution.rows_per_file / 2 / used),
    )


def _reading_s(setting: Setting, readers: int) -> float:
    """Until all readers have the weights."""
    assert setting.cluster.storage_gb_s is not None  # asked for only where it is known
    return readers * setting.model_bytes / (setting.cluster.storage_gb_s * 1e9)


def _nodes(cluster: Cluster) -> Nodes:
    standing = cluster.nodes if cluster.min_nodes is None else max(1, cluster.min_nodes)
    return Nodes(
        count=cluster.nodes,
        standing=min(standing, cluster.nodes),
        delay_s=cluster.start_delay_s,
        detect_s=cluster.detect_s,
    )


def _losses(setting: Setting, rate: StageRate) -> Losses:
    cluster = setting.cluster
    seed = make_seed(setting.seed, rate.role, "losses")
    return simulate.losses_at_rate(cluster.failures_per_hour, cluster.nodes, seed)


# Trainings


def _members(rate: StageRate, rates: Rates) -> int:
    """How many trainings are made at the same time as this one, itself included."""
    return sum(each.together == rate.together for each in rates.stages)


def _train(setting: Setting, rates: Rates, rate: StageRate, scale: float) -> _Course:
    """A training, whose units are steps."""
    config, cluster = setting.config, setting.cluster
    execution = config.execution
    training = _training_of(config, rate)
    gpus = execution.train_gpus
    per_node = _per_node(cluster, "execution.train_*", execution.train_cpus, gpus)
    most = cluster.nodes * per_node
    workers = execution.num_train_workers
    if setting.all_nodes:
        workers = max(1, min(most // _members(rate, rates), training.global_batch))
    elif workers > most:
        raise ValueError(
            f"execution.num_train_workers is {workers}, and {cluster.nodes} nodes hold {most}: lower it, or add nodes"
        )
    steps = num_training_steps(training, rate, scale)
    step_s, communicates = step_seconds(setting, rate, workers, training)
    start = rate.start_s
    if cluster.storage_gb_s is not None:
        start = max(start, _reading_s(setting, workers))
    nodes = math.ceil(workers / per_node)
    plan = Steps(
        steps=steps,
        step_s=step_s,
        start_s=start,
        restart_s=start,
        checkpoint_every=execution.checkpoint_every,
        nodes_used=nodes,
        elastic=execution.min_train_workers is not None,
        saves_first=cluster.notice,
    )
    outcome = simulate.run_steps(plan, _nodes(cluster), _losses(setting, rate))
    if outcome.bound == "steps":
        bound = "network" if communicates else "global batch" if workers >= training.global_batch else "workers"
        outcome = replace(outcome, bound=bound)
    elif outcome.bound == "start" and start > 1.5 * rate.start_s:
        outcome = replace(outcome, bound="reading weights")
    cores = workers * execution.train_cpus
    return _Course(units=float(steps), outcome=outcome, workers=workers, nodes=nodes, cores=cores, gpus=workers * gpus)


def _training_of(config: Config, rate: StageRate) -> Training:
    name = rate.stage
    trainings = config.trainings()
    if name not in trainings:
        raise ValueError(f"the rates are of a run with {name}, and the configuration has none: calibrate with it")
    return trainings[name]


def num_training_steps(training: Training, rate: StageRate, scale: float) -> int:
    """Optimiser steps over so many times the items that were measured."""
    if training.steps is not None:
        return training.steps
    items = rate.items * scale
    if training.validation is not None:
        items *= 1 - training.validation.share
    return num_steps(max(1, round(items)), epochs=training.epochs, global_batch=training.global_batch)


def step_seconds(setting: Setting, rate: StageRate, workers: int, training: Training) -> tuple[float, bool]:
    """A step on so many workers, and whether it waits for the network.

    A worker's share of the batch takes as long as it did, by item; meanwhile the blocks' weights go round, twice for
    each of its rows (FSDP2 fetches ahead: the slower of the two counts).
    """
    cluster, execution = setting.cluster, setting.config.execution
    item_s = rate.unit_s * rate.workers / rate.global_batch / cluster.relative_speed
    items = math.ceil(training.global_batch / workers)
    compute = item_s * items
    if workers == 1 or not setting.model_bytes:
        return compute, False
    tokens = rate.step_tokens / rate.global_batch * items
    rows = max(1, math.ceil(tokens / execution.row_tokens))
    per_node = _per_node(cluster, "execution.train_*", execution.train_cpus, execution.train_gpus)
    speed = cluster.gpu_link_gb_s if workers <= per_node else cluster.network_gb_s / per_node
    moved = _GATHERS * setting.model_bytes * (workers - 1) / workers
    latency = (_GATHERS + 1) * setting.blocks * _LATENCY_S * math.log2(workers)
    network = rows * (moved / (speed * 1e9) + latency)
    return max(compute, network), network > compute


# Many nodes


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """The same run on so many nodes, of everything that they have; means over several draws of losses."""

    nodes: int
    plan: Plan
    seconds: float
    money: float | None
    ends: bool
    bounds: Mapping[str, str]


def scale(setting: Setting, rates: Rates, inputs: Inputs, counts: Sequence[int]) -> list[Scaled]:
    """A run on each of so many nodes, with pools and trainings as large as these are."""
    draws = 3 if setting.cluster.failures_per_hour else 1
    found = []
    for nodes in counts:
        least = setting.cluster.min_nodes
        cluster = replace(setting.cluster, nodes=nodes, min_nodes=None if least is None else min(least, nodes))
        on = replace(setting, cluster=cluster, all_nodes=True)
        plans = [make_plan(replace(on, seed=seed), rates, inputs) for seed in range(draws)]
        prices = [plan.money.value for plan in plans if plan.money is not None]
        found.append(
            Scaled(
                nodes=nodes,
                plan=plans[0],
                seconds=sum(plan.seconds.value for plan in plans) / draws,
                money=sum(prices) / draws if prices else None,
                ends=all(plan.ends for plan in plans),
                bounds={stage.rate.role: stage.outcome.bound for stage in plans[0].stages},
            )
        )
    return found


def stops_scaling(found: Sequence[Scaled]) -> tuple[Scaled, str] | None:
    """From where on twice as many nodes save less than a quarter of the time, and what bounds the longest stage there;
    None where it goes on to the last."""
    for now, more in itertools.pairwise(found):
        if more.seconds > 0.75 ** (math.log2(more.nodes / now.nodes)) * now.seconds:
            longest = max(more.plan.groups, key=lambda group: wall(group).value)
            stage = max(longest, key=lambda each: each.seconds.value)
            share = 100 * stage.seconds.value / more.seconds
            return now, f"{stage.rate.role} ({share:.0f}% of the time: {stage.outcome.bound})"
    return None
