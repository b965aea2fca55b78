"""Pairs: the whole story of both answers under a simple prompt, and a reason for every image without one."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from stic_ray import artifacts, recipes
from stic_ray.config import Config, parse_config, read_yaml
from stic_ray.flow import Unit
from stic_ray.origins import EMPTY
from stic_ray.records import Pair, Response, make_id
from stic_ray.stages import pair
from stic_ray.stages.generate import CORRUPTED, DISPREFERRED, GIVEN, PREFERRED

_SIMPLE = "[simple one, simple two, simple three]"


def _config(store: Path) -> Config:
    tree = read_yaml(recipes.read("embedded"), "embedded")
    return parse_config(tree, [f"store={store}", f"prompts.simple={_SIMPLE}", "prompts.detailed=[detailed]"])


def _response(image_id: str, role: str, text: str) -> Response:
    rejected = role == DISPREFERRED
    return Response(
        id=make_id(image_id, role),
        item_id=image_id,
        image_id=image_id,
        image_uri=f"/photos/{image_id}",
        role=role,
        prompt="simple one" if rejected else "detailed",
        negative=CORRUPTED if rejected else "",
        corruption='{"type": "Downsize"}' if rejected else "",
        seed=2 if rejected else 1,
        seen_hash="corrupted" if rejected else "clean",
        text=text,
        num_prompt_tokens=1,
        num_tokens=1,
        finish_reason="stop",
    )


@pytest.mark.usefixtures("ray_local")
def test_run_keeps_the_whole_story_and_rejects_equal_and_empty_answers(tmp_path: Path) -> None:
    config = _config(tmp_path)
    answers = {str(n): (f"good {n}", f"bad {n}") for n in range(30)} | {"same": ("x", "x"), "empty": ("x", "")}
    rows = [
        _response(make_id(name), role, text)
        for name, texts in answers.items()
        for role, text in zip((PREFERRED, DISPREFERRED), texts, strict=True)
    ]
    plan = pair.plan(config, "parent")
    artifacts.write_rows(str(tmp_path / "responses"), rows, Response, [])
    parent = artifacts.Artifact(uri=str(tmp_path / "responses"), record={"fingerprint": "parent"})
    made = pair.run(config, parent, plan)
    pairs: dict[str, Pair] = {row.image_id: row for row in artifacts.read(made.uri, Pair)}
    reasons = {row.id: row.reason for row in artifacts.read_rejects(made.uri)}
    assert reasons == {make_id("same"): "both answers are the same", make_id("empty"): "an answer is empty"}
    assert pairs.keys() == {make_id(str(n)) for n in range(30)}
    assert {row.prompt for row in pairs.values()} == set(config.prompts.simple)
    key = make_id("7")
    row = pairs[key]
    assert row == Pair(
        id=make_id("pair", make_id(key, PREFERRED), make_id(key, DISPREFERRED), row.prompt),
        item_id=key,
        image_id=key,
        image_uri=f"/photos/{key}",
        prompt=row.prompt,
        chosen="good 7",
        rejected="bad 7",
        negative=CORRUPTED,
        chosen_id=make_id(key, PREFERRED),
        chosen_prompt="detailed",
        chosen_seed=1,
        chosen_seen_hash="clean",
        rejected_id=make_id(key, DISPREFERRED),
        rejected_prompt="simple one",
        rejected_seed=2,
        rejected_seen_hash="corrupted",
        corruption='{"type": "Downsize"}',
    )


def _answers(item: str, texts: list[str]) -> list[Response]:
    rows = [_response(item, PREFERRED, texts[0])]
    for number, text in enumerate(texts[1:]):
        rows.append(replace(_response(item, DISPREFERRED, text), id=make_id(item, number)))
    return rows


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("A dog.", "a  dog", False),
        ("a dog", "a cat", True),
        ("1.5", "15", True),
        ("ÄPFEL!", "äpfel", False),
        ("red, blue", "red blue", False),
        ("猫。", "猫", False),
        ("猫", "犬", True),
    ],
)
def test_differ_looks_at_words_alone(one: str, other: str, expected: bool) -> None:
    assert pair.differ(one, other) is expected


def test_several_negatives_give_a_pair_each_and_what_is_no_worse_is_a_reject_of_its_own() -> None:
    item = make_id("item")
    rows = _answers(item, ["a dog", "a cat", "A dog .", "", "a cat", "two dogs"])
    payload = json.dumps([asdict(row) for row in rows])
    config = _config(Path())
    outcome = pair.Join(seed=0, pool=config.prompts)(Unit(id=item, image_uri="", payload=payload))
    assert [row.rejected for row in outcome.rows] == ["a cat", "two dogs"]
    assert outcome.refused == {
        make_id(item, 1): pair.SAME,
        make_id(item, 2): EMPTY,
        make_id(item, 3): pair.AGAIN,
    }
    assert outcome.reason == "" and len({row.id for row in outcome.rows}) == 2


def test_pairs_of_given_answers_keep_their_question() -> None:
    item = make_id("item")
    given = replace(_response(item, PREFERRED, "a dog"), finish_reason=GIVEN, prompt="the question")
    payload = json.dumps([asdict(given), asdict(_response(item, DISPREFERRED, "a cat"))])
    (row,) = pair.Join(seed=0, pool=_config(Path()).prompts)(Unit(id=item, image_uri="", payload=payload)).rows
    assert row.prompt == "the question"
