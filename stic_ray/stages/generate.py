"""Responses (STIC, stage 1): a preferred and a dispreferred description of every image.

Every draw (which prompt, which negative, which corruption, which sampling seed) is a function of run seed and image id.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stic_ray import prompts, sources
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Negatives, Prompts, Sampling, to_tree
from stic_ray.engines import EngineStart, engine_for, engine_identity, start_engine
from stic_ray.engines.protocol import Request
from stic_ray.flow import Inputs, Outcome, Prepared, Task, Unit, Work, image_alone, run_stage
from stic_ray.images import BadImageError, corrupt, decode, draw_corruption, encode, hash_pixels
from stic_ray.records import Response, make_id, make_seed

CODE_VERSION = 2
PREFERRED = "preferred"
DISPREFERRED = "dispreferred"
MISLEADING = "misleading_prompt"
CORRUPTED = "corrupted_image"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is asked of one image for one role; `corruption` as in `images.draw_corruption`."""

    role: str
    prompt: str
    negative: str
    corruption: str
    seed: int


def draw_requests(image_id: str, *, seed: int, pool: Prompts, negatives: Negatives) -> list[Draw]:
    """The two requests of an image (STIC, section 3: half by misleading prompts, half by corrupted images)."""
    preferred = Draw(
        role=PREFERRED,
        prompt=prompts.draw(pool.detailed, make_seed(seed, image_id, "detailed prompt")),
        negative="",
        corruption="",
        seed=make_seed(seed, image_id, PREFERRED),
    )
    coin = make_seed(seed, image_id, "negative") / 2**63
    if coin < negatives.misleading_share:
        negative, corruption = MISLEADING, ""
        prompt = prompts.draw(pool.misleading, make_seed(seed, image_id, "misleading prompt"))
    else:
        negative = CORRUPTED
        corruption = draw_corruption(negatives.corruptions, make_seed(seed, image_id, "corruption"))
        prompt = prompts.draw(pool.simple, make_seed(seed, image_id, "corrupted prompt"))
    dispreferred = Draw(
        role=DISPREFERRED,
        prompt=prompt,
        negative=negative,
        corruption=corruption,
        seed=make_seed(seed, image_id, DISPREFERRED),
    )
    return [preferred, dispreferred]


def plan(config: Config, images: str, model: str) -> Plan:
    """The artifact of responses; `images` and `model` are the parents' fingerprints."""
    identity = {
        "seed": config.seed,
        "prompts": {name: to_tree(getattr(config.prompts, name)) for name in ("detailed", "simple", "misleading")},
        "negatives": to_tree(config.negatives),
        "sampling": to_tree(config.sampling),
        "engine": engine_identity(config),
        "dtype": config.model.dtype,
    }
    parents = {"images": images, "model": model}
    return Plan(
        stage="responses", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Response.__name__
    )


def run(config: Config, images: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit an image, two rows each."""
    engine = engine_for(config, config.model.path)
    work = Work(
        record=Response,
        input_column="image_id",
        prepare=Prepare(seed=config.seed, pool=config.prompts, negatives=config.negatives),
        worker=Responder,
        worker_arguments={
            "engine": engine,
            "sampling": config.sampling,
            "model": plan.parents["model"],
        },
        concurrent_batches=engine.concurrent_batches,
    )
    inputs = Inputs(parent=images, column="id", read=image_alone)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """CPU work of a unit: read, draw, and where a corruption was drawn decode, corrupt and encode without loss."""

    seed: int
    pool: Prompts
    negatives: Negatives

    def __call__(self, unit: Unit) -> Prepared:
        """The image bytes of each request, and the draws."""
        draws = draw_requests(unit.id, seed=self.seed, pool=self.pool, negatives=self.negatives)
        try:
            data = sources.read_image(unit.image_uri)
            corrupted = _corrupted(data, draws)
        except BadImageError as error:
            return Prepared(id=unit.id, images=[], payload="", reason=str(error))
        images = [data]
        numbers = []  # of the image that each draw sees: those that see the clean one share it
        for seen in corrupted:
            numbers.append(len(images) if seen else 0)
            images += [seen] if seen else []
        payload = json.dumps({"image_uri": unit.image_uri, "images": numbers, "draws": [vars(draw) for draw in draws]})
        return Prepared(id=unit.id, images=images, payload=payload, reason="")


def _corrupted(data: bytes, draws: Sequence[Draw]) -> list[bytes]:
    """What each draw's corruption makes of an image; b"" for none.

    Raises:
        BadImageError: it is no image, or a corruption leaves it as it was.
    """
    if not any(draw.corruption for draw in draws):
        return [b""] * len(draws)  # who answers decodes it anyway
    image = decode(data)
    made = []
    for draw in draws:
        seen = corrupt(image, draw.corruption)
        if draw.corruption and seen.tobytes() == image.tobytes():
            raise BadImageError("its corruption leaves every pixel as it was")
        made.append(encode(seen) if draw.corruption else b"")
    return made


class Responder:
    """An actor's work: all requests of all images of a batch through one engine."""

    def __init__(
        self,
        *,
        engine: EngineStart,
        sampling: Sampling,
        model: str,
    ) -> None:
        self._engine = start_engine(engine)
        self._sampling = sampling
        self._model = model

    def figures(self) -> Mapping[str, float]:
        """The engine's."""
        return self._engine.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Two responses a unit, or the engine's reason why not."""
        requests = []
        stories: list[tuple[Task, dict[str, Any], Draw, str]] = []
        for unit in tasks:
            story = json.loads(unit.payload)
            hashes = [hash_pixels(image) for image in unit.images]
            for number, drawn in zip(story["images"], story["draws"], strict=True):
                draw = Draw(**drawn)
                stories.append((unit, story, draw, hashes[number]))
                requests.append(
                    Request(
                        prompt=draw.prompt,
                        image=unit.images[number],
                        sampling=self._sampling,
                        seed=draw.seed,
                        image_hash=hashes[number],
                    )
                )
        outcomes = {unit.id: Outcome(id=unit.id, rows=[], reason="") for unit in tasks}
        for (unit, story, draw, seen), answer in zip(stories, self._engine.generate(requests), strict=True):
            outcome = outcomes[unit.id]
            if answer.error or outcome.reason:
                outcomes[unit.id] = Outcome(id=unit.id, rows=[], reason=outcome.reason or answer.error)
                continue
            outcome.rows.append(
                Response(
                    id=make_id("response", unit.id, draw.role, draw.prompt, draw.corruption, draw.seed, self._model),
                    image_id=unit.id,
                    image_uri=story["image_uri"],
                    role=draw.role,
                    prompt=draw.prompt,
                    negative=draw.negative,
                    corruption=draw.corruption,
                    seed=draw.seed,
                    seen_hash=seen,
                    text=answer.text,
                    num_prompt_tokens=answer.num_prompt_tokens,
                    num_tokens=answer.num_tokens,
                    finish_reason=answer.finish_reason,
                )
            )
        return list(outcomes.values())
