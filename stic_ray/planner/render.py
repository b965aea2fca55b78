"""A plan as text, as a page and as data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from stic_ray.config import to_tree
from stic_ray.planner.estimates import Estimate
from stic_ray.planner.memory import Held
from stic_ray.planner.planning import Plan, Planned, Scaled, stops_scaling
from stic_ray.report.html import document, facts, table_of
from stic_ray.report.markdown import align, escape
from stic_ray.report.svg import Series, lines
from stic_ray.storage import readable

_STAGES = (
    "stage",
    "units",
    "requests",
    "tokens in",
    "tokens out",
    "stored",
    "GPU h",
    "CPU h",
    "time",
    "95%",
    "bound by",
)
_MEMORY = ("process", "holds", "of", "fits", "weights", "the largest other part", "remedy")
_UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
_SCALING = ("nodes", "time", "speed-up", "cost", "done again", "longest stage", "bound by")


_STYLE = "body{max-width:1280px}"  # a table of eleven columns


def text(plan: Plan, memory: Sequence[Held], scaling: Sequence[Scaled]) -> str:
    """Tables for a terminal."""
    parts = [_heading(plan), _table(_STAGES, _stage_rows(plan)), *_sums(plan), *_sources(plan), *_notes(plan)]
    if memory:
        parts += ["", "memory of a process", _table(_MEMORY, _memory_rows(memory))]
        parts += [f"  {held.what}: {held.note}" for held in memory if held.note]
    if scaling:
        parts += ["", "the same run on as many nodes, with pools and trainings as large as they are"]
        parts += [_table(_SCALING, _scaling_rows(scaling)), _where_it_stops(scaling)]
    return "\n".join(parts) + "\n"


def memory_text(memory: Sequence[Held], said: Sequence[str]) -> str:
    """The table of memory alone, with what is said of it."""
    notes = [f"  {held.what}: {held.note}" for held in memory if held.note] + [f"note: {note}" for note in said]
    return "\n".join(["memory of a process", _table(_MEMORY, _memory_rows(memory)), *notes]) + "\n"


def page(plan: Plan, memory: Sequence[Held], scaling: Sequence[Scaled]) -> str:
    """A page that needs nothing else."""
    name = plan.setting.config.name
    body = [f"<h1>Plan of {escape(name)}</h1><p class=soft>{escape(_heading(plan))}</p>"]
    body.append(facts({what: escape(told) for what, told in _figures(plan).items()}))
    body.append(f"<h2>Stages</h2>{_html_table(_STAGES, _stage_rows(plan))}")
    body += [f"<p class=soft>{escape(note)}</p>" for note in (*_notes(plan), *_sources(plan))]
    if memory:
        body.append(f"<h2>Memory</h2>{_html_table(_MEMORY, _memory_rows(memory))}")
    if scaling:
        body.append(f"<h2>On more nodes</h2>{_charts(scaling)}{_html_table(_SCALING, _scaling_rows(scaling))}")
        body.append(f"<p>{escape(_where_it_stops(scaling))}</p>{_by_stage(scaling)}")
    return document(f"Plan of {name}", "".join(body), style=_STYLE)


def data(plan: Plan, memory: Sequence[Held], scaling: Sequence[Scaled]) -> dict[str, Any]:
    """Everything as plain JSON data."""
    return {
        "name": plan.setting.config.name,
        "cluster": to_tree(plan.setting.cluster),
        "inputs": dict(plan.inputs),
        "seconds": _estimate(plan.seconds, plan.freedom),
        "money": None if plan.money is None else _estimate(plan.money, plan.freedom),
        "stages": [_stage_data(stage, plan.freedom) for stage in plan.stages],
        "groups": [[stage.rate.role for stage in group] for group in plan.groups],
        "memory": [
            {"what": held.what, "bytes": held.total, "parts": dict(held.parts), "room": held.room, "fits": held.fits}
            | {"remedies": list(held.remedies)}
            for held in memory
        ],
        "scaling": [
            {"nodes": one.nodes, "seconds": one.seconds, "money": one.money, "ends": one.ends}
            | {
                "stages": {stage.rate.role: stage.seconds.value for stage in one.plan.stages},
                "bounds": dict(one.bounds),
            }
            for one in scaling
        ],
        "notes": list(plan.notes),
    }


def _stage_data(stage: Planned, freedom: int) -> dict[str, Any]:
    rate, units = stage.rate, stage.units
    return {
        "role": rate.role,
        "units": units,
        "requests": rate.requests * units,
        "tokens_in": _tokens_in(stage),
        "tokens_out": rate.tokens_out * units,
        "bytes": stage.bytes,
        "gpu_hours": stage.gpu_hours.value,
        "cpu_hours": stage.cpu_hours.value,
        "seconds": _estimate(stage.seconds, freedom),
        "bound": stage.outcome.bound,
        "redone": stage.outcome.redone,
        "told_by": rate.told_by,
    }


def _estimate(estimate: Estimate, freedom: int) -> dict[str, float | None]:
    low, high = estimate.interval(freedom)
    return {"value": estimate.value, "low": low if freedom else None, "high": high if math.isfinite(high) else None}


# Rows


def _heading(plan: Plan) -> str:
    cluster, inputs = plan.setting.cluster, plan.inputs
    each = [f"{cluster.cpus:g} cores", *([f"{cluster.gpus:g} {cluster.gpu or 'GPUs'}"] if cluster.gpus else [])]
    price = "" if cluster.node_hour_price is None else f" at {cluster.node_hour_price:g} an hour each"
    held = ", ".join(f"{number:,.0f} {what}" for what, number in inputs.items())
    return f"{plan.setting.config.name}: {held}; {_count(cluster.nodes, 'node')} of {' and '.join(each)}{price}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _stage_rows(plan: Plan) -> list[list[str]]:
    rows = []
    for group in plan.groups:
        for number, stage in enumerate(group):
            rate, units = stage.rate, stage.units
            rows.append(
                [
                    rate.role + (" (beside)" if number else ""),
                    f"{units:,.0f}" + (" steps" if rate.kind == "training" else ""),
                    _number(rate.requests * units),
                    _number(_tokens_in(stage)),
                    _number(rate.tokens_out * units),
                    readable(stage.bytes),
                    f"{stage.gpu_hours.value:,.2f}" if stage.gpus else "-",
                    f"{stage.cpu_hours.value:,.2f}",
                    duration(stage.seconds.value),
                    _interval(stage.seconds, plan.freedom, duration),
                    stage.outcome.bound if stage.outcome.ends else "losses: does not end",
                ]
            )
    return rows


def _tokens_in(stage: Planned) -> float:
    rate = stage.rate
    return rate.step_tokens * stage.units if rate.kind == "training" else rate.tokens_in * stage.units


def _figures(plan: Plan) -> dict[str, str]:
    """What the whole run takes."""
    stages = plan.stages
    gpu_hours = sum((stage.gpu_hours for stage in stages), Estimate(0.0))
    found = {"time": f"{duration(plan.seconds.value)}{_bracketed(plan.seconds, plan.freedom, duration)}"}
    if gpu_hours.value:
        found["GPU hours"] = f"{_short(gpu_hours.value)}{_bracketed(gpu_hours, plan.freedom, _short)}"
    found["CPU hours"] = _short(sum(stage.cpu_hours.value for stage in stages))
    found["tokens in, out"] = (
        f"{_number(sum(map(_tokens_in, stages)))}, {_number(sum(s.rate.tokens_out * s.units for s in stages))}"
    )
    found["store"] = readable(sum(stage.bytes for stage in stages))
    if plan.money is not None:
        found["money"] = f"{_short(plan.money.value)}{_bracketed(plan.money, plan.freedom, _short)}"
    return found


def _sums(plan: Plan) -> list[str]:
    found = _figures(plan)
    width = max(map(len, found))
    return ["", *(f"{name:<{width}}  {value}" for name, value in found.items())]


def _notes(plan: Plan) -> list[str]:
    notes = [f"note: {note}" for note in plan.notes]
    if plan.money is None:
        notes.append("note: no price, so no money: give node_hour_price in --cluster")
    if not plan.freedom:
        notes.append("note: everything was measured once, so no interval: calibrate with two sizes, or give more runs")
    return notes


def _sources(plan: Plan) -> list[str]:
    """Who says how fast what is: a stage each where they differ."""
    by_source: dict[str, list[str]] = {}
    for stage in plan.stages:
        by_source.setdefault(stage.rate.told_by, []).append(stage.rate.role)
    if len(by_source) == 1:
        return [f"rates: of {next(iter(by_source))}"]
    return [f"rates: {', '.join(roles)} of {source}" for source, roles in by_source.items()]


def _memory_rows(memory: Sequence[Held]) -> list[list[str]]:
    rows = []
    for held in memory:
        other = {name: value for name, value in held.parts.items() if name != "weights"}
        largest = max(other, key=lambda name: other[name])
        rows.append(
            [
                held.what,
                readable(held.total),
                "-" if held.room is None else readable(held.room),
                "?" if held.room is None else "yes" if held.fits else "NO",
                readable(held.parts["weights"]),
                f"{largest} {readable(other[largest])}",
                ", or ".join(held.remedies) or ("-" if held.fits else "none of the settings: larger GPUs"),
            ]
        )
    return rows


def _scaling_rows(scaling: Sequence[Scaled]) -> list[list[str]]:
    first = scaling[0]
    rows = []
    for one in scaling:
        longest = max(one.plan.stages, key=lambda stage: stage.seconds.value)
        redone = max(stage.outcome.redone for stage in one.plan.stages)
        rows.append(
            [
                f"{one.nodes:,}",
                duration(one.seconds) if one.ends else "does not end",
                f"{first.seconds / one.seconds:,.1f}",
                "-" if one.money is None else f"{one.money:,.2f}",
                f"{100 * redone:.1f}%",
                longest.rate.role,
                one.bounds[longest.rate.role],
            ]
        )
    return rows


def _where_it_stops(scaling: Sequence[Scaled]) -> str:
    found = stops_scaling(scaling)
    if found is None:
        return f"it scales up to {scaling[-1].nodes:,} nodes and may go on"
    best, why = found
    nodes = _count(best.nodes, "node")
    return f"beyond {nodes} twice as many save less than a quarter of the time: {why}; {_what_it_took(best)}"


def _what_it_took(one: Scaled) -> str:
    """The settings that a run on so many nodes needs to be as fast, and what they are now."""
    execution = one.plan.setting.config.execution
    now = {"pool": ("execution.pool.max_size", execution.pool.max_size)}
    now["training"] = ("execution.num_train_workers", execution.num_train_workers)
    told = []
    for kind, (name, value) in now.items():
        took = max((stage.workers for stage in one.plan.stages if stage.rate.kind == kind), default=value)
        told.append(f"{name}={took} ({'as now' if took == value else f'now {value}'})")
    return f"on {_count(one.nodes, 'node')} it was simulated with {' and '.join(told)}"


def _charts(scaling: Sequence[Scaled]) -> str:
    labels = [f"{one.nodes}" for one in scaling]
    longest = max(one.seconds for one in scaling)
    unit, unit_s = next((each for each in _UNITS if longest >= each[1]), _UNITS[-1])
    times = [one.seconds / unit_s for one in scaling]
    figures = [lines(f"{unit} by nodes", labels, [Series(name=unit, values=times, color=1)], "nodes", start=0.0)]
    prices = [one.money for one in scaling if one.money is not None]
    if len(prices) == len(scaling):
        figures.append(
            lines("cost by nodes", labels, [Series(name="cost", values=prices, color=2)], "nodes", start=0.0)
        )
    return "".join(f"<figure>{figure}</figure>" for figure in figures)


def _by_stage(scaling: Sequence[Scaled]) -> str:
    """A row a stage, a column a number of nodes."""
    roles = [stage.rate.role for stage in scaling[0].plan.stages]
    seconds = [{stage.rate.role: stage.seconds.value for stage in one.plan.stages} for one in scaling]
    rows = [
        [role, *(f"{duration(each[role])} ({one.bounds[role]})" for each, one in zip(seconds, scaling, strict=True))]
        for role in roles
    ]
    return f"<h3>By stage</h3>{_html_table(('stage', *(f'{one.nodes:,}' for one in scaling)), rows)}"


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table_of(header, [[escape(cell) for cell in row] for row in rows])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(align([header, *rows]))


# Numbers


def duration(seconds: float) -> str:
    """In the unit that it is read in."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def _number(value: float) -> str:
    if not value:
        return "-"
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= power:
            return f"{value / min(power, 1e3) if letter == 'k' else value / power:,.1f}{letter}"
    return f"{value:,.0f}"


def _short(value: float) -> str:
    return f"{value:,.2f}"


def _interval(estimate: Estimate, freedom: int, told: Any) -> str:
    if not freedom:
        return "-"
    low, high = estimate.interval(freedom)
    return f"{told(low)} to {told(high)}"


def _bracketed(estimate: Estimate, freedom: int, told: Any) -> str:
    return f" ({_interval(estimate, freedom, told)})" if freedom else ""


def rates_differ(of_run: Mapping[str, Any], of_plan: Mapping[str, Any]) -> list[str]:
    """The settings in which a measured run differs from what is planned, of those that rates depend on."""
    free = ("name", "store", "runs", "execution", "seed", "hub", "sweep")
    return [
        name
        for name in of_plan
        if name not in free and _without_sizes(of_run.get(name)) != _without_sizes(of_plan[name])
    ]


def _without_sizes(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        kept = ("sample", "limit", "shard", "uri", "images", "version", "steps", "epochs", "global_batch")
        return {name: _without_sizes(value) for name, value in tree.items() if name not in kept}
    return tree
