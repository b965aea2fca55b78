"""Scores: log-probabilities of every answer token under a frozen model, computed once, and the same without the image.

The scores of pairs under the base are DPO's references: training then holds no reference model and does no reference
forward, and a sweep over alpha, beta or p repeats none. Gains (VIG) add the view without the image to scores that are
there. What is longer than training allows is rejected here, before training: nothing is ever truncated.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from stic_ray import selection, sources, vig
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Blind, Blur, Config, Model, NoImage, to_tree
from stic_ray.engines import start_scorer, start_tokenizer
from stic_ray.engines.protocol import Conversation, Scored, Scorer
from stic_ray.flow import Inputs, Outcome, Prepared, Task, Unit, Work, by_column, one_by_one, read_image, run_stage
from stic_ray.images import BadImageError, blind, decode, encode
from stic_ray.records import Gain, Pair, Score, Turn, make_id, read_sample, read_turns

CODE_VERSION = 2
GAINS_VERSION = 3
NOT_FINITE = "a log-probability is not finite: the scorer's weights or its dtype are at fault"
_LEAST_BLUR_PX = 0.5
CHOSEN, REJECTED, ANSWER = "chosen", "rejected", "answer"
PAIRS, SAMPLES = "pair", "sample"


def plan(kind: str, items: Artifact, model: Model, fingerprint: str, max_length: int) -> Plan:
    """The artifact of scores of `items`, PAIRS or SAMPLES, by a model with this fingerprint."""
    return Plan(
        stage=f"{kind}_scores",
        code_version=CODE_VERSION,
        identity={"engine": "transformers", "dtype": model.dtype, "max_length": max_length},
        parents={f"{kind}s": items.fingerprint, "model": fingerprint},
        kind=Score.__name__,
    )


def run(config: Config, kind: str, items: Artifact, model: Model, plan: Plan) -> Artifact:
    """Make the artifact: one unit an item; two rows a pair, one a sample."""
    return _run(config, kind, items, plan, _scorer(config, model), on_gpu=True)


def plan_tokens(kind: str, items: Artifact, fingerprint: str, max_length: int) -> Plan:
    """What stands for scores where a training needs none: the answers' tokens, of all items that are not too long."""
    return Plan(
        stage=f"{kind}_tokens",
        code_version=CODE_VERSION,
        identity={"max_length": max_length},
        parents={f"{kind}s": items.fingerprint, "model": fingerprint},
        kind=Score.__name__,
    )


def run_tokens(config: Config, kind: str, items: Artifact, model: Model, plan: Plan) -> Artifact:
    """Make the artifact, on CPUs: as `run`, without log-probabilities."""
    return _run(config, kind, items, plan, partial(start_tokenizer, model_uri=model.path), on_gpu=False)


def _run(
    config: Config, kind: str, items: Artifact, plan: Plan, start: Callable[[], Scorer], *, on_gpu: bool
) -> Artifact:
    split = conversations_of_pair if kind == PAIRS else conversations_of_sample
    work = Work(
        record=Score,
        input_column="item_id",
        prepare=read_image,
        worker=AnswerScorer,
        worker_arguments={"start": start, "max_length": plan.identity["max_length"], "split": split},
        on_gpu=on_gpu,
    )
    inputs = Inputs(parent=items, column="id", read=one_by_one)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


def plan_gains(kind: str, scores: Artifact, view: Blind) -> Plan:
    """The artifact of gains: scores again, by the same model on what stands for no image."""
    identity = {"blind": to_tree(view)}
    parents = {"scores": scores.fingerprint}
    return Plan(
        stage=f"{kind}_gains", code_version=GAINS_VERSION, identity=identity, parents=parents, kind=Gain.__name__
    )


def run_gains(config: Config, scores: Artifact, model: Model, view: Blind, plan: Plan) -> Artifact:
    """Make the artifact: one unit an item, one row a score."""
    work = Work(
        record=Gain,
        input_column="item_id",
        prepare=Hide(view=view),
        worker=GainScorer,
        worker_arguments={
            "start": _scorer(config, model),
            "max_length": scores.record["identity"]["max_length"],
        },
    )
    inputs = Inputs(parent=scores, column="item_id", read=by_item)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


def _scorer(config: Config, model: Model) -> Callable[[], Scorer]:
    row_tokens = config.execution.row_tokens
    return partial(start_scorer, model_uri=model.path, dtype=model.dtype, row_tokens=row_tokens)


def by_item(rows: pa.Table) -> pa.Table:
    """A unit a pair or sample: the payload is the list of its scores as JSON."""
    return by_column(rows, "item_id")


def conversations_of_pair(payload: str) -> list[Score]:
    """Both answers of a pair, unscored."""
    pair = Pair(**json.loads(payload))
    answers = {CHOSEN: pair.chosen, REJECTED: pair.rejected}
    return [
        _unscored(pair, role, pair.negative, [Turn(role="user", text=pair.prompt), Turn(role="assistant", text=text)])
        for role, text in answers.items()
    ]


def conversations_of_sample(payload: str) -> list[Score]:
    """A sample's one conversation, unscored."""
    sample = read_sample(payload)
    return [_unscored(sample, ANSWER, sample.category, sample.turns)]


