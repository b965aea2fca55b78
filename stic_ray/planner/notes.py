"""What a plan says beside its figures: where it is not of what was asked for, and what it takes for granted."""

from collections.abc import Iterable, Iterator, Sequence

from stic_ray.config import Config
from stic_ray.planner.inputs import Inputs, caps
from stic_ray.planner.memory import Held
from stic_ray.planner.planning import Plan
from stic_ray.planner.rates import Rates, StageRate


def notes_of(plan: Plan, *, rates: Rates, given: Inputs) -> Iterator[str]:
    """Of a plan whose inputs are as somebody gave them."""
    config, cluster = plan.setting.config, plan.setting.cluster
    yield from _taken(config, plan.inputs, given)
    if config.sweep is not None:
        yield "the configuration has a sweep: this is the plan of one run of it, not of its trials"
    if cluster.relative_speed == 1:
        yield from _moved(config, rates.stages)
    for rate in rates.stages:
        if rate.kind == "driver" and not rate.parents and given.get(rate.source, 0) > rates.inputs.get(rate.source, 0):
            yield (
                f"{rate.role}: its time is that of the source that was measured: of {given[rate.source]:,.0f} "
                f"{rate.source} say its start_s in --rates"
            )


def _taken(config: Config, inputs: Inputs, given: Inputs) -> Iterator[str]:
    """Of how much that was given a run takes less, and why."""
    limits = caps(config)
    for what, number in given.items():
        if what not in inputs:
            yield f"--{what} {number:.0f} changes nothing: the configuration reads none"
        elif number > inputs[what]:
            name, most = limits[what]
            yield f"{name} is {most}: of {number:,.0f} {what} the run takes {inputs[what]:,.0f}; {name}=null takes all"


def _moved(config: Config, rates: Iterable[StageRate]) -> Iterator[str]:
    """What was measured on CPUs and is planned on GPUs, and the other way round."""
    pool, train = config.execution.pool.num_gpus > 0, config.execution.train_gpus > 0
    roles: dict[bool, list[str]] = {}
    for rate in rates:
        planned = train if rate.kind == "training" else pool and rate.on_gpu
        measured = rate.on_gpu if rate.kind == "training" else rate.gpus > 0 if rate.gpus is not None else planned
        if planned != measured:
            roles.setdefault(planned, []).append(rate.role)
    for planned, found in roles.items():
        there, here = ("CPUs", "GPUs") if planned else ("GPUs", "CPUs")
        yield (
            f"measured on {there} and planned on {here}: {', '.join(found)}: calibrate there (--calibrate N on a node "
            "of the cluster), or give relative_speed in --cluster"
        )


def memory_notes(memory: Sequence[Held], assumed: str) -> Iterator[str]:
    """Of what fits; `assumed` says what was not measured, "" where all was."""
    if assumed:
        yield assumed
    if any(held.room is None for held in memory):
        yield "nobody says how much memory there is: give memory_gib (or gpu) in --cluster"
