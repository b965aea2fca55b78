"""What a checkpoint directory must hold."""

import shutil
from pathlib import Path

import pytest

from stic_ray.checkpoint import check_checkpoint

_NO_TENSORS = "\2\0\0\0\0\0\0\0{}"


def test_checkpoint_in_the_cache_of_hugging_face_is_accepted(tmp_path: Path) -> None:
    """Its snapshots are links to blobs."""
    files = {"config.json": '{"model_type": "llava"}', "model.safetensors": _NO_TENSORS, "chat_template.jinja": "x"}
    snapshot = tmp_path / "snapshots" / "0123"
    for folder in (snapshot, tmp_path / "blobs"):
        folder.mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "blobs" / f"of-{name}").write_text(text)
        (snapshot / name).symlink_to(f"../../blobs/of-{name}")
    check_checkpoint(str(snapshot))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_checkpoint_whose_weights_are_cut_off_is_refused(tiny_llava: Path, tmp_path: Path, kept: int) -> None:
    model = Path(shutil.copytree(tiny_llava, tmp_path / "model"))
    check_checkpoint(str(model))
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut off or damaged: copy it again"):
        check_checkpoint(str(model))


def test_checkpoint_that_is_a_hubs_name_says_that_nothing_is_downloaded(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"llava-hf/x does not exist: .*a name on a model hub is not downloaded"):
        check_checkpoint(str(tmp_path / "llava-hf/x"))
