"""A run's gains as blocks for pages: figures, selections, and conversations to show with their tokens."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stic_ray import artifacts
from stic_ray.artifacts import Artifact
from stic_ray.records import Gain, Selected, from_table
from stic_ray.report.draws import read_places
from stic_ray.report.folder import RunFolder
from stic_ray.report.gains import SELECTED_COLUMNS, Distributions, Figures, GainTally, SelectionTally
from stic_ray.report.thumbnails import Thumbnails
from stic_ray.report.vig_page import Block, Shown, ShownTurn, Token

_GAINS, _SELECTION = "_gains", "_selection"  # how the stages' names end
_PAIRS = "pair_gains"
_OF_PAIRS = (
    "Chosen and rejected answers are counted together, except by answer: what a rejected one makes up is below 0."
)
_SIDE_PX = 240  # of an embedded image: some 12 kB


def gains_of(run: RunFolder) -> dict[str, Artifact]:
    """A run's artifacts of gains by role."""
    return {role: artifact for role, artifact in run.artifacts.items() if artifact.record["stage"].endswith(_GAINS)}


def whole_block(run: RunFolder, role: str, gains: Artifact, num_samples: int) -> Block:
    """All figures of an artifact of gains: one pass over its rows, one over what is selected of it."""
    is_pairs = gains.record["stage"] == _PAIRS
    tally = GainTally(_name_answer if is_pairs else _name_category)
    shown = Examples(_num_shown(num_samples, is_pairs))
    for rows in artifacts.iterate(gains.uri, Gain):
        tally.add(rows)
        shown.add(rows)
    return _block(run, role, gains, tally.figures(), shown.rows())


def brief_block(run: RunFolder, role: str, gains: Artifact, num_samples: int) -> Block:
    """The distributions of an artifact of gains, what is selected of it, and examples: columns are read, and the rows
    of the examples alone."""
    tally = Distributions()
    parts = []
    for file in artifacts.data_files(gains.uri):
        table = artifacts.read_file(file, ["item_id", "image_uri", "mean_gain", "gains"])
        seen = table.filter(pc.not_equal(table.column("image_uri"), ""))
        tally.add(seen.column("mean_gain").to_numpy(), pc.list_flatten(seen.column("gains")).to_numpy())
        has_tokens = pc.greater(pc.list_value_length(table.column("gains")), 0)
        parts.append(table.select(["item_id", "mean_gain"]).append_column("has_tokens", has_tokens))
    num = _num_shown(num_samples, gains.record["stage"] == _PAIRS)
    shown = Examples(num)
    shown.add(_candidates(gains, parts, num))
    text_only = sum(part.num_rows for part in parts) - tally.num_conversations
    return _block(run, role, gains, {**tally.figures(), "text_only": text_only}, shown.rows())


def _num_shown(num_samples: int, is_pairs: bool) -> int:
    """Half of them are drawn by item: an even number of a pair's answers keeps its two together."""
    return 2 * (num_samples + num_samples % 2) if is_pairs else num_samples


def _candidates(gains: Artifact, parts: Sequence[pa.Table], num: int) -> list[Gain]:
    """Among these are the examples that would be taken of all rows."""
    files = artifacts.data_files(gains.uri)
    starts = np.cumsum([0, *(part.num_rows for part in parts)])
    whole = pa.concat_tables(parts).append_column("place", pa.array(np.arange(starts[-1])))
    whole = whole.filter(whole.column("has_tokens"))
    places: set[int] = set()
    for column, order in (("mean_gain", "ascending"), ("mean_gain", "descending"), ("item_id", "ascending")):
        first = pc.select_k_unstable(whole, min(2 * num, whole.num_rows), sort_keys=[(column, order)])
        places.update(whole.column("place").take(first).to_pylist())
    return [row for table in read_places(files, starts, sorted(places)) for row in from_table(table, Gain)]


def _block(run: RunFolder, role: str, gains: Artifact, figures: Figures, drawn: Sequence[tuple[str, Gain]]) -> Block:
    is_pairs = gains.record["stage"] == _PAIRS
    selections = _selections_of(run, gains)
    figures["selections"] = {other: _count_selected(artifact) for other, artifact in selections.items()}
    used = _read_selected(next(iter(selections.values())), [gain for _, gain in drawn]) if selections else None
    images = Thumbnails()
    name_group = _name_answer if is_pairs else _name_category
    return Block(
        name=role.replace(_GAINS, ""),
        group_name="answer and what made the rejected one" if is_pairs else "data set",
        note=_OF_PAIRS if is_pairs else "",
        figures=figures,
        samples=[show(why, gain, used, name_group(gain), images) for why, gain in drawn],
    )


def _selections_of(run: RunFolder, gains: Artifact) -> dict[str, Artifact]:
    """What is selected by these gains, by role; those of a control, and what a random one is like, stand last."""
    return {
        role: artifact
        for role, artifact in sorted(run.artifacts.items(), key=lambda item: (_is_beside(item[0]), item[0]))
        if artifact.record["stage"].endswith(_SELECTION)
        and artifact.record["parents"].get("gains") == gains.fingerprint
    }


