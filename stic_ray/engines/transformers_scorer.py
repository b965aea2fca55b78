"""Log-probabilities of given answers with transformers, in length-sorted batches; nothing is ever truncated."""

from collections.abc import Sequence

import torch

from stic_ray import storage, vlm
from stic_ray.engines.protocol import Conversation, Score


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
    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Score]:
        """One score a conversation, in order; one that cannot be scored, like one that is too long, has an `error`."""
        encoded = [self._encode(conversation, max_length) for conversation in conversations]
        examples = {index: example for index, example in enumerate(encoded) if isinstance(example, vlm.Example)}
        scores = {index: refused for index, refused in enumerate(encoded) if isinstance(refused, Score)}
        self._num_tokens += sum(len(example.input_ids) for example in examples.values())
        by_length = sorted(examples, key=lambda index: len(examples[index].input_ids))
        for start in range(0, len(by_length), self._batch_size):
            indices = by_length[start : start + self._batch_size]
            batch = vlm.collate(self._processor, [examples[index] for index in indices])
            logp = self._scorer({name: value.to(self._device) for name, value in batch.items()}).tolist()
            for index, value in zip(indices, logp, strict=True):
                example = examples[index]
                scores[index] = Score(
                    logp=value, num_answer_tokens=example.num_trained, num_tokens=len(example.input_ids)
                )
        return [scores[index] for index in range(len(encoded))]

    def _encode(self, conversation: Conversation, max_length: int) -> vlm.Example | Score:
        try:
            example = vlm.encode_example(self._processor, conversation.turns, conversation.image)
        except ValueError as error:
            return Score(logp=0.0, num_answer_tokens=0, num_tokens=0, error=str(error))
        if len(example.input_ids) <= max_length:
            return example
        reason = f"longer than max_length {max_length} tokens"
        return Score(logp=0.0, num_answer_tokens=0, num_tokens=len(example.input_ids), error=reason)


class TransformersTokenCounter:
    """Token counts by the model's processor alone."""

    def __init__(self, model_uri: str) -> None:
        self._processor = vlm.load_processor(storage.local_copy(model_uri))

    def count_tokens(self, conversation: Conversation) -> int:
        """How many tokens a conversation has when it is trained on, image tokens included; ValueError if it cannot."""
        return len(vlm.encode_example(self._processor, conversation.turns, conversation.image).input_ids)
