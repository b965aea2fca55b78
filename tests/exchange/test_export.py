"""The command that exports: what it finds, what it refuses in one line, and what it leaves."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stic_ray import storage
from stic_ray.artifacts import REFERENCES, UNDERWAY, Artifact
from stic_ray.exchange import export
from stic_ray.records import Pair, Sample, make_id

Made = Callable[[list[Pair] | list[Sample]], Artifact]


def _lines(uri: Path) -> list[str]:
    return sorted(json.loads(line)["stic_ray"]["id"] for line in uri.read_bytes().splitlines())


def test_run_gives_all_its_pairs_or_samples(
    pairs: list[Pair], samples: list[Sample], artifact_of: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, sampled = artifact_of(pairs), artifact_of(samples)
    run = tmp_path / "runs" / "mine"
    references = {"pairs": made.uri, "samples": sampled.uri, "annotations": sampled.uri, "imported_pairs": made.uri}
    storage.write_bytes(str(run / REFERENCES), json.dumps(references).encode())
    for what, rows in (("pairs", pairs), ("samples", samples)):
        out = tmp_path / f"{what}.jsonl"
        assert export.main([str(run), "--format", "trl", "--out", str(out), "--what", what]) == 0
        assert _lines(out) == sorted(row.id for row in rows)
        assert capsys.readouterr().out.split() == ["trl", str(len(rows)), what, str(out)]


def test_run_of_rounds_gives_the_pairs_of_all(pairs: list[Pair], artifact_of: Made, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    references = {"pairs_round1": artifact_of(pairs[:2]).uri, "pairs": artifact_of(pairs[2:]).uri}
    storage.write_bytes(str(run / REFERENCES), json.dumps(references).encode())
    out = tmp_path / "x.jsonl"
    assert export.main([str(run), "--format", "trl", "--out", str(out)]) == 0
    assert _lines(out) == sorted(row.id for row in pairs)


def test_copies_of_different_images_of_one_name_stay_apart(
    pairs: list[Pair], artifact_of: Made, photos: Path, tmp_path: Path
) -> None:
    same = []
    files = [(photos / name).read_bytes() for name in ("a.png", "b.png")]
    for pair, data, folder in zip(pairs, files, ("one", "two"), strict=False):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(data)
        same.append(replace(pair, image_id=make_id("1.png"), image_uri=str(tmp_path / folder / "1.png")))
    out = tmp_path / "x.jsonl"
    assert export.main([artifact_of(same).uri, "--format", "trl", "--out", str(out), "--images", "copy"]) == 0
    copies = [json.loads(line)["images"][0] for line in out.read_text().splitlines()]
    assert {(tmp_path / copy).read_bytes() for copy in copies} == set(files)


def test_left_out_rows_are_counted_by_reason(
    pairs: list[Pair], artifact_of: Made, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"x")
    bad = [
        replace(pairs[0], id=make_id("bad", 0), prompt="an <image>?"),
        replace(pairs[0], id=make_id("bad", 1), image_uri="/nowhere/a.png"),
        replace(pairs[0], id=make_id("bad", 2), image_uri=str(photos / "broken.png")),
    ]
    out = tmp_path / "x.parquet"
    call = [artifact_of([*pairs, *bad]).uri, "--format", "ms_swift", "--out", str(out), "--images", "embedded"]
    assert export.main(call) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ms_swift", str(len(pairs)), "pairs", str(out)]
    assert sorted(" ".join(line.split()) for line in lines[1:]) == [
        "left out 1 pairs a text holds <image>, which readers take for an image",
        "left out 1 pairs not an image, or of a kind that is not read",
        "left out 1 pairs the image file is missing",
    ]


def test_nothing_to_write_is_an_error_and_leaves_no_file(
    pairs: list[Pair], artifact_of: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [replace(pair, image_uri="/nowhere/a.png") for pair in pairs]
    for out in ("x.jsonl", "saved"):
        call = [artifact_of(bad).uri, "--format", "trl", "--out", str(tmp_path / out), "--images", "copy"]
        assert export.main(call) == 2
        assert "nothing could be written, most often because the image file is missing (6 pairs)" in (
            capsys.readouterr().err
        )
        assert not (tmp_path / out).exists()


def test_references_into_tables_are_noted(
    pairs: list[Pair], artifact_of: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = [replace(pair, image_uri=f"row:0.{n}:image:/x.parquet") for n, pair in enumerate(pairs)]
    assert export.main([artifact_of(inside).uri, "--format", "trl", "--out", str(tmp_path / "x.jsonl")]) == 0
    assert "6 images lie inside of tables or tars: other tools cannot follow" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none holds no artifacts.json: give the directory of a run"),
        (["underway"], "underway is not finished"),
        (["broken"], "artifacts.json is damaged"),
        (["run"], "run holds no samples: give a run that made some"),
        (["run", "--what=pairs", "--images=embedded"], "JSON holds no images: end it in .parquet"),
        (["run", "--what=pairs", "--out=run"], "run is there already: remove it"),
        (["run", "--what=pairs", "--out=/proc/x.jsonl"], "--out /proc/x.jsonl cannot be reached"),
        (["run", "--what=pairs", "--out=nosuch://x.jsonl"], "cannot open nosuch://x.jsonl"),
        (["run", "--what=pairs", "--format=llama_factory"], "dataset_info.json is damaged"),
        (["samples", "--format=bpo"], "--format bpo holds pairs only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistake_is_one_line_and_exit_2(
    pairs: list[Pair],
    samples: list[Sample],
    artifact_of: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, file, text in (
        ("underway", UNDERWAY, "{}"),
        ("broken", REFERENCES, "{"),
        ("run", REFERENCES, json.dumps({"pairs": artifact_of(pairs).uri})),
        ("samples", REFERENCES, json.dumps({"samples": artifact_of(samples).uri})),
    ):
        storage.write_bytes(str(tmp_path / name / file), text.encode())
    (tmp_path / "dataset_info.json").write_text("[]")
    call = [arguments[0], "--format=trl", "--out=x.jsonl", "--what=samples", *arguments[1:]]
    assert export.main(call) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("error: ") and message in captured.err, captured.err
    assert not (tmp_path / "x.jsonl").exists()


def test_write_that_is_cut_off_leaves_no_file(
    pairs: list[Pair], artifact_of: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_tree", fail)
    made = artifact_of(pairs)
    for name in ("x.jsonl", "x.json", "x.parquet", "x"):
        with pytest.raises(KeyboardInterrupt):
            export.main([made.uri, "--format", "trl", "--out", str(tmp_path / "out" / name)])
        assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_export_to_a_bucket_is_whole(pairs: list[Pair], artifact_of: Made, s3_bucket: str) -> None:
    made = artifact_of(pairs)
    call = [made.uri, "--format", "llama_factory", "--images", "copy", "--out"]
    for name, status in (("x.jsonl", 0), ("x.parquet", 2), ("y.parquet", 0)):  # the entry x is x.jsonl's
        assert export.main([*call, f"{s3_bucket}/out/{name}"]) == status
    assert len(storage.read_bytes(f"{s3_bucket}/out/x.jsonl").splitlines()) == len(pairs)
    assert len(storage.list_files(f"{s3_bucket}/out/x_images")) == 3
    entries = json.loads(storage.read_text(f"{s3_bucket}/out/dataset_info.json"))
    assert {name: entry["file_name"] for name, entry in entries.items()} == {"x": "x.jsonl", "y": "y.parquet"}
