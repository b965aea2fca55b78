"""How large a model is and what of it would train, from its config.json alone: no weight is read or made."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from stic_ray.config import Lora, Training
from stic_ray.vlm.families import add_lora, body_of, language_model, sharding_units, unfreeze_language_model


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of weights, and the widths that activations and caches have.

    `language`, `head` and `other` (vision tower, projector) add up to all weights without adapters; `block` is one
    block's of the language model with its adapters. Of the trained ones, `trained` in all, `trained_head` are the
    head's. `query` and `key_value` are the widths of all heads together.
    """

    family: str
    language: int
    head: int
    other: int
    block: int
    trained: int
    trained_head: int
    adapter_rank: int
    layers: int
    hidden: int
    mlp: int
    query: int
    key_value: int
    vocabulary: int
    positions: int
    vision_hidden: int
    vision_layers: int
    patches: int
    pixels: int

    @property
    def weights(self) -> int:
        """All weights without adapters."""
        return self.language + self.head + self.other

    @property
    def frozen(self) -> int:
        """Weights that do not train."""
        return self.weights - (self.trained if not self.adapter_rank else 0)


def read_sizes(path: str, training: Training | None = None) -> Sizes:
    """The sizes of the checkpoint at `path`, a directory that holds a config.json, and of what a training trains.

    Raises:
        ValueError: it is of a family that is not known, or `weights.frozen` names what it has not.
    """
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
        return _sizes(model, training)


def _sizes(model: Any, training: Training | None) -> Sizes:
    language, head = _count(language_model(model)), _count(model.lm_head)
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    other = _count(model) - language - (0 if tied else head)
    lora = training.weights if training is not None and isinstance(training.weights, Lora) else None
    if training is not None:
        projector = training.projector_lr is not None
        if lora is not None:
            model = add_lora(model, lora, projector=projector)
        else:
            unfreeze_language_model(model, projector=projector, frozen=training.weights.frozen)  # type: ignore[union-attr]
    body = body_of(model)
    text, vision = body.config.get_text_config(), body.config.vision_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    side = getattr(vision, "image_size", 0) or 0
    return Sizes(
        family=body.config.model_type,
        language=language,
        head=0 if tied else head,
        other=other,
        block=_count(sharding_units(model)[0]),
        trained=_trained(model) if training is not None else 0,
        trained_head=_trained(body.lm_head) if training is not None else 0,
        adapter_rank=lora.rank if lora is not None else 0,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=text.intermediate_size,
        query=width * text.num_attention_heads,
        key_value=width * (text.num_key_value_heads or text.num_attention_heads),
        vocabulary=text.vocab_size,
        positions=text.max_position_embeddings,
        vision_hidden=vision.hidden_size,
        vision_layers=getattr(vision, "num_hidden_layers", 0) or getattr(vision, "depth", 0),
        patches=(side // vision.patch_size) ** 2 if side else 0,
        pixels=3 * side * side,
    )


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _trained(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
