"""The report on visual information gain of a run: vig.html and vig.json from its gains, selections and models.

Gains are read file by file; what is held of them are sums, and the conversations that the page shows.
"""

import argparse
import base64
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stic_ray import artifacts, images, sources, storage
from stic_ray.artifacts import Artifact
from stic_ray.config import Config, parse_config, read_yaml
from stic_ray.images import BadImageError
from stic_ray.records import Gain, Pair, Sample, Selected, Turn, from_table, make_id
from stic_ray.report.gains import SELECTED_COLUMNS, Figures, GainTally, SelectionTally
from stic_ray.report.vig_page import HTML, JSON, Block, Shown, ShownTurn, Token, VigPage, render_page

_GAINS, _SELECTION = "_gains", "_selection"  # how the stages' names end
_PAIRS = "pair_gains"
_OF_PAIRS = (
    "Chosen and rejected answers are counted together, except by answer: what a rejected one makes up is below 0."
)
_TRAINED = ("stage1", "stage2")
_SIDE_PX = 240  # of an embedded image: some 15 kB


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A finished run: its folder, its settings and its artifacts by role."""

    uri: str
    config: Config
    artifacts: Mapping[str, Artifact]


def open_run(run: str) -> RunFolder:
    """A run by its folder.

    Raises:
        ValueError: it holds no finished run, or an artifact of it is gone.
    """
    found = {role: artifacts.load(uri) for role, uri in artifacts.read_references(run).items()}
    where = storage.join(run, "config.yaml")
    return RunFolder(uri=run, config=parse_config(read_yaml(storage.read_text(where), where), []), artifacts=found)


def make_report(run: RunFolder, *, num_samples: int, models: Figures | None) -> tuple[str, Figures]:
    """The page, and its figures; `models` are `measure_models`' where they were asked for.

    Raises:
        ValueError: there are no gains, and no figures of models.
    """
    gains = {role: artifact for role, artifact in run.artifacts.items() if artifact.record["stage"].endswith(_GAINS)}
    if not gains and models is None:
        raise ValueError(f"{run.uri} has no gains: set vig and a selection of stage1 or stage2, and run it again")
    blocks = [_block(run, role, artifact, num_samples) for role, artifact in gains.items()]
    name = run.config.name
    figures = {"run": name, "gains": {block.name: dict(block.figures) for block in blocks}, "models": models}
    return render_page(VigPage(run=name, blocks=blocks, models=models)), figures


def _block(run: RunFolder, role: str, gains: Artifact, num_samples: int) -> Block:
    """One pass over an artifact of gains, one over what is selected of it."""
    is_pairs = gains.record["stage"] == _PAIRS
    tally = GainTally(_name_answer if is_pairs else _name_category)
    # Half of them are drawn by item: an even number of a pair's answers keeps its two together.
    shown = Examples(2 * (num_samples + num_samples % 2) if is_pairs else num_samples)
    for rows in artifacts.iterate(gains.uri, Gain):
        tally.add(rows)
        shown.add(rows)
    selections = _selections_of(run, gains)
    figures = tally.figures()
    figures["selections"] = {other: _count_selected(artifact) for other, artifact in selections.items()}
    drawn = shown.rows()
    used = _read_selected(next(iter(selections.values())), [gain for _, gain in drawn]) if selections else None
    return Block(
        name=role.replace(_GAINS, ""),
        group_name="answer and what made the rejected one" if is_pairs else "data set",
        note=_OF_PAIRS if is_pairs else "",
        figures=figures,
        samples=[show(why, gain, used, tally.name_group(gain)) for why, gain in drawn],
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
    """Conversations for the page: half of them drawn by the hash of their item, a quarter each of the highest and the
    lowest gain. The same whatever the files' order."""

    def __init__(self, num: int) -> None:
        num_drawn = -(-num // 2)
        extreme = -(-(num - num_drawn) // 2)
        self._parts: dict[str, tuple[Smallest, Callable[[Gain], tuple[Any, ...]]]] = {
            "highest gains": (Smallest(extreme), lambda gain: (-gain.mean_gain, gain.id)),
            "lowest gains": (Smallest(num - num_drawn - extreme), lambda gain: (gain.mean_gain, gain.id)),
            "drawn": (Smallest(num_drawn), lambda gain: (make_id("vig report", gain.item_id), gain.role)),
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


def show(why: str, gain: Gain, used: Mapping[tuple[str, str], Selected] | None, group: str) -> Shown:
    """A conversation for the page; `used` is what a selection took, None where there is none."""
    selected = used.get((gain.item_id, gain.role)) if used is not None else None
    trained = [selected is not None] * len(gain.token_ids)
    state = ""
    if used is not None:
        state = "not selected" if selected is None else f"{selected.num_used} of {len(trained)} tokens are trained"
    if selected is not None and selected.used:
        trained = list(selected.used)
    image, missing = _thumbnail(gain.image_uri)
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


def _thumbnail(uri: str) -> tuple[str, str]:
    """An image as a small data URI, or why there is none."""
    try:
        image = images.decode(sources.read_image(uri))
    except BadImageError as error:
        return "", str(error)
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}", ""


def measure_models(run: RunFolder, num: int) -> Figures:
    """What training changed in how the run's models look, on so many of its samples and as many of its pairs.

    Only what is trained has a before and an after. torch is imported here: the page of gains alone needs none.
    """
    trained = [name for name in _TRAINED if name in run.artifacts]
    if not trained:
        return {"skipped": "the run trained no model"}
    from stic_ray.evaluate import looking
    from stic_ray.train.job import MERGED

    seed = run.config.seed
    short = looking.draw_short_samples(_samples(run), num, seed)
    probes = looking.Probes(
        samples=looking.draw_samples(_samples(run), num, seed),
        questions=looking.mislead(short, seed),
        pairs=looking.draw_pairs(_pairs(run), num, seed),
        seed=seed,
    )
    models = {name: storage.join(run.artifacts[name].uri, MERGED) for name in trained}
    figures = looking.measure({"base": run.config.model.path, **models}, run.config.model.dtype, probes)
    return {"probe": num, **figures}


def _samples(run: RunFolder) -> Iterator[Sample]:
    """The instruction samples, else the annotated ones, else the pairs' prompts with their chosen answers."""
    if "samples" in run.artifacts or "annotations" in run.artifacts:
        yield from _rows(run, ("samples", "annotations"), Sample)
        return
    for pair in _pairs(run):
        turns = [Turn(role="user", text=pair.prompt), Turn(role="assistant", text=pair.chosen)]
        yield Sample(
            id=pair.id,
            image_id=pair.image_id,
            image_uri=pair.image_uri,
            category=pair.negative,
            description="",
            turns=turns,
        )


def _pairs(run: RunFolder) -> Iterator[Pair]:
    return _rows(run, ("annotated_pairs", "pairs", "imported_pairs"), Pair)


def _rows(run: RunFolder, roles: Sequence[str], record: type) -> Iterator[Any]:
    """The rows of the first of these roles that the run has."""
    for role in [role for role in roles if role in run.artifacts][:1]:
        for rows in artifacts.iterate(run.artifacts[role].uri, record):
            yield from rows


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a positive number")
    return number


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=f"Write {HTML} and {JSON}: where a run's answers need the image.")
    parser.add_argument("run", help="the run's directory, like runs/NAME (any fsspec URI)")
    parser.add_argument("--out", metavar="DIR", help="where the two files go (default: the run's directory)")
    parser.add_argument(
        "--samples", type=_positive, default=20, metavar="N", help="conversations to show (default: %(default)s)"
    )
    parser.add_argument(
        "--models", action="store_true", help="also ask the base and the trained models, in this process"
    )
    parser.add_argument(
        "--probe", type=_positive, default=64, metavar="N", help="samples and pairs to ask on (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Write the report of a run; exit status 2 for a wrong call."""
    arguments = _parse(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger("stic_ray").setLevel(logging.INFO)
    try:
        with storage.reaching(arguments.run):
            run = open_run(storage.absolute(arguments.run))
            models = measure_models(run, arguments.probe) if arguments.models else None
            page, figures = make_report(run, num_samples=arguments.samples, models=models)
        out = storage.absolute(arguments.out or arguments.run)
        if storage.exists(out) and not storage.is_directory(out):
            raise ValueError(f"--out {out} is a file: give the folder that the two files go to")
        with storage.reaching(f"--out {out}"):
            storage.write_bytes(storage.join(out, HTML), page.encode())
            storage.write_bytes(storage.join(out, JSON), (json.dumps(figures, indent=1) + "\n").encode())
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    if models is not None and "skipped" in models:
        sys.stdout.write(f"--models was skipped: {models['skipped']}\n")
    sys.stdout.write(f"{storage.join(out, HTML)}\n{storage.join(out, JSON)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
