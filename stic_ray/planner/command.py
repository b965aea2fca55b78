"""The command line of the planner: a configuration, rates, a cluster; a plan as text, page or data."""

import argparse
import sys

from stic_ray import launch, recipes
from stic_ray.command_line import finish, positive
from stic_ray.planner.clusters import read_cluster, this_machine

_EPILOG = """\
rates come from one of
  --calibrate 100                       two small runs of the configuration, of 100 and of 200 of its images
  --from runs/NAME [--from runs/OTHER]  finished runs of the same configuration, of whatever size
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
        config = launch.resolve_config(arguments)
        cluster = read_cluster(arguments.cluster) if arguments.cluster else this_machine()
        from stic_ray.planner import making

        told, is_feasible = making.plan_run(config, cluster, arguments)
        states.append(is_feasible)
        return told

    status = finish(work, arguments.log)
    return status or (0 if all(states) else 1)


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What a run takes by stage, in time, money and memory, before a GPU is asked for.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    launch.add_configuration(parser, recipes.EMBEDDED)
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--calibrate", type=positive, metavar="N", help="measure small runs, of N and of 2 N images")
    told.add_argument("--from", dest="runs", action="append", metavar="RUN", help="take a finished run's rates")
    told.add_argument("--rates", metavar="FILE", help="take the rates from a file")
    parser.add_argument("--write-rates", metavar="FILE", help="write the rates down, to be corrected and given again")
    parser.add_argument("--cluster", metavar="FILE", help="what it runs on: a YAML file, or settings in braces")
    for what in ("images", "samples", "annotated", "questions"):
        parser.add_argument(f"--{what}", type=positive, metavar="N", help=f"so many {what}, which are then not listed")
    parser.add_argument("--scale", action="store_true", help="also on 1 to 1,000 nodes")
    parser.add_argument("--html", metavar="FILE", help="write a page too")
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
