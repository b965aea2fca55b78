"""Conversations as the chat template writes them, images as the model takes them, and prompts as one batch.

Legend: B = prompts, T = positions, U = different beginnings of prompts, S = positions up to an image's last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from stic_ray.noise import Noise, diffuse
from stic_ray.records import Turn

# What image processors say of an image beside its tensors: how many rows and columns of tiles it was cut into.
_NOTES = ("rows", "cols")


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts as one batch; what those on one image have in common, all up to its last token, stands there once.

    `input_ids` and `attention_mask` [B, S + T] are padded on the left twice, before the beginning and before the rest.
    `beginnings` are the inputs of a forward over [U, S] and `beginning_of` [B] says which one a prompt has; both are
    empty, and S is 0, where no prompt has an image.
    """

    input_ids: Tensor
    attention_mask: Tensor
    beginnings: dict[str, Tensor]
    beginning_of: list[int]


def render(processor: Any, turns: Sequence[Turn], *, has_image: bool, answer_next: bool) -> str:
    """A conversation as the chat template writes it, the image before the first user text."""
    messages = []
    for index, turn in enumerate(turns):
        content: list[dict[str, str]] = [{"type": "text", "text": turn.text}]
        if has_image and index == 0:
            content.insert(0, {"type": "image"})
        messages.append({"role": turn.role, "content": content})
    text: str = processor.apply_chat_template(messages, add_generation_prompt=answer_next, tokenize=False)
    return text


def render_prompt(processor: Any, prompt: str, *, has_image: bool) -> str:
    """A single user turn, ready to be answered."""
    return render(processor, [Turn(role="user", text=prompt)], has_image=has_image, answer_next=True)


def tokenize(processor: Any, texts: Sequence[str]) -> list[list[int]]:
    """Rendered prompts as token ids, an image's marker still a single one."""
    ids: list[list[int]] = tokenize_texts(processor, texts)["input_ids"] if texts else []
    return ids


def encode_prompts(
    processor: Any,
    texts: Sequence[str],
    images: Sequence[Image.Image | None],
    noises: Sequence[Noise | None] = (),
) -> PromptBatch:
    """Rendered prompts with their images (of all or of none) as one batch; `noises` are added to processed images."""
    seen = [
        (id(image), noise, image)
        for image, noise in zip(images, noises or [None] * len(images), strict=True)
        if image is not None
    ]
    different = {(key, noise): image for key, noise, image in seen}
    tensors, placeholders = process_images(processor, list(different.values()))
    for number, (_, noise) in enumerate(different):
        if noise is not None:
            tensors["pixel_values"][number] = add_noise(tensors["pixel_values"][number], noise)
    numbers = {key: number for number, key in enumerate(different)}
    image_of = [numbers[key, noise] for key, noise, _ in seen]
    if not image_of:
        ids_BT, mask_BT = _pad_left(processor, tokenize_texts(processor, texts)["input_ids"])
        return PromptBatch(input_ids=ids_BT, attention_mask=mask_BT, beginnings={}, beginning_of=[])
    ids = tokenize_texts(processor, expand(processor, texts, [placeholders[number] for number in image_of]))[
        "input_ids"
    ]
    cuts = [_last_index(row, processor.image_token_id) + 1 for row in ids]
    heads = [(number, tuple(row[:cut])) for number, row, cut in zip(image_of, ids, cuts, strict=True)]
    beginnings = {head: index for index, head in enumerate(dict.fromkeys(heads))}
    beginning_of = [beginnings[head] for head in heads]
    ids_US, mask_US = _pad_left(processor, [head for _, head in beginnings])
    ids_BT, mask_BT = _pad_left(processor, [row[cut:] for row, cut in zip(ids, cuts, strict=True)])
    used = [number for number, _ in beginnings]
    return PromptBatch(
        input_ids=torch.cat([ids_US[beginning_of], ids_BT], dim=1),
        attention_mask=torch.cat([mask_US[beginning_of], mask_BT], dim=1),
        beginnings={
            "input_ids": ids_US,
            "attention_mask": mask_US,
            **{name: value[used] for name, value in tensors.items()},
        },
        beginning_of=beginning_of,
    )


def add_noise(pixels: Tensor, noise: Noise) -> Tensor:
    """Processed pixels of an image, diffused (BPO); of one in tiles, the real ones' noise is the same beside others."""
    return torch.from_numpy(diffuse(pixels.float().numpy(), noise)).to(pixels.dtype)


def noised_pixels(processor: Any, image: Image.Image, noise: Noise) -> Tensor:
    """What the image processor makes of an image that it does not cut into tiles, diffused, [C, H, W]."""
    tensors, _ = process_images(processor, [image])
    (pixels_CHW,) = tensors["pixel_values"]
    return add_noise(pixels_CHW, noise)


def beginning_length(processor: Any) -> int:
    """How many tokens a prompt has up to its image's last one; of a square image, where that depends on the image."""
    prompt = render_prompt(processor, "what ?", has_image=True)
    batch = encode_prompts(processor, [prompt], [Image.new("RGB", (336, 336))])
    return int(batch.beginnings["input_ids"].shape[1])


def read_beginnings(model: Any, batch: PromptBatch) -> Any:
    """The key-value cache of the prompts' beginnings [B], each different one read once; None where there are none."""
    if not batch.beginning_of:
        return None
    inputs = {name: value.to(model.device) for name, value in batch.beginnings.items()}
    positions_US = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp_min(0)
    cache = model(**inputs, position_ids=positions_US, use_cache=True, logits_to_keep=1).past_key_values
    cache.batch_select_indices(torch.tensor(batch.beginning_of, device=model.device))
    return cache


def process_images(processor: Any, images: list[Image.Image]) -> tuple[dict[str, Tensor], list[str]]:
    """The model's image tensors, and the text that each image stands for in a prompt."""
    if not images:
        return {}, []
    # Each in a list of its own: families that cut an image into tiles take a list as the images of one prompt.
    tiled = {"return_row_col_info": True} if hasattr(processor.image_processor, "do_image_splitting") else {}
    processed = processor.image_processor([[image] for image in images], return_tensors="pt", **tiled)
    placeholders = [processor.replace_image_token(processed, image_idx=index) for index in range(len(images))]
    notes = {*processor.unused_input_names, *_NOTES}
    tensors = {name: value for name, value in processed.items() if name not in notes}
    return tensors, placeholders


def expand(processor: Any, texts: Sequence[str], placeholders: list[str]) -> list[str]:
    """Texts with each image's marker, in order, as long as the image is to the model."""
    expanded, _ = processor.get_text_with_replacements(list(texts), placeholders)
    return list(expanded)


def tokenize_texts(processor: Any, texts: Sequence[str], *, offsets: bool = False) -> Any:
    """Texts as token ids; the tokenizer adds its first token where the template has not written it."""
    start = processor.tokenizer.bos_token
    written = bool(start) and all(text.startswith(start) for text in texts)  # most templates write it, LLaVA-1.5's not
    return processor.tokenizer(list(texts), add_special_tokens=not written, return_offsets_mapping=offsets)


def _pad_left(processor: Any, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and their mask, [B, T] each."""
    length = max(len(row) for row in rows)
    pad = processor.tokenizer.pad_token_id or 0
    ids_BT = torch.tensor([[pad] * (length - len(row)) + list(row) for row in rows])
    mask_BT = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids_BT, mask_BT


def _last_index(row: Sequence[int], token: int) -> int:
    return len(row) - 1 - row[::-1].index(token)
