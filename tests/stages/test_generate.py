"""Responses: draws that are functions of (seed, id), and corrupted images that really were seen."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray.cloudpickle
from PIL import Image

from stic_ray import flow
from stic_ray.config import (
    ColorJitter,
    Contrast,
    CorruptedImage,
    Downsize,
    ErrorInjection,
    MisleadingPrompt,
    Negative,
    Negatives,
    NoisedImage,
    OtherImage,
    Prompts,
    Sampling,
    Transformers,
)
from stic_ray.engines import EngineStart
from stic_ray.engines.protocol import Completion, Request
from stic_ray.flow import Task, Unit
from stic_ray.images import corrupt, decode, encode, hash_bytes, hash_pixels
from stic_ray.noise import Noise
from stic_ray.records import Response, Sample, Turn, make_id
from stic_ray.stages import generate
from stic_ray.stages.generate import (
    CORRUPTED,
    DISPREFERRED,
    GIVEN,
    INJECTED,
    MISLEADING,
    NOISED,
    OTHER,
    PREFERRED,
    Draw,
    Prepare,
    Responder,
    draw_requests,
)

_POOL = Prompts(
    detailed=("detail one", "detail two"),
    simple=("simple one", "simple two", "simple three"),
    misleading=("mislead one", "mislead two"),
    infused="{description} {question}",
)
_CORRUPTED = CorruptedImage(corruptions=(Downsize(short_side_px=4), ColorJitter(brightness=0.5, hue=0.3, min_hue=0.1)))
_NEGATIVES = Negatives(kinds=(MisleadingPrompt(), _CORRUPTED))
_IDS = [make_id("image", number) for number in range(600)]


def _draw(image_id: str, seed: int = 0, kinds: tuple[Negative, ...] = _NEGATIVES.kinds) -> list[Draw]:
    return draw_requests(image_id, seed=seed, pool=_POOL, negatives=Negatives(kinds=kinds))


def test_draw_requests_is_a_function_of_seed_and_id_alone() -> None:
    forward = {image_id: _draw(image_id) for image_id in _IDS}
    backward = {image_id: _draw(image_id) for image_id in reversed(_IDS)}
    assert forward == backward
    assert sum(_draw(image_id, seed=1) != forward[image_id] for image_id in _IDS) == len(_IDS)


def test_draw_requests_one_preferred_and_one_dispreferred_with_what_belongs_to_them() -> None:
    for image_id in _IDS:
        preferred, dispreferred = _draw(image_id)
        assert (preferred.role, preferred.negative, preferred.corruption) == (PREFERRED, "", "")
        assert preferred.prompt in _POOL.detailed
        assert dispreferred.role == DISPREFERRED
        if dispreferred.negative == MISLEADING:
            assert dispreferred.prompt in _POOL.misleading and dispreferred.corruption == ""
        else:
            assert dispreferred.negative == CORRUPTED and dispreferred.prompt in _POOL.simple
            assert json.loads(dispreferred.corruption)["type"] in ("Downsize", "ColorJitter")


def test_draw_requests_shares_are_those_of_the_recipe() -> None:
    """600 images: a share of one half is within 0.08 (four standard deviations)."""
    drawn = [_draw(image_id)[1] for image_id in _IDS]
    negatives = Counter(draw.negative for draw in drawn)
    assert abs(negatives[MISLEADING] / 600 - 0.5) < 0.08
    kinds = Counter(json.loads(draw.corruption)["type"] for draw in drawn if draw.corruption)
    assert abs(kinds["Downsize"] / negatives[CORRUPTED] - 0.5) < 0.12
    prompts = Counter(draw.prompt for draw in drawn if draw.corruption)
    assert set(prompts) == set(_POOL.simple) and min(prompts.values()) > negatives[CORRUPTED] / 3 * 0.7
    assert {draw.negative for draw in (_draw(image_id, kinds=(MisleadingPrompt(),))[1] for image_id in _IDS)} == {
        MISLEADING
    }
    assert {draw.negative for draw in (_draw(image_id, kinds=(_CORRUPTED,))[1] for image_id in _IDS)} == {CORRUPTED}


def test_draw_requests_every_sampling_seed_is_another() -> None:
    assert len({draw.seed for image_id in _IDS for draw in _draw(image_id)}) == 2 * len(_IDS)


def test_draw_requests_draws_are_independent_of_each_other() -> None:
    """Whether the negative is misleading says nothing about the detailed prompt (a 2 x 2 table, chi-square 10.83)."""
    table = Counter((draws[0].prompt, draws[1].negative) for draws in map(_draw, _IDS))
    rows = Counter(draws[0].prompt for draws in map(_draw, _IDS))
    columns = Counter(draws[1].negative for draws in map(_draw, _IDS))
    expected = {(row, column): rows[row] * columns[column] / 600 for row in rows for column in columns}
    assert sum((table[cell] - value) ** 2 / value for cell, value in expected.items()) < 10.83


# Preparation and answers


def _photo(folder: Path, number: int) -> Unit:
    path = folder / f"{number}.png"
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)
    return Unit(id=_IDS[number], image_uri=str(path), payload="")


_PREPARE = Prepare(seed=0, pool=_POOL, negatives=_NEGATIVES)


def _task(unit: Unit) -> Task:
    prepared = _PREPARE(unit)
    return Task(id=unit.id, images=[decode(data) for data in prepared.images], payload=prepared.payload)


def _responder(tiny_llava: Path, contrast: Contrast | None = None) -> Responder:
    sampling = Sampling(temperature=1.0, max_new_tokens=6)
    engine = EngineStart(settings=Transformers(), model_uri=str(tiny_llava), dtype="float32", batch_size=4)
    return Responder(
        engine=engine, sampling=sampling, negatives=_NEGATIVES, pool=_POOL, contrast=contrast, model="base-1"
    )


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Unit]:
    folder = tmp_path_factory.mktemp("photos")
    return [_photo(folder, number) for number in range(8)]


@pytest.fixture(scope="module")
def responses(tiny_llava: Path, units: list[Unit]) -> list[Response]:
    outcomes = _responder(tiny_llava)([_task(unit) for unit in units])
    assert [(outcome.id, outcome.reason) for outcome in outcomes] == [(unit.id, "") for unit in units]
    return [row for outcome in outcomes for row in outcome.rows]


def test_contrast_changes_the_preferred_answers_alone(
    tiny_llava: Path, units: list[Unit], responses: list[Response]
) -> None:
    contrasted = _responder(tiny_llava, Contrast(step=800, strength=100.0))([_task(unit) for unit in units])
    rows = [row for outcome in contrasted for row in outcome.rows]
    assert [row.id for row in rows] == [row.id for row in responses]
    others = [row for row in rows if row.role == DISPREFERRED]
    assert others == [row for row in responses if row.role == DISPREFERRED]
    assert [row.text for row in rows] != [row.text for row in responses]


def test_corrupted_image_was_really_seen(responses: list[Response]) -> None:
    corrupted = [row for row in responses if row.negative == CORRUPTED]
    assert {json.loads(row.corruption)["type"] for row in corrupted} == {"Downsize", "ColorJitter"}
    for row in corrupted:
        clean = decode(Path(row.image_uri).read_bytes())
        assert row.seen_hash == hash_pixels(corrupt(clean, row.corruption)) != hash_pixels(clean)


def test_clean_image_was_seen_by_all_others(responses: list[Response]) -> None:
    others = [row for row in responses if row.negative != CORRUPTED]
    assert {row.negative for row in others} == {"", MISLEADING}
    for row in others:
        assert row.corruption == ""
        assert row.seen_hash == hash_pixels(decode(Path(row.image_uri).read_bytes()))


class _Recorder:
    """An engine that keeps what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        self.requests += requests
        return [
            Completion(text=r.prompt, num_prompt_tokens=1, num_tokens=2, finish_reason="stop", error="")
            if "fail" not in r.prompt
            else Completion(text="", num_prompt_tokens=1, num_tokens=0, finish_reason="", error="too long")
            for r in requests
        ]

    def figures(self) -> dict[str, float]:
        return {}


