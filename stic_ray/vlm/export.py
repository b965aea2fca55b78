"""Checkpoints written: safetensors with the key names of published ones."""

import json
import re
from pathlib import Path
from typing import Any

# transformers 5 drops this level when it saves; published checkpoints and vLLM's own classes have it.
_EXPORT_KEYS = ((re.compile(r"^(?:model\.)?vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),)


def save_checkpoint(model: Any, processor: Any, directory: str) -> None:
    """A whole checkpoint that transformers and vLLM's own classes load: safetensors, processor, published key names."""
    model.save_pretrained(directory, save_original_format=True)
    processor.save_pretrained(directory)
    _rename_for_export(Path(directory))


def _rename_for_export(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in sorted(directory.glob("*.safetensors")):
        tensors = load_file(file)
        renamed = {_export_key(name): value for name, value in tensors.items()}
        if renamed.keys() != tensors.keys():
            save_file(renamed, file, metadata={"format": "pt"})
    index = directory / "model.safetensors.index.json"
    if index.exists():
        listing = json.loads(index.read_text())
        listing["weight_map"] = {_export_key(name): file for name, file in listing["weight_map"].items()}
        index.write_text(json.dumps(listing, indent=1, sort_keys=True))


def _export_key(name: str) -> str:
    for pattern, replacement in _EXPORT_KEYS:
        name = pattern.sub(replacement, name)
    return name
