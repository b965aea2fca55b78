"""Imported pairs: read once on a worker, each bad record a reject, and read again only when the file changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from stic_ray import artifacts
from stic_ray.artifacts import Artifact
from stic_ray.config import Config, ImportedPairs, parse_config, read_yaml
from stic_ray.recipes import read
from stic_ray.records import Pair
from stic_ray.stages import imported


def _config(folder: Path, *overrides: str) -> Config:
    settings = [f"store={folder / 'store'}", "execution.rows_per_file=4", *overrides]
    return parse_config(read_yaml(read("embedded"), "embedded"), settings)


def _record(number: int, **changed: Any) -> str:
    turns = [{"role": "user", "content": f"<image>\nquestion {number}"}, {"role": "assistant", "content": "yes"}]
    return json.dumps({"messages": turns, "images": ["a.png"], "rejected_response": "no", **changed})


def _make(config: Config, source: ImportedPairs) -> Artifact:
    return imported.run(config, source, imported.plan(source))


@pytest.mark.usefixtures("ray_local")
def test_run_keeps_pairs_and_rejects_and_counts_every_record(tmp_path: Path) -> None:
    lines = [_record(number) for number in range(10)]
    lines[3], lines[8] = _record(3, rejected_response="yes"), lines[8][:-5]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    source = ImportedPairs(uri=str(tmp_path / "x.jsonl"), format="ms_swift")
    made = _make(_config(tmp_path), source)
    assert made.record["inputs"] == 10
    reasons = {"both answers are the same": 1, "no JSON: Expecting value": 1}
    assert made.record["counts"] == {"rows": 8, "rejects": 2, "rejects_by_reason": reasons}
    rows = artifacts.read(made.uri, Pair)
    assert {row.prompt for row in rows} == {f"question {n}" for n in range(10) if n not in (3, 8)}
    assert sorted(reject.reason for reject in artifacts.read_rejects(made.uri)) == [
        "x.jsonl line 4: both answers are the same",
        "x.jsonl line 9: no JSON: Expecting value",
    ]
    again = _make(_config(tmp_path, "execution.rows_per_file=3"), source)
    assert (artifacts.read(again.uri, Pair), again.record["counts"]) == (rows, made.record["counts"])


@pytest.mark.usefixtures("ray_local")
def test_run_of_bad_records_only_is_one_error_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("\n".join(_record(n, rejected_response="") for n in range(3)))
    source = ImportedPairs(uri=str(tmp_path / "x.jsonl"), format="ms_swift")
    expected = r"imported_pairs: 3 of 3 inputs .* an answer is empty \(3\).*The first is x\.jsonl line 1: an "
    with pytest.raises(ValueError, match=expected):
        _make(_config(tmp_path), source)


def test_plan_is_of_the_files_the_format_and_the_images_and_of_nothing_else(tmp_path: Path) -> None:
    file, images = tmp_path / "x.jsonl", tmp_path / "images"
    file.write_text(_record(0))
    images.mkdir()
    source = ImportedPairs(uri=str(file), format="ms_swift")
    plans = [imported.plan(source).name]
    assert imported.plan(source).name == plans[0]
    plans.append(imported.plan(ImportedPairs(uri=str(file), format="llava")).name)
    below = ImportedPairs(uri=str(file), format="ms_swift", images=str(images))
    plans.append(imported.plan(below).name)
    (images / "a.png").touch()
    plans.append(imported.plan(below).name)
    file.write_text(_record(1) + "\n")
    plans.append(imported.plan(source).name)
    assert len(set(plans)) == 5
    named = ImportedPairs(uri="/nowhere", format="trl", version="v1")
    assert imported.plan(named).identity["source"]["version"] == "v1"