def _with_recorder(monkeypatch: pytest.MonkeyPatch) -> tuple[Responder, _Recorder]:
    recorder = _Recorder()
    monkeypatch.setattr(generate, "start_engine", lambda _: recorder)
    return _responder(Path("unused")), recorder


def test_engine_gets_the_very_pixels_prompts_and_seeds_that_the_rows_name(
    units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    responder, recorder = _with_recorder(monkeypatch)
    rows = [row for outcome in responder([_task(unit) for unit in units]) for row in outcome.rows]
    asked = {(request.prompt, request.seed): request for request in recorder.requests}
    assert len(rows) == len(recorder.requests) == 2 * len(units)
    for row in rows:
        request = asked[row.prompt, row.seed]
        assert request.image is not None and hash_pixels(request.image) == row.seen_hash
        assert row.text == request.prompt


def test_responses_say_what_the_draws_were_and_ids_hash_them(responses: list[Response], units: list[Unit]) -> None:
    assert len({row.id for row in responses}) == 2 * len(units)
    by_key = {(row.image_id, row.role): row for row in responses}
    for unit in units:
        for draw in _draw(unit.id):
            row = by_key[unit.id, draw.role]
            assert (row.prompt, row.negative, row.corruption, row.seed) == (
                draw.prompt,
                draw.negative,
                draw.corruption,
                draw.seed,
            )
            parts = ("response", unit.id, draw.role, draw.prompt, draw.corruption, draw.seed, "base-1")
            assert row.id == make_id(*parts)


def test_responses_do_not_depend_on_order_or_company(
    tiny_llava: Path, units: list[Unit], responses: list[Response]
) -> None:
    responder = _responder(tiny_llava)
    again = [
        row
        for part in (units[5:][::-1], units[:2], units[2:5])
        for outcome in responder([_task(unit) for unit in part])
        for row in outcome.rows
    ]
    assert sorted(again, key=lambda row: row.id) == sorted(responses, key=lambda row: row.id)


def test_responder_a_unit_with_one_failed_request_has_a_reason_and_no_rows(
    units: list[Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    responder, _ = _with_recorder(monkeypatch)
    first, second = _task(units[0]), _task(units[1])
    for index in range(2):
        story = json.loads(first.payload)
        story["draws"][index]["prompt"] = "fail"
        broken = Task(id=first.id, images=first.images, payload=json.dumps(story))
        outcomes = {outcome.id: outcome for outcome in responder([broken, second])}
        assert (outcomes[first.id].rows, outcomes[first.id].reason) == ([], "too long")
        assert len(outcomes[second.id].rows) == 2 and outcomes[second.id].reason == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"no image", "not an image"), (None, "is missing")],
)
def test_prepare_bad_image_is_a_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "none.png").write_bytes(content)
    prepared = _PREPARE(Unit(id="i", image_uri=str(tmp_path / "none.png"), payload=""))
    assert reason in prepared.reason and prepared.images == []


