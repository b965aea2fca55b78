"""Where every input went: what came into each stage, what it made, what it refused and why."""

from collections.abc import Mapping, Sequence

from stic_ray.artifacts import MODEL, Artifact
from stic_ray.report.collect import RejectedInput, RejectGroup, RunFacts
from stic_ray.report.html import folded
from stic_ray.report.markdown import escape, shorten

_MEASURING = ("Question", "Prediction", "Ask", "Verdict")  # kinds of data that measure models, and train none
_UNITS = {
    "Found": "images listed",
    "ImageRef": "images",
    "PerceptualHash": "images",
    "Response": "answers",
    "Pair": "pairs",
    "Sample": "samples",
    "Score": "answers with their log-probabilities",
    "Gain": "answers with their gains",
    "Selected": "answers selected",
}


def flow(facts: RunFacts) -> str:
    """A row a stage, and the refused below."""
    shown = {r: each for r, each in facts.folder.artifacts.items() if each.record["kind"] not in _MEASURING}
    ins = {role: num_inputs(artifact, facts.folder.artifacts) for role, artifact in shown.items()}
    rows = "".join(_chain({role: (shown[role], ins[role]) for role in chain}) for chain in _chains(shown))
    rejects = _rejects(facts.rejects) + _others(facts) or "<p class=soft>Nothing was rejected.</p>"
    return f"{rows}<h3>Rejected, and why</h3>{rejects}" if rows else ""


def _chain(stages: Mapping[str, tuple[Artifact, int]]) -> str:
    most = max(1, *(num for _, num in stages.values()))
    rows = "".join(_row(role, artifact, num, most) for role, (artifact, num) in stages.items())
    return f'<div class="flow">{rows}</div>'


def _chains(made: Mapping[str, Artifact]) -> list[list[str]]:
    """Roles by what they begin with: what has no parent opens a chain."""
    chains: list[list[str]] = []
    for role, artifact in made.items():
        if not chains or not artifact.record["parents"]:
            chains.append([])
        chains[-1].append(role)
    return chains


def num_inputs(artifact: Artifact, made: Mapping[str, Artifact]) -> int:
    """What a stage was given; of a training, the pairs or samples that it trains on."""
    record = artifact.record
    if record["kind"] != MODEL:
        return int(record.get("inputs", record["counts"]["rows"] + record["counts"]["rejects"]))
    parents = [each.record for each in made.values() if each.fingerprint in record["parents"].values()]
    data = [each for each in parents if each["kind"] != MODEL]
    chosen = [each for each in data if each["kind"] == "Selected"] or data
    return sum(each["inputs"] if each["kind"] == "Score" else each["counts"]["rows"] for each in chosen)


def _row(role: str, artifact: Artifact, num: int, most: int) -> str:
    record = artifact.record
    refused = record["counts"]["rejects"]
    what = "not selected" if record["kind"] == "Selected" else "rejected"
    if record["kind"] == MODEL:
        batch = record["identity"].get("training", {}).get("global_batch")
        out = f"{record['steps']:,} steps" + (f" of {batch}" if batch else "")
    else:
        out = f"{record['counts']['rows']:,} {_UNITS.get(record['kind'], 'rows')}"
    lost = min(refused, num)
    bar = f'<i style="width:{(num - lost) / most:.2%}"></i><i class="lost" style="width:{lost / most:.2%}"></i>'
    told = f"<span class=lost>{refused:,} {what}</span>" if refused else ""
    return (
        f'<div class="stage"><b>{escape(role)}</b><span class="in">{num:,} in</span>'
        f"<span>{out}</span>{told}<div class=bar>{bar}</div></div>"
    )


def _rejects(groups: Sequence[RejectGroup]) -> str:
    parts = []
    for group in groups:
        images = "".join(
            f'<img src="{shown.image}" alt="" title="{escape(shown.uri)}">' for shown in group.shown if shown.image
        )
        reason = escape(shorten(group.reason))
        inputs = folded("inputs like these", "".join(map(_input, group.shown)))
        parts.append(
            f'<div class="refused"><p><b>{group.num:,}</b> {reason} <small>{escape(group.role)}</small>'
            "</p>"
            f"{images and f'<div class=thumbs>{images}</div>'}{inputs}</div>"
        )
    return "".join(parts)


def _others(facts: RunFacts) -> str:
    """What stands above has the commonest reasons only: how many inputs a stage refused for others."""
    parts = []
    for line in facts.stages:
        rest = line.num_rejects - sum(group.num for group in facts.rejects if group.role == line.name)
        if rest > 0:
            parts.append(f"<p class=soft><b>{rest:,}</b> more of {escape(line.name)}, for other reasons</p>")
    return "".join(parts)


def _input(shown: RejectedInput) -> str:
    where = f"<br>{escape(shown.uri)}" if shown.uri else ""
    return f"<p class=soft><code>{escape(shown.id)}</code> {escape(shorten(shown.reason))}{where}</p>"


STYLE = """
.flow{font-variant-numeric:tabular-nums;display:grid;gap:10px;margin:.8em 0 1.8em}
.stage{display:grid;grid-template-columns:minmax(0,11em) 6.5em minmax(0,1fr) auto;gap:1px 14px;align-items:baseline;
font-size:.92rem}.stage .in{text-align:right;color:var(--soft)}.stage .bar{grid-column:1/-1;display:flex;height:7px;
border-radius:4px;overflow:hidden;background:var(--card)}.bar i{background:var(--c1);min-width:0}
.bar i.lost{background:var(--bad)}span.lost{color:var(--bad)}
@media(max-width:600px){.stage{grid-template-columns:minmax(0,1fr) auto}.stage span:nth-of-type(2){
color:var(--soft)}.stage span.lost{text-align:right}}
.refused{margin:0 0 .7em}.refused p{margin:0}.refused small{color:var(--soft)}
.thumbs{display:flex;flex-wrap:wrap;gap:6px}
.thumbs img{height:72px;width:auto;max-width:140px;border-radius:5px}
"""
