"""Readers of POPE, CHAIR and short answers: what they make of good files and what they say of bad ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_ray.config import Benchmark, Chair, Pope, ShortAnswers
from stic_ray.evaluate import questions
from stic_ray.evaluate.benchmarks import pope, read_items
from stic_ray.records import Question
from stic_ray.sources import image_id
from tests.evaluate.answering import predict

INFUSED = "{description} {question}"


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pope_rows(*overrides: dict[str, Any]) -> list[dict[str, Any]]:
    good = {"question_id": 1, "image": "0.png", "text": "Is there a dog?", "label": "yes"}
    return [{**good, **override} for override in overrides]


def question_rows(*overrides: dict[str, Any]) -> list[dict[str, Any]]:
    good = {"question_id": 1, "image": "0.png", "text": "what color ?", "answer": "red", "category": "color"}
    return [{**good, **override} for override in overrides]


def make_chair(folder: Path) -> Chair:
    objects = [{"image": "0.png", "objects": ["puppy", "hot dogs"]}, {"image": "sub/1.png", "objects": []}]
    (folder / "synonyms.txt").write_text("dog, puppy\n\nhot dog\n")
    return Chair(
        images="memory://images/",
        objects=write_rows(folder / "objects.jsonl", objects),
        synonyms=str(folder / "synonyms.txt"),
        prompt="describe",
    )


def read(benchmark: Benchmark, infused: str = INFUSED) -> list[Question]:
    return list(questions.read(benchmark, split="test", name="b", infused=infused))


def test_read_chair_asks_every_image_whose_objects_are_known(tmp_path: Path) -> None:
    rows = read(make_chair(tmp_path))
    assert [(row.text, row.answers, row.image_uri) for row in rows] == [
        ("describe", ["dog", "hot dog"], "memory://images/0.png"),
        ("describe", [], "memory://images/sub/1.png"),
    ]
    assert [row.image_id for row in rows] == [image_id(f"test/{row.image_uri}") for row in rows]


def test_read_pope_has_strategies_as_categories_and_its_instruction_below(tmp_path: Path) -> None:
    files = {
        "random": write_rows(tmp_path / "r.jsonl", pope_rows({}, {"question_id": 2, "label": "no"})),
        "adversarial": write_rows(tmp_path / "a.jsonl", pope_rows({})),
    }
    rows = read(Pope(questions=files, images="images"))
    assert [(row.category, row.key, row.answers) for row in rows] == [
        ("random", "1", ["yes"]),
        ("random", "2", ["no"]),
        ("adversarial", "1", ["yes"]),
    ]
    assert {row.text for row in rows} == {"Is there a dog?\nAnswer the question using a single word or phrase."}
    assert len({row.id for row in rows}) == 3
    assert len({row.image_id for row in rows}) == 1


def test_read_images_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    uri = write_rows(tmp_path / "q.jsonl", question_rows({}))
    one, other = (read(ShortAnswers(questions=uri, images=folder))[0] for folder in ("a", "b"))
    assert one.image_id != other.image_id


def test_read_in_both_modes_repeats_the_questions_under_another_task(tmp_path: Path) -> None:
    uri = write_rows(tmp_path / "q.jsonl", question_rows({"group": "one object"}, {"question_id": "b"}))
    benchmark = ShortAnswers(questions=uri, images="images", modes=("direct", "describe_first"))
    rows = read(benchmark)
    assert [(row.task, row.key, row.group) for row in rows] == [
        ("b", "1", "one object"),
        ("b_dar", "1", "one object"),
        ("b", "b", ""),
        ("b_dar", "b", ""),
    ]
    assert len({row.id for row in rows}) == 4
    assert {row.text for row in rows} == {"what color ?"}
    assert {row.task for row in read(benchmark, infused="")} == {"b"}


def test_read_questions_without_a_folder_of_images_are_of_text_alone(tmp_path: Path) -> None:
    good = {"text": "what color ?", "answer": "red", "category": "color"}
    uri = write_rows(tmp_path / "q.jsonl", [{**good, "question_id": 1}, {**good, "question_id": 2}])
    rows = read(ShortAnswers(questions=uri))
    assert [row.image_uri for row in rows] == ["", ""]
    assert len({row.image_id for row in rows}) == 2


def test_read_with_a_limit_takes_all_questions_of_so_many_images(tmp_path: Path) -> None:
    every = [{"question_id": q, "image": f"{image}.png"} for image in range(20) for q in (1, 2, 3)]
    uri = write_rows(tmp_path / "q.jsonl", question_rows(*every))
    rows = read(ShortAnswers(questions=uri, images="images", limit=5))
    assert len(rows) == 15
    assert len({row.image_uri for row in rows}) == 5
    assert rows == read(ShortAnswers(questions=uri, images="images", limit=5))
    fewer = {row.id for row in read(ShortAnswers(questions=uri, images="images", limit=2))}
    assert fewer < {row.id for row in rows}


@pytest.mark.parametrize("image", ["../secret.png", "/etc/passwd", "a/../../b.png", "s3://other/a.png", "..\\a.png"])
def test_read_image_outside_its_root_is_refused(tmp_path: Path, image: str) -> None:
    uri = write_rows(tmp_path / "p.jsonl", pope_rows({}, {"question_id": 2, "image": image}))
    with pytest.raises(ValueError, match=r"p\.jsonl, line 2: image is .* it must be a path below"):
        read(Pope(questions={"popular": uri}, images="images"))


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
def test_read_malformed_pope_line_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    uri = write_rows(tmp_path / "p.jsonl", pope_rows({}, {"question_id": 2, **row}))
    with pytest.raises(ValueError, match=r"p\.jsonl, line 2: ") as caught:
        read(Pope(questions={"random": uri}, images="images"))
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
def test_read_malformed_question_line_is_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    uri = write_rows(tmp_path / "q.jsonl", question_rows({}, {"question_id": 2, **row}))
    with pytest.raises(ValueError, match=r"q\.jsonl, line 2: ") as caught:
        read(ShortAnswers(questions=uri, images="images"))
    assert message in str(caught.value)


def test_read_missing_field_is_said_to_be_missing(tmp_path: Path) -> None:
    uri = write_rows(tmp_path / "q.jsonl", [{"question_id": 1, "image": "0.png", "text": "?", "answer": "red"}])
    with pytest.raises(ValueError, match="line 1: category is missing: it must be"):
        read(ShortAnswers(questions=uri, images="images"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"image": "0.png"\n', "line 1: not JSON"),
        (b"\n[1]\n", "line 2: list: it must be a JSON object"),
        (b" \n", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_read_file_that_is_no_json_lines_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(Pope(questions={"random": str(path)}, images="images"))
    assert str(path) in str(caught.value)


def test_read_missing_file_is_a_plain_user_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.jsonl is not there"):
        read(ShortAnswers(questions=str(tmp_path / "nowhere.jsonl"), images="images"))


def test_read_line_separator_inside_a_text_is_no_new_line(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(pope_rows({"text": "a\u2028b"})[0], ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert read(Pope(questions={"random": str(path)}, images="images", instruction=""))[0].text == "a\u2028b"


@pytest.mark.parametrize(("text", "line"), [("dog, puppy\n\ncat, puppy\n", 3), ("dog,\n", 1)])
def test_read_chair_bad_line_of_synonyms_is_named(tmp_path: Path, text: str, line: int) -> None:
    benchmark = make_chair(tmp_path)
    Path(benchmark.synonyms).write_text(text)
    with pytest.raises(ValueError, match=rf"synonyms\.txt, line {line}: the name"):
        read(benchmark)


# What the benchmark's own rule makes of an answer: "no" where the first sentence holds No, no or not, as words.
POPE_ANSWERS = {
    "No": "no",
    "No.": "no",
    "no": "no",
    "No, there isn't": "no",
    "No, there is no dog in the image.": "no",
    "There is no dog.": "no",
    "It is not there.": "no",
    "not": "no",
    "Not really": "yes",
    "NO": "yes",
    "yes": "yes",
    "yes.": "yes",
    "Yes, there is a dog.": "yes",
    "Yes, but not on the left.": "no",
    "Yes. There is no cat.": "yes",
    "": "yes",
    "   ": "yes",
    "Nothing of the kind.": "yes",
    "None": "yes",
    "nope": "yes",
    "I know it is there": "yes",
    "A dog, no doubt": "no",
    "maybe": "yes",
    "I cannot tell": "yes",
    "there isn't": "yes",
    "No!": "yes",
    "No\nThere is none": "yes",
    "(no)": "yes",
    "no, yes": "no",
}


def _official_pope(text: str) -> str:
    """POPE's evaluation script as its rule is published: cut at the first period, drop commas, split at spaces."""
    if text.find(".") != -1:
        text = text.split(".")[0]
    words = text.replace(",", "").split(" ")
    return "no" if "No" in words or "not" in words or "no" in words else "yes"


