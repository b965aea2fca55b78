"""One's own model on one's own photos, without any ground truth."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_files import bad_files, write_bad_files
from e2e_project import Project, configuration

from kill_rounds import audit, references
from stic_ray import artifacts, launch
from stic_ray.config import Config
from stic_ray.images import corrupt, decode, hash_pixels
from stic_ray.records import ImageRef, Pair, Response, Sample
from stic_ray.stages.generate import CORRUPTED, DISPREFERRED, MISLEADING, PREFERRED, draw_requests

pytestmark = pytest.mark.slow

_NUM_SAMPLES = 8


def _write_instructions(path: Path, photos: list[Path]) -> None:
    """LLaVA JSON as users write it: the image's name below the folder, questions on what is written in it."""
    entries: list[dict[str, Any]] = [
        {
            "id": photo.stem,
            "image": photo.name,
            "conversations": [
                {"from": "human", "value": f"<image>\nis there a {thing} in the picture ?"},
                {"from": "gpt", "value": "yes" if index % 2 else "no"},
            ],
        }
        for index, (photo, thing) in enumerate(zip(photos, ["cat", "car", "dog", "house"] * 2, strict=True))
    ]
    path.write_text(json.dumps(entries))


@pytest.fixture(scope="module")
def own(real_data: Path, tiny_llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A finished run on the real photos, with bad files of every kind among them."""
    home = tmp_path_factory.mktemp("photos")
    photos = home / "images"
    shutil.copytree(real_data / "photos", photos)
    _write_instructions(home / "samples.json", sorted(photos.iterdir())[:_NUM_SAMPLES])
    write_bad_files(photos / "bad")
    config = configuration(tiny_llava, photos, home / "samples.json")
    (home / "own.yaml").write_text(yaml.safe_dump(config))
    project = Project(home=home)
    project.finish()
    return project


def _config(own: Project) -> Config:
    return launch.resolve_config(launch.parse_arguments(["--config", str(own.run_home / "config.yaml")]))


def test_run_on_real_photos_leaves_models_and_a_report_without_ground_truth(own: Project, real_data: Path) -> None:
    of_pairs = ["listing", "images", "unique", "responses", "pairs", "pair_scores"]
    assert own.stages() == sorted([*of_pairs, "stage1", "samples", "descriptions", "fitting", "stage2"])
    for stage in ("stage1", "stage2"):
        assert (own.run_home / stage / "adapter" / "adapter_model.safetensors").is_file()
    assert json.loads((own.run_home / "summary.json").read_text()) == {}
    report = (own.run_home / "report.md").read_text()
    assert "preferred" in report and "CHAIR" not in report and "POPE" not in report
    found = references(own.run_home)
    photos = {path.name for path in (real_data / "photos").iterdir()}
    listed = artifacts.read(found["unique"], ImageRef)
    assert {ref.key for ref in listed} == photos and len(photos) > 40
    answered = Counter(row.image_id for row in artifacts.read(found["responses"], Response) if row.text)
    assert answered == {ref.id: 2 for ref in listed}
    described = artifacts.read(found["descriptions"], Sample)
    assert len(described) == _NUM_SAMPLES and all(sample.description for sample in described)
    assert audit(own.run_home) == []
    rejects = {role: artifacts.load(uri).record["counts"]["rejects"] for role, uri in found.items()}
    assert {role: number for role, number in rejects.items() if number} == {"images": len(list(bad_files())) + 2}


def test_merged_model_loads_in_transformers_and_differs_from_the_base(
    own: Project, real_data: Path, tiny_llava: Path
) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    image = decode(next((real_data / "photos").glob("*.jpg")).read_bytes())
    logits = []
    for path in (tiny_llava, own.run_home / "stage1" / "merged", own.run_home / "stage2" / "merged"):
        processor = AutoProcessor.from_pretrained(path)
        model = AutoModelForImageTextToText.from_pretrained(path)
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "describe the image"}]}
        prompt = processor.apply_chat_template([message], add_generation_prompt=True)
        with torch.no_grad():
            logits.append(model(**processor(text=[prompt], images=[image], return_tensors="pt")).logits)
    assert all(bool(torch.isfinite(found).all()) for found in logits)
    assert not torch.equal(logits[0], logits[1]) and not torch.equal(logits[1], logits[2])


def test_image_that_the_model_saw_is_the_one_that_the_pair_says(own: Project) -> None:
    pairs = artifacts.read(references(own.run_home)["pairs"], Pair)
    kinds = []
    for pair in pairs:
        clean = decode(Path(pair.image_uri).read_bytes())
        seen = corrupt(clean, pair.corruption)
        assert hash_pixels(clean) == pair.chosen_seen_hash
        assert hash_pixels(seen) == pair.rejected_seen_hash
        assert bool(pair.corruption) is (pair.negative == CORRUPTED) is (clean.tobytes() != seen.tobytes())
        kinds.append(json.loads(pair.corruption)["type"] if pair.corruption else pair.negative)
    assert set(kinds) == {MISLEADING, "Downsize", "ColorJitter"}


def test_every_prompt_corruption_and_seed_can_be_read_from_the_pair(own: Project) -> None:
    config = _config(own)
    pairs = artifacts.read(references(own.run_home)["pairs"], Pair)
    assert len(pairs) >= 20
    for pair in pairs:
        preferred, dispreferred = draw_requests(
            pair.image_id, seed=config.seed, pool=config.prompts, negatives=config.negatives
        )
        assert (preferred.role, dispreferred.role) == (PREFERRED, DISPREFERRED)
        assert (pair.chosen_prompt, pair.chosen_seed) == (preferred.prompt, preferred.seed)
        rejected = (pair.rejected_prompt, pair.rejected_seed, pair.negative, pair.corruption)
        assert rejected == (dispreferred.prompt, dispreferred.seed, dispreferred.negative, dispreferred.corruption)
        assert pair.chosen_prompt in config.prompts.detailed and pair.prompt in config.prompts.simple
        wrong = config.prompts.misleading if pair.negative == MISLEADING else config.prompts.simple
        assert pair.rejected_prompt in wrong
