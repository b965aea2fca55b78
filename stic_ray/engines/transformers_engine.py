"""Generation with transformers: length-sorted batches, early exit, draws that do not depend on the batch."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from stic_ray import storage, vlm
from stic_ray.config import Sampling
from stic_ray.engines import adapters
from stic_ray.engines.counters import Counters
from stic_ray.engines.protocol import Completion, Contrasted, Request, refused
from stic_ray.noise import Noise


class GumbelSampling(LogitsProcessor):  # type: ignore[misc]
    """Sampling as an argmax: logits / temperature plus Gumbel noise of each row's own generator.

    The argmax of a greedy `generate` over these scores is an exact draw from the softmax (Gumbel-max), and a row's
    draw depends on its seed only. With top_p, the smallest set of tokens that holds that mass stays (nucleus).
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] of the next token with the noise added."""
        scaled_BV = scores.float() / self._sampling.temperature
        if self._sampling.top_p < 1:
            scaled_BV = _nucleus(scaled_BV, self._sampling.top_p)
        size = scaled_BV.shape[1]
        uniform_BV = torch.stack([torch.rand(size, generator=g, dtype=torch.float64) for g in self._generators])
        noise_BV = -torch.log(-torch.log(uniform_BV.clamp_min(1e-300)))
        return scaled_BV + noise_BV.to(scaled_BV)


class ContrastiveDecoding(LogitsProcessor):  # type: ignore[misc]
    """(1 + strength) * logits - strength * logits on noised images, `prompts`; see `config.Contrast`."""

    def __init__(self, model: Any, prompts: vlm.PromptBatch, contrast: Sequence[Contrasted]) -> None:
        self._model = model
        self._mask_BT = prompts.attention_mask.to(model.device)
        self._cache = vlm.read_beginnings(model, prompts)
        self._strength_B1 = torch.tensor([[each.strength] for each in contrast], device=model.device)
        self._cutoff_B1 = torch.tensor([[each.cutoff] for each in contrast], device=model.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] of the next token; what is cut off has -inf."""
        ones_BT = self._mask_BT.new_ones(input_ids.shape[0], input_ids.shape[1] - self._mask_BT.shape[1])
        self._mask_BT = torch.cat([self._mask_BT, ones_BT], dim=1)
        read = self._cache.get_seq_length()
        positions_BT = (self._mask_BT.cumsum(dim=1) - 1).clamp_min(0)
        noised_BV = self._model(
            input_ids=input_ids[:, read:],
            attention_mask=self._mask_BT,
            position_ids=positions_BT[:, read:],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        clean_BV = scores.float()
        contrasted_BV = (1 + self._strength_B1) * clean_BV - self._strength_B1 * noised_BV.float()
        least_B1 = clean_BV.amax(dim=1, keepdim=True) + self._cutoff_B1.log()
        bent_BV: Tensor = contrasted_BV.masked_fill(clean_BV < least_B1, float("-inf"))
        return bent_BV


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    sorted_BV, order_BV = logits_BV.sort(dim=1, descending=True)
    before_BV = sorted_BV.softmax(dim=1).cumsum(dim=1) - sorted_BV.softmax(dim=1)
    dropped_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, before_BV >= top_p)
    return logits_BV.masked_fill(dropped_BV, float("-inf"))


