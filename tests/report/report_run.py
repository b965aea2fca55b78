"""A small run with everything in it that a report shows, hostile in every text that models, files and paths give."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from stic_ray import artifacts, recipes, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import parse_config, read_yaml, to_tree
from stic_ray.records import Gain, ImageRef, Pair, Reject, Selected, Turn, make_id

HOSTILE = (
    "<script>alert(1)</script> \"'><img src=http://x.y onerror=alert(2)> &lt; ]]> --> <!-- <script> \u2028 </style>"
)
NUM_PAIRS = 40
TITLES = {
    "describe/chair_s": {"title": "CHAIR_s", "less_is_better": True},
    "pope/f1": {"title": "F1", "less_is_better": False},
}


def commit(store: Path, plan: Plan, rows: Sequence[Any], rejects: Sequence[Reject] = (), **figures: Any) -> Artifact:
    """An artifact of these rows, in files of ten."""
    uri = storage.join(str(store), plan.name)
    for start in range(0, max(len(rows), 1), 10):
        part = list(rejects) if start == 0 else []
        artifacts.write_rows(uri, list(rows[start : start + 10]), type(rows[0]) if rows else Pair, part)
    return artifacts.commit(str(store), plan, {"seconds": 3.0, "inputs": len(rows) + len(rejects), **figures})


def pair(number: int, image: str, **values: str) -> Pair:
    """A pair of two answers that differ in one word."""
    texts = {name: "" for name in Pair.__annotations__ if name not in ("chosen_seed", "rejected_seed")}
    texts |= {"prompt": "what ?", "chosen": "a red dog", "rejected": "a blue dog", "negative": "misleading_prompt"}
    texts |= {"id": make_id("pair", number), "item_id": make_id("item", number), "image_uri": image}
    return Pair(**{**texts, **values}, chosen_seed=number, rejected_seed=7 * number)


def gain(number: int, role: str, image: str, text: str = "a dog") -> Gain:
    """An answer of three tokens, the last its end."""
    gains = [float(np.float32(math.sin(number + place))) for place in range(3)]
    return Gain(
        id=make_id("gain", number, role),
        item_id=make_id("item", number),
        role=role,
        image_id=make_id("image", number),
        image_uri=image,
        category=HOSTILE if number == 0 else "misleading_prompt",
        first_word="a",
        turns=[Turn(role="user", text="what ?"), Turn(role="assistant", text=text)],
        token_ids=[1, 2, 3],
        answers=[0, 0, 0],
        starts=[0, 2, len(text)],
        stops=[1, len(text), len(text)],
        logp=[-1.0] * 3,
        blind_logp=[-1.0 - value for value in gains],
        gains=gains,
        mean_gain=sum(gains) / 3,
    )


def write_run(folder: Path, name: str = "mine", settings: Sequence[str] = (), chair_s: float = 30.0) -> Path:
    """The folder of a run whose pairs, images, reasons, names of files and settings are hostile."""
    store = folder / "store"
    photo = folder / f"photo {HOSTILE.replace('/', '')[:40]}.png"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(photo)
    (folder / "broken.png").write_bytes(b"no image")
    images = [str(photo), str(folder / "broken.png")]
    refs = [
        ImageRef(id=make_id("item", n), key=HOSTILE, uri=images[n % 2], content_hash="", num_bytes=1) for n in range(60)
    ]
    made = {
        "images": commit(store, Plan(stage="images", code_version=1, identity={"x": HOSTILE}, kind="ImageRef"), refs)
    }
    of = {"images": made["images"].fingerprint}
    pairs = [pair(0, images[0], prompt=HOSTILE, chosen=HOSTILE, rejected=f"b {HOSTILE}", negative=HOSTILE)]
    pairs.append(pair(1, images[1], corruption=HOSTILE, negative="corrupted_image", rejected_prompt=HOSTILE))
    pairs += [pair(n, images[0]) for n in range(2, NUM_PAIRS)]
    rejects = [Reject(id=make_id("item", n), stage="pairs", reason=HOSTILE) for n in range(NUM_PAIRS, 60)]
    made["pairs"] = commit(
        store, Plan(stage="pairs", code_version=1, identity={}, parents=of, kind="Pair"), pairs, rejects
    )
    of = {"scores": made["pairs"].fingerprint}
    gains = [gain(n, role, images[0]) for n in range(NUM_PAIRS) for role in ("chosen", "rejected")]
    gains[0] = gain(0, "chosen", images[0], HOSTILE)
    made["pairs_gains"] = commit(
        store, Plan(stage="pair_gains", code_version=1, identity={}, parents=of, kind="Gain"), gains
    )
    of = {"gains": made["pairs_gains"].fingerprint}
    chosen = {"selection": {"type": "GainedPairs"}}
    plan = Plan(stage="pair_selection", code_version=1, identity=chosen, parents=of, kind="Selected")
    made["stage1_selection"] = commit(store, plan, [_selected(each) for each in gains[:20]])
    of = {"scores": made["pairs"].fingerprint, "selection": made["stage1_selection"].fingerprint}
    for role in ("stage1", "stage1_control"):
        plan = Plan(stage=role, code_version=1, identity={"training": {"global_batch": 8}}, parents=of, kind="model")
        made[role] = artifacts.commit(str(store), plan, {"seconds": 7200.0, "steps": 5, "last": {"tokens_per_s": 10.0}})
    return _write_folder(folder, name, made, settings, chair_s)


def _selected(of: Gain) -> Selected:
    return Selected(
        id=make_id("selected", of.id),
        item_id=of.item_id,
        role=of.role,
        image_id=of.image_id,
        stratum=HOSTILE,
        mean_gain=of.mean_gain,
        weight=1.0,
        num_used=3,
        token_ids=[],
        used=[],
    )


def _write_folder(
    folder: Path, name: str, made: Mapping[str, Artifact], settings: Sequence[str], chair_s: float
) -> Path:
    run = folder / "runs" / name
    run.mkdir(parents=True)
    config = parse_config(
        read_yaml(recipes.read("embedded"), "embedded"), [f"name={name}", f"store={folder}", *settings]
    )
    tree = to_tree(config)
    (run / "config.yaml").write_text(f"# python jobs/x.py 'a={HOSTILE[:60]}'\n{yaml.safe_dump(tree, sort_keys=False)}")
    (run / "artifacts.json").write_text(json.dumps({role: artifact.uri for role, artifact in made.items()}))
    figures = {
        "base": {"describe": {"chair_s": 50.0, HOSTILE: 1.0}, "pope": {"f1": 80.0}},
        "stage1": {"describe": {"chair_s": chair_s}, "pope": {"f1": 82.0}},
        "stage1_control": {"describe": {"chair_s": 40.0}, "pope": {"f1": 81.0}},
    }
    bounds = {model: {"describe": {"chair_s": [20.0, 60.0]}} for model in figures}
    differences = {"stage1": {"base": {"describe/chair_s": [chair_s - 50, -25.0, -15.0]}}}
    summary = {**figures, "intervals": bounds, "figures": TITLES, "differences": differences}
    (run / "summary.json").write_text(json.dumps(summary))
    lines = [
        {"step": step, f"{role}/loss": 1 / step, f"{role}/grad_norm": None if step == 2 else 1.0}
        for role in ("stage1", "stage1_control")
        for step in range(1, 6)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run
