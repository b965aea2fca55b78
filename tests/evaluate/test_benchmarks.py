"""Readers of a split: what they make of good files and what they say of bad ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from stic_ray.config import Benchmark, Prompts
from stic_ray.evaluate.benchmarks import read_objects, read_questions, read_vocabulary
from stic_ray.records import make_id
from stic_ray.sources import image_id

PROMPTS = Prompts(
    detailed=("describe in detail", "another"),
    simple=("describe", "tell"),
    misleading=("invent",),
    infused="{description} {question}",
)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pope_rows(*overrides: dict[str, Any]) -> list[dict[str, Any]]:
    good = {"question_id": 1, "image": "0.png", "text": "Is there a dog?", "label": "yes"}
    return [{**good, **override} for override in overrides]


def question_rows(*overrides: dict[str, Any]) -> list[dict[str, Any]]:
    good = {"question_id": 1, "image": "0.png", "text": "what color ?", "answer": "red", "category": "color"}
    return [{**good, **override} for override in overrides]


def make_split(folder: Path) -> Benchmark:
    objects = [{"image": "0.png", "objects": ["puppy", "hot dogs"]}, {"image": "sub/1.png", "objects": []}]
    (folder / "vocabulary.txt").write_text("dog, puppy\n\nhot dog\n")
    return Benchmark(
        images="memory://images/",
        objects=write_rows(folder / "objects.jsonl", objects),
        vocabulary=str(folder / "vocabulary.txt"),
        pope_random=write_rows(folder / "r.jsonl", pope_rows({}, {"question_id": 2, "label": "no"})),
        pope_adversarial=write_rows(folder / "a.jsonl", pope_rows({})),
        questions=write_rows(
            folder / "q.jsonl", question_rows({"group": "one object"}, {"question_id": "b", "num_objects": 3})
        ),
    )


def test_read_questions_whole_split_makes_every_task(tmp_path: Path) -> None:
    questions = read_questions(make_split(tmp_path), PROMPTS, split="test")
    counts = {task: sum(row.task == task for row in questions) for task in {row.task for row in questions}}
    assert counts == {
        "describe_simple": 2,
        "describe_detailed": 2,
        "pope_random": 2,
        "pope_adversarial": 1,
        "questions": 2,
        "questions_dar": 2,
    }
    assert len({row.id for row in questions}) == len(questions)
    assert {row.text for row in questions if row.task == "describe_simple"} == {"describe"}
    assert {row.text for row in questions if row.task == "describe_detailed"} == {"describe in detail"}
    assert questions[1].image_uri == "memory://images/sub/1.png"
    assert questions[1].id == make_id("test", "describe_simple", "sub/1.png", "describe")
    pope = next(row for row in questions if row.task == "pope_random")
    assert (pope.id, pope.text, pope.answer) == (make_id("test", "pope_random", "0.png", 1), "Is there a dog?", "yes")


def test_read_questions_describe_and_respond_repeats_the_questions(tmp_path: Path) -> None:
    questions = read_questions(make_split(tmp_path), PROMPTS, split="test")
    direct = [row for row in questions if row.task == "questions"]
    dar = [row for row in questions if row.task == "questions_dar"]
    assert [row.group for row in direct] == ["one object", ""]
    for one, other in zip(direct, dar, strict=True):
        assert one.id != other.id
        assert (one.image_uri, one.text, one.answer, one.category, one.group) == (
            other.image_uri,
            other.text,
            other.answer,
            other.category,
            other.group,
        )


def test_read_questions_questioned_images_without_objects_are_described_for_describe_and_respond(
    tmp_path: Path,
) -> None:
    uri = write_rows(tmp_path / "q.jsonl", question_rows({}, {"question_id": 2}, {"image": "7.png"}))
    questions = read_questions(Benchmark(images="images", questions=uri), PROMPTS, split="test")
    described = [row.image_uri for row in questions if row.task == "describe_detailed"]
    assert described == ["images/0.png", "images/7.png"]
    assert not any(row.task == "describe_simple" for row in questions)


def test_read_questions_image_id_hashes_split_and_key(tmp_path: Path) -> None:
    ids = {row.image_uri: row.image_id for row in read_questions(make_split(tmp_path), PROMPTS, split="test")}
    assert ids == {
        "memory://images/0.png": image_id("test/0.png"),
        "memory://images/sub/1.png": image_id("test/sub/1.png"),
    }


def test_read_questions_without_files_gives_none(tmp_path: Path) -> None:
    benchmark = Benchmark(images=str(tmp_path))
    assert read_questions(benchmark, PROMPTS, split="test") == []
    assert read_objects(benchmark) == {}
    assert read_vocabulary(benchmark).mentions("a dog") == []


def test_read_objects_gives_canonical_names_by_image_uri(tmp_path: Path) -> None:
    assert read_objects(make_split(tmp_path)) == {
        "memory://images/0.png": frozenset({"dog", "hot dog"}),
        "memory://images/sub/1.png": frozenset(),
    }


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "a/../../b.png", "s3://other/a.png", "..\\a.png"])
def test_read_questions_image_outside_its_root_is_refused(tmp_path: Path, image: str) -> None:
    uri = write_rows(tmp_path / "p.jsonl", pope_rows({}, {"question_id": 2, "image": image}))
    with pytest.raises(ValueError, match=r"p\.jsonl, line 2: image is .* it must be a path below"):
        read_questions(Benchmark(images="images", pope_popular=uri), PROMPTS, split="test")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "maybe"}, "label is 'maybe': it must be yes or no"),
        ({"label": "Yes"}, "label is 'Yes'"),
        ({"label": None}, "label is None"),
        ({"text": "  "}, "text is '  ': it must be a text that is not empty"),
        ({"question_id": True}, "question_id is True: it must be a whole number or a text"),
        ({"image": 7}, "image is 7"),
        ({"question_id": 1}, "question_id is 1: it must be different from line 1's"),
    ],
)
def test_read_questions_malformed_pope_line_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    uri = write_rows(tmp_path / "p.jsonl", pope_rows({}, {"question_id": 2, **row}))
    with pytest.raises(ValueError, match=r"p\.jsonl, line 2: ") as caught:
        read_questions(Benchmark(images="images", pope_random=uri), PROMPTS, split="test")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": 3}, "answer is 3: it must be a text that is not empty"),
        ({"answer": "?"}, "answer is '?': it must be more than punctuation"),
        ({"category": "accuracy"}, "category is 'accuracy': it must be another name"),
        ({"group": 2}, "group is 2: it must be a text, or left out"),
    ],
)
def test_read_questions_malformed_question_line_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    uri = write_rows(tmp_path / "q.jsonl", question_rows({}, {"question_id": 2, **row}))
    with pytest.raises(ValueError, match=r"q\.jsonl, line 2: ") as caught:
        read_questions(Benchmark(images="images", questions=uri), PROMPTS, split="test")
    assert message in str(caught.value)


def test_read_questions_missing_field_is_said_to_be_missing(tmp_path: Path) -> None:
    uri = write_rows(tmp_path / "q.jsonl", [{"question_id": 1, "image": "0.png", "text": "?", "answer": "red"}])
    with pytest.raises(ValueError, match="line 1: category is missing: it must be"):
        read_questions(Benchmark(images="images", questions=uri), PROMPTS, split="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"image": "0.png"\n', "line 1: not JSON"),
        (b"\n[1]\n", "line 2: list: it must be a JSON object"),
        (b" \n", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_read_questions_file_that_is_no_json_lines_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_questions(Benchmark(images="images", pope_random=str(path)), PROMPTS, split="test")
    assert str(path) in str(caught.value)


def test_read_questions_missing_file_is_a_plain_user_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl is not there"):
        read_questions(Benchmark(images="images", questions=str(tmp_path / "nowhere.jsonl")), PROMPTS, split="test")


def test_read_questions_line_separator_inside_a_text_is_no_new_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(pope_rows({"text": "a\u2028b"})[0], ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert (
        read_questions(Benchmark(images="images", pope_random=str(path)), PROMPTS, split="test")[0].text == "a\u2028b"
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "1.png", "objects": ["cat"]}, "objects holds 'cat', which the vocabulary lacks: add it to"),
        ({"image": "1.png", "objects": "dog"}, "objects is 'dog': it must be a list of names"),
        ({"image": "1.png"}, "objects is missing"),
        ({"image": "0.png", "objects": []}, "image is '0.png': it must be different from line 1's"),
    ],
)
def test_read_objects_malformed_line_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    (tmp_path / "v.txt").write_text("dog\n")
    uri = write_rows(tmp_path / "o.jsonl", [{"image": "0.png", "objects": ["dog"]}, row])
    with pytest.raises(ValueError, match=r"o\.jsonl, line 2: ") as caught:
        read_objects(Benchmark(images="images", objects=uri, vocabulary=str(tmp_path / "v.txt")))
    assert message in str(caught.value)


@pytest.mark.parametrize(("text", "line"), [("dog, puppy\n\ncat, puppy\n", 3), ("dog,\n", 1)])
def test_read_vocabulary_bad_line_is_named(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / "v.txt").write_text(text)
    benchmark = Benchmark(images="images", objects="o.jsonl", vocabulary=str(tmp_path / "v.txt"))
    with pytest.raises(ValueError, match=rf"v\.txt, line {line}: the name"):
        read_vocabulary(benchmark)


def test_read_questions_official_pope_file_is_read_whole(real_data: Path) -> None:
    uri = str(real_data / "benchmarks" / "coco_pope_random.json")
    questions = read_questions(Benchmark(images="coco", pope_random=uri), PROMPTS, split="test")
    with open(uri, encoding="utf-8") as file:
        num_lines = sum(bool(line.strip()) for line in file)
    assert len(questions) == len({row.id for row in questions}) == num_lines
    assert len({row.image_uri for row in questions}) == 500