class _Adapters:
    """LoRA adapters in a model, each loaded when it is first asked for, and again once its files have changed."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._adapted: Any = None  # peft's view of the model; None until the first adapter puts its layers in
        self._versions: dict[str, str] = {}

    @contextmanager
    def applied(self, uri: str) -> Iterator[None]:
        """The model with the adapter at `uri`, "" for none, until the end of the block.

        Raises:
            ValueError: it is not there or does not fit the model.
        """
        if uri:
            outdated = self._load(uri)
            self._adapted.set_adapter(self._versions[uri])
            if outdated:
                self._adapted.delete_adapter(outdated)
            yield
        elif self._adapted is None:
            yield
        else:
            with self._adapted.disable_adapter():
                yield

    def _load(self, uri: str) -> str:
        """Have an adapter in the model; returns the one that it takes the place of, "" where there is none."""
        path, version = adapters.locate(uri)
        known = self._versions.get(uri, "")
        if version == known:
            return ""
        try:
            self._adapted = vlm.load_adapter(self._model, self._adapted, path, version)
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"adapter {uri} does not fit the model: {error}") from error
        self._versions[uri] = version
        return "" if known in self._versions.values() else known


class TransformersEngine:
    """An engine on `generate`; works for every model that transformers loads. One thread at a time computes."""

    def __init__(self, model_uri: str, dtype: str, batch_size: int) -> None:
        path = storage.local_copy(model_uri)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = vlm.load_processor(path)
        self._model = vlm.load_model(path, dtype).to(self._device)
        self._ends = vlm.end_token_ids(self._processor, self._model.generation_config)
        self._model.generation_config = GenerationConfig()  # a checkpoint's penalties would bend what is drawn
        self._limit = int(self._model.config.get_text_config().max_position_embeddings)
        self._batch_size = batch_size
        self._adapters = _Adapters(self._model)
        self._counters = Counters()
        self._lock = threading.Lock()
        # In characters: prompts of one band are padded by less than a tenth of the tokens of reading their image again.
        self._band = max(1, vlm.beginning_length(self._processor) // 3)

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion a request, in order; equal requests are answered once (POPE's files share questions).

        Batches hold prompts of one sampling and like length, those on one image side by side, so that it is read once.
        """
        first: dict[tuple[int, Noise | None, Contrasted | None, str, Sampling, int, str], int] = {}
        same = [
            first.setdefault((id(r.image), r.noise, r.contrast, r.prompt, r.sampling, r.seed, r.adapter), i)
            for i, r in enumerate(requests)
        ]
        texts = [vlm.render_prompt(self._processor, r.prompt, has_image=r.image is not None) for r in requests]

        marker = self._processor.image_token
        completions = {
            index: refused(f"the prompt holds {marker}, which stands for an image")
            for index, (request, text) in enumerate(zip(requests, texts, strict=True))
            if text.count(marker) != (request.image is not None)
        }

        def likeness(index: int) -> tuple[str, bool, bool, float, float, int]:
            r, s = requests[index], requests[index].sampling
            return (r.adapter, r.image is None, r.contrast is None, s.temperature, s.top_p, s.max_new_tokens)

        accepted = [index for index in first.values() if index not in completions]
        seen: dict[int, int] = {}
        number = [seen.setdefault(id(request.image), len(seen)) for request in requests]
        accepted.sort(key=lambda i: (likeness(i), len(texts[i]) // self._band, number[i], len(texts[i])))
        for (adapter, *_), alike in itertools.groupby(accepted, key=likeness):
            group = list(alike)
            with self._lock, self._adapters.applied(adapter):
                for start in range(0, len(group), self._batch_size):
                    batch = group[start : start + self._batch_size]
                    answers = self._generate_batch([requests[i] for i in batch], [texts[i] for i in batch])
                    completions.update(zip(batch, answers, strict=True))
        answered = [completions[index] for index in same]
        self._counters.add(answered)
        return answered

    def figures(self) -> dict[str, float]:
        """Counts since the start; an image that prompts of one batch share is not called cached."""
        return self._counters.read()

    @torch.inference_mode()
    def _generate_batch(self, requests: list[Request], texts: list[str]) -> list[Completion]:
        sampling = requests[0].sampling
        images, noises = [request.image for request in requests], [request.noise for request in requests]
        inputs = vlm.encode_prompts(self._processor, texts, images, noises)
        lengths = inputs.attention_mask.sum(dim=1).tolist()
        too_long = [length + sampling.max_new_tokens > self._limit for length in lengths]
        if any(too_long):
            return self._without_too_long(requests, texts, lengths, too_long)
        bent = LogitsProcessorList()
        contrast = [request.contrast for request in requests if request.contrast is not None]
        if contrast:  # of all of a batch or of none
            noised = vlm.encode_prompts(self._processor, texts, images, [each.noise for each in contrast])
            bent.append(ContrastiveDecoding(self._model, noised, contrast))
        if sampling.temperature > 0:
            bent.append(GumbelSampling(sampling, [request.seed for request in requests]))
        output_BT = self._model.generate(
            input_ids=inputs.input_ids.to(self._device),
            attention_mask=inputs.attention_mask.to(self._device),
            past_key_values=vlm.read_beginnings(self._model, inputs),
            generation_config=GenerationConfig(
                max_new_tokens=sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=self._ends,
                pad_token_id=self._processor.tokenizer.pad_token_id or 0,
            ),
            logits_processor=bent,
        )
        new_BT = output_BT[:, inputs.input_ids.shape[1] :].tolist()
        return [self._completion(ids, length) for ids, length in zip(new_BT, lengths, strict=True)]

    def _without_too_long(
        self, requests: list[Request], texts: list[str], lengths: list[int], too_long: list[bool]
    ) -> list[Completion]:
        kept = [index for index, over in enumerate(too_long) if not over]
        answers = iter(self._generate_batch([requests[i] for i in kept], [texts[i] for i in kept]) if kept else [])
        reason = f"prompt and answer need more than the model's {self._limit} positions"
        return [
            refused(reason, num_prompt_tokens=length) if over else next(answers)
            for over, length in zip(too_long, lengths, strict=True)
        ]

    def _completion(self, ids: list[int], num_prompt_tokens: int) -> Completion:
        end = next((position for position, token in enumerate(ids) if token in self._ends), None)
        answer = ids if end is None else ids[:end]
        return Completion(
            text=self._processor.tokenizer.decode(answer, skip_special_tokens=True).strip(),
            num_prompt_tokens=num_prompt_tokens,
            num_tokens=len(answer),
            finish_reason="length" if end is None else "stop",
        )
