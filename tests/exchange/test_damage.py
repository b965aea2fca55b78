"""Files that are damaged or lie: every bad record is a reject that names file and line, or there is one clear error."""

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stic_ray.config import TrlMessages
from stic_ray.exchange import incoming, reading
from stic_ray.origins import PairOrigin
from stic_ray.records import Pair, Reject, make_id, reason_kind

Imported = Callable[..., tuple[list[Pair], list[Reject]]]

_QUESTION = {"role": "user", "content": "<image>\nWhat?"}
_ANSWER = {"role": "assistant", "content": "A car."}
_GOOD: dict[str, Any] = {
    "messages": [_QUESTION, _ANSWER],
    "images": ["a.png"],
    "rejected_response": "A dog.",
}
_ORIGIN: dict[str, Any] = {
    **{name: make_id(name) for name in ("id", "item_id", "image_id", "chosen_id", "rejected_id")},
    **dict.fromkeys(("chosen_prompt", "chosen_seen_hash", "rejected_prompt", "rejected_seen_hash"), ""),
    "chosen_seed": 1,
    "rejected_seed": 2,
    "corruption": "",
}


def _line(**changed: Any) -> bytes:
    return json.dumps({**_GOOD, **changed}).encode()


def _origin(**changed: Any) -> bytes:
    return _line(stic_ray={**_ORIGIN, **changed})


_BAD: dict[str, tuple[bytes, str]] = {
    "truncated": (_line()[:-9], "no JSON: "),
    "empty object": (b"{}", "messages is missing"),
    "no object": (b'"text"', "no record: it must be a JSON object"),
    "list": (b"[1, 2]", "no record"),
    "nan": (b"NaN", "no record"),
    "no utf-8": (b'{"images": "\xff"}', "no UTF-8 text"),
    "deep": (b'{"a": ' + b"[" * 100_000, "no JSON that can be read: "),
    "huge number as text": (_line(rejected_response=0).replace(b": 0", b": " + b"9" * 5000), "is no text"),
    "no list": (_line(messages="hello"), "messages is no list of turns"),
    "empty list": (_line(messages=[]), "messages is no list of turns"),
    "turns of texts": (_line(messages=["a", "b"]), "messages is no list of turns"),
    "strange role": (_line(messages=[{**_QUESTION, "role": ["user"]}, _ANSWER]), "whose role is not user or assistant"),
    "content of numbers": (_line(messages=[_QUESTION, {**_ANSWER, "content": 5}]), "a turn of messages is no text"),
    "part of audio": (
        _line(messages=[_QUESTION, {**_ANSWER, "content": [{"type": "audio"}]}]),
        "neither image nor text",
    ),
    "no rejected": (_line(rejected_response=None), "rejected_response is missing"),
    "rejected number": (_line(rejected_response=3), "rejected_response is no text"),
    "empty chosen": (_line(messages=[_QUESTION, {**_ANSWER, "content": " \n"}]), "an answer is empty"),
    "empty rejected": (_line(rejected_response=""), "an answer is empty"),
    "equal": (_line(rejected_response="A car. "), "both answers are the same"),
    "more turns": (_line(messages=[_QUESTION, _ANSWER, {**_QUESTION, "content": "?"}, _ANSWER]), "has 4 turns"),
    "question alone": (_line(messages=[_QUESTION]), "must alternate"),
    "lone surrogate": (_line(rejected_response="half \ud83d"), "half of a character"),
    "surrogate as image": (_line(images=["\ud83d.png"]), "cannot be the name of a file"),
    "surrogate as kind": (_line(negative="\ud83d"), "negative holds half of a character"),
    "two images": (_line(images=["a.png", "b.png"]), "images has 2 images: a record may have one"),
    "no image": (_line(images=[], messages=[{**_QUESTION, "content": "What?"}, _ANSWER]), "it has no image"),
    "marker without image": (_line(images=None), "<image> must stand once"),
    "two markers": (_line(messages=[{**_QUESTION, "content": "<image><image>"}, _ANSWER]), "<image> must stand once"),
    "marker in answer": (_line(rejected_response="<image>"), "<image> must stand once"),
    "image number": (_line(images=[7]), "images is not one path"),
    "image of bytes": (_line(images=[{"bytes": "aGVsbG8=", "path": "a.png"}]), "bytes as text"),
    "place as bytes": (_line(images=[{"bytes": "row:0.0:image:/etc/x.parquet"}]), "bytes as text"),
    "escape": (_line(images=["../../etc/passwd"]), "leaves its root"),
    "absolute": (_line(images=["/etc/passwd"]), "leaves its root"),
    "other place": (_line(images=["s3://bucket/a.png"]), "leaves its root"),
    "nul": (_line(images=["a\0.png"]), "cannot be the name of a file"),
    "origin text": (_line(stic_ray="x"), "stic_ray must have exactly the fields id, item_id"),
    "origin part": (_line(stic_ray={"id": "0" * 32}), "stic_ray must have exactly the fields"),
    "origin id": (_origin(id="x"), "stic_ray.id is not what was written"),
    "origin image": (_origin(image_id="../" * 11), "stic_ray.image_id is not what was written"),
    "origin seed": (_origin(chosen_seed=2**63), "stic_ray.chosen_seed is not what was written"),
    "origin flag": (_origin(chosen_seed=True), "stic_ray.chosen_seed is not what was written"),
    "origin surrogate": (_origin(corruption="\ud83d"), "stic_ray.corruption is not what was written"),
}


