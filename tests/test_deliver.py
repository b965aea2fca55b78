"""What a run leaves: models of its own that go with its last configuration."""

from pathlib import Path

from stic_ray import deliver
from stic_ray.artifacts import MODEL, Artifact
from stic_ray.config import parse_config, read_yaml
from stic_ray.recipes import read
from stic_ray.run import Run
from stic_ray.train.job import ADAPTER, CARD, MERGED

STAGES = ("stage1", "stage2")


def _run(store: Path, name: str, *parts: str, stages: tuple[str, ...] = STAGES) -> Run:
    """A run whose models have these parts, all of one size."""
    run = Run(parse_config(read_yaml(read("embedded"), "embedded"), []))
    for stage in stages:
        for part in parts:
            (store / f"{stage}-{name}" / part).mkdir(parents=True)
            (store / f"{stage}-{name}" / part / "model.safetensors").write_text(name)
            (store / f"{stage}-{name}" / part / CARD).write_text(f"card of {name}\n")
        run.artifacts[stage] = Artifact(uri=str(store / f"{stage}-{name}"), record={"kind": MODEL})
    return run


def _models(home: Path) -> dict[str, str]:
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("*.safetensors")}


def test_models_of_a_run_are_those_of_its_last_configuration_whatever_was_there(tmp_path: Path) -> None:
    home = tmp_path / "home"
    lora, full = _run(tmp_path, "a", ADAPTER, MERGED), _run(tmp_path, "b", MERGED)
    for run, name, parts in ((lora, "a", (ADAPTER, MERGED)), (full, "b", (MERGED,)), (lora, "a", (ADAPTER, MERGED))):
        deliver._write_models(run, str(home), {})
        expected = {f"{stage}/{part}/model.safetensors": name for stage in STAGES for part in parts}
        assert _models(home) == expected


def test_models_of_a_run_can_be_edited_without_changing_the_store(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", MERGED)
    deliver._write_models(run, str(tmp_path / "home"), {})
    with open(tmp_path / "home" / "stage1" / MERGED / "model.safetensors", "a") as file:
        file.write("edited")
    assert (tmp_path / "stage1-a" / MERGED / "model.safetensors").read_text() == "a"


def test_models_of_rounds_that_the_last_configuration_has_not_go(tmp_path: Path) -> None:
    home = tmp_path / "home"
    rounds = _run(tmp_path, "a", MERGED, stages=("stage1_round1", "stage1_control_round1", "stage1", "stage2"))
    deliver._write_models(rounds, str(home), {})
    assert sorted(path.name for path in home.iterdir()) == ["stage1", "stage1_round1", "stage2"]
    deliver._write_models(_run(tmp_path, "b", MERGED, stages=("stage1",)), str(home), {})
    assert sorted(path.name for path in home.iterdir()) == ["stage1"]


def test_card_of_a_model_gets_the_scores_of_its_run(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", ADAPTER, MERGED)
    figures = {"describe_simple": {"chair_i": 12.5, "chair_s": 25.0, "recall": 50.0}}
    for _ in range(2):
        shown = {"describe_simple/chair_i": {"title": "CHAIR_i", "less_is_better": True}}
        summary = {"base": figures, "stage1": figures, "figures": shown}
        deliver._write_models(run, str(tmp_path / "home"), summary)
        for part in (ADAPTER, MERGED):
            card = (tmp_path / "home" / "stage1" / part / CARD).read_text()
            assert card.startswith("card of a\n") and card.count("## Scores") == 1 and "12.5" in card
            assert (tmp_path / "home" / "stage2" / part / CARD).read_text() == "card of a\n"
            assert (tmp_path / "stage1-a" / part / CARD).read_text() == "card of a\n"