def test_prepare_an_image_that_was_replaced_since_it_was_listed_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (9, 9), "red")))
    unit = Unit(id="i", image_uri=str(tmp_path / "a.png"), payload=json.dumps({"content_hash": "0" * 32}))
    assert _PREPARE(unit).reason == "the image file has changed since it was listed"
    listed = hash_bytes((tmp_path / "a.png").read_bytes())
    assert _PREPARE(replace(unit, payload=json.dumps({"content_hash": listed}))).reason == ""


def test_prepare_corruption_that_changes_no_pixel_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "tiny.png").write_bytes(encode(Image.new("RGB", (4, 4), "red")))
    negatives = Negatives(kinds=(CorruptedImage(corruptions=(Downsize(short_side_px=9),)),))
    prepared = Prepare(seed=0, pool=_POOL, negatives=negatives)(
        Unit(id="i", image_uri=str(tmp_path / "tiny.png"), payload="")
    )
    assert (prepared.reason, prepared.images) == ("its corruption leaves every pixel as it was", [])


def test_read_image_gives_the_bytes_or_a_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (4, 4))))
    prepared = {
        name: flow.read_image(Unit(id=name, image_uri=str(tmp_path / name) if name else "", payload="p"))
        for name in ("a.png", "c.png", "")
    }
    assert prepared["a.png"].images == [(tmp_path / "a.png").read_bytes()]
    assert [prepared[name].reason for name in ("a.png", "c.png", "")] == ["", "the image file is missing", ""]
    assert prepared[""].images == [] and prepared[""].payload == "p"


def test_what_goes_to_workers_pickles() -> None:
    sent: list[Any] = [_PREPARE, Responder, flow.read_image, Unit(id="i", image_uri="u", payload="p")]
    for value in sent:
        back = ray.cloudpickle.loads(ray.cloudpickle.dumps(value))
        assert back == value


# BPO, and several negatives


_INJECTION = ErrorInjection(sampling=Sampling(temperature=0.8, max_new_tokens=9, top_p=0.95), description_words=4)
_EVERY = Negatives(
    kinds=(MisleadingPrompt(), _CORRUPTED, NoisedImage(step=700), _INJECTION, OtherImage()), per_positive=12
)
_REWRITES = replace(_POOL, rewrite_description="spoil : {description}", rewrite_answer="{question} not {answer}")


def _sample_unit(folder: Path, number: int, answer: str) -> Unit:
    unit = _photo(folder, number)
    turns = [Turn(role="user", text="the question"), Turn(role="assistant", text=answer)]
    sample = Sample(
        id=unit.id, image_id=f"image-{number}", image_uri=unit.image_uri, category="", description="", turns=turns
    )
    return replace(unit, payload=json.dumps({**asdict(sample), "other_uri": str(folder / "7.png")}))