@pytest.mark.parametrize("name", list(_BAD))
def test_bad_line_is_a_reject_with_file_and_line_and_the_others_are_pairs(
    imported: Imported, tmp_path: Path, name: str
) -> None:
    bad, reason = _BAD[name]
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + _line() + b"\r\n\n" + bad + b"\n" + _line())
    pairs, (reject,) = imported(tmp_path / "x.jsonl", "ms_swift", tmp_path)
    assert [pair.rejected for pair in pairs] == ["A dog.", "A dog."]
    assert len({pairs[0].id, pairs[1].id, reject.id}) == 3
    assert reject.reason.startswith("x.jsonl line 3: ") and reason in reject.reason, reject.reason
    assert reason_kind(reject.reason) == reject.reason.removeprefix("x.jsonl line 3: ")
    assert "\n" not in reject.reason
    reject.reason.encode()


def _list_of(*entries: bytes) -> bytes:
    return b"[\n" + b",\n".join(entries) + b"\n]\n"


@pytest.mark.parametrize("name", [name for name, (_, why) in _BAD.items() if not why.startswith("no ")])
def test_bad_record_of_a_list_is_a_reject_with_file_and_line(imported: Imported, tmp_path: Path, name: str) -> None:
    bad, reason = _BAD[name]
    (tmp_path / "x.json").write_bytes(_list_of(_line(), bad, _line()))
    pairs, (reject,) = imported(tmp_path / "x.json", "ms_swift", tmp_path)
    assert len(pairs) == 2
    assert reject.reason.startswith("x.json line 3 (record 2): ") and reason in reject.reason
    assert reason_kind(reject.reason) == reject.reason.removeprefix("x.json line 3 (record 2): ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_list_of(_line(), _line())[:-40], r"x\.json line 3: no JSON: "),
        (_list_of(_line(), _line())[:-3], r"x\.json line 3: the text ends where ',' must be"),
        (_list_of(_line(), b"{,}", _line()), r"x\.json line 3: no JSON: "),
        (_list_of(_line(), b'"a" "b"'), r"x\.json line 3: there is '\"' where ',' must be"),
        (_list_of(_line()) + b"\n{}", r"x\.json line 5: there is something behind the end of the list"),
        (_list_of(_line(), b"[" * 100_000), r"x\.json line 3: no JSON that can be read: .*recursion"),
        (_list_of(_line(), b'"\xff"'), r"x\.json is no UTF-8 text"),
    ],
)
def test_list_that_cannot_be_read_on_is_one_error_with_file_and_line(
    imported: Imported, tmp_path: Path, text: bytes, message: str
) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        imported(tmp_path / "x.json", "ms_swift", tmp_path)


