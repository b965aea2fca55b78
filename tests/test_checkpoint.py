"""What a checkpoint directory must hold."""

from pathlib import Path

from stic_ray.checkpoint import check_checkpoint


def test_checkpoint_in_the_cache_of_hugging_face_is_accepted(tmp_path: Path) -> None:
    """Its snapshots are links to blobs."""
    files = {"config.json": '{"model_type": "llava"}', "model.safetensors": "", "chat_template.jinja": "x"}
    snapshot = tmp_path / "snapshots" / "0123"
    for folder in (snapshot, tmp_path / "blobs"):
        folder.mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "blobs" / f"of-{name}").write_text(text)
        (snapshot / name).symlink_to(f"../../blobs/of-{name}")
    check_checkpoint(str(snapshot))
