"""Responses: a preferred answer on every image, and dispreferred ones that a weakness makes worse.

The preferred one is the model's own detailed description (STIC, section 3), or the answer that the data gives (BPO).
Every draw (which prompt, which negative, which corruption, which seed) is a function of run seed and item id.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pyarrow as pa

from stic_ray import prompts, sources
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import (
    Annotated,
    Config,
    Contrast,
    CorruptedImage,
    ErrorInjection,
    MisleadingPrompt,
    Negative,
    Negatives,
    NoisedImage,
    OtherImage,
    Prompts,
    Sampling,
    to_tree,
)
from stic_ray.engines import EngineStart, engine_for, engine_identity, start_engine
from stic_ray.engines.protocol import Completion, Contrasted, Engine, Request
from stic_ray.flow import Inputs, Outcome, Prepared, Task, Unit, Work, image_alone, one_by_one, run_stage
from stic_ray.images import BadImageError, corrupt, decode, draw_corruption, encode, hash_bytes, hash_pixels
from stic_ray.noise import Noise
from stic_ray.records import Response, make_id, make_seed, read_sample

CODE_VERSION = 4
PREFERRED = "preferred"
DISPREFERRED = "dispreferred"
MISLEADING = "misleading_prompt"
CORRUPTED = "corrupted_image"
NOISED = "noised_image"
INJECTED = "error_injection"
OTHER = "other_image"
_NAMES: dict[type, str] = {
    MisleadingPrompt: MISLEADING,
    CorruptedImage: CORRUPTED,
    NoisedImage: NOISED,
    ErrorInjection: INJECTED,
    OtherImage: OTHER,
}
GIVEN = "given"
_OTHER = "other_uri"  # a column: the image beside it in its file


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the data says of an image: a question and its right answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What is asked for one role. `kind` is the number of its negative, -1 for the preferred role; `corruption` as in
    `images.draw_corruption`, of noise its step and seed. An injection's `prompt` is "" until the right answer is known.
    """

    role: str
    prompt: str
    kind: int
    negative: str
    corruption: str
    seed: int


def draw_requests(
    item_id: str, *, seed: int, pool: Prompts, negatives: Negatives, given: Given | None = None
) -> list[Draw]:
    """The requests of an item: the preferred one, which is no request where the answer is given, and the others."""
    preferred = Draw(
        role=PREFERRED,
        prompt=given.question if given else prompts.draw(pool.detailed, make_seed(seed, item_id, "detailed prompt")),
        kind=-1,
        negative="",
        corruption="",
        seed=0 if given else make_seed(seed, item_id, PREFERRED),
    )
    drawn = [preferred]
    left: list[int] = []  # kinds that no negative of this item has had yet
    for number in range(negatives.per_positive):
        left = left or list(range(len(negatives.kinds)))
        ask = _Ask(item_id=item_id, number=number, seed=seed)
        index = ask.choose(left, negatives)
        left.remove(index)
        drawn.append(_draw_negative(ask, index, pool, negatives.kinds[index], given))
    return drawn


@dataclass(frozen=True, kw_only=True)
class _Ask:
    """Which dispreferred answer of an item is drawn, from 0: whatever is drawn for it is a function of this."""

    item_id: str
    number: int
    seed: int

    def seed_of(self, what: str) -> int:
        """The seed of one of its draws."""
        return make_seed(self.seed, self.item_id, what, *([self.number] if self.number else []))

    def choose(self, among: Sequence[int], negatives: Negatives) -> int:
        """The number of a kind, drawn by weight."""
        bounds = list(accumulate(negatives.kinds[index].weight for index in among))
        coin = self.seed_of("negative") / 2**63 * bounds[-1]
        return next((index for index, bound in zip(among, bounds, strict=True) if coin < bound), among[-1])


def _draw_negative(ask: _Ask, index: int, pool: Prompts, kind: Negative, given: Given | None) -> Draw:
    corruption = ""
    prompt = given.question if given else prompts.draw(pool.simple, ask.seed_of("corrupted prompt"))
    if isinstance(kind, MisleadingPrompt):
        prompt = prompts.draw(pool.misleading, ask.seed_of("misleading prompt"))
    elif isinstance(kind, CorruptedImage):
        corruption = draw_corruption(kind.corruptions, ask.seed_of("corruption"))
    elif isinstance(kind, NoisedImage):
        drawn = {"type": NoisedImage.__name__, "step": kind.step, "seed": ask.seed_of("noise")}
        corruption = json.dumps(drawn, sort_keys=True)
    elif isinstance(kind, ErrorInjection):
        prompt = ""
    return Draw(
        role=DISPREFERRED,
        prompt=prompt,
        kind=index,
        negative=_NAMES[type(kind)],
        corruption=corruption,
        seed=ask.seed_of(DISPREFERRED),
    )