def _is_beside(role: str) -> bool:
    return "_control_" in role or "_like" in role


def _name_category(gain: Gain) -> str:
    return gain.category


def _name_answer(gain: Gain) -> str:
    return f"{gain.role} ({gain.category})"


class Smallest:
    """The rows of a stream with the smallest keys; twice as many are held. No two rows have the same key."""

    def __init__(self, num: int) -> None:
        self._num = num
        self._kept: list[tuple[tuple[Any, ...], Any]] = []

    def add(self, key: tuple[Any, ...], row: Any) -> None:
        """Look at a row."""
        self._kept.append((key, row))
        if len(self._kept) > 2 * self._num:
            self._kept = self._smallest()

    def _smallest(self) -> list[tuple[tuple[Any, ...], Any]]:
        return sorted(self._kept, key=lambda entry: entry[0])[: self._num]

    def rows(self) -> list[Any]:
        """The rows by key."""
        return [row for _, row in self._smallest()]


class Examples:
    """Conversations for the page: half of them drawn by their item's id, which is a hash, a quarter each of the highest
    and the lowest gain. The same whatever the files' order."""

    def __init__(self, num: int) -> None:
        num_drawn = -(-num // 2)
        extreme = -(-(num - num_drawn) // 2)
        self._parts: dict[str, tuple[Smallest, Callable[[Gain], tuple[Any, ...]]]] = {
            "highest gains": (Smallest(extreme), lambda gain: (-gain.mean_gain, gain.id)),
            "lowest gains": (Smallest(num - num_drawn - extreme), lambda gain: (gain.mean_gain, gain.id)),
            "drawn": (Smallest(num_drawn), lambda gain: (gain.item_id, gain.role)),
        }

    def add(self, gains: Iterable[Gain]) -> None:
        """Look at conversations; those without an image are left out."""
        for gain in gains:
            if gain.token_ids:
                for kept, key in self._parts.values():
                    kept.add(key(gain), gain)

    def rows(self) -> list[tuple[str, Gain]]:
        """Why each is there, and the conversation; none twice."""
        found: dict[str, tuple[str, Gain]] = {}
        for why, (kept, _) in self._parts.items():
            for gain in kept.rows():
                found.setdefault(gain.id, (why, gain))
        return list(found.values())


def _count_selected(selection: Artifact) -> Figures:
    tally = SelectionTally(selection.record["identity"]["selection"]["type"])
    for file in artifacts.data_files(selection.uri):
        tally.add(artifacts.read_file(file, SELECTED_COLUMNS))
    return tally.figures()


def _read_selected(selection: Artifact, gains: Sequence[Gain]) -> dict[tuple[str, str], Selected]:
    """What a selection has of these conversations, by item and role."""
    wanted = pa.array([gain.item_id for gain in gains], pa.string())
    found = {}
    for file in artifacts.data_files(selection.uri):
        table = artifacts.read_file(file)
        rows = from_table(table.filter(pc.is_in(table.column("item_id"), wanted)), Selected)
        found.update({(row.item_id, row.role): row for row in rows})
    return found


def show(
    why: str, gain: Gain, used: Mapping[tuple[str, str], Selected] | None, group: str, images: Thumbnails
) -> Shown:
    """A conversation for the page; `used` is what a selection took, None where there is none."""
    selected = used.get((gain.item_id, gain.role)) if used is not None else None
    trained = [selected is not None] * len(gain.token_ids)
    state = ""
    if used is not None:
        state = "not selected" if selected is None else f"{selected.num_used} of {len(trained)} tokens are trained"
    if selected is not None and selected.used:
        trained = list(selected.used)
    image, missing = images.take(gain.image_uri, _SIDE_PX)
    return Shown(
        why=why,
        group=group,
        mean_gain=gain.mean_gain,
        state=state,
        image=image,
        missing=missing,
        turns=_turns(gain, trained),
    )


def _turns(gain: Gain, trained: Sequence[bool]) -> list[ShownTurn]:
    turns, number = [], 0
    for turn in gain.turns:
        if turn.role == "user":
            turns.append(ShownTurn(role=turn.role, text=turn.text))
            continue
        places = [t for t, of in enumerate(gain.answers) if of == number]
        tokens = _tokens(gain, turn.text.strip(), places, trained)
        turns.append(ShownTurn(role=turn.role, text=turn.text, tokens=tokens))
        number += 1
    return turns


def _tokens(gain: Gain, answer: str, places: Sequence[int], trained: Sequence[bool]) -> list[Token]:
    """The tokens at these places with their texts, each up to where the next begins: together they are the answer."""
    starts = [gain.starts[t] for t in places]
    cuts = [0, *starts[1:], len(answer)]
    return [
        Token(
            text=answer[cuts[number] : cuts[number + 1]],
            gain=gain.gains[t],
            logp=gain.logp[t],
            blind_logp=gain.blind_logp[t],
            is_trained=trained[t],
            is_end=gain.starts[t] >= len(answer),
        )
        for number, t in enumerate(places)
    ]
