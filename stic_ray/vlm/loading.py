"""Checkpoints read: processor, model and generation settings, from safetensors and without remote code."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, GenerationConfig

from stic_ray.checkpoint import check_checkpoint
from stic_ray.vlm.families import other_parts
from stic_ray.vlm.prompts import render_prompt

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_processor(path: str) -> Any:
    """The checkpoint's processor."""
    check_checkpoint(path)
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    if not processor.tokenizer.is_fast or processor.tokenizer.eos_token is None:
        raise ValueError(f"model.path {path}: its tokenizer needs a tokenizer.json and an eos_token: convert it")
    probe = render_prompt(processor, "what ?", has_image=True)
    if probe.count(processor.image_token) != 1 or "{'type'" in probe:
        raise ValueError(
            f"model.path {path}: its chat template must take a message's content as a list of parts and write "
            f"{processor.image_token} once for an image: it gives {probe!r}"
        )
    return processor


def load_model(
    path: str, dtype: str, *, attention: str | None = None, quantize: bool = False, language_layers: int | None = None
) -> Any:
    """The checkpoint's model in evaluation mode, from safetensors, without remote code.

    `attention` is transformers' implementation, None for its choice; `image_attention` needs "eager". `quantize` keeps
    the language model's weights in 4 bits. Of the language model's layers the first `language_layers` are read, None
    for all.
    """
    check_checkpoint(path)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    if language_layers is not None:
        config.get_text_config().num_hidden_layers = language_layers
    model = AutoModelForImageTextToText.from_pretrained(
        path,
        config=config,
        dtype=DTYPES[dtype],
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=attention,
        quantization_config=_four_bits(dtype) if quantize else None,
    )
    return model.eval()


def _four_bits(dtype: str) -> BitsAndBytesConfig:
    """NF4 with quantized constants (QLoRA, arXiv 2305.14314)."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[dtype],
        llm_int8_skip_modules=["lm_head", *other_parts()],
    )


def load_generation_config(path: str) -> GenerationConfig:
    """The checkpoint's generation settings without its weights; as its class has them where no file says."""
    try:
        return GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # no generation_config.json
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path, local_files_only=True))