def plan(config: Config, images: str, model: str) -> Plan:
    """The artifact of responses to images; `images` and `model` are the parents' fingerprints."""
    identity = _identity(config, config.negatives, config.sampling, ("detailed", "simple", "misleading"))
    if config.contrast is not None:
        identity["contrast"] = to_tree(config.contrast)
    parents = {"images": images, "model": model}
    return Plan(
        stage="responses", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Response.__name__
    )


def plan_annotated(config: Config, annotated: Annotated, samples: str, model: str) -> Plan:
    """The artifact of responses beside the data's own answers; `samples` and `model` are the parents' fingerprints."""
    misleads = any(isinstance(kind, MisleadingPrompt) for kind in annotated.negatives.kinds)
    identity = _identity(config, annotated.negatives, annotated.sampling, ("misleading",) if misleads else ())
    return Plan(
        stage="annotated_responses",
        code_version=CODE_VERSION,
        identity=identity,
        parents={"samples": samples, "model": model},
        kind=Response.__name__,
    )


def _identity(config: Config, negatives: Negatives, sampling: Sampling, pools: Sequence[str]) -> dict[str, Any]:
    injects = any(isinstance(kind, ErrorInjection) for kind in negatives.kinds)
    used = (*pools, *(("rewrite_description", "rewrite_answer") if injects else ()))
    return {
        "seed": config.seed,
        "prompts": {name: to_tree(getattr(config.prompts, name)) for name in used},
        "negatives": to_tree(negatives),
        "sampling": to_tree(sampling),
        "engine": engine_identity(config),
        "dtype": config.model.dtype,
    }


