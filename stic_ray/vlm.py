"""The only knowledge of model families: chat template, processor, image tokens, LoRA targets, sharding, export.

Everything else handles a checkpoint directory, conversations (`Turn`s with the image before the first user text) and
tensors. Legend: B = sequences, T = positions, N = answer tokens of the batch, H = hidden size, U = different
beginnings of prompts, S = positions up to an image's last token.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, GenerationConfig, Idefics3Processor

from stic_ray.checkpoint import check_checkpoint
from stic_ray.noise import Noise, diffuse
from stic_ray.records import Turn

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a family's class calls its parts, below `model.`: language model, projector and vision tower."""

    language: str
    projector: str
    vision: str


_PARTS = {
    "idefics3": _Parts(language="text_model", projector="connector", vision="vision_model"),
    "llava": _Parts(language="language_model", projector="multi_modal_projector", vision="vision_tower"),
    "llava_next": _Parts(language="language_model", projector="multi_modal_projector", vision="vision_tower"),
}
_TOKENS_AT_ONCE = 256  # that meet the language-model head: their logits are 33 MB in float32 at a vocabulary of 32k
# What image processors say of an image beside its tensors: how many rows and columns of tiles it was cut into.
_NOTES = ("rows", "cols")
# transformers 5 drops this level when it saves; published checkpoints and vLLM's own classes have it.
_EXPORT_KEYS = ((re.compile(r"^(?:model\.)?vision_tower\.(?!vision_model\.)"), "vision_tower.vision_model."),)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Which part of a conversation's answers a trained token stands for: characters `start` to `stop` of the answer
    (stripped, counted from 0). An end token stands behind the last one: both are the answer's length."""

    answer: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Example:
    """One encoded sequence: token ids [T], which of them are trained (answers with their end token), image tensors.

    `pieces` are the trained tokens', in order.
    """

    input_ids: list[int]
    trained: list[bool]
    pieces: list[Piece]
    image_inputs: dict[str, Tensor]

    @property
    def num_trained(self) -> int:
        """Answer tokens, end tokens included."""
        return sum(self.trained)

    @property
    def answer_ids(self) -> list[int]:
        """The trained tokens' ids, in order."""
        return [token for token, trained in zip(self.input_ids, self.trained, strict=True) if trained]


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