def _unscored(item: Any, role: str, category: str, turns: list[Turn]) -> Score:
    return Score(
        id=make_id("score", item.id, role),
        item_id=item.id,
        role=role,
        image_id=item.image_id,
        image_uri=item.image_uri,
        category=category,
        turns=turns,
        token_ids=[],
        answers=[],
        starts=[],
        stops=[],
        logp=[],
    )


class AnswerScorer:
    """An actor's work: all conversations of a batch's items through one scorer, which `start` loads; `split` gives an
    item's.

    Those without an image are not scored: nothing there could be seen (VIG, section 3.2).
    """

    def __init__(self, *, start: Callable[[], Scorer], max_length: int, split: Callable[[str], list[Score]]) -> None:
        self._scorer = start()
        self._max_length = max_length
        self._split = split

    def figures(self) -> Mapping[str, float]:
        """The scorer's."""
        return self._scorer.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """The scores of every unit, or the reason why there are none, mostly its length."""
        rows = {unit.id: self._split(unit.payload) for unit in tasks}
        asked = [
            Conversation(turns=row.turns, image=unit.images[0])
            for unit in tasks
            if unit.images
            for row in rows[unit.id]
        ]
        found = iter(self._scorer.score(asked, self._max_length))
        outcomes = []
        for unit in tasks:
            scored = [next(found) if unit.images else _NOT_SCORED for _ in rows[unit.id]]
            outcomes.append(
                _outcome(unit.id, scored, [_with(*each) for each in zip(rows[unit.id], scored, strict=True)])
            )
        return outcomes


_NOT_SCORED = Scored(token_ids=[], answers=[], starts=[], stops=[], logp=[], num_tokens=0)


def _with(row: Score, scored: Scored) -> Score:
    lists = {name: getattr(scored, name) for name in ("token_ids", "answers", "starts", "stops", "logp")}
    return Score(**{**vars(row), **lists})


def _is_finite(scored: Scored) -> bool:
    return all(map(math.isfinite, scored.logp))


def _outcome(key: str, scored: Sequence[Scored], rows: list[Any]) -> Outcome:
    reason = next((each.error for each in scored if each.error), "")
    reason = reason or ("" if all(map(_is_finite, scored)) else NOT_FINITE)
    return Outcome(id=key, rows=[] if reason else rows, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Hide:
    """CPU work of a unit: what stands for its image, encoded without loss."""

    view: Blind

    def __call__(self, unit: Unit) -> Prepared:
        """One image, none where the view or the unit has none."""
        if isinstance(self.view, NoImage) or not unit.image_uri:
            return Prepared(id=unit.id, images=[], payload=unit.payload, reason="")
        try:
            image = decode(sources.read_image(unit.image_uri))
            if isinstance(self.view, Blur) and self.view.radius * min(image.size) < _LEAST_BLUR_PX:
                raise BadImageError(
                    f"a blur of less than {_LEAST_BLUR_PX} px hides nothing of it: raise vig.blind.radius"
                )
            hidden = encode(blind(image, self.view))
        except BadImageError as error:
            return Prepared(id=unit.id, images=[], payload="", reason=str(error))
        return Prepared(id=unit.id, images=[hidden], payload=unit.payload, reason="")


class GainScorer:
    """An actor's work: all scores of a batch's items again, on what stands for no image."""

    def __init__(self, *, start: Callable[[], Scorer], max_length: int) -> None:
        self._scorer = start()
        self._max_length = max_length

    def figures(self) -> Mapping[str, float]:
        """The scorer's."""
        return self._scorer.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """A gain a score of every unit, or the reason why there is none."""
        rows = {unit.id: [Score(**read_turns(tree)) for tree in json.loads(unit.payload)] for unit in tasks}
        asked = [
            Conversation(turns=row.turns, image=unit.images[0] if unit.images else None)
            for unit in tasks
            for row in rows[unit.id]
            if row.image_uri
        ]
        found = iter(self._scorer.score(asked, self._max_length))
        outcomes = []
        for unit in tasks:
            scored = [next(found) if row.image_uri else _NOT_SCORED for row in rows[unit.id]]
            reason = next((r for r in map(_mismatch, rows[unit.id], scored) if r), "")
            gains = [] if reason else [_gain(*each) for each in zip(rows[unit.id], scored, strict=True)]
            outcomes.append(Outcome(id=unit.id, rows=gains, reason=reason))
        return outcomes


def _mismatch(row: Score, scored: Scored) -> str:
    if scored.error or not _is_finite(scored):
        return scored.error or NOT_FINITE
    return "" if row.token_ids == scored.token_ids else "without its image the answer is cut into other tokens"


def _gain(row: Score, scored: Scored) -> Gain:
    gains = vig.token_gains(row.logp, scored.logp)
    first = next((turn.text for turn in row.turns if turn.role == "assistant"), "")
    return Gain(
        **{**vars(row), "id": make_id("gain", row.id)},
        first_word=selection.first_word(first),
        blind_logp=scored.logp,
        gains=gains.tolist(),
        mean_gain=vig.mean_gain(gains),
    )
