"""Whole runs as a user starts them: `python jobs/stic_pipeline.py` as a process, on a model that is not the world's."""

import json
import os
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
NUM_IMAGES = 24
NUM_SAMPLES = 20


@dataclass(frozen=True)
class Project:
    """A user's folder: images, instruction data, configuration, store and runs."""

    home: Path

    @property
    def store(self) -> Path:
        return self.home / "store"

    @property
    def run_home(self) -> Path:
        return self.home / "runs" / "own"

    def command(self, *overrides: str, job: str = "stic_pipeline.py") -> list[str]:
        return [sys.executable, str(ROOT / "jobs" / job), "--config", str(self.home / "own.yaml"), *overrides]

    def run(self, *overrides: str, job: str = "stic_pipeline.py") -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(*overrides, job=job), cwd=self.home, capture_output=True, text=True, timeout=600
        )

    def finish(self, *overrides: str) -> None:
        done = self.run(*overrides)
        assert done.returncode == 0, done.stderr[-4000:]

    def made(self) -> set[str]:
        """The names of the committed artifacts in the store."""
        return {record.parent.name for record in self.store.glob("*/record.json")}

    def copy(self, home: Path) -> "Project":
        """The same folder elsewhere; its configuration's paths, and so all identities, stay as they were."""
        shutil.copytree(self.home, home, ignore=shutil.ignore_patterns("images"))
        return Project(home=home)

    def take(self, other: "Project", *stages: str) -> None:
        """Copy another project's artifacts of these stages into this one's store."""
        for stage in stages:
            (artifact,) = other.store.glob(f"{stage}-*")
            shutil.copytree(artifact, self.store / artifact.name)

    def stages(self) -> list[str]:
        """The stages of the committed artifacts, one entry an artifact."""
        return sorted(name.rpartition("-")[0] for name in self.made())


def draw_images(folder: Path, count: int, seed: int = 0) -> None:
    """Different images of different sizes and formats."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        size = (rng.randint(30, 90), rng.randint(30, 90))
        image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
        corner = (rng.randint(0, 10), rng.randint(0, 10), rng.randint(15, 29), rng.randint(15, 29))
        ImageDraw.Draw(image).ellipse(corner, fill=tuple(rng.randrange(256) for _ in range(3)))
        image.save(folder / f"{index:03d}.{'png' if index % 2 else 'jpg'}")


def write_instructions(path: Path, images: Path) -> None:
    """LLaVA JSON on the images, of one and of two turns, one of them text-only."""
    entries: list[dict[str, Any]] = [
        {
            "id": f"s{index}",
            "image": image.name,
            "conversations": [
                {"from": "human", "value": "<image>\nwhat color is the car ?"},
                {"from": "gpt", "value": "it is red"},
                *([{"from": "human", "value": "a cat ?"}, {"from": "gpt", "value": "no"}] if index % 2 else []),
            ],
        }
        for index, image in enumerate(sorted(images.iterdir())[: NUM_SAMPLES - 1])
    ]
    text = [{"from": "human", "value": "hello there"}, {"from": "gpt", "value": "two people walk"}]
    path.write_text(json.dumps([*entries, {"id": "text", "conversations": text}]))


def configuration(model: Path, images: Path, instructions: Path) -> dict[str, Any]:
    """A small but whole configuration of a user's own."""
    training = {"weights": {"type": "Lora", "rank": 4, "lora_alpha": 8}, "lr": 1e-3, "epochs": 1, "global_batch": 4}
    return {
        "name": "own",
        "seed": 0,
        "model": {"path": str(model), "dtype": "float32"},
        "unlabeled": {"type": "ImageFolder", "uri": str(images)},
        "instructions": {"type": "LlavaJson", "uri": str(instructions), "images": str(images)},
        "prompts": {
            "detailed": ["describe the image in detail , and name every object"],
            "simple": ["describe the image", "what is in the picture ?"],
            "misleading": ["describe two people in the picture"],
            "infused": "image : {description} . {question}",
        },
        "negatives": {
            "kinds": [
                {"type": "MisleadingPrompt"},
                {
                    "type": "CorruptedImage",
                    "corruptions": [
                        {"type": "Downsize", "short_side_px": 8},
                        {"type": "ColorJitter", "brightness": 0.5, "hue": 0.3, "min_hue": 0.1},
                    ],
                },
            ],
        },
        "sampling": {"temperature": 0.8, "max_new_tokens": 12},
        "stage1": {
            **training,
            "validation": {"share": 0.2, "every": 2},
            "loss": {"type": "DpoLoss", "beta": 0.1, "alpha": 1.0, "reduction": "token_mean"},
        },
        "stage1_control": None,
        "stage2": {**training, "loss": {"type": "SftLoss"}},
        "stage2_control": None,
        "execution": {
            "pool": {"num_cpus": 0.75},
            "task_cpus": 0.25,
            "batch_size": 8,
            "rows_per_file": 8,
            "row_tokens": 100,
            "checkpoint_every": 2,
            "max_reject_rate": 0.8,
        },
    }


def make_project(home: Path, model: Path, num_images: int = NUM_IMAGES) -> Project:
    """A user's folder with everything in it."""
    draw_images(home / "images", num_images)
    write_instructions(home / "samples.json", home / "images")
    config = configuration(model, home / "images", home / "samples.json")
    (home / "own.yaml").write_text(yaml.safe_dump(config))
    return Project(home=home)


def audit(run_home: Path) -> "subprocess.CompletedProcess[str]":
    """`python jobs/audit.py RUN`."""
    return subprocess.run(
        [sys.executable, str(ROOT / "jobs" / "audit.py"), str(run_home)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
