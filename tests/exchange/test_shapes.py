"""Records as the tools write them are read; ours are of those shapes, and loaders of others take them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stic_ray import sources
from stic_ray.artifacts import Artifact
from stic_ray.config import TrlMessages
from stic_ray.exchange import incoming
from stic_ray.exchange.export import main
from stic_ray.exchange.items import IMPORTED
from stic_ray.records import Pair, Reject, Sample, Turn
from stic_ray.sources import image_id

Made = Callable[[list[Pair] | list[Sample]], Artifact]
Imported = Callable[..., tuple[list[Pair], list[Reject]]]

_USER, _ASSISTANT = {"role": "user"}, {"role": "assistant"}
_PROMPT = [{**_USER, "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
_CHOSEN = [{**_ASSISTANT, "content": [{"type": "text", "text": "A car."}]}]
_REJECTED = [{**_ASSISTANT, "content": [{"type": "text", "text": "A dog."}]}]
_HUMAN = {"from": "human", "value": "<image>\nWhat is it?"}
_GOOD, _BAD = {"from": "gpt", "value": "A car."}, {"from": "gpt", "value": "A dog."}
_ASKED = {**_USER, "content": "What is it?"}
_SAYS_CAR, _SAYS_DOG = {**_ASSISTANT, "content": "A car."}, {**_ASSISTANT, "content": "A dog."}

# Records as formats.md has them and as they come otherwise: format, record, what makes the rejected answer worse.
_RECORDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "trl": ("trl", {"images": ["a.png"], "prompt": _PROMPT, "chosen": _CHOSEN, "rejected": _REJECTED}, IMPORTED),
    "trl texts": (
        "trl",
        {"image": "a.png", "prompt": [_ASKED], "chosen": [_SAYS_CAR], "rejected": [_SAYS_DOG]},
        IMPORTED,
    ),
    "trl without prompt": (
        "trl",
        {"images": ["a.png"], "chosen": [_ASKED, _SAYS_CAR], "rejected": [_ASKED, _SAYS_DOG]},
        IMPORTED,
    ),
    "trl plain": (
        "trl",
        {"images": ["a.png"], "prompt": "What is it?", "chosen": "A car.", "rejected": "A dog."},
        IMPORTED,
    ),
    "trl image struct": (
        "trl",
        {"images": [{"bytes": None, "path": "a.png"}], "prompt": _PROMPT, "chosen": _CHOSEN, "rejected": _REJECTED},
        IMPORTED,
    ),
    "llama_factory": (
        "llama_factory",
        {"conversations": [_HUMAN], "chosen": _GOOD, "rejected": _BAD, "images": ["a.png"]},
        IMPORTED,
    ),
    "ms_swift": (
        "ms_swift",
        {
            "messages": [{**_USER, "content": "<image>What is it?"}, _SAYS_CAR],
            "images": ["a.png"],
            "rejected_response": "A dog.",
        },
        IMPORTED,
    ),
    "llava": (
        "llava",
        {"id": "7", "image": "a.png", "conversations": [_HUMAN, _GOOD], "rejected_conversations": [_HUMAN, _BAD]},
        IMPORTED,
    ),
    "llava answer alone": (
        "llava",
        {"id": "7", "image": "a.png", "conversations": [_HUMAN, _GOOD], "rejected_conversations": [_BAD]},
        IMPORTED,
    ),
    "bpo": (
        "bpo",
        {
            "prompt": "What is it?\n<image>",
            "image": "a.png",
            "completions": [
                {"score": 1, "response": "A car.", "type": "gt"},
                {"score": 0, "response": "A dog.", "type": "mllm-hal"},
            ],
        },
        "noised_image",
    ),
    "stic corrupted": (
        "stic",
        {
            "image": "a.png",
            "image_corruption": True,
            "hallu_prompt": "",
            "chosen": [_ASKED, _SAYS_CAR],
            "rejected": [_ASKED, _SAYS_DOG],
        },
        "corrupted_image",
    ),
    "stic misled": (
        "stic",
        {
            "image": "a.png",
            "image_corruption": False,
            "hallu_prompt": "Imagine a dog.",
            "chosen": [_ASKED, _SAYS_CAR],
            "rejected": [_ASKED, _SAYS_DOG],
        },
        "misleading_prompt",
    ),
}


@pytest.mark.parametrize("name", list(_RECORDS))
def test_record_of_the_tool_is_a_pair(imported: Imported, photos: Path, tmp_path: Path, name: str) -> None:
    format, record, negative = _RECORDS[name]
    (tmp_path / "x.jsonl").write_text(json.dumps(record) + "\n")
    (pair,), rejects = imported(tmp_path / "x.jsonl", format, photos)
    assert rejects == []
    assert (pair.prompt, pair.chosen, pair.rejected, pair.negative) == ("What is it?", "A car.", "A dog.", negative)
    assert (pair.image_uri, pair.image_id, pair.item_id) == (str(photos / "a.png"), *[image_id("a.png")] * 2)
    misled = name == "stic misled"
    assert (pair.chosen_prompt, pair.rejected_prompt) == ("What is it?", "Imagine a dog." if misled else "What is it?")
    assert (pair.chosen_seed, pair.rejected_seed, pair.chosen_seen_hash, pair.corruption) == (0, 0, "", "")


@pytest.mark.parametrize("format", ["trl", "llama_factory", "ms_swift", "llava", "bpo", "stic"])
def test_exported_record_has_the_fields_of_the_tool(
    pairs: list[Pair], artifact_of: Made, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "x.jsonl"
    assert main([artifact_of(pairs).uri, "--format", format, "--out", str(out)]) == 0
    theirs = _RECORDS["stic corrupted" if format == "stic" else format][1]
    for line in out.read_bytes().splitlines():
        ours = json.loads(line)
        assert ours.keys() - theirs.keys() <= {"negative", "stic_ray"}
        for key, value in theirs.items():
            assert _shape(ours[key]) == _shape(value), key


def _shape(value: Any) -> Any:
    if isinstance(value, list):
        return [_shape(item) for item in value]
    return {key: _shape(item) for key, item in value.items()} if isinstance(value, dict) else type(value)


def test_bpo_record_of_several_worse_completions_is_several_pairs(imported: Imported, tmp_path: Path) -> None:
    worse = [("A dog.", "llm-hal"), ("a car.", "llm-hal"), (" ", "x"), ("A car.", "x"), ("A hat.", "other")]
    completions = [{"score": 0, "response": text, "type": kind} for text, kind in worse]
    completions.insert(2, {"score": 1, "response": "A car.", "type": "gt"})
    record = {"prompt": "<image>\nWhat?", "image": "a.png", "completions": completions}
    (tmp_path / "x.jsonl").write_text(json.dumps(record))
    pairs, rejects = imported(tmp_path / "x.jsonl", "bpo", tmp_path)
    assert [(pair.chosen, pair.rejected, pair.negative) for pair in pairs] == [
        ("A car.", "A dog.", "error_injection"),
        ("A car.", "a car.", "error_injection"),
        ("A car.", "A hat.", "other"),
    ]
    assert [reject.reason for reject in rejects] == [
        "x.jsonl line 1: an answer is empty",
        "x.jsonl line 1: both answers are the same",
    ]
    assert len({*(pair.id for pair in pairs), *(reject.id for reject in rejects)}) == 5


def test_bpo_record_pairs_every_two_completions_whose_scores_differ(imported: Imported, tmp_path: Path) -> None:
    scores = {"b": 1, "a": 2, "c": 0, "d": 1}
    completions = [{"score": score, "response": text, "type": text} for text, score in scores.items()]
    (tmp_path / "x.jsonl").write_text(json.dumps({"prompt": "q", "image": "a.png", "completions": completions}))
    pairs, rejects = imported(tmp_path / "x.jsonl", "bpo", tmp_path)
    found = [(pair.chosen, pair.rejected) for pair in pairs]
    assert sorted(found) == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("d", "c")] and not rejects
    assert all(pair.negative == pair.rejected for pair in pairs)


def test_image_at_a_place_that_cannot_be_opened_is_a_reject(imported: Imported, tmp_path: Path) -> None:
    places = ["zip://x.jpg", "a.png"]
    completions = [{"score": score, "response": text, "type": "x"} for text, score in (("a", 1), ("b", 0))]
    records = [{"prompt": "q", "image": place, "completions": completions} for place in places]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    pairs, rejects = imported(tmp_path / "x.jsonl", "bpo")
    assert len(pairs) == 1 and len(rejects) == 1
    assert rejects[0].reason.startswith("x.jsonl line 1: cannot open zip://x.jpg: ")


# Samples


def test_trl_messages_of_every_shape_are_samples(photos: Path, tmp_path: Path) -> None:
    records = [
        {"images": ["a.png"], "messages": [*_PROMPT, *_CHOSEN], "kind": "vqa"},
        {"images": [], "messages": [_ASKED, _SAYS_CAR]},
        {
            "image": "b.png",
            "messages": [_ASKED, _SAYS_CAR, {**_USER, "content": "Sure?"}, _SAYS_DOG],
        },
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    source = TrlMessages(uri=str(tmp_path / "x.jsonl"), images=str(photos), category="kind")
    incoming.check_instructions(source, "instructions")
    found, rejects = incoming.read_instructions(source, seed=0)
    assert rejects == []
    by_uri = {sample.image_uri: sample for sample in found}
    one = [Turn(role="user", text="What is it?"), Turn(role="assistant", text="A car.")]
    assert by_uri[str(photos / "a.png")].turns == by_uri[""].turns == one
    two = [Turn(role="user", text="Sure?"), Turn(role="assistant", text="A dog.")]
    assert by_uri[str(photos / "b.png")].turns == [*one, *two]
    assert [by_uri[str(photos / name)].category for name in ("a.png", "b.png")] == ["vqa", ""]
    drawn = [
        {sample.id for sample in incoming.read_instructions(TrlMessages(**{**vars(source), "sample": 2}), seed)[0]}
        for seed in range(8)
    ]
    assert all(len(ids) == 2 for ids in drawn) and len(set(map(frozenset, drawn))) > 1


def test_trl_messages_bad_records_are_rejects_with_file_and_row(photos: Path, tmp_path: Path) -> None:
    good: dict[str, Any] = {
        "images": [{"bytes": (photos / "a.png").read_bytes(), "path": None}],
        "messages": [_ASKED, _SAYS_CAR],
    }
    rows = [
        {**good, "images": good["images"] * 2},
        {**good, "messages": [_ASKED]},
        {**good, "messages": [{"role": "system", "content": "Be kind."}, _ASKED, _SAYS_CAR]},
        {**good, "messages": [_ASKED, {**_ASSISTANT, "content": ""}]},
        {**good, "messages": [_ASKED, {**_ASSISTANT, "content": "It is <image>"}]},
        {**good, "messages": None},
        good,
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet", row_group_size=3)
    (sample,), rejects = incoming.read_instructions(TrlMessages(uri=str(tmp_path / "x.parquet")), seed=0)
    assert sources.read_image(sample.image_uri) == (photos / "a.png").read_bytes()
    assert sorted(reject.reason for reject in rejects) == [
        "x.parquet row 1: images has 2 images: a record may have one",
        "x.parquet row 2: turns must alternate question and answer and end with an answer",
        "x.parquet row 3: messages holds a turn whose role is not user or assistant",
        "x.parquet row 4: an answer is empty",
        "x.parquet row 5: <image> must stand once, in the first turn, of a record that has an image",
        "x.parquet row 6: messages is missing",
    ]


# Other tools' loaders


@pytest.mark.parametrize("images", ["reference", "embedded", "copy"])
def test_trl_export_is_loaded_by_datasets_with_its_images(
    pairs: list[Pair], artifact_of: Made, tmp_path: Path, images: str
) -> None:
    from datasets import load_dataset, load_from_disk

    made = artifact_of(pairs)
    for out in ("x.parquet", "saved"):
        assert main([made.uri, "--format", "trl", "--out", str(tmp_path / out), "--images", images]) == 0
    file = str(tmp_path / "x.parquet")
    for loaded in (
        load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path / "cache")),
        load_from_disk(str(tmp_path / "saved")),
    ):
        assert len(loaded) == len(pairs)
        by_id = {row["stic_ray"]["id"]: row for row in loaded}
        for pair in pairs:
            row = by_id[pair.id]
            (image,) = row["images"]
            with Image.open(pair.image_uri) as expected:
                assert image.tobytes() == expected.tobytes()
            assert row["prompt"][0]["content"][1]["text"] == pair.prompt
            assert row["chosen"] == [{"role": "assistant", "content": [{"type": "text", "text": pair.chosen}]}]


def test_saved_dataset_of_several_tables_and_the_librarys_own_are_imported(
    pairs: list[Pair], artifact_of: Made, imported: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import load_from_disk

    from stic_ray.exchange import writing

    monkeypatch.setattr(writing, "_ROWS_PER_GROUP", 2)
    monkeypatch.setattr(writing, "_BYTES_PER_SHARD", 1)
    out = tmp_path / "saved"
    assert main([artifact_of(pairs).uri, "--format", "trl", "--out", str(out), "--images", "embedded"]) == 0
    assert len(list(out.glob("*.arrow"))) == 3
    loaded = load_from_disk(str(out))
    loaded.save_to_disk(str(tmp_path / "again"), num_shards=2)
    loaded.to_parquet(str(tmp_path / "folder" / "x.parquet"))
    for uri in (out, tmp_path / "again", tmp_path / "folder"):
        found, rejects = imported(uri, "trl")
        assert (len(found), rejects) == (len(pairs), [])
        by_id = {pair.id: pair for pair in found}
        for pair in pairs:
            assert sources.read_image(by_id[pair.id].image_uri) == sources.read_image(pair.image_uri)


def test_llama_factory_export_has_its_entry_beside_others(
    pairs: list[Pair], samples: list[Sample], artifact_of: Made, tmp_path: Path
) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text('{"other": {"file_name": "other.json"}}')
    for rows, out, what in ((pairs, "mine.jsonl", "pairs"), (samples, "sft.json", "samples")):
        made = artifact_of(rows)
        call = ["--format", "llama_factory", "--out", str(tmp_path / out), "--what", what, "--images", "copy"]
        assert main([made.uri, *call]) == 0
    entries = json.loads(info.read_text())
    assert entries.keys() == {"other", "mine", "sft"}
    columns = {"messages": "conversations", "images": "images", "chosen": "chosen", "rejected": "rejected"}
    assert entries["mine"] == {
        "file_name": "mine.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": columns,
    }
    assert "ranking" not in entries["sft"] and entries["sft"]["columns"].keys() == {"messages", "images"}
    first = json.loads((tmp_path / "mine.jsonl").read_text().splitlines()[0])
    assert (tmp_path / first["images"][0]).read_bytes().startswith(b"\x89PNG")
