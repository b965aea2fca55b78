"""What model families call their parts, and what of them trains, is sharded and has adapters.

Legend: T = positions of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stic_ray.config import Lora
from stic_ray.vlm.rows import Row


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a family's class calls its parts, below `model.`: language model, projector and vision tower.

    `beside` are weights that stand beside the projector and count as its own: like it, only an image uses them.
    """

    language: str
    projector: str
    vision: str
    beside: tuple[str, ...] = ()

    def is_of_projector(self, name: str) -> bool:
        """Whether a weight of that name is of the projector."""
        return any(_is_in(name, part) for part in (self.projector, *self.beside))


_LLAVA = _Parts(language="language_model", projector="multi_modal_projector", vision="vision_tower")
_IDEFICS = _Parts(language="text_model", projector="connector", vision="vision_model")
_PARTS = {
    "idefics3": _IDEFICS,
    "llava": _LLAVA,
    "llava_next": replace(_LLAVA, beside=("image_newline",)),
    "qwen2_5_vl": _Parts(language="language_model", projector="visual.merger", vision="visual"),
    "smolvlm": _IDEFICS,
}


def other_parts() -> list[str]:
    """What families call their vision towers and projectors."""
    return sorted({name for parts in _PARTS.values() for name in (parts.vision, parts.projector)})


def body_of(model: Any) -> Any:
    """The model itself, of one with adapters the one that they are in."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def _parts_of(model: Any) -> _Parts:
    family = body_of(model).config.model_type
    if family not in _PARTS:
        raise ValueError(f"model.path: {family} is none of the families that can be trained: {', '.join(_PARTS)}")
    return _PARTS[family]


def language_model(model: Any) -> Any:
    """The language model without its head."""
    return body_of(model).model.get_submodule(_parts_of(model).language)


def projector(model: Any) -> nn.Module:
    """What turns the vision tower's output into the language model's embeddings."""
    module: nn.Module = body_of(model).model.get_submodule(_parts_of(model).projector)
    return module


def projector_rows(model: Any, images: Mapping[str, Tensor]) -> list[int]:
    """How many rows of what the projector takes are each image's: 1, its tiles, or the patches of one without tiles."""
    family = body_of(model).config.model_type
    if family == "qwen2_5_vl":
        return [int(count) for count in images["image_grid_thw"].prod(dim=1)]
    if family == "llava_next":
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = body_of(model).config
        grids, tile_px = config.image_grid_pinpoints, config.vision_config.image_size
        return [image_size_to_num_patches(size, grids, tile_px) for size in images["image_sizes"].tolist()]
    pixels = images["pixel_values"]
    if pixels.dim() == 4:
        return [1] * len(pixels)
    return [int(count) for count in (pixels != 0).flatten(2).any(dim=2).sum(dim=1)]  # tiles of 0 fill up the batch


def drop_language_model(model: Any) -> None:
    """Free the weights that no image meets before they meet a text: the language model and its head."""
    parent, _, name = f"model.{_parts_of(model).language}".rpartition(".")
    setattr(model.get_submodule(parent), name, None)
    model.lm_head = None


def row_positions(model: Any, row: Row) -> Tensor:
    """The positions of a row as the language model takes them: [1, T], or [3, 1, T] where images have rows and columns.

    The latter is multimodal rotary position embedding (Qwen2-VL, arXiv 2409.12191, section 2.1).
    """
    body = body_of(model)
    if body.config.model_type != "qwen2_5_vl":
        return row.positions
    grids = iter(row.images.get("image_grid_thw", ()))
    found, start = [], 0
    for segment in row.segments:
        ids_T = row.input_ids[0, start : start + segment.length]
        is_image_T = ids_T == body.config.image_token_id
        grid = next(grids)[None] if is_image_T.any() else None
        cuts = ids_T.split((segment.prefix, *segment.branches))
        for number, branch in enumerate(cuts[1:] or (ids_T[:0],)):
            whole_1T = torch.cat([cuts[0], branch])[None]
            kinds_1T = (whole_1T == body.config.image_token_id).int()
            positions_31T, _ = body.model.get_rope_index(whole_1T, kinds_1T, image_grid_thw=grid)
            found.append(positions_31T if number == 0 else positions_31T[..., segment.prefix :])
        start += segment.length
    return torch.cat(found, dim=-1)


def trained_in_float32(model: Any) -> Any:
    """The model with every weight that trains held in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def add_lora(model: Any, lora: Lora, *, projector: bool) -> Any:
    """The model with trainable adapters on its language blocks; everything else frozen.

    With `projector` a copy of the projector trains as a whole, and is saved and loaded with the adapter.
    """
    from peft import LoraConfig, get_peft_model

    parts = _parts_of(model)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        target_modules=rf".*{parts.language}\.layers\.\d+\.(self_attn|mlp)\.\w+_proj",
        modules_to_save=[parts.projector] if projector else None,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def load_adapter(model: Any, adapted: Any, path: str, name: str) -> Any:
    """peft's view of a model with a saved adapter in it; `adapted` is that view where it has one already, else None."""
    from peft import PeftModel

    if adapted is None:
        return PeftModel.from_pretrained(model, path, adapter_name=name).eval()
    adapted.load_adapter(path, adapter_name=name)
    return adapted.eval()


def unfreeze_language_model(model: Any, *, projector: bool, frozen: Sequence[str] = ()) -> None:
    """Train the language model with its embeddings and head, and the projector if asked; the vision tower is frozen.

    So are weights whose dotted names have one of `frozen` in them.

    Raises:
        ValueError: no weight has such a name, or nothing is left to train.
    """
    parts = _parts_of(model)
    names = [name for name, _ in model.named_parameters()]
    for part in frozen:
        if not any(_is_in(name, part) for name in names):
            raise ValueError(f"weights.frozen: no weight of the model has {part} in its name, like {names[-1]}")
    for name, parameter in model.named_parameters():
        trains = projector if parts.is_of_projector(name) else not _is_in(name, parts.vision)
        parameter.requires_grad_(trains and not any(_is_in(name, part) for part in frozen))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"weights.frozen ({', '.join(frozen)}) leaves nothing to train: name fewer parts")


def _is_in(name: str, part: str) -> bool:
    return f".{part}." in f".{name}."


def projector_parameters(model: Any) -> list[nn.Parameter]:
    """The parameters between vision tower and language model: of an adapted model, those that the adapter replaces."""
    parts, inner = _parts_of(model), body_of(model).model
    named = projector(model).named_parameters()  # not the whole model's: every forward asks
    return [
        *(parameter for name, parameter in named if not _is_in(name, "original_module")),
        *(inner.get_parameter(name) for name in parts.beside),
    ]


def sharding_units(model: Any) -> list[nn.Module]:
    """The blocks that are sharded one by one (FSDP): the language model's layers."""
    return list(language_model(model).layers)