def load_model(path: str, dtype: str, *, attention: str | None = None) -> Any:
    """The checkpoint's model in evaluation mode, from safetensors, without remote code.

    `attention` is transformers' implementation, None for its choice; `image_attention` needs "eager".
    """
    check_checkpoint(path)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    model = AutoModelForImageTextToText.from_pretrained(
        path,
        config=config,
        dtype=DTYPES[dtype],
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=attention,
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


def tokenize(processor: Any, texts: Sequence[str]) -> list[list[int]]:
    """Rendered prompts as token ids, an image's marker still a single one."""
    ids: list[list[int]] = _tokenize(processor, texts)["input_ids"] if texts else []
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
    tensors, placeholders = _process_images(processor, list(different.values()))
    for number, (_, noise) in enumerate(different):
        if noise is not None:
            tensors["pixel_values"][number] = add_noise(tensors["pixel_values"][number], noise)
    numbers = {key: number for number, key in enumerate(different)}
    image_of = [numbers[key, noise] for key, noise, _ in seen]
    if not image_of:
        ids_BT, mask_BT = _pad_left(processor, _tokenize(processor, texts)["input_ids"])
        return PromptBatch(input_ids=ids_BT, attention_mask=mask_BT, beginnings={}, beginning_of=[])
    ids = _tokenize(processor, _expand(processor, texts, [placeholders[number] for number in image_of]))["input_ids"]
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
    tensors, _ = _process_images(processor, [image])
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


def _process_images(processor: Any, images: list[Image.Image]) -> tuple[dict[str, Tensor], list[str]]:
    """The model's image tensors, and the text that each image stands for in a prompt."""
    if not images:
        return {}, []
    # Each in a list of its own: families that cut an image into tiles take a list as the images of one prompt.
    tiled = {"return_row_col_info": True} if isinstance(processor, Idefics3Processor) else {}
    processed = processor.image_processor([[image] for image in images], return_tensors="pt", **tiled)
    placeholders = [processor.replace_image_token(processed, image_idx=index) for index in range(len(images))]
    notes = {*processor.unused_input_names, *_NOTES}
    tensors = {name: value for name, value in processed.items() if name not in notes}
    return tensors, placeholders


def _expand(processor: Any, texts: Sequence[str], placeholders: list[str]) -> list[str]:
    """Texts with each image's marker, in order, as long as the image is to the model."""
    expanded, _ = processor.get_text_with_replacements(list(texts), placeholders)
    return list(expanded)


def _tokenize(processor: Any, texts: Sequence[str], *, offsets: bool = False) -> Any:
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


def load_generation_config(path: str) -> GenerationConfig:
    """The checkpoint's generation settings without its weights; as its class has them where no file says."""
    try:
        return GenerationConfig.from_pretrained(path, local_files_only=True)
    except OSError:  # no generation_config.json
        return GenerationConfig.from_model_config(AutoConfig.from_pretrained(path, local_files_only=True))


def end_token_ids(processor: Any, settings: GenerationConfig) -> list[int]:
    """Token ids that end an answer: of the generation settings, of the tokenizer, and what the template writes."""
    configured = settings.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({i for i in [*ids, processor.tokenizer.eos_token_id, *_template_ends(processor)] if i is not None})


def _template_ends(processor: Any) -> list[int]:
    """The first special token that the chat template writes after an answer, which is what training teaches."""
    turns = [Turn(role="user", text="what ?"), Turn(role="assistant", text="answer")]
    whole = render(processor, turns, has_image=False, answer_next=False)
    written = whole[_answer_span(processor, turns, whole, has_image=False)[0] :]
    special = _special_tokens(processor.tokenizer)
    found = sorted((written.index(token), index) for token, index in special.items() if token in written)
    return [index for _, index in found[:1]]


def encode_example(
    processor: Any, turns: Sequence[Turn], image: Image.Image | None, noise: Noise | None = None
) -> Example:
    """A conversation as token ids with its answers marked; every answer ends with an end token.

    The whole text is tokenised at once, as whoever continues it would see it. An answer's end is the first special
    token that the template writes after it (`</s>`, `<|eot_id|>`, ...), else the tokenizer's, which is then added.
    `noise` is added to the processed image.

    Raises:
        ValueError: the turns do not alternate user, assistant, the template rewrites earlier turns, or a text holds
            what stands for an image or ends an answer.
    """
    roles = [turn.role for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2) or not turns:
        raise ValueError(f"turns must alternate user and assistant and end with an answer, not {roles}")
    special = _special_tokens(processor.tokenizer)
    _refuse_special(turns, processor.image_token, special)
    tensors, placeholders = _process_images(processor, [] if image is None else [image])
    if image is not None and noise is not None:
        tensors["pixel_values"][0] = add_noise(tensors["pixel_values"][0], noise)
    whole = render(processor, turns, has_image=image is not None, answer_next=False)
    (expanded,) = _expand(processor, [whole], placeholders)
    grown = len(expanded) - len(whole)  # the image stands before every answer
    text, cursor, starts, spans = "", 0, list[int](), list[tuple[int, int]]()
    for index in range(1, len(turns), 2):
        start, stop = _answer_span(processor, turns[: index + 1], whole, has_image=image is not None)
        text += expanded[cursor : start + grown]
        starts.append(len(text))
        text += _ended(whole[start:stop], special, processor.tokenizer.eos_token)
        cursor = stop + grown
        answer = turns[index].text.strip()
        begin = text.find(answer, starts[-1])
        spans.append((begin if begin >= 0 else starts[-1], len(answer)))
    encoded = _tokenize(processor, [text], offsets=True)
    ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0]
    answers = _answers(ids, offsets, starts, frozenset(special.values()))
    pieces = [
        _piece(answer, spans[answer], offset) for answer, offset in zip(answers, offsets, strict=True) if answer >= 0
    ]
    return Example(input_ids=ids, trained=[answer >= 0 for answer in answers], pieces=pieces, image_inputs=tensors)


