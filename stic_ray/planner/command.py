"""The command line of the planner: a configuration, rates, a cluster; a plan as text, page or data."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stic_ray import launch, recipes, storage
from stic_ray.command_line import finish, positive
from stic_ray.config import Config, to_tree
from stic_ray.engines import engine_for
from stic_ray.planner import render
from stic_ray.planner.calibrate import calibrate
from stic_ray.planner.clusters import Cluster, read_cluster, this_machine
from stic_ray.planner.fitting import check_memory
from stic_ray.planner.inputs import Inputs, count_inputs
from stic_ray.planner.memory import Held
from stic_ray.planner.planning import Plan, Scaled, Setting, make_plan, scale
from stic_ray.planner.rates import Rates, rates_of_runs, read_rates, write_rates
from stic_ray.report.folder import open_run

logger = logging.getLogger(__name__)
_NODES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
_EPILOG = """\
rates come from one of
  --calibrate 100                       two small runs of the configuration, of 100 and of 200 of its images
  --from runs/NAME [runs/OTHER ...]     finished runs of the same configuration, of whatever size
  --rates FILE                          figures of your own, as --write-rates gives them
a cluster is a YAML file, or in braces
  --cluster '{nodes: 4, cpus: 96, gpus: 8, gpu: H100, node_hour_price: 30}'
without one it is this machine. docs/planning.md has every setting and the model behind the figures.
"""


def main(argv: list[str] | None = None) -> int:
    """Plan; exit status 1 where something does not fit or does not end, 2 for a mistake in the call or its inputs."""
    arguments = _parse(argv)
    states = []

    def work() -> str:
        told, is_feasible = _plan(arguments)
        states.append(is_feasible)
        return told

    status = finish(work)
    return status or (0 if all(states) else 1)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What a run takes by stage, in time, money and memory, before a GPU is asked for.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--config", metavar="FILE", help="a YAML file with the whole configuration")
    chosen.add_argument(
        "--recipe",
        default=recipes.EMBEDDED,
        help=f"a named recipe (default: %(default)s): {', '.join(recipes.names())}",
    )
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--calibrate", type=positive, metavar="N", help="measure small runs, of N and of 2 N images")
    told.add_argument("--from", dest="runs", nargs="+", metavar="RUN", help="take the rates of finished runs")
    told.add_argument("--rates", metavar="FILE", help="take the rates from a file")
    parser.add_argument("--write-rates", metavar="FILE", help="write the rates down, to be corrected and given again")
    parser.add_argument("--cluster", metavar="FILE", help="what it runs on: a YAML file, or settings in braces")
    for what in ("images", "samples", "annotated"):
        parser.add_argument(f"--{what}", type=positive, metavar="N", help=f"so many {what}, which are then not listed")
    parser.add_argument(
        "--scale",
        nargs="*",
        type=positive,
        metavar="NODES",
        help="also on so many nodes each (without numbers: 1 to 1,000)",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page too")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that override the configuration")
    return parser.parse_intermixed_args(argv)


def _plan(arguments: argparse.Namespace) -> tuple[str, bool]:
    """What is printed, and whether it can be done."""
    config = launch.resolve_config(arguments)
    cluster = read_cluster(arguments.cluster) if arguments.cluster else this_machine()
    given = {what: float(n) for what in ("images", "samples", "annotated") if (n := getattr(arguments, what))}
    rates, inputs = _rates(arguments, config, given)
    if rates is None or inputs is None:
        return _memory_alone(config, cluster, arguments)
    if arguments.write_rates:
        _write(arguments.write_rates, write_rates(rates))
    setting = _setting(config, cluster)
    plan = make_plan(setting, rates, inputs)
    memory = check_memory(config, cluster, rates)
    counts: Sequence[int] = () if arguments.scale is None else arguments.scale or _NODES
    scaling = scale(setting, rates, inputs, sorted(counts)) if counts else []
    return _told(arguments, plan, memory, scaling), plan.ends and all(held.fits for held in memory)


def _rates(arguments: argparse.Namespace, config: Config, given: Inputs) -> tuple[Rates | None, Inputs | None]:
    """The rates, and what is to be planned; None where only memory can be told."""
    if not (arguments.calibrate or arguments.runs or arguments.rates):
        return None, None
    if arguments.rates:
        rates = read_rates(arguments.rates)
        return rates, {**rates.inputs, **count_inputs(config, {**_listed(rates), **given})}
    inputs = count_inputs(config, given)
    runs = arguments.runs or calibrate(config, inputs, arguments.calibrate)
    rates = rates_of_runs(runs)
    of_run = to_tree(open_run(storage.absolute(runs[-1])).config)
    other = render.rates_differ(of_run, to_tree(config))
    if other:
        note = f"the measured runs have other settings in {', '.join(other)}: their rates may not be these"
        rates = replace(rates, notes=(*rates.notes, note))
    return rates, inputs


def _listed(rates: Rates) -> dict[str, float]:
    """Questions as they were measured: their files need not be here."""
    return {what: number for what, number in rates.inputs.items() if what == "questions"}


def _setting(config: Config, cluster: Cluster) -> Setting:
    path = config.model.path
    weights = [file.num_bytes for file in storage.walk(path) if file.key.endswith(".safetensors")]
    engine = engine_for(config, path)
    return Setting(
        config=config,
        cluster=cluster,
        model_bytes=float(sum(weights)),
        blocks=_blocks(path),
        concurrent_batches=engine.concurrent_batches,
    )


def _blocks(path: str) -> int:
    from stic_ray import vlm  # torch takes its time

    return vlm.read_sizes(storage.local_copy(path)).layers


def _memory_alone(config: Config, cluster: Cluster, arguments: argparse.Namespace) -> tuple[str, bool]:
    """Without rates only what fits can be told.

    Raises:
        ValueError: more was asked for.
    """
    if arguments.scale is not None or arguments.html or arguments.json or arguments.write_rates:
        raise ValueError("nothing says how fast it is: give --calibrate N, --from runs/NAME or --rates FILE")
    memory = check_memory(config, cluster, None)
    told = "time and money need rates: give --calibrate N, --from runs/NAME or --rates FILE\n"
    return render.memory_text(memory) + told, all(held.fits for held in memory)


def _told(arguments: argparse.Namespace, plan: Plan, memory: Sequence[Held], scaling: Sequence[Scaled]) -> str:
    if arguments.html:
        _write(arguments.html, render.page(plan, memory, scaling))
    if arguments.json:
        return json.dumps(render.data(plan, memory, scaling), indent=1) + "\n"
    where = f"page  {arguments.html}\n" if arguments.html else ""
    return render.text(plan, memory, scaling) + where


def _write(path: str, text: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(main())
