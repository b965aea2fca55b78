"""The only knowledge of model families: chat template, processor, image tokens, LoRA targets, sharding, export.

Everything else handles a checkpoint directory, conversations (`Turn`s with the image before the first user text) and
tensors. Legend: B = sequences, T = positions, N = answer tokens of the batch, H = hidden size.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from stic_ray.checkpoint import check_checkpoint
from stic_ray.records import Turn

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Weights of the language model's blocks, as every LLaVA-like class names them since transformers 5.
_LORA_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
_PROJECTOR = "multi_modal_projector."
_VISION = "vision_tower."
# transformers 5 drops this level when it saves; published checkpoints and vLLM's own classes have it.
_EXPORT_KEYS = ((re.compile(r"^(?:model\.)?vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One encoded sequence: token ids [T], which of them are trained (answers with their end token), image tensors."""

    input_ids: list[int]
    trained: list[bool]
    image_inputs: dict[str, Tensor]

    @property
    def num_trained(self) -> int:
        """Answer tokens, end tokens included."""
        return sum(self.trained)


def load_processor(path: str) -> Any:
    """The checkpoint's processor, padding prompts on the left."""
    check_checkpoint(path)
    processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    processor.tokenizer.padding_side = "left"
    return processor


def load_model(path: str, dtype: str) -> Any:
    """The checkpoint's model in evaluation mode, from safetensors, without remote code."""
    check_checkpoint(path)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(
        path, config=config, dtype=_DTYPES[dtype], local_files_only=True, use_safetensors=True
    )
    return model.eval()


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


def encode_prompts(processor: Any, texts: list[str], images: list[Image.Image]) -> dict[str, Tensor]:
    """Rendered prompts as one left-padded batch; `images` are those of the prompts that have one, in order."""
    start = processor.tokenizer.bos_token
    written = bool(start) and all(text.startswith(start) for text in texts)  # most templates write it, LLaVA-1.5's not
    batch = processor(
        text=texts, images=images or None, padding=True, return_tensors="pt", add_special_tokens=not written
    )
    return dict(batch)


def end_token_ids(processor: Any, model: Any) -> list[int]:
    """Token ids that end an answer."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return [i for i in ids if i is not None] or [processor.tokenizer.eos_token_id]


def encode_example(processor: Any, turns: Sequence[Turn], image: Image.Image | None) -> Example:
    """A conversation as token ids with its answers marked; every answer ends with the end token.

    Prompt and answers are tokenised apart, so that an answer's tokens are those that generation would have produced.

    Raises:
        ValueError: the turns do not alternate user, assistant, or the template rewrites earlier turns.
    """
    roles = [turn.role for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise ValueError(f"turns must alternate user and assistant and end with an answer, not {roles}")
    tokenizer = processor.tokenizer
    input_ids: list[int] = []
    trained: list[bool] = []
    image_inputs: dict[str, Tensor] = {}
    written = ""
    for index in range(0, len(turns), 2):
        prompt = render(processor, turns[: index + 1], has_image=image is not None, answer_next=True)
        if not prompt.startswith(written):
            raise ValueError("the chat template rewrites earlier turns: it cannot be trained on several turns")
        if index == 0:
            encoded = encode_prompts(processor, [prompt], [] if image is None else [image])
            ids = encoded.pop("input_ids")[0].tolist()
            encoded.pop("attention_mask", None)
            image_inputs = {name: value for name, value in encoded.items() if name != "token_type_ids"}
        else:
            ids = tokenizer(prompt[len(written) :], add_special_tokens=False)["input_ids"]
        full = render(processor, turns[: index + 2], has_image=image is not None, answer_next=False)
        if not full.startswith(prompt):
            raise ValueError("the chat template changes a prompt when it is answered: it cannot be trained on")
        answer = _answer_ids(tokenizer, full[len(prompt) :], turns[index + 1].text)
        input_ids += ids + answer
        trained += [False] * len(ids) + [True] * len(answer)
        written = full
    return Example(input_ids=input_ids, trained=trained, image_inputs=image_inputs)


def _answer_ids(tokenizer: Any, rendered: str, answer: str) -> list[int]:
    """An answer's tokens up to its first end token; one is added where the template writes none."""
    text = rendered[: rendered.rindex(answer) + len(answer)] if answer in rendered else rendered
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    tail: list[int] = tokenizer(rendered[len(text) :], add_special_tokens=False)["input_ids"]
    end = tokenizer.eos_token_id
    whole = ids + tail
    return [*(whole[: whole.index(end)] if end in whole else ids), end]


def collate(processor: Any, examples: Sequence[Example]) -> dict[str, Tensor]:
    """Right-padded tensors of a micro-batch: input_ids, attention_mask, trained [B, T] and the image tensors."""
    length = max(len(example.input_ids) for example in examples)
    pad = processor.tokenizer.pad_token_id
    shape = (len(examples), length)
    input_ids_BT = torch.full(shape, pad if pad is not None else 0)
    mask_BT = torch.zeros(shape, dtype=torch.long)
    trained_BT = torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        used = len(example.input_ids)
        input_ids_BT[row, :used] = torch.tensor(example.input_ids)
        mask_BT[row, :used] = 1
        trained_BT[row, :used] = torch.tensor(example.trained)
    batch = {"input_ids": input_ids_BT, "attention_mask": mask_BT, "trained": trained_BT}
    names = sorted({name for example in examples for name in example.image_inputs})
    for name in names:
        batch[name] = torch.cat([e.image_inputs[name] for e in examples if name in e.image_inputs])
    return batch


class AnswerScorer(nn.Module):
    """Log-probabilities of answers: only their positions' hidden states meet the language-model head.

    A module of its own so that sharding wraps the whole forward.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Summed log-probability (nats) of each sequence's trained tokens, float32 [B]."""
        inputs = {name: value for name, value in batch.items() if name != "trained"}
        body = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        hidden_BTH = body.model(**inputs, use_cache=False).last_hidden_state
        scored_BT = batch["trained"][:, 1:]
        logits_NV = body.lm_head(hidden_BTH[:, :-1][scored_BT]).float()
        targets_N = batch["input_ids"][:, 1:][scored_BT]
        logp_N = -nn.functional.cross_entropy(logits_NV, targets_N, reduction="none")
        rows_N = scored_BT.nonzero()[:, 0]
        return torch.zeros(len(scored_BT), device=logp_N.device).index_add(0, rows_N, logp_N)


def add_lora(model: Any, *, rank: int, lora_alpha: int) -> Any:
    """The model with trainable adapters on its language blocks; everything else frozen. No dropout."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=lora_alpha, lora_dropout=0.0, target_modules=_LORA_TARGETS, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def unfreeze_language_model(model: Any) -> None:
    """Train the language model with its embeddings and head; vision tower and projector stay frozen."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_VISION not in name and _PROJECTOR not in name)


def projector_parameters(model: Any) -> list[nn.Parameter]:
    """The parameters between vision tower and language model."""
    return [parameter for name, parameter in model.named_parameters() if _PROJECTOR in name]


def sharding_units(model: Any) -> list[nn.Module]:
    """The blocks that are sharded one by one (FSDP): the language model's layers."""
    body = model.get_base_model() if hasattr(model, "peft_config") else model
    return list(body.model.language_model.layers)


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
