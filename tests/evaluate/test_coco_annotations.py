"""The objects of images: COCO's files and JSON lines read by hand-made cases, and CHAIR of real captions."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_ray import storage
from stic_ray.evaluate.benchmarks.captions import counts
from stic_ray.evaluate.coco_annotations import read_objects
from stic_ray.evaluate.objects import make_vocabulary

VOCABULARY = make_vocabulary([["dog", "puppy"], ["hot dog"], ["person", "baby", "man"], ["toilet"], ["chair", "seat"]])


def write_json(path: Path, tree: Any) -> str:
    path.write_text(json.dumps(tree), encoding="utf-8")
    return str(path)


def write_lines(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def instances(**overrides: Any) -> dict[str, Any]:
    return {
        "info": {"year": 2014},
        "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8, "file_name": "8.jpg"}, {"id": 9, "file_name": "9.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 58, "name": "hot dog", "supercategory": "food"}],
        "annotations": [
            {"image_id": 7, "category_id": 18, "bbox": [0, 0, 1, 1]},
            {"image_id": 7, "category_id": 18, "iscrowd": 1},
            {"image_id": 8, "category_id": 58},
        ],
        **overrides,
    }


def captions(**overrides: Any) -> dict[str, Any]:
    return {
        "images": [*instances()["images"], {"id": 10, "file_name": "10.jpg"}],
        "annotations": [
            {"image_id": 7, "caption": "A man on the seat of a toilet"},
            {"image_id": 7, "caption": "A baby dog"},
            {"image_id": 8, "caption": "Lunch"},
            {"image_id": 9, "caption": "Two puppies"},
            {"image_id": 10, "caption": "A seat"},
        ],
        **overrides,
    }


def test_read_objects_coco_instances_are_those_of_each_image(tmp_path: Path) -> None:
    objects = read_objects(write_json(tmp_path / "instances.json", instances()), VOCABULARY)
    assert objects == {"7.jpg": {"dog"}, "8.jpg": {"hot dog"}, "9.jpg": set()}


def test_read_objects_coco_captions_add_what_they_name(tmp_path: Path) -> None:
    uri = write_json(tmp_path / "instances.json", instances())
    objects = read_objects(uri, VOCABULARY, captions=write_json(tmp_path / "captions.json", captions()))
    assert objects == {"7.jpg": {"dog", "person", "toilet"}, "8.jpg": {"hot dog"}, "9.jpg": {"dog"}}


def test_read_objects_json_lines_have_names_or_instances_and_captions(tmp_path: Path) -> None:
    uri = write_lines(
        tmp_path / "objects.jsonl",
        {"image": "a/0.png", "objects": ["puppy", "hot dogs"]},
        {"image": "1.png", "objects": []},
        {"image": "2.png", "instances": [{"category": "dog", "bbox": []}], "captions": ["A man", "a\u2028seat"]},
        {"image": "7.jpg", "instances": []},
    )
    objects = read_objects(uri, VOCABULARY)
    assert objects == {
        "a/0.png": {"dog", "hot dog"},
        "1.png": set(),
        "2.png": {"dog", "person", "chair"},
        "7.jpg": set(),
    }


def test_read_objects_json_lines_and_coco_captions_meet_by_file_name(tmp_path: Path) -> None:
    uri = write_lines(tmp_path / "objects.jsonl", {"image": "7.jpg", "objects": ["hot dog"]})
    objects = read_objects(uri, VOCABULARY, captions=write_json(tmp_path / "captions.json", captions()))
    assert objects == {"7.jpg": {"hot dog", "dog", "person", "toilet"}}


def test_read_objects_any_filesystem_and_indented_json_are_read() -> None:
    storage.write_bytes("memory://coco/instances.json", b"\xef\xbb\xbf" + json.dumps(instances(), indent=1).encode())
    assert read_objects("memory://coco/instances.json", VOCABULARY)["7.jpg"] == {"dog"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "1", "objects": ["unicorn"]}, "line 2: objects has 'unicorn', which is no object of the vocabulary"),
        ({"image": "1", "instances": [{"category": "cat"}]}, "line 2: instances has 'cat', which is no object"),
        ({"image": "1", "instances": [{"name": "dog"}]}, r"line 2, instances\[0\]: category is missing: it must be a"),
        ({"image": "1", "instances": ["dog"]}, r"line 2, instances\[0\]: str: it must be a JSON object"),
        ({"image": "1", "instances": {}}, "line 2: instances is {}: it must be a list of JSON objects"),
        ({"image": "1", "objects": "dog"}, "line 2: objects is 'dog': it must be a list of texts"),
        ({"image": "1"}, "line 2: objects is missing: it must be a list of texts"),
        ({"image": "1", "objects": [], "captions": [3]}, r"line 2: captions is \[3\]: it must be a list of texts"),
        ({"image": "0", "objects": []}, "line 2: image is '0': it must be different from line 1's"),
        ({"image": 1, "objects": []}, "line 2: image is 1: it must be a text"),
        ([], "line 2: list: it must be a JSON object"),
    ],
)
def test_read_objects_malformed_line_is_named(tmp_path: Path, row: Any, message: str) -> None:
    uri = write_lines(tmp_path / "objects.jsonl", {"image": "0", "objects": ["dog"]}, row)
    with pytest.raises(ValueError, match=f"^{re.escape(uri)}, {message}"):
        read_objects(uri, VOCABULARY)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"images": None}, ": images is None: it must be a list of JSON objects"),
        ({"images": [{"id": 7}]}, r", images\[0\]: file_name is missing: it must be a text"),
        (
            {"images": [{"id": True, "file_name": "7.jpg"}]},
            r", images\[0\]: id is True: it must be a whole number",
        ),
        (
            {"images": [{"id": 7, "file_name": x} for x in "ab"]},
            r", images\[1\]: id is 7: it must be different",
        ),
        (
            {"categories": [{"id": 1, "name": "unicorn"}]},
            r", categories\[0\]: name has 'unicorn', which is no object",
        ),
        ({"annotations": [7]}, r", annotations\[0\]: int: it must be a JSON object"),
        (
            {"annotations": [{"image_id": 6, "category_id": 18}]},
            r", annotations\[0\]: image_id is 6: it must be the id",
        ),
        (
            {"annotations": [{"image_id": [], "category_id": 18}]},
            r", annotations\[0\]: image_id is \[\]: it must be a",
        ),
        (
            {"annotations": [{"image_id": 7, "caption": "dog"}]},
            r", annotations\[0\]: category_id is missing: it must",
        ),
        (
            {"annotations": [{"image_id": 7, "category_id": 1}]},
            r", annotations\[0\]: category_id is 1: it must be the",
        ),
    ],
)
def test_read_objects_malformed_coco_instances_are_named(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    uri = write_json(tmp_path / "instances.json", instances(**overrides))
    with pytest.raises(ValueError, match=f"^{re.escape(uri)}, top level{message}"):
        read_objects(uri, VOCABULARY)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (instances(), r", top level, annotations\[0\]: caption is missing: it must be a text"),
        ([], " is not one JSON object: give a file like COCO's captions_val2014.json"),
        (captions(annotations=captions()["annotations"][:3]), " has no caption of 9.jpg, which .*instances.json has"),
    ],
)
def test_read_objects_malformed_coco_captions_are_named(tmp_path: Path, tree: Any, message: str) -> None:
    uri = write_json(tmp_path / "captions.json", tree)
    with pytest.raises(ValueError, match=f"^{re.escape(uri)}{message}"):
        read_objects(write_json(tmp_path / "instances.json", instances()), VOCABULARY, captions=uri)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [', "line 1: not JSON"),
        (b" \n", "is empty"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_read_objects_file_that_is_no_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "objects.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_objects(str(tmp_path / "objects.json"), VOCABULARY)


def test_read_objects_missing_file_is_a_plain_user_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.json is not there"):
        read_objects(str(tmp_path / "nothing.json"), VOCABULARY)


def plain_mentions(text: str, synonyms: Sequence[Sequence[str]]) -> list[str]:
    """CHAIR's mentions by replacements in the text, the rules one after the other, names in every form of plural."""
    text = re.sub(r"\b(train track|home plate)s?\b", "", text.lower())
    text = re.sub(r"\b(baby|adult) (animal|cub)s?\b", "", text)
    text = re.sub(r"\b(baby|adult) (?=(bird|cat|dog|horse|sheep|cow|elephant|bear|zebra|giraffe)s?\b)", "", text)
    text = re.sub(r"\bpassenger (?=(jet|train)s?\b)", "", text)
    text = re.sub(r"\btoilet seats?\b", "toilet", text)
    if re.search(r"\btoilets?\b", text):
        text = re.sub(r"\bseats?\b", "", text)
    names = {name: number for number, line in enumerate(synonyms) for name in line}
    for name in sorted(names, key=lambda name: -name.count(" ")):
        stem = re.escape(name)
        forms = [stem, f"{stem}s", f"{stem}es", re.sub("y$", "ies", stem), re.sub("fe?$", "ves", stem)]
        forms.append(re.sub("man$", "men", stem))
        text = re.sub(rf"(?<![\w-])(?:{'|'.join(forms)})(?![\w-])", f"<{names[name]}>", text)
    text = re.sub(r"\bgeese\b", f"<{names['goose']}>", text)
    return [synonyms[int(number)][0] for number in re.findall(r"<(\d+)>", text)]