def run(config: Config, images: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit an image, a row for each of its answers."""
    work = _work(config, config.negatives, config.sampling, plan)
    inputs = Inputs(parent=images, column="id", read=_read_images, extend=_with_other)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


def run_annotated(config: Config, annotated: Annotated, samples: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit a sample, a row for each of its answers."""
    work = _work(config, annotated.negatives, annotated.sampling, plan)
    inputs = Inputs(parent=samples, column="id", read=one_by_one, extend=_with_other)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


def _work(config: Config, negatives: Negatives, sampling: Sampling, plan: Plan) -> Work:
    engine = engine_for(config, config.model.path)
    return Work(
        record=Response,
        input_column="item_id",
        prepare=Prepare(seed=config.seed, pool=config.prompts, negatives=negatives),
        worker=Responder,
        worker_arguments={
            "engine": engine,
            "sampling": sampling,
            "negatives": negatives,
            "pool": config.prompts,
            "contrast": config.contrast,
            "model": plan.parents["model"],
        },
        concurrent_batches=engine.concurrent_batches,
    )


def _with_other(rows: pa.Table) -> pa.Table:
    """A file's rows, each with the image of the next one by id that has another: a function of the committed file."""
    name = "uri" if "uri" in rows.column_names else "image_uri"
    ids, uris = rows.column("id").to_pylist(), rows.column(name).to_pylist()
    order = sorted(range(len(ids)), key=ids.__getitem__)
    others = [""] * len(ids)
    for place, index in enumerate(order):
        around = (uris[order[(place + step) % len(order)]] for step in range(1, len(order)))
        others[index] = next((uri for uri in around if uri and uri != uris[index]), "")
    return rows.append_column(_OTHER, pa.array(others, pa.string()))


def _read_images(rows: pa.Table) -> pa.Table:
    """A unit an image; the payload says which one is beside it."""
    units = image_alone(rows)
    columns = (rows.column(name).to_pylist() for name in (_OTHER, "content_hash"))
    payloads = [json.dumps({_OTHER: other, "content_hash": content}) for other, content in zip(*columns, strict=True)]
    return units.set_column(2, "payload", pa.array(payloads, pa.string()))


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """CPU work of a unit: read, draw, and where a corruption was drawn decode, corrupt and encode without loss."""

    seed: int
    pool: Prompts
    negatives: Negatives

    def __call__(self, unit: Unit) -> Prepared:
        """The image bytes of each request, and the draws."""
        row = json.loads(unit.payload) if unit.payload else {}
        other_uri = row.pop(_OTHER, "")
        try:
            given, image_id = _given(unit, row)
            draws = draw_requests(unit.id, seed=self.seed, pool=self.pool, negatives=self.negatives, given=given)
            data = sources.read_image(unit.image_uri)
            if row.get("content_hash", "") not in ("", hash_bytes(data)):
                raise BadImageError("the image file has changed since it was listed")
            draws = [self._with_other(draw, other_uri) for draw in draws]
            seen = [self._weakened(draw, data, other_uri) for draw in draws]
        except BadImageError as error:
            return Prepared(id=unit.id, images=[], payload="", reason=str(error))
        images = [data]
        numbers = []  # of the image that each draw sees: those that see the clean one share it
        for weakened in seen:
            numbers.append(len(images) if weakened else 0)
            images += [weakened] if weakened else []
        story: dict[str, Any] = {"image_id": image_id, "image_uri": unit.image_uri, "images": numbers}
        story |= {"draws": [vars(draw) for draw in draws], "given": vars(given) if given else None}
        return Prepared(id=unit.id, images=images, payload=json.dumps(story), reason="")

    def _with_other(self, draw: Draw, other_uri: str) -> Draw:
        """A draw that says which other image is answered for it, where one is."""
        if draw.kind < 0 or not isinstance(self.negatives.kinds[draw.kind], OtherImage):
            return draw
        return replace(draw, corruption=json.dumps({"type": OtherImage.__name__, "uri": other_uri}, sort_keys=True))

    def _weakened(self, draw: Draw, data: bytes, other_uri: str) -> bytes:
        """The bytes of what a draw sees in the place of the clean image; b"" for the clean one.

        Raises:
            BadImageError: it is no image, a corruption leaves it as it was, or there is no other one.
        """
        kind = self.negatives.kinds[draw.kind] if draw.kind >= 0 else None
        if isinstance(kind, OtherImage):
            if not other_uri:
                raise BadImageError("there is no other image in its file to be answered for it")
            try:
                return sources.read_image(other_uri)
            except BadImageError as error:
                raise BadImageError(f"the other image that was to be answered for it: {error}") from None
        if not isinstance(kind, CorruptedImage):
            return b""  # who answers decodes it anyway
        image = decode(data)
        seen = corrupt(image, draw.corruption)
        if seen.tobytes() == image.tobytes():
            raise BadImageError("its corruption leaves every pixel as it was")
        return encode(seen)


def _given(unit: Unit, row: Mapping[str, Any]) -> tuple[Given | None, str]:
    """What the data says, None for an image alone, and the image's id."""
    if "turns" not in row:
        return None, unit.id
    sample = read_sample(json.dumps(row))
    if not sample.image_uri:
        raise BadImageError("the sample has no image")
    return Given(question=sample.turns[0].text, answer=sample.turns[1].text), sample.image_id


@dataclass
class _Asked:
    """One answer of a unit on its way: its draw, the image it sees (None: none) with its hash, and what came back."""

    draw: Draw
    image: Any
    seen_hash: str
    completion: Completion | None = None


class Responder:
    """An actor's work: all requests of all images of a batch through one engine; injections when answers are known."""

    def __init__(
        self,
        *,
        engine: EngineStart,
        sampling: Sampling,
        negatives: Negatives,
        pool: Prompts,
        contrast: Contrast | None = None,
        model: str,
    ) -> None:
        self._engine: Engine = start_engine(engine)
        self._sampling = sampling
        self._negatives = negatives
        self._pool = pool
        self._contrast = contrast
        self._model = model

    def figures(self) -> Mapping[str, float]:
        """The engine's."""
        return self._engine.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """All responses of a unit, or the engine's reason why not."""
        stories = [json.loads(task.payload) for task in tasks]
        asked = [_asked(task, story) for task, story in zip(tasks, stories, strict=True)]
        first = [one for unit in asked for one in unit if one.completion is None and not self._injects(one.draw)]
        self._answer(first, [self._request(one, self._sampling) for one in first])
        later, requests = [], []
        for unit, story in zip(asked, stories, strict=True):
            for one in unit:
                kind = self._kind(one.draw)
                if isinstance(kind, ErrorInjection) and unit[0].completion is not None:
                    one.draw = self._injection(one.draw, kind, unit[0], story)
                    one.image, one.seen_hash = None, ""
                    later.append(one)
                    requests.append(self._request(one, kind.sampling))
        self._answer(later, requests)
        return [self._outcome(task, *rest) for task, *rest in zip(tasks, stories, asked, strict=True)]

    def _kind(self, draw: Draw) -> Negative | None:
        return self._negatives.kinds[draw.kind] if draw.kind >= 0 else None

    def _injects(self, draw: Draw) -> bool:
        return isinstance(self._kind(draw), ErrorInjection)

    def _injection(self, draw: Draw, kind: ErrorInjection, preferred: _Asked, story: Mapping[str, Any]) -> Draw:
        """The request to rewrite the right answer wrongly, as a description or as the answer to its question."""
        assert preferred.completion is not None
        right = preferred.completion.text
        if not story["given"] or len(right.split()) >= kind.description_words:
            prompt = prompts.fill(self._pool.rewrite_description, description=right)
        else:
            prompt = prompts.fill(self._pool.rewrite_answer, question=story["given"]["question"], answer=right)
        return Draw(**{**vars(draw), "prompt": prompt})

    def _request(self, one: _Asked, sampling: Sampling) -> Request:
        noise = contrast = None
        if self._contrast is not None and one.draw.role == PREFERRED:
            against = Noise(step=self._contrast.step, seed=make_seed(one.draw.seed, "contrast"))
            contrast = Contrasted(noise=against, strength=self._contrast.strength, cutoff=self._contrast.cutoff)
        if isinstance(self._kind(one.draw), NoisedImage):
            drawn = json.loads(one.draw.corruption)
            noise = Noise(step=drawn["step"], seed=drawn["seed"])
            one.seen_hash, clean = hash_bytes(f"{one.seen_hash} {one.draw.corruption}".encode()), one.seen_hash
        else:
            clean = one.seen_hash
        return Request(
            prompt=one.draw.prompt,
            image=one.image,
            sampling=sampling,
            seed=one.draw.seed,
            image_hash=clean,
            noise=noise,
            contrast=contrast,
        )

    def _answer(self, asked: Sequence[_Asked], requests: Sequence[Request]) -> None:
        for one, completion in zip(asked, self._engine.generate(requests), strict=True):
            one.completion = completion

    def _outcome(self, task: Task, story: Mapping[str, Any], asked: Sequence[_Asked]) -> Outcome:
        completions = [one.completion for one in asked if one.completion is not None]
        reason = next((completion.error for completion in completions if completion.error), "")
        rows = [] if reason else [self._response(task.id, story, one) for one in asked]
        return Outcome(id=task.id, rows=rows, reason=reason)

    def _response(self, item_id: str, story: Mapping[str, Any], one: _Asked) -> Response:
        draw, completion = one.draw, one.completion
        assert completion is not None
        return Response(
            id=make_id("response", item_id, draw.role, draw.prompt, draw.corruption, draw.seed, self._model),
            item_id=item_id,
            image_id=story["image_id"],
            image_uri=story["image_uri"],
            role=draw.role,
            prompt=draw.prompt,
            negative=draw.negative,
            corruption=draw.corruption,
            seed=draw.seed,
            seen_hash=one.seen_hash,
            text=completion.text,
            num_prompt_tokens=completion.num_prompt_tokens,
            num_tokens=completion.num_tokens,
            finish_reason=completion.finish_reason,
        )


def _asked(task: Task, story: Mapping[str, Any]) -> list[_Asked]:
    """A unit's answers, the preferred one first; one that the data gives is there already."""
    hashes = [hash_pixels(image) for image in task.images]
    asked = [
        _Asked(draw=Draw(**drawn), image=task.images[number], seen_hash=hashes[number])
        for number, drawn in zip(story["images"], story["draws"], strict=True)
    ]
    if story["given"]:
        answer = story["given"]["answer"].strip()
        asked[0].completion = Completion(text=answer, num_prompt_tokens=0, num_tokens=0, finish_reason=GIVEN)
        asked[0].seen_hash = ""
    return asked
