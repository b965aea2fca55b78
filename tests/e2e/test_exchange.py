"""Another tool's pairs in, through scores and a step of training, and out again; as a user starts the jobs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from e2e_project import ROOT, Project, audit

from stic_ray import artifacts
from stic_ray.records import Gain, Pair

pytestmark = pytest.mark.slow


def _write_pairs(path: Path, images: Path) -> int:
    """LLaVA JSON with rejected conversations; the last two records are bad. Returns how many are good."""
    entries = []
    for number, image in enumerate(sorted(images.iterdir())[:10]):
        asked = {"from": "human", "value": f"<image>\nwhat color is car {number} ?"}
        chosen, rejected = ({"from": "gpt", "value": text} for text in ("it is red", "it is a cat"))
        entries.append(
            {"image": image.name, "conversations": [asked, chosen], "rejected_conversations": [asked, rejected]}
        )
    entries[8]["rejected_conversations"] = entries[8]["conversations"]
    del entries[9]["image"]
    path.write_text("[\n" + ",\n".join(map(json.dumps, entries)) + "\n]")
    return 8


def _export(*arguments: str) -> str:
    command = [sys.executable, str(ROOT / "jobs" / "export_pairs.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imported_pairs_are_exported_imported_scored_and_trained_on(project: Project) -> None:
    home = project.home
    number = _write_pairs(home / "pairs.json", home / "images")
    imported = project.run(
        f"imported={{uri: {home}/pairs.json, format: llava, images: {home}/images}}", job="import_pairs.py"
    )
    assert imported.returncode == 0, imported.stderr[-3000:]
    run = home / "runs" / "own-imported"
    assert audit(run).returncode == 0
    made = json.loads((run / "artifacts.json").read_text())["imported_pairs"]
    first = artifacts.read(made, Pair)
    assert len(first) == number
    assert sorted(reject.reason for reject in artifacts.read_rejects(made)) == [
        "pairs.json line 10 (record 9): both answers are the same",
        "pairs.json line 11 (record 10): <image> must stand once, in the first turn, of a record that has an image",
    ]

    told = _export(str(run), "--format", "trl", "--images", "embedded", "--out", str(home / "out" / "pairs.parquet"))
    assert told.split()[:3] == ["trl", str(number), "pairs"]

    config = yaml.safe_load((home / "own.yaml").read_text())
    config |= {"unlabeled": None, "stage2": None, "vig": {"blind": {"type": "NoImage"}}}
    config["imported"] = {"uri": str(home / "out" / "pairs.parquet"), "format": "trl"}
    config["stage1"]["steps"] = 1
    (home / "own.yaml").write_text(yaml.safe_dump(config))
    project.finish()
    assert audit(project.run_home).returncode == 0
    made = json.loads((project.run_home / "artifacts.json").read_text())
    second = artifacts.read(made["imported_pairs"], Pair)
    assert [(row.id, row.prompt, row.chosen) for row in second] == [(row.id, row.prompt, row.chosen) for row in first]
    assert artifacts.load(made["stage1"]).record["steps"] == 1

    scored = project.run("instructions=null", job="score_vig.py")
    assert scored.returncode == 0, scored.stderr[-3000:]
    gains = json.loads((home / "runs" / "own-gains" / "artifacts.json").read_text())
    rows = artifacts.read(gains["imported_pairs_gains"], Gain)
    assert {row.item_id for row in rows} == {row.id for row in first} and len(rows) == 2 * number
    assert gains["imported_pairs_scores"] == made["imported_pairs_scores"]
