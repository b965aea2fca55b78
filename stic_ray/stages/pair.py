"""Pairs (STIC, stage 1): preferred and dispreferred answer under a simple prompt. Light work, done where it is called.

The stored prompt is a simple one, not the detailed one that produced the chosen answer: the model learns to answer
the simple prompt as it answers the detailed one.
"""

import time

from stic_ray import artifacts, prompts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, to_tree
from stic_ray.flow import finish_stage
from stic_ray.records import Pair, Reject, Response, make_id, make_seed
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
    """Make the artifact; an image whose two answers are the same is a reject."""
    start = time.monotonic()
    uri = storage.join(config.store, plan.name)
    num_images = 0
    for rows in artifacts.iterate(responses.uri, Response):
        by_image: dict[str, dict[str, Response]] = {}
        for row in rows:
            by_image.setdefault(row.image_id, {})[row.role] = row
        num_images += len(by_image)
        made = [
            _pair(config, image_id, answers[PREFERRED], answers[DISPREFERRED]) for image_id, answers in by_image.items()
        ]
        pairs = [row for row in made if isinstance(row, Pair)]
        rejects = [row for row in made if isinstance(row, Reject)]
        artifacts.write_rows(uri, pairs, Pair, rejects)
    artifacts.remove_duplicates(uri, "image_id")
    return finish_stage(
        store=config.store,
        plan=plan,
        num_units=num_images,
        seconds=time.monotonic() - start,
        max_reject_rate=1.0,  # equal answers are no fault of the input: a good model often resists
    )


def _pair(config: Config, image_id: str, chosen: Response, rejected: Response) -> Pair | Reject:
    if chosen.text == rejected.text:
        return Reject(id=image_id, stage="pairs", reason="both answers are the same")
    if not chosen.text or not rejected.text:
        return Reject(id=image_id, stage="pairs", reason="an answer is empty")
    prompt = prompts.draw(config.prompts.simple, make_seed(config.seed, image_id, "pair prompt"))
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
