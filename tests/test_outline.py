"""The outline of a run against the pipeline itself, whose stages here make nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stic_ray import deliver, outline, pipeline
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import parse_config, read_yaml
from stic_ray.evaluate import judging
from stic_ray.recipes import expand, read
from stic_ray.run import Run, Step

_JUDGE = "evaluation.judge={type: Endpoint, url: 'http://127.0.0.1:1/v1', model: judge}"


class _NothingMade(Run):
    """Takes every plan for made: what follows of a plan is its fingerprint alone, and of a model what it is of."""

    folder: Path

    def __enter__(self) -> "_NothingMade":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def make(self, role: str, plan: Plan, work: Callable[[Plan], Artifact]) -> Artifact:
        record = {"fingerprint": plan.fingerprint, "counts": {"rows": 1, "rejects": 0}, "stage": plan.stage}
        self.artifacts[role] = Artifact(uri=str(self.folder / plan.name), record=record)
        merged = self.folder / plan.name / "merged"
        merged.mkdir(parents=True, exist_ok=True)
        (merged / "config.json").write_text('{"model_type": "llava"}')
        return self.artifacts[role]

    def make_together(self, steps: Sequence[Step]) -> list[Artifact]:
        return [self.make(step.role, step.plan, step.work) for step in steps]


def _outline_and_made(
    monkeypatch: pytest.MonkeyPatch, folder: Path, recipe: str, *overrides: str
) -> tuple[list[str], list[str]]:
    config = parse_config(expand(read_yaml(read(recipe), recipe)), list(overrides))
    made = _NothingMade(config)
    made.folder = folder
    monkeypatch.setattr(pipeline, "Run", lambda *_, **__: made)
    monkeypatch.setattr(pipeline, "measure", lambda *_: {})
    monkeypatch.setattr(deliver, "write_run", lambda *_: "")
    monkeypatch.setattr(judging, "check_failures", lambda *_: None)
    pipeline.run(config, [])
    return outline.roles(config), list(made.artifacts)


@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        ("embedded", []),
        ("embedded", ["rounds=3", "duplicates={type: NearDuplicates, max_distance: 6}"]),
        ("embedded", ["stage1_control=null", "stage2_control=null", "evaluation=null"]),
        ("embedded", ["stage1.loss={type: MdpoLoss, beta: 0.1, blind: {type: NoImage}}"]),
        ("embedded", ["stage1.loss={type: SimpoLoss, beta: 2.0, gamma: 0.5}"]),
        ("embedded-vig", []),
        ("embedded-bpo", []),
        ("embedded-together", []),
        ("embedded-together", ["rounds=2"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else value,
)
def test_outline_is_what_the_pipeline_makes(
    recipe: str, overrides: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    outlined, made = _outline_and_made(monkeypatch, tmp_path, recipe, *overrides)
    assert outlined == made


def test_outline_has_a_judges_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mm-vet.json").write_text("{}")
    judged = f"evaluation.test={{mmvet: {{type: MmVet, questions: {tmp_path}/mm-vet.json, images: {tmp_path}}}}}"
    outlined, made = _outline_and_made(monkeypatch, tmp_path / "store", "embedded", judged, _JUDGE)
    assert outlined == made and "verdicts_stage2" in made