def _piece(answer: int, span: tuple[int, int], offset: tuple[int, int]) -> Piece:
    begin, length = span
    start, stop = (min(max(place - begin, 0), length) for place in offset)
    return Piece(answer=answer, start=start, stop=stop)


def _special_tokens(tokenizer: Any) -> dict[str, int]:
    """What a tokenizer treats as one token that no text holds, but for the unknown token, which any word may be."""
    added = {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    named = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    return {token: index for token, index in {**added, **named}.items() if token != tokenizer.unk_token}


def _refuse_special(turns: Sequence[Turn], marker: str, special: Iterable[str]) -> None:
    for turn in turns:
        held = marker if marker in turn.text else ""
        if turn.role == "assistant":
            held = held or next((token for token in special if token in turn.text), "")
        if held:
            raise ValueError(f"a text of the {turn.role} holds {held}, which has a meaning of its own to the model")


def _answer_span(processor: Any, turns: Sequence[Turn], whole: str, *, has_image: bool) -> tuple[int, int]:
    """Where the last turn's answer stands in the whole text, with what the template writes after it."""
    prompt = render(processor, turns[:-1], has_image=has_image, answer_next=True)
    answered = render(processor, turns, has_image=has_image, answer_next=False)
    if not whole.startswith(answered):
        raise ValueError("the chat template rewrites earlier turns: it cannot be trained on several turns")
    if not answered.startswith(prompt):
        raise ValueError("the chat template changes a prompt when it is answered: it cannot be trained on")
    return len(prompt), len(answered)


def _ended(answered: str, special: Iterable[str], end: str) -> str:
    """An answer as the template writes it, with an end token after it where the template writes none."""
    if any(token in answered for token in special):
        return answered
    answer = answered.rstrip()
    return answer + end + answered[len(answer) :]


def _answers(ids: list[int], offsets: list[tuple[int, int]], starts: list[int], ends: frozenset[int]) -> list[int]:
    """The number of the answer that each token is of, -1 for none: from its first character up to an end token."""
    answers = [-1] * len(ids)
    position = 0
    for number, start in enumerate(starts):
        while offsets[position][1] <= start:
            position += 1
        while ids[position] not in ends:
            answers[position] = number
            position += 1
        answers[position] = number
    return answers


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
        batch[name] = _concatenate([e.image_inputs[name] for e in examples if name in e.image_inputs])
    return batch


def _concatenate(tensors: list[Tensor]) -> Tensor:
    """Image tensors [1, ...] as one; an image of fewer tiles gets empty ones, which the model drops."""
    if len({tensor.shape for tensor in tensors}) > 1:
        tiles = max(tensor.shape[1] for tensor in tensors)
        tensors = [torch.cat([t, t.new_zeros(1, tiles - t.shape[1], *t.shape[2:])], dim=1) for t in tensors]
    return torch.cat(tensors)


def _logp(head: nn.Module, hidden_NH: Tensor, targets_N: Tensor) -> Tensor:
    return -nn.functional.cross_entropy(head(hidden_NH).float(), targets_N, reduction="none")


class AnswerScorer(nn.Module):
    """Log-probabilities of answers: only their positions' hidden states meet the language-model head.

    A module of its own so that sharding wraps the whole forward. It computes in bfloat16 where any weight is; those
    that train are held in float32 all the same, since bfloat16 would round their small steps away.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._low = any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Log-probability (nats) of each trained token, float32 [B, T]; 0 where none is trained."""
        inputs = {name: value for name, value in batch.items() if name != "trained"}
        body = self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model
        scored_BT = batch["trained"][:, 1:]
        device = batch["input_ids"].device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._low):
            hidden_BTH = body.model(**self._with_projector(body, inputs), use_cache=False).last_hidden_state
            hidden_NH = hidden_BTH[:, :-1][scored_BT]
            targets_N = batch["input_ids"][:, 1:][scored_BT]
            parts = zip(hidden_NH.split(_TOKENS_AT_ONCE), targets_N.split(_TOKENS_AT_ONCE), strict=True)
            logp_N = torch.cat([_logp(body.lm_head, *part) for part in parts])
        logp_BT = torch.zeros(batch["input_ids"].shape, device=logp_N.device)
        return logp_BT.masked_scatter(nn.functional.pad(scored_BT, (1, 0)), logp_N)

    def _with_projector(self, body: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inputs of a forward; without an image, a projector that trains still takes part, with a gradient of 0.

        Workers that shard it reduce gradients in the order of their backward passes: it must be the same on all.
        """
        trained = [parameter for parameter in projector_parameters(self.model) if parameter.requires_grad]
        if not trained or inputs.keys() != {"input_ids", "attention_mask"}:
            return inputs
        embedded_BTH = body.get_input_embeddings()(inputs["input_ids"])
        for parameter in trained:
            embedded_BTH = embedded_BTH + 0.0 * parameter.sum()
        return {"inputs_embeds": embedded_BTH, "attention_mask": inputs["attention_mask"]}


def image_attention(model: Any, image_token_id: int, example: Example) -> Tensor:
    """How much attention each layer pays to the image where an answer's tokens are predicted, float32 [L, N].

    It is the sum of the weights on image tokens, 0 to 1, mean over heads. L = the language model's layers, K = heads.
    Weights are summed up layer by layer: those of all layers are 18 GB of a LLaVA-NeXT with 2880 image tokens. The
    model must be loaded with `attention="eager"`: no other implementation says its weights.
    """
    ids_T = torch.tensor(example.input_ids, device=model.device)
    is_image_T = ids_T == image_token_id
    asking_N = torch.tensor(example.trained, device=model.device).nonzero()[:, 0] - 1
    found: list[Tensor] = []

    def note(module: nn.Module, arguments: Any, output: Any) -> None:
        weights_KTT = output[1][0]
        found.append(weights_KTT[:, asking_N][:, :, is_image_T].float().sum(dim=2).mean(dim=0).cpu())

    hooks = [layer.get_submodule("self_attn").register_forward_hook(note) for layer in sharding_units(model)]
    inputs = {name: value.to(model.device) for name, value in example.image_inputs.items()}
    try:
        with torch.inference_mode():
            model.model(input_ids=ids_T[None], attention_mask=torch.ones_like(ids_T)[None], use_cache=False, **inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found)


def trained_in_float32(model: Any) -> Any:
    """The model with every weight that trains held in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def add_lora(model: Any, *, rank: int, lora_alpha: int, projector: bool) -> Any:
    """The model with trainable adapters on its language blocks; everything else frozen. No dropout.

    With `projector` a copy of the projector trains as a whole, and is saved and loaded with the adapter.
    """
    from peft import LoraConfig, get_peft_model

    parts = _PARTS[model.config.model_type]
    config = LoraConfig(
        r=rank,
        lora_alpha=lora_alpha,
        lora_dropout=0.0,
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


def unfreeze_language_model(model: Any, *, projector: bool) -> None:
    """Train the language model with its embeddings and head, and the projector if asked; the vision tower is frozen."""
    parts = _PARTS[model.config.model_type]
    for name, parameter in model.named_parameters():
        path = name.split(".")
        parameter.requires_grad_(parts.vision not in path and (projector or parts.projector not in path))


def projector_parameters(model: Any) -> list[nn.Parameter]:
    """The parameters between vision tower and language model: of an adapted model, those that the adapter replaces."""
    projector = f"{_PARTS[model.config.model_type].projector}."
    named = [(name, parameter) for name, parameter in model.named_parameters() if projector in name]
    return [parameter for name, parameter in named if ".original_module." not in name]


def sharding_units(model: Any) -> list[nn.Module]:
    """The blocks that are sharded one by one (FSDP): the language model's layers."""
    body = model.get_base_model() if hasattr(model, "peft_config") else model
    return list(getattr(body.model, _PARTS[body.config.model_type].language).layers)


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
