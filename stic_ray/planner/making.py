"""A plan made: rates read or measured, inputs counted, everything told. Importing it takes seconds, as torch does."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace

from stic_ray import storage, vlm
from stic_ray.config import Config, to_tree
from stic_ray.engines import engine_for
from stic_ray.planner import render
from stic_ray.planner.calibrate import calibrate
from stic_ray.planner.clusters import Cluster
from stic_ray.planner.fitting import assumed_lengths, check_memory
from stic_ray.planner.inputs import GIVEN, Inputs, count_inputs
from stic_ray.planner.memory import BYTES, Held
from stic_ray.planner.notes import memory_notes, notes_of
from stic_ray.planner.planning import Plan, Scaled, Setting, make_plan, scale
from stic_ray.planner.rates import Rates, rates_of_runs, read_rates, write_rates
from stic_ray.report.folder import open_run

_NODES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


def plan_run(config: Config, cluster: Cluster, arguments: argparse.Namespace) -> tuple[str, bool]:
    """What is printed, and whether it can be done.

    Raises:
        ValueError: there are no rates for what was asked for, or an input is wrong; the message has the remedy.
    """
    given = {what: float(n) for what in GIVEN if (n := getattr(arguments, what))}
    rates, inputs = _rates(arguments, config, given)
    if rates is None or inputs is None:
        return _memory_alone(config, cluster, arguments, given)
    if arguments.write_rates:
        _write(arguments.write_rates, write_rates(rates))
    setting = _setting(config, cluster)
    plan = make_plan(setting, rates, inputs)
    memory = check_memory(config, cluster, rates)
    said = (*notes_of(plan, rates=rates, given=given), *memory_notes(memory, assumed_lengths(rates)))
    plan = replace(plan, notes=(*plan.notes, *said))
    scaling = scale(setting, rates, inputs, _NODES) if arguments.scale else []
    return _told(arguments, plan, memory, scaling), plan.ends and all(held.fits for held in memory)


def _rates(arguments: argparse.Namespace, config: Config, given: Inputs) -> tuple[Rates | None, Inputs | None]:
    """The rates, and what is to be planned; None where only memory can be told."""
    if not (arguments.calibrate or arguments.runs or arguments.rates):
        return None, None
    inputs = count_inputs(config, given)
    if arguments.rates:
        return read_rates(arguments.rates), inputs
    runs = arguments.runs or calibrate(config, inputs, arguments.calibrate)
    rates = rates_of_runs(runs)
    of_run = to_tree(open_run(storage.absolute(runs[-1])).config)
    other = render.rates_differ(of_run, to_tree(config))
    if other:
        note = f"the measured runs have other settings in {', '.join(other)}: their rates may not be these"
        rates = replace(rates, notes=(*rates.notes, note))
    return rates, inputs


def _setting(config: Config, cluster: Cluster) -> Setting:
    path = config.model.path
    sizes = vlm.read_sizes(storage.local_copy(path))
    weights = [file.num_bytes for file in storage.walk(path) if file.key.endswith(".safetensors")]
    return Setting(
        config=config,
        cluster=cluster,
        model_bytes=float(sum(weights) or sizes.weights * BYTES[config.model.dtype]),
        blocks=sizes.layers,
        concurrent_batches=engine_for(config, path).concurrent_batches,
    )


def _memory_alone(config: Config, cluster: Cluster, arguments: argparse.Namespace, given: Inputs) -> tuple[str, bool]:
    """Without rates only what fits can be told.

    Raises:
        ValueError: more was asked for.
    """
    needs = [*given, *(name for name in ("scale", "html", "json", "write_rates") if getattr(arguments, name))]
    if needs:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in needs)
        raise ValueError(f"{flags}: nothing says how fast it is: give --calibrate N, --from runs/NAME or --rates FILE")
    memory = check_memory(config, cluster, None)
    told = "time and money need rates: give --calibrate N, --from runs/NAME or --rates FILE\n"
    said = list(memory_notes(memory, assumed_lengths(None)))
    return render.memory_text(memory, said) + told, all(held.fits for held in memory)


def _told(arguments: argparse.Namespace, plan: Plan, memory: Sequence[Held], scaling: Sequence[Scaled]) -> str:
    if arguments.html:
        _write(arguments.html, render.page(plan, memory, scaling))
    if arguments.json:
        return json.dumps(render.data(plan, memory, scaling), indent=1) + "\n"
    where = f"page  {arguments.html}\n" if arguments.html else ""
    return render.text(plan, memory, scaling) + where


def _write(uri: str, text: str) -> None:
    with storage.reaching(uri):
        storage.write_bytes(storage.absolute(uri), text.encode())
