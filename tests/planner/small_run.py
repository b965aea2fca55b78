"""A run's folder with the records that a plan is made of, and no data: what it was made of, and how long that took."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from stic_ray import artifacts, recipes, storage
from stic_ray.artifacts import MODEL, REFERENCES, Artifact, Plan
from stic_ray.config import Config, parse_config, read_yaml, to_tree
from stic_ray.train.job import METRICS

BATCH = 32
EPOCHS = 2


def embedded(*overrides: str) -> Config:
    """The embedded recipe."""
    return parse_config(read_yaml(recipes.read(recipes.EMBEDDED), "embedded"), list(overrides))


class SmallRun:
    """Artifacts by role; `commit` adds one."""

    def __init__(self, home: Path, config: Config) -> None:
        self.config = replace(config, store=str(home / "store"), runs=str(home / "runs"))
        self.uri = str(home / "runs" / config.name)
        self._made: dict[str, Artifact] = {}

    def commit(self, role: str, stage: str, rows: int, parents: Mapping[str, str], **figures: Any) -> None:
        """An artifact of `parents`, by name the roles of those before."""
        plan = Plan(
            stage=stage,
            code_version=1,
            identity={"role": role, "training": {"global_batch": BATCH}},
            parents={name: self._made[of].fingerprint for name, of in parents.items()} | {"model": "base-0"},
            kind=MODEL if "steps" in figures else "Row",
        )
        counts = {"rows": rows, "rejects": 0, "rejects_by_reason": {}}
        home = storage.join(self.config.store, plan.name)
        storage.write_bytes(storage.join(home, "data", "part"), b"x" * 10 * rows)
        self._made[role] = artifacts.commit(self.config.store, plan, figures, counts)

    def train(self, role: str, parents: Mapping[str, str], *, steps: int, step_s: float, start_s: float) -> None:
        """A training, whose steps took as long as each other but for the first."""
        seconds = [3 * step_s, *[step_s] * (steps - 1)]
        figures = {"seconds": start_s + step_s * steps, "attempts": [{"workers": 1}], "steps": steps}
        self.commit(role, role, 0, parents, **figures)
        lines = [json.dumps({"samples_per_s": BATCH / each, "row_tokens": 1000.0}) for each in seconds]
        storage.write_bytes(storage.join(self._made[role].uri, METRICS), "\n".join(lines).encode())

    def finish(self) -> str:
        """Write down what was made; the run's folder."""
        references = {role: artifact.uri for role, artifact in self._made.items()}
        storage.write_bytes(storage.join(self.uri, REFERENCES), json.dumps(references).encode())
        storage.write_bytes(storage.join(self.uri, "config.yaml"), yaml.safe_dump(to_tree(self.config)).encode())
        return self.uri


def make_run(home: Path, images: int = 96, *, start_s: float = 10.0, config: Config | None = None) -> str:
    """Stage 1 with its control, and the base on 1,000 questions: an image takes 0.1 s of an actor, a pair 0.05 s, a
    step 0.5 s."""
    run = SmallRun(home, config or embedded(f"name=small-{images}"))
    run.commit("listing", "listing", images, {}, inputs=images, seconds=1.0)
    units = {"inputs": images, "inputs_per_s": 1.0, "prepared_s": 0.0}
    work = {"seconds": start_s + 0.05 * images, "span_s": 0.05 * images, "worked_s": 0.1 * images}
    tokens = {"requests": 2.0 * images, "prompt_tokens": 1400.0 * images, "new_tokens": 300.0 * images}
    run.commit("responses", "responses", 2 * images, {"images": "listing"}, **units, **work, **tokens)
    light = {"seconds": 1.0, "span_s": 0.5, "worked_s": 0.001 * images}
    run.commit("pairs", "pairs", images, {"responses": "responses"}, **units, **light)
    scored = {"seconds": start_s + 0.025 * images, "span_s": 0.025 * images, "worked_s": 0.05 * images}
    run.commit("pairs_scores", "pair_scores", 2 * images, {"pairs": "pairs"}, **units, **scored, scored_tokens=300.0)
    steps = -(-images * EPOCHS // BATCH)
    for role in ("stage1", "stage1_control"):
        run.train(role, {"scores": "pairs_scores"}, steps=steps, step_s=0.5, start_s=2 * start_s)
    run.commit("questions", "questions", 1000, {}, inputs=1000, seconds=1.0)
    asked = {**units, "inputs": 100, "seconds": start_s + 5.0, "span_s": 5.0, "worked_s": 10.0, **tokens}
    run.commit("predictions_base", "predictions", 1000, {"questions": "questions"}, **asked)
    return run.finish()
