"""Random checkpoints and adapters for tests that compare engines; their answers vary with the image and the prompt."""

from pathlib import Path

import torch

from stic_ray import vlm


def save_random_adapter(model: Path, folder: Path, *, seed: int, rank: int = 8) -> Path:
    """Save a LoRA adapter that changes answers, and the model with it merged beside it, whose folder is returned."""
    adapted = vlm.add_lora(vlm.load_model(str(model), "float32"), rank=rank, lora_alpha=2 * rank, projector=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.2, generator=generator)
    adapted.save_pretrained(folder)
    merged = folder.with_name(f"{folder.name}-merged")
    vlm.save_checkpoint(adapted.merge_and_unload(), vlm.load_processor(str(model)), str(merged))
    return merged
