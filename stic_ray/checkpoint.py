"""What a checkpoint directory must hold, known from its small files alone: checked before anything heavy starts."""

import json

from stic_ray import storage

SUPPORTED = ("llava",)  # model_type of the families that vlm.py knows


def check_checkpoint(uri: str) -> None:
    """Whether a directory holds a checkpoint that this project can train.

    Raises:
        ValueError: something is missing or not supported; the message says what and the remedy.
    """
    files = {uri.rpartition("/")[2]: uri for uri in storage.list_files(uri)}
    if "config.json" not in files:
        raise ValueError(f"model.path {uri} holds no config.json: give a checkpoint directory of transformers")
    family = _read(files["config.json"]).get("model_type")
    if family not in SUPPORTED:
        raise ValueError(f"model.path {uri} is of type {family!r}: supported are {', '.join(SUPPORTED)}")
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"model.path {uri} holds no *.safetensors: only safetensors weights are read, convert them")
    settings = [_read(files[n]) for n in ("processor_config.json", "tokenizer_config.json") if n in files]
    templates = ("chat_template.jinja", "chat_template.json")
    if not any(name in files for name in templates) and not any(entry.get("chat_template") for entry in settings):
        raise ValueError(f"model.path {uri} has no chat template: save one with its processor (chat_template.jinja)")


def _read(uri: str) -> dict[str, object]:
    try:
        tree = json.loads(storage.read_text(uri))
    except ValueError:
        raise ValueError(f"{uri} is no JSON file: the checkpoint is damaged, copy it again") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{uri} holds no JSON object: the checkpoint is damaged, copy it again")
    return tree
