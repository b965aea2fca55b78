"""Pairs (STIC, stage 1): preferred and dispreferred answer under a simple prompt. Light work, done on CPUs.

The stored prompt is a simple one, not the detailed one that produced the chosen answer: the model learns to answer
the simple prompt as it answers the detailed one.
"""

import json
from dataclasses import dataclass, replace

from stic_ray import prompts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Prompts, to_tree
from stic_ray.flow import Inputs, Outcome, TaskWork, Unit, by_image, run_stage
from stic_ray.records import Pair, Response, make_id, make_seed
from stic_ray.stages.generate import DISPREFERRED, PREFERRED

CODE_VERSION = 1


def plan(config: Config, responses: str) -> Plan:
    """The artifact of pairs; `responses` is the parent's fingerprint."""
    identity = {"seed": config.seed, "simple": to_tree(config.prompts.simple)}
    return Plan(
        stage="pairs",
        code_version=CODE_VERSION,
        identity=identity,
        parents={"responses": responses},
        kind=Pair.__name__,
    )


def run(config: Config, responses: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit an image; one whose two answers are the same is a reject."""
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=Pair, input_column="image_id", do=Join(seed=config.seed, pool=config.prompts)),
        inputs=Inputs(parent=responses, column="image_id", read=by_image),
        # Equal answers are no fault of the input: a good model often resists.
        execution=replace(config.execution, max_reject_rate=1.0),
    )


@dataclass(frozen=True, kw_only=True)
class Join:
    """CPU work of a unit: the pair of an image's two answers."""

    seed: int
    pool: Prompts

    def __call__(self, unit: Unit) -> Outcome:
        """One pair, or the reason why there is none."""
        answers = {tree["role"]: Response(**tree) for tree in json.loads(unit.payload)}
        chosen, rejected = answers[PREFERRED], answers[DISPREFERRED]
        reason = "both answers are the same" if chosen.text == rejected.text else ""
        if not reason and not (chosen.text and rejected.text):
            reason = "an answer is empty"
        return Outcome(id=unit.id, rows=[] if reason else [self._pair(chosen, rejected)], reason=reason)

    def _pair(self, chosen: Response, rejected: Response) -> Pair:
        image_id = chosen.image_id
        prompt = prompts.draw(self.pool.simple, make_seed(self.seed, image_id, "pair prompt"))
        return Pair(
            id=make_id("pair", chosen.id, rejected.id, prompt),
            image_id=image_id,
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