def _respond(monkeypatch: pytest.MonkeyPatch, units: list[Unit], negatives: Negatives) -> tuple[list[Any], _Recorder]:
    recorder = _Recorder()
    monkeypatch.setattr(generate, "start_engine", lambda _: recorder)
    prepare = Prepare(seed=0, pool=_REWRITES, negatives=negatives)
    start = EngineStart(settings=Transformers(), model_uri="", dtype="float32", batch_size=4)
    sampling = Sampling(temperature=1.0, max_new_tokens=6)
    responder = Responder(
        engine=start, sampling=sampling, negatives=negatives, pool=_REWRITES, contrast=None, model="base-1"
    )
    tasks = []
    for unit in units:
        prepared = prepare(unit)
        assert prepared.reason == ""
        images = [decode(data) for data in prepared.images]
        tasks.append(Task(id=unit.id, images=images, payload=prepared.payload))
    return responder(tasks), recorder


def test_annotated_answers_are_preferred_and_every_kind_of_negative_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _photo(tmp_path, 7)
    units = [_sample_unit(tmp_path, 0, "yes"), _sample_unit(tmp_path, 1, "a red dog on green grass")]
    outcomes, recorder = _respond(monkeypatch, units, _EVERY)
    other = hash_pixels(decode((tmp_path / "7.png").read_bytes()))
    kinds = Counter[str]()
    for unit, outcome, answer in zip(units, outcomes, ("yes", "a red dog on green grass"), strict=True):
        preferred, *negatives = outcome.rows
        assert (preferred.text, preferred.finish_reason, preferred.seen_hash) == (answer, GIVEN, "")
        assert (preferred.prompt, preferred.item_id) == ("the question", unit.id)
        assert preferred.image_id == f"image-{units.index(unit)}"
        assert len(negatives) == 12 and len({row.id for row in negatives}) == 12
        clean = hash_pixels(decode(Path(unit.image_uri).read_bytes()))
        for row in negatives:
            kinds[row.negative] += 1
            (request,) = [r for r in recorder.requests if (r.prompt, r.seed) == (row.prompt, row.seed)]
            assert (request.noise is not None) is (row.negative == NOISED)
            if row.negative == MISLEADING:
                assert row.prompt in _POOL.misleading and row.seen_hash == clean
            elif row.negative == INJECTED:
                assert row.prompt == ("the question not yes" if answer == "yes" else f"spoil : {answer}")
                assert request.image is None and request.sampling == _INJECTION.sampling and row.seen_hash == ""
            else:
                assert row.prompt == "the question"
            if row.negative == NOISED:
                drawn = json.loads(row.corruption)
                assert request.noise == Noise(step=700, seed=drawn["seed"]) and row.seen_hash != clean
                assert request.image is not None and hash_pixels(request.image) == clean == request.image_hash
            if row.negative == OTHER:
                assert row.seen_hash == other
    assert set(kinds) == {MISLEADING, CORRUPTED, NOISED, INJECTED, OTHER}


def test_injection_rewrites_the_models_own_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (outcome,), recorder = _respond(monkeypatch, [_photo(tmp_path, 0)], Negatives(kinds=(_INJECTION,)))
    preferred, rejected = outcome.rows
    assert rejected.prompt == f"spoil : {preferred.text}"
    assert [request.image is None for request in recorder.requests] == [False, True]


def test_draws_of_several_negatives_begin_with_those_of_one() -> None:
    for image_id in _IDS[:50]:
        several = draw_requests(image_id, seed=0, pool=_REWRITES, negatives=replace(_NEGATIVES, per_positive=3))
        assert several[:2] == _draw(image_id)
        assert len({draw.seed for draw in several}) == 4
        assert {draw.negative for draw in several[1:3]} == {MISLEADING, CORRUPTED}


def test_a_sample_without_an_image_is_a_reason(tmp_path: Path) -> None:
    unit = _sample_unit(tmp_path, 0, "yes")
    row = {**json.loads(unit.payload), "image_uri": ""}
    assert _PREPARE(replace(unit, payload=json.dumps(row))).reason == "the sample has no image"


def test_other_image_is_the_next_by_id_that_is_another_file() -> None:
    ids, uris = ["b", "a", "d", "c"], ["u1", "u0", "u0", "u0"]
    rows = generate._with_other(pa.table({"id": ids, "uri": uris}))
    assert dict(zip(ids, rows.column("other_uri").to_pylist(), strict=True)) == {
        "a": "u1",
        "b": "u0",
        "c": "u1",
        "d": "u1",
    }
    alone = generate._with_other(pa.table({"id": ["a"], "uri": ["u"]}))
    assert alone.column("other_uri").to_pylist() == [""]


def test_a_missing_other_image_is_a_reason_that_says_which(tmp_path: Path) -> None:
    unit = _sample_unit(tmp_path, 0, "yes")
    prepare = Prepare(seed=0, pool=_REWRITES, negatives=Negatives(kinds=(OtherImage(),)))
    assert prepare(unit).reason == "the other image that was to be answered for it: the image file is missing"
