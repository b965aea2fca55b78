"""What a second run makes, and what it does not: counted in the store. Changed alpha: see test_kills.py."""

import json
from pathlib import Path

import pytest
import yaml
from e2e_project import Project

from stic_ray.audit import audit_run

pytestmark = pytest.mark.slow


def test_finished_run_leaves_everything_a_user_needs(finished: Project) -> None:
    home = finished.run_home
    for name in ("artifacts.json", "config.yaml", "metrics.jsonl", "report.html", "report.md", "summary.json"):
        assert (home / name).stat().st_size > 0
    for stage in ("stage1", "stage2"):
        assert (home / stage / "adapter" / "adapter_model.safetensors").is_file()
        assert (home / stage / "merged" / "model.safetensors").is_file()
    stages = yaml.safe_load((home / "config.yaml").read_text())
    assert stages["stage1"]["loss"]["type"] == "DpoLoss"
    lines = [json.loads(line) for line in (home / "metrics.jsonl").read_text().splitlines()]
    assert {"stage1/loss", "stage1/margin", "stage1/accuracy"} <= set(lines[0])
    assert json.loads((home / "summary.json").read_text()) == {}


def test_second_run_makes_nothing(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "again")
    before = {path: path.stat().st_mtime_ns for path in project.store.rglob("*") if path.is_file()}
    done = project.run()
    assert done.returncode == 0, done.stderr
    assert "starting Ray" not in done.stderr
    assert "0 artifacts made" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in project.store.rglob("*") if path.is_file()} == before


def test_changed_prompt_redoes_what_depends_on_it_and_no_more(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "prompt")
    before = project.made()
    project.finish("prompts.infused='{question} {description}'")
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["fitting", "stage2"]
    before = project.made()
    project.finish("prompts.infused='{question} {description}'", "prompts.misleading=['describe a dog']")
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["descriptions", "fitting", "pair_scores", "pairs", "responses", "stage1", "stage2"]


def test_stages_alone_make_what_the_pipeline_reuses_and_leave_references(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "alone")
    before = project.made()
    done = project.run(job="build_preferences.py")
    assert done.returncode == 0, done.stderr
    assert project.made() == before  # the very artifacts of the pipeline
    found = json.loads((project.home / "runs" / "own-preferences" / "artifacts.json").read_text())
    assert list(found) == ["listing", "images", "unique", "responses", "pairs"]
    assert all(f"{role} " in done.stdout and uri in done.stdout for role, uri in found.items())
    done = project.run("unlabeled.uri=nowhere", "sampling.max_new_tokens=5", job="describe.py")  # it needs none of them
    assert done.returncode == 0, done.stderr
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["descriptions"]  # by the base: the pipeline's are by the stage-1 model
    home = project.home / "runs" / "own-descriptions"
    assert list(json.loads((home / "artifacts.json").read_text())) == ["samples", "descriptions"]
    assert audit_run(str(home)).faults == audit_run(str(project.home / "runs" / "own-preferences")).faults == []


def test_changed_p_or_alpha_scores_and_pairs_nothing_again(finished: Project, tmp_path: Path) -> None:
    """Counted in the store: a sweep over either pays for training, and alpha for its own model's descriptions."""
    project = finished.copy(tmp_path / "sweep")
    before = project.made()
    selected = ["vig={blind: {type: Blur, radius: 0.2}}", "stage1.selection={type: GainedPairs, keep_share: 0.8}"]
    selected += ["stage2.selection={type: VigSelection, keep_share: 0.7, tokens: {type: PhraseTokens, min_gain: 0}}"]
    project.finish(*selected)
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    scored = ["pair_gains", "pair_selection", "sample_gains", "sample_scores", "sample_selection"]
    assert added == ["descriptions", "fitting", *scored, "stage1", "stage2"]
    assert audit_run(str(project.run_home)).faults == []
    before = project.made()
    project.finish(*selected, "stage2.selection.keep_share=0.5")
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["sample_selection", "stage2"]
    before = project.made()
    project.finish(*selected, "stage1.loss.alpha=0.5")
    added = sorted(name.rpartition("-")[0] for name in project.made() - before)
    assert added == ["descriptions", "fitting", "stage1", "stage2"]


def test_bpo_alone_and_sft_alone_are_whole_runs(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "alone")
    sampling = "{temperature: 0.8, max_new_tokens: 12}"
    kinds = f"[{{type: NoisedImage}}, {{type: OtherImage}}, {{type: ErrorInjection, sampling: {sampling}}}]"
    config = yaml.safe_load((project.home / "own.yaml").read_text())
    data = json.dumps({name: config["instructions"][name] for name in ("type", "uri", "images")})
    bpo = [f"annotated={{data: {data}, negatives: {{per_positive: 2, kinds: {kinds}}}, sampling: {sampling}}}"]
    bpo += ["name=bpo", "unlabeled=null", "stage2=null", "stage2_control=null"]
    bpo += ["prompts.rewrite_description='spoil : {description}'", "prompts.rewrite_answer='{question} {answer} no'"]
    project.finish(*bpo)
    home = project.home / "runs" / "bpo"
    assert audit_run(str(home)).faults == []
    roles = set(json.loads((home / "artifacts.json").read_text()))
    assert roles == {"annotations", "annotated_responses", "annotated_pairs", "annotated_pairs_scores", "stage1"}
    done = project.run("vig={blind: {type: NoImage}}", job="score_vig.py")
    assert done.returncode == 0, done.stderr
    done = project.run("vig={blind: {type: NoImage}}", job="select_samples.py")
    assert done.returncode == 2 and "stage2.selection is null" in done.stderr
    done = project.run("vig={blind: {type: NoImage}}", job="train_sft.py")
    assert done.returncode == 0, done.stderr
    assert set(json.loads((project.home / "runs" / "own-sft" / "artifacts.json").read_text())) == {
        "samples",
        "fitting",
        "stage2",
    }