def test_pope_reads_every_kind_of_answer_as_the_benchmarks_own_rule() -> None:
    for text, expected in POPE_ANSWERS.items():
        assert _official_pope(text) == expected, text
        assert ("yes" if pope.says_yes(text) else "no") == expected, text


@pytest.mark.parametrize("strategy", ["random", "popular"])
def test_pope_on_the_official_files_equals_the_benchmarks_own_scoring(real_data: Path, strategy: str) -> None:
    uri = str(real_data / "benchmarks" / f"coco_pope_{strategy}.json")
    benchmark = Pope(questions={strategy: uri}, images="coco")
    items = list(read_items(benchmark))
    with open(uri, encoding="utf-8") as file:
        labels = [json.loads(line)["label"] for line in file]
    assert [item.answers[0] for item in items] == labels
    assert len({item.image_uri for item in items}) == 500
    texts = [list(POPE_ANSWERS)[number % len(POPE_ANSWERS)] for number in range(len(items))]
    said = [_official_pope(text) for text in texts]
    both = list(zip(said, labels, strict=True))
    hits, alarms = both.count(("yes", "yes")), both.count(("yes", "no"))
    precision, recall = hits / (hits + alarms), hits / labels.count("yes")
    rows = [predict("pope", item.image, text, item.answers, strategy) for item, text in zip(items, texts, strict=True)]
    figures = pope.measure(benchmark, rows)
    found = {name: float(value) for name, value in figures.figures(np.array(figures.count(rows))).items()}
    assert found["accuracy"] == pytest.approx(100 * sum(one == other for one, other in both) / len(both))
    assert found["precision"] == pytest.approx(100 * precision)
    assert found["recall"] == pytest.approx(100 * recall)
    assert found["f1"] == pytest.approx(200 * precision * recall / (precision + recall))
    assert found["yes_ratio"] == pytest.approx(100 * said.count("yes") / len(said))