def test_chair_of_real_captions_equals_a_plain_computation(real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "benchmarks"
    synonyms = [
        [name.strip().lower() for name in line.split(",")]
        for line in (folder / "chair_synonyms.txt").read_text().splitlines()
    ]
    vocabulary = make_vocabulary(synonyms)
    rows = [json.loads(line) for line in (folder / "coco_caps_boxes_80.jsonl").read_text().splitlines()]
    alone = [{name: row[name] for name in ("image", "instances")} for row in rows]
    objects = read_objects(write_lines(tmp_path / "instances.jsonl", *alone), vocabulary)

    expected = np.zeros(4)
    sums_S = np.zeros(7)
    for row in rows:
        there = {instance["category"] for instance in row["instances"]}
        for caption in row["captions"]:
            wrong = [name not in there for name in plain_mentions(caption, synonyms)]
            expected += [len(wrong), sum(wrong), 1, any(wrong)]
            sums_S += counts(vocabulary.mentions(caption), num_tokens=0, objects=objects[row["image"]])
    assert sums_S[:4].tolist() == expected.tolist()
    assert expected.tolist() == [602, 41, 401, 40]  # chair_i 6.8, chair_s 10.0


def test_chair_of_real_captions_is_zero_where_they_say_what_is_there(real_data: Path) -> None:
    folder = real_data / "benchmarks"
    lines = (folder / "chair_synonyms.txt").read_text().splitlines()
    vocabulary = make_vocabulary([[name.strip() for name in line.split(",")] for line in lines])
    objects = read_objects(str(folder / "coco_caps_boxes_80.jsonl"), vocabulary)
    for line in (folder / "coco_caps_boxes_80.jsonl").read_text().splitlines():
        row = json.loads(line)
        for caption in row["captions"]:
            found = counts(vocabulary.mentions(caption), num_tokens=0, objects=objects[row["image"]])
            assert found[1] == 0
