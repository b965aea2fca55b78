"""Log-probabilities of given answers with transformers, in length-sorted batches; nothing is ever truncated."""

from collections.abc import Sequence

import torch

from stic_ray import storage, vlm
from stic_ray.engines.protocol import Conversation, Scored


class TransformersScorer:
    """A scorer on one forward pass a batch; only answer positions meet the language-model head."""

    def __init__(self, model_uri: str, dtype: str, batch_size: int) -> None:
        path = storage.local_copy(model_uri)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = vlm.load_processor(path)
        self._scorer = vlm.AnswerScorer(vlm.load_model(path, dtype).to(self._device))
        self._batch_size = batch_size
        self._num_tokens = 0

    def figures(self) -> dict[str, float]:
        """Tokens read since the start, padding not counted."""
        return {"scored_tokens": float(self._num_tokens)}

    @torch.inference_mode()
    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Scored]:
        """One score a conversation, in order; one that cannot be scored, like one that is too long, has an `error`."""
        encoded = [self._encode(conversation, max_length) for conversation in conversations]
        examples = {index: example for index, example in enumerate(encoded) if isinstance(example, vlm.Example)}
        scores = {index: refused for index, refused in enumerate(encoded) if isinstance(refused, Scored)}
        self._num_tokens += sum(len(example.input_ids) for example in examples.values())
        by_length = sorted(examples, key=lambda index: len(examples[index].input_ids))
        for start in range(0, len(by_length), self._batch_size):
            indices = by_length[start : start + self._batch_size]
            batch = vlm.collate(self._processor, [examples[index] for index in indices])
            logp_BT = self._scorer({name: value.to(self._device) for name, value in batch.items()}).cpu()
            for index, logp_T, trained_T in zip(indices, logp_BT, batch["trained"], strict=True):
                scores[index] = _scored(examples[index], logp_T[trained_T].tolist())
        return [scores[index] for index in range(len(encoded))]

    def _encode(self, conversation: Conversation, max_length: int) -> vlm.Example | Scored:
        try:
            example = vlm.encode_example(self._processor, conversation.turns, conversation.image, conversation.noise)
        except ValueError as error:
            return _refused(str(error), 0)
        if len(example.input_ids) <= max_length:
            return example
        return _refused(f"longer than max_length {max_length} tokens", len(example.input_ids))


def _scored(example: vlm.Example, logp: list[float]) -> Scored:
    return Scored(
        token_ids=example.answer_ids,
        answers=[piece.answer for piece in example.pieces],
        starts=[piece.start for piece in example.pieces],
        stops=[piece.stop for piece in example.pieces],
        logp=logp,
        num_tokens=len(example.input_ids),
    )


def _refused(reason: str, num_tokens: int) -> Scored:
    return Scored(token_ids=[], answers=[], starts=[], stops=[], logp=[], num_tokens=num_tokens, error=reason)


class TransformersTokenCounter:
    """Token counts by the model's processor alone."""

    def __init__(self, model_uri: str) -> None:
        self._processor = vlm.load_processor(storage.local_copy(model_uri))

    def count_tokens(self, conversation: Conversation) -> int:
        """How many tokens a conversation has when it is trained on, image tokens included; ValueError if it cannot."""
        return len(vlm.encode_example(self._processor, conversation.turns, conversation.image).input_ids)
