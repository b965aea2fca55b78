"""Pairs: a preferred and a dispreferred answer under one prompt. Light work, done on CPUs.

Of an image that the model described itself the prompt is a simple one, not the detailed one that produced the chosen
answer: the model learns to answer the simple prompt as it answers the detailed one (STIC, section 3). Of annotated data
it is the data's question (BPO).
"""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from stic_ray import prompts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Prompts, to_tree
from stic_ray.flow import Inputs, Outcome, TaskWork, Unit, by_column, run_stage
from stic_ray.origins import EMPTY
from stic_ray.records import Pair, Response, make_id, make_seed
from stic_ray.stages.generate import GIVEN, PREFERRED

CODE_VERSION = 2
SAME = "both answers are the same"
AGAIN = "the same as another dispreferred answer"
_NO_WORD = re.compile(r"[\W_]+")


def plan(config: Config, responses: str) -> Plan:
    """The artifact of pairs; `responses` is the parent's fingerprint."""
    return _plan(responses, {"seed": config.seed, "simple": to_tree(config.prompts.simple)})


def plan_annotated(responses: str) -> Plan:
    """The same of responses beside the data's own answers, whose prompts are the data's too."""
    return _plan(responses, {})


def _plan(responses: str, identity: dict[str, Any]) -> Plan:
    return Plan(
        stage="pairs",
        code_version=CODE_VERSION,
        identity=identity,
        parents={"responses": responses},
        kind=Pair.__name__,
    )


def run(config: Config, responses: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit an item, one row a dispreferred answer; one that is no worse is a reject."""
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=Pair, input_column="item_id", do=Join(seed=config.seed, pool=config.prompts)),
        inputs=Inputs(parent=responses, column="item_id", read=_by_item),
        # Equal answers are no fault of the input: a good model often resists.
        execution=replace(config.execution, max_reject_rate=1.0),
    )


def _by_item(rows: pa.Table) -> pa.Table:
    return by_column(rows, "item_id")


def differ(chosen: str, rejected: str) -> bool:
    """Whether two answers differ in more than case, punctuation and spaces."""
    return _bare(chosen) != _bare(rejected)


def _bare(text: str) -> str:
    return _NO_WORD.sub(" ", text.casefold()).strip()


@dataclass(frozen=True, kw_only=True)
class Join:
    """CPU work of a unit: the pairs of an item's answers."""

    seed: int
    pool: Prompts

    def __call__(self, unit: Unit) -> Outcome:
        """A pair for each dispreferred answer that differs, or the reason why there is none.

        Where some are left, the others are rejects of their own, by the answer's id.
        """
        answers = [Response(**tree) for tree in json.loads(unit.payload)]
        chosen = next(answer for answer in answers if answer.role == PREFERRED)
        rows: list[Pair] = []
        refused: dict[str, str] = {}
        for answer in answers:
            if answer.role == PREFERRED:
                continue
            reason = EMPTY if not (chosen.text and answer.text) else ""
            reason = reason or ("" if differ(chosen.text, answer.text) else SAME)
            reason = reason or (AGAIN if any(answer.text == row.rejected for row in rows) else "")
            if reason:
                refused[answer.id] = reason
            else:
                rows.append(self._pair(chosen, answer))
        if not rows:
            return Outcome(id=unit.id, rows=[], reason=next(iter(refused.values())))
        return Outcome(id=unit.id, rows=rows, reason="", refused=refused)

    def _pair(self, chosen: Response, rejected: Response) -> Pair:
        prompt = chosen.prompt
        if chosen.finish_reason != GIVEN:
            prompt = prompts.draw(self.pool.simple, make_seed(self.seed, chosen.item_id, "pair prompt"))
        return Pair(
            id=make_id("pair", chosen.id, rejected.id, prompt),
            item_id=chosen.item_id,
            image_id=chosen.image_id,
            image_uri=chosen.image_uri,
            prompt=prompt,
            chosen=chosen.text,
            rejected=rejected.text,
            negative=rejected.negative,
            chosen_id=chosen.id,
            chosen_prompt=chosen.prompt,
            chosen_seed=chosen.seed,
            chosen_seen_hash=chosen.seen_hash,
            rejected_id=rejected.id,
            rejected_prompt=rejected.prompt,
            rejected_seed=rejected.seed,
            rejected_seen_hash=rejected.seen_hash,
            corruption=rejected.corruption,
        )