def test_list_is_read_in_pieces_whatever_their_size(
    imported: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [_line(rejected_response=f"dog {number} " + "ü" * (number * 7)) for number in range(40)]
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf \n\n" + _list_of(*lines))
    for piece in (1, 3, 64, 1 << 20):
        monkeypatch.setattr(reading, "_PIECE", piece)
        records = list(reading.read(str(tmp_path / "x.json")))
        assert [json.dumps(dict(record.tree)).encode() for record in records] == lines
        assert records[39].place == "x.json line 43 (record 40)"


def test_line_that_is_too_long_is_a_reject_and_is_passed_over(
    imported: Imported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MAX_RECORD", 1000)
    (tmp_path / "x.jsonl").write_bytes(_line() + b"\n" + _line(x="y" * 3000) + b"\n" + _line())
    pairs, (reject,) = imported(tmp_path / "x.jsonl", "ms_swift", tmp_path)
    assert (len(pairs), reject.reason) == (2, "x.jsonl line 2: more than 1000 bytes")


@pytest.mark.parametrize("size", [0, 10, 500])
def test_table_that_is_cut_off_is_one_error(imported: Imported, tmp_path: Path, size: int) -> None:
    pq.write_table(pa.Table.from_pylist([_GOOD] * 3), tmp_path / "x.parquet")
    data = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(data[:size])
    with pytest.raises(ValueError, match=r"^x\.parquet from row 1 on: damaged table: [^\n]*$"):
        imported(tmp_path / "x.parquet", "ms_swift", tmp_path)


def test_id_that_stands_twice_is_a_reject(imported: Imported, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(_origin() + b"\n" + _origin(chosen_seed=9))
    (pair,), (reject,) = imported(tmp_path / "x.jsonl", "ms_swift", tmp_path)
    assert (pair.id, pair.chosen_seed) == (_ORIGIN["id"], 1)
    assert reject.reason == "x.jsonl line 2: its id stands before in the file"


def test_record_and_its_own_copy_that_was_exported_are_one_pair(imported: Imported, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(_line())
    ((pair,), _) = imported(tmp_path / "x.jsonl", "ms_swift", tmp_path)
    names = [field.name for field in fields(PairOrigin)]
    copy = _line(stic_ray={name: getattr(pair, name) for name in names})
    (tmp_path / "x.jsonl").write_bytes(_line() + b"\n" + copy)
    (again,), (reject,) = imported(tmp_path / "x.jsonl", "ms_swift", tmp_path)
    assert again == pair and reject.reason == "x.jsonl line 2: its id stands before in the file"


def test_folder_of_lists_is_read_but_for_what_describes_them(imported: Imported, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + _line() + b"]")
    (tmp_path / "b.jsonl").write_bytes(_line())
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}}')
    pairs, rejects = imported(tmp_path, "ms_swift", tmp_path)
    assert (len(pairs), rejects) == (2, [])


def test_columns_of_no_interest_do_no_harm_and_two_of_a_name_are_refused(imported: Imported, tmp_path: Path) -> None:
    trees = pa.Table.from_pylist([json.loads(_line())])
    late = pa.array([99_999_999], pa.int32()).cast(pa.date32())
    pq.write_table(trees.append_column("t", late), tmp_path / "x.parquet")
    pairs, rejects = imported(tmp_path / "x.parquet", "ms_swift", tmp_path)
    assert (len(pairs), rejects) == (1, [])
    pq.write_table(trees.append_column("images", trees.column("images")), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"^x\.parquet from row 1 on: there are two columns images"):
        imported(tmp_path / "x.parquet", "ms_swift", tmp_path)


def test_origin_of_nothing_is_none(imported: Imported, tmp_path: Path) -> None:
    lines = [_line(stic_ray=None), _line(stic_ray=dict.fromkeys(_ORIGIN)), _line()]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    pairs, rejects = imported(tmp_path / "x.jsonl", "ms_swift", tmp_path)
    assert (len({pair.id for pair in pairs}), rejects) == (3, [])


def test_whole_paths_are_taken_without_a_root_and_relative_ones_start_beside_the_file(
    imported: Imported, tmp_path: Path
) -> None:
    paths = ["a.png", "/elsewhere/a.png", "s3://bucket/a.png", "row:0.1:image:/x.parquet"]
    bad = ["../a.png", "nosuch://x/a.png", "row:image", "github://x/a.png", "http://[::1/a.png"]
    lines = [_line(images=[path]) for path in [*paths, *bad]]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    pairs, rejects = imported(tmp_path / "x.jsonl", "ms_swift")
    assert [pair.image_uri for pair in pairs] == [str(tmp_path / "a.png"), *paths[1:]]
    reasons = ["leaves its root", "cannot open nosuch://x/a.png", "is no location of an image"]
    reasons += ["cannot open github://x/a.png", "cannot open http://[::1/a.png"]
    assert [why in reject.reason for why, reject in zip(reasons, rejects, strict=True)] == [True] * 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.jsonl", r"instructions\.uri .*none\.jsonl does not exist: give a file of records"),
        ("empty", r"instructions\.uri .*empty is a folder without \.parquet, \.jsonl, \.json files"),
        ("empty.jsonl", r"instructions\.uri .*empty\.jsonl is empty"),
        ("splits", r"instructions\.uri .*splits holds several splits \(\): give the folder of one"),
        ("saved", r"instructions\.uri .*saved names a file that is missing: data\.arrow"),
    ],
)
def test_check_names_what_is_missing(tmp_path: Path, name: str, message: str) -> None:
    for folder in ("empty", "splits", "saved"):
        (tmp_path / folder).mkdir()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "splits" / "dataset_dict.json").touch()
    (tmp_path / "saved" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(ValueError, match=rf"^{message}[^\n]*$"):
        incoming.check_instructions(TrlMessages(uri=str(tmp_path / name)), "instructions")
    (tmp_path / "x.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"^imported\.images .*none does not exist: give the folder"):
        incoming.check(str(tmp_path / "x.jsonl"), str(tmp_path / "none"), "imported")
