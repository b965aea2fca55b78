"""Random checkpoints and adapters, for benchmarks and for tests that compare engines: none of any size is shipped.

Answers vary with the image and the prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from stic_ray import vlm
from stic_ray.config import Lora

_SENTENCES = (
    "a small dog sits on the green grass next to a wooden bench",
    "describe the image in detail , and name every object that you see",
    "what color is the car in front of the house ? it is red",
    "two people walk along the beach under a cloudy sky",
    "there are three apples and one orange in the bowl on the table",
    "is there a cat in the picture ? yes , a black cat sleeps near the window",
)
_PART = "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
_CONTENT = "{% for part in message['content'] %}" + _PART + "{% endfor %}"
TEMPLATES = {
    "llava": "{{ bos_token }}{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    + _CONTENT
    + "{{ eos_token if message['role'] == 'assistant' else ' ' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    "qwen2_5_vl": "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    + _CONTENT.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    + "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "idefics3": "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize + ':' }}"
    + _CONTENT
    + "{{ '<end_of_utterance>\n' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
}
_IDEFICS3 = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
_QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_TILES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a random model is; an image, or a tile of one, is `tile_px` wide in patches of 14."""

    tile_px: int = 56
    hidden: int = 128
    mlp: int = 0  # twice `hidden`
    layers: int = 2
    head: int = 32  # the width of one: 32 is the least that vLLM has CPU kernels for
    key_value_share: float = 0.5  # of as many heads
    vocabulary: int = 512
    positions: int = 1024
    vision_hidden: int = 64
    vision_mlp: int = 128
    vision_layers: int = 2
    vision_heads: int = 2
    spread: float = 0.2


# The sizes of LLaVA-1.5-7B.
LLAVA_7B = Size(
    tile_px=336,
    hidden=4096,
    mlp=11008,
    layers=32,
    head=128,
    key_value_share=1.0,
    vocabulary=32064,
    positions=4096,
    vision_hidden=1024,
    vision_mlp=4096,
    vision_layers=24,
    vision_heads=16,
    spread=0.02,
)


def save_random_model(
    family: str,
    folder: Path,
    size: Size,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Save a random checkpoint of a family, drawn on a device, with a tokenizer or one of a few English sentences.

    An Idefics3 cuts large images into up to 3 x 3 tiles, a LLaVA-NeXT every image into up to 2 x 2.
    """
    extra = {"idefics3": _IDEFICS3 + _TILES, "smolvlm": _IDEFICS3 + _TILES, "qwen2_5_vl": _QWEN}.get(family, ())
    tokenizer = tokenizer or train_tokenizer(min(size.vocabulary, 500), ["<image>", *extra])
    torch.manual_seed(seed)  # some families draw vectors too
    makers = {
        "llava": _llava,
        "llava_next": _llava_next,
        "idefics3": _idefics3,
        "smolvlm": _smolvlm,
        "qwen2_5_vl": _qwen,
    }
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model, processor = makers[family](tokenizer, size)
    torch.set_default_dtype(usual)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.dim() > 1
            ):  # spread out, so that no answer repeats one token and few logits are near each other
                parameter.normal_(0, size.spread, generator=generator)
    vlm.save_checkpoint(model, processor, str(folder))
    return folder


def save_random_adapter(model: Path, folder: Path, *, seed: int, rank: int = 8) -> Path:
    """Save a LoRA adapter that changes answers, and the model with it merged beside it, whose folder is returned."""
    adapted = vlm.add_lora(vlm.load_model(str(model), "float32"), Lora(rank=rank, lora_alpha=2 * rank), projector=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0, 0.1, generator=generator)
    adapted.save_pretrained(folder)
    merged = folder.with_name(f"{folder.name}-merged")
    vlm.save_checkpoint(adapted.merge_and_unload(), vlm.load_processor(str(model)), str(merged))
    return merged


def _llava(tokenizer: PreTrainedTokenizerFast, size: Size) -> tuple[Any, Any]:
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": size.tile_px}, crop_size={"height": size.tile_px, "width": size.tile_px}
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATES["llava"],
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision_sizes(size), projection_dim=64),
        text_config=_text_config(tokenizer, size),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(size.tile_px // 14) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(tokenizer: PreTrainedTokenizerFast, size: Size) -> tuple[Any, Any]:
    side = size.tile_px
    grids = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}, image_grid_pinpoints=grids
        ),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATES["llava"],
    )
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_vision_sizes(size), projection_dim=64),
        text_config=_text_config(tokenizer, size),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grids,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaNextForConditionalGeneration(config), processor


def _idefics3(tokenizer: PreTrainedTokenizerFast, size: Size) -> tuple[Any, Any]:
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 3 * size.tile_px}, max_image_size={"longest_edge": size.tile_px}
        ),
        tokenizer=tokenizer,
        image_seq_len=(size.tile_px // 14) ** 2 // 4,
        chat_template=TEMPLATES["idefics3"],
    )
    config = Idefics3Config(
        vision_config=_vision_sizes(size),
        text_config=_text_config(tokenizer, size).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm(tokenizer: PreTrainedTokenizerFast, size: Size) -> tuple[Any, Any]:
    from transformers import (  # its processors need torchvision
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    sizes: dict[str, Any] = {
        "size": {"longest_edge": 3 * size.tile_px},
        "max_image_size": {"longest_edge": size.tile_px},
    }
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=tokenizer,
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=(size.tile_px // 14) ** 2 // 4,
        chat_template=TEMPLATES["idefics3"],
    )
    config = SmolVLMConfig(
        vision_config=_vision_sizes(size),
        text_config=_text_config(tokenizer, size).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    return SmolVLMForConditionalGeneration(config), processor


def _qwen(tokenizer: PreTrainedTokenizerFast, size: Size) -> tuple[Any, Any]:
    from transformers import (  # its processors need torchvision
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    pixels = {"shortest_edge": 28 * 28, "longest_edge": (2 * size.tile_px) ** 2}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=pixels),
        chat_template=TEMPLATES["qwen2_5_vl"],
    )
    text = _text_config(tokenizer, size).to_dict()
    text |= {"model_type": "qwen2_5_vl_text", "rope_parameters": None}
    sections = {"type": "default", "rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10_000.0}
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 2,
            "out_hidden_size": size.hidden,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        text_config={**text, "rope_parameters": sections},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _vision_sizes(size: Size) -> dict[str, int]:
    return {
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_mlp,
        "num_hidden_layers": size.vision_layers,
        "num_attention_heads": size.vision_heads,
        "image_size": size.tile_px,
        "patch_size": 14,
    }


def _text_config(tokenizer: PreTrainedTokenizerFast, size: Size) -> LlamaConfig:
    heads = size.hidden // size.head
    return LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.mlp or 2 * size.hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=round(heads * size.key_value_share),
        head_dim=size.head,
        vocab_size=size.vocabulary,
        max_position_embeddings=size.positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )


def train_tokenizer(vocabulary: int, extra: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens of Llama's and `extra` ones, trained on a few English sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<unk>", "<s>", "</s>", "<pad>", *extra],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        additional_special_tokens=list(extra),
    )
