"""From a model back to everything that it was made of: artifacts in artifacts, pairs with their draws."""

import json
from collections.abc import Mapping

from stic_ray.artifacts import BASE_PREFIX, MODEL, Artifact
from stic_ray.records import Pair
from stic_ray.report.collect import PairGroup, RunFacts
from stic_ray.report.html import multiline
from stic_ray.report.markdown import escape, shorten

_MAX_SETTINGS = 6000  # characters


def lineage(facts: RunFacts) -> str:
    """Every artifact of a run once: below what is made of it first, the last model at the top."""
    tree = _Tree(facts)
    models = [role for role, each in facts.folder.artifacts.items() if each.record["kind"] == MODEL]
    tops = [*reversed(models), *facts.folder.artifacts]
    return "".join(tree.node(role) for role in tops if role not in tree.seen)


class _Tree:
    """What has been written of a run's lineage: nothing is twice in it."""

    def __init__(self, facts: RunFacts) -> None:
        self._artifacts: Mapping[str, Artifact] = facts.folder.artifacts
        self._roles = {artifact.fingerprint: role for role, artifact in self._artifacts.items()}
        self._pairs: dict[str, list[PairGroup]] = {}
        for group in facts.pairs:
            self._pairs.setdefault(group.role, []).append(group)
        self.seen: set[str] = set()

    def node(self, role: str) -> str:
        """An artifact with its settings, its parents in it."""
        artifact = self._artifacts[role]
        self.seen.add(role)
        record = artifact.record
        made = f"{record['steps']} steps" if record["kind"] == MODEL else f"{record['counts']['rows']:,} rows"
        settings = json.dumps(record["identity"], indent=1, sort_keys=True, ensure_ascii=False)
        if len(settings) > _MAX_SETTINGS:
            left_out = len(settings) - _MAX_SETTINGS
            settings = f"{settings[:_MAX_SETTINGS]}\n... ({left_out} more characters: see its record.json)"
        parents = "".join(self._parent(name, fp) for name, fp in record["parents"].items())
        return (
            f'<details class="node"><summary><b>{escape(role)}</b> <code>{escape(artifact.fingerprint)}</code> '
            f"{made}</summary><div>{facts_of({'artifact': artifact.uri, 'made': record['committed_at']})}"
            f"<details><summary>settings that it depends on</summary><pre>{multiline(settings)}</pre></details>"
            f"{self._drawn(role)}{parents}</div></details>"
        )

    def _parent(self, name: str, fingerprint: str) -> str:
        role = self._roles.get(fingerprint)
        if role is not None and role not in self.seen:
            return self.node(role)
        where = "the base model" if fingerprint.startswith(BASE_PREFIX) else "above" if role else "not in this run"
        told = f"{escape(name)}: {escape(role or '')} <code>{escape(fingerprint)}</code> ({where})"
        return f"<p class=soft>{told}</p>"

    def _drawn(self, role: str) -> str:
        return "".join(pair_node(shown.pair) for group in self._pairs.get(role, ()) for shown in group.shown)


def pair_node(pair: Pair) -> str:
    """A pair's whole story; its image is where the pairs are shown."""
    story = {
        "pair": pair.id,
        "item": pair.item_id,
        "image": pair.image_id,
        "image file": pair.image_uri,
        "chosen response": pair.chosen_id,
        "chosen: prompt": pair.chosen_prompt,
        "chosen: seed": str(pair.chosen_seed),
        "chosen: hash of what was seen": pair.chosen_seen_hash,
        "rejected response": pair.rejected_id,
        "rejected: negative": pair.negative,
        "rejected: prompt": pair.rejected_prompt,
        "rejected: seed": str(pair.rejected_seed),
        "rejected: corruption": pair.corruption,
        "rejected: hash of what was seen": pair.rejected_seen_hash,
    }
    head = f"pair <code>{escape(pair.id)}</code> {escape(pair.negative)}"
    return f'<details class="node pair"><summary>{head}</summary><div>{facts_of(story)}</div></details>'


def facts_of(pairs: Mapping[str, str]) -> str:
    """Names and texts below each other, those without a text left out."""
    rows = [f"<dt>{escape(name)}</dt><dd>{escape(shorten(text))}</dd>" for name, text in pairs.items() if text]
    return f'<dl class="story">{"".join(rows)}</dl>'


STYLE = """
.node{border-left:2px solid var(--rule);padding-left:10px;margin:4px 0}.node>summary{color:var(--text);padding:5px 0}
.node code{font-size:.82rem;color:var(--soft)}.node>div{padding-bottom:4px}
dl.story{display:grid;grid-template-columns:minmax(84px,190px) minmax(0,1fr);gap:2px 12px;font-size:.84rem;margin:4px 0}
dl.story dd{font-size:.84rem;font-weight:400;font-family:ui-monospace,monospace}
pre{background:var(--card);border-radius:8px;padding:10px 12px;overflow-x:auto;font-size:.82rem;white-space:pre-wrap}
"""
