"""Rounds of stage 1: each is by the model of the one before, and none is done twice."""

import json
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from e2e_project import Project, audit

from stic_ray import artifacts
from stic_ray.records import Pair, Response
from stic_ray.stages.generate import OTHER

pytestmark = pytest.mark.slow

LEFT_OUT = ("stage2=null", "stage2_control=null")


def test_every_round_is_written_referenced_and_started_by_the_one_before(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "rounds")
    before = project.made()
    project.finish("rounds=2", *LEFT_OUT)
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["pair_scores", "pairs", "responses", "stage1"]  # the first round is the run that was there
    lineage = json.loads((project.run_home / "artifacts.json").read_text())
    one_round = ["responses", "pairs", "pairs_scores", "stage1"]
    rounds = [f"{role}{suffix}" for suffix in ("_round1", "") for role in one_round]
    assert list(lineage) == ["listing", "images", "unique", *rounds]
    made = {role: artifacts.load(uri) for role, uri in lineage.items()}
    first = made["stage1_round1"].fingerprint
    for role in ("responses", "pairs_scores", "stage1"):
        assert made[role].record["parents"]["model"] == first != made[f"{role}_round1"].record["parents"]["model"]
    one, two = (
        {pair.image_id: pair for pair in artifacts.read(lineage[role], Pair)} for role in ("pairs_round1", "pairs")
    )
    assert one.keys() & two.keys()
    assert any(one[image].prompt != two[image].prompt for image in one.keys() & two.keys())  # drawn anew
    assert {pair.id for pair in one.values()}.isdisjoint(pair.id for pair in two.values())
    for name in ("stage1_round1", "stage1"):
        for part in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
            assert (project.run_home / name / part).is_file()
    lines = [json.loads(line) for line in (project.run_home / "metrics.jsonl").read_text().splitlines()]
    assert [sum(f"{name}/loss" in line for line in lines) for name in ("stage1_round1", "stage1")] == [
        made[name].record["steps"] for name in ("stage1_round1", "stage1")
    ]
    assert audit(project.run_home).returncode == 0

    assert project.run("rounds=2", "vig={blind: {type: NoImage}}", job="train_sft.py").returncode == 0

    project.finish(*LEFT_OUT)
    assert not (project.run_home / "stage1_round1").exists()
    assert json.loads((project.run_home / "artifacts.json").read_text())["stage1"] == lineage["stage1_round1"]


def test_rounds_of_annotated_pairs_go_on_with_the_same_samples_whatever_happens_meanwhile(
    finished: Project, tmp_path: Path
) -> None:
    project = finished.copy(tmp_path / "annotated")
    config = yaml.safe_load((project.home / "own.yaml").read_text())
    source = config["instructions"]
    samples = project.home / "mine.json"
    samples.write_bytes(Path(source["uri"]).read_bytes())
    config |= {
        "rounds": 2,
        "unlabeled": None,
        "annotated": {
            "data": {"type": "LlavaJson", "uri": str(samples), "images": source["images"]},
            "negatives": {"kinds": [{"type": "NoisedImage"}, {"type": "OtherImage"}], "per_positive": 2},
            "sampling": config["sampling"],
        },
        "vig": {"blind": {"type": "NoImage"}},
        "stage1_control": {**config["stage1"], "loss": {"type": "SftLoss"}},
        "stage2": None,
    }
    config["stage1"]["selection"] = {"type": "GainedPairs", "keep_share": 0.9}
    (project.home / "own.yaml").write_text(yaml.safe_dump(config))
    before = project.made()
    with (project.home / "log").open("w") as log:
        process = subprocess.Popen(project.command(), cwd=project.home, stdout=log, stderr=log)
        while process.poll() is None and not any(name.startswith("stage1-") for name in project.made() - before):
            time.sleep(0.1)
        samples.write_text(samples.read_text().replace("hello there", "hello you"))
        assert process.wait(timeout=600) == 0, (project.home / "log").read_text()[-4000:]
    assert audit(project.run_home).returncode == 0
    lineage = json.loads((project.run_home / "artifacts.json").read_text())
    one_round = ["annotated_responses", "annotated_pairs", "annotated_pairs_scores", "annotated_pairs_gains"]
    one_round += ["stage1_selection_of_annotated_pairs", "stage1", "stage1_control"]
    assert list(lineage) == ["annotations", *(f"{role}{suffix}" for suffix in ("_round1", "") for role in one_round)]
    for suffix in ("_round1", ""):
        responses = artifacts.load(lineage[f"annotated_responses{suffix}"])
        assert responses.record["parents"]["samples"] == artifacts.load(lineage["annotations"]).fingerprint
        rows = artifacts.read(responses.uri, Response)
        others = [(row, json.loads(row.corruption)["uri"]) for row in rows if row.negative == OTHER]
        assert others and all(uri != row.image_uri for row, uri in others)
