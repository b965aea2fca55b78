"""A sweep as it lies in its folder: read for its page and for the lines that a sweep ends with."""

import json
from collections.abc import Mapping, Sequence

import yaml

from stic_ray import storage, trials
from stic_ray.config import Config, to_tree
from stic_ray.report import sweep_page
from stic_ray.report.collect import METRICS, read_run_curves
from stic_ray.report.curves import Curve
from stic_ray.report.folder import PAGE, read_config, read_part
from stic_ray.report.markdown import align
from stic_ray.report.sweep_page import SweepFacts, say, say_figure, say_settings, short
from stic_ray.trials import Figure, Trial

JSON, BEST = "sweep.json", "best.yaml"


def is_sweep(home: str) -> bool:
    """Whether a folder of `runs` is a sweep's."""
    return storage.exists(storage.join(home, JSON))


def begin(home: str, base: Mapping[str, Figure], command: str) -> None:
    """Write down what trials are held against, and the command that goes on with the sweep."""
    figures = {name: [figure.value, figure.low, figure.high] for name, figure in base.items()}
    storage.write_bytes(storage.join(home, JSON), json.dumps({"base": figures, "command": command}, indent=1).encode())


def read(home: str) -> SweepFacts:
    """A sweep, finished or not.

    Raises:
        ValueError: a file of it is missing or damaged.
    """
    config = read_config(home)
    if config.sweep is None:
        raise ValueError(f"{home}/config.yaml has no sweep: run the job again, it writes it anew")
    base, command = read_part(storage.join(home, JSON), _parse)
    tried = trials.read_all(home)
    front = trials.front(tried, config.sweep.objectives)
    return SweepFacts(
        config=config,
        command=command,
        base=base,
        trials=tried,
        front=[trial.id for trial in front],
        best=_best(config, front[0]) if front else "",
        curves={trial.id: _read_curves(trials.folder(home, trial.id)) for trial in tried},
    )


def _read_curves(trial: str) -> dict[str, dict[str, Curve]]:
    try:
        return read_run_curves(trial)
    except ValueError:
        where = storage.join(trial, METRICS)
        raise ValueError(f"{where} is damaged: remove it, and the page leaves this trial's curves out") from None


def _parse(text: str) -> tuple[dict[str, Figure], str]:
    tree = json.loads(text)
    base = {
        str(name): Figure(value=float(value), low=float(low), high=float(high))
        for name, (value, low, high) in tree["base"].items()
    }
    return base, str(tree["command"])


def _best(config: Config, trial: Trial) -> str:
    assert config.sweep is not None  # whose trial it is
    head = f"# The best of sweep {config.name} by {config.sweep.objectives[0].figure} on dev: trial {trial.id}.\n"
    return head + yaml.safe_dump(to_tree(trials.config_of_best(config, trial)), sort_keys=False)


def write(home: str) -> str:
    """Write a sweep's page and, where a trial has finished, its best configuration; returns the lines that tell of it.

    Raises:
        ValueError: as `read`; every trial failed.
    """
    found = read(home)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    if failed and len(failed) == len(found.trials):
        raise ValueError(f"every trial failed, the first ({say_settings(failed[0].values)}) since {failed[0].error}")
    if found.best:
        storage.write_bytes(storage.join(home, BEST), found.best.encode())
    storage.write_bytes(storage.join(home, PAGE), sweep_page.render(found).encode())
    return "\n".join(["", *table(found), "", *_places(found, home), ""])


def table(found: SweepFacts, states: Mapping[str, str] | None = None) -> Sequence[str]:
    """The trials as a table for a terminal; `states` says more than the state of some of them, by id."""
    sweep = found.sweep
    heads = ["trial", *map(short, sweep.space), *(f"{each.figure} ({each.mode})" for each in sweep.objectives), "state"]
    rows = [_row(found, trial, (states or {}).get(trial.id, trial.state)) for trial in found.trials]
    base = [say_figure(found.base[each.figure]) for each in sweep.objectives]
    rows.append(["base", *("" for _ in sweep.space), *base, ""])
    told = ["dev split, with 95% intervals; * on the Pareto front of the finished trials"]
    early = {trial.state: None for trial in found.trials if trial.figures and trial.state != "finished"}
    if early:
        told.append(f"{' and '.join(early)} trials: figures of their stage-1 model")
    return [*align([heads, *rows]), *told]


def _row(found: SweepFacts, trial: Trial, state: str) -> list[str]:
    sweep = found.sweep
    figures = (trial.figures.get(each.figure) for each in sweep.objectives)
    return [
        f"{trial.id}{'*' if trial.id in found.front else ''}",
        *(say(trial.values.get(path)) for path in sweep.space),
        *(say_figure(figure) if figure else "-" for figure in figures),
        state,
    ]


def _places(found: SweepFacts, home: str) -> Sequence[str]:
    lines = [f"report        {storage.join(home, PAGE)}"]
    if found.best:
        best = storage.join(home, BEST)
        lines.append(f"best          {best}    (for stic_pipeline.py --config; it trains controls alone)")
    return lines
