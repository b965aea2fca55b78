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

    @torch.inference_mode()
    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Score]:
        """One score a conversation, in order; one longer than `max_length` tokens has an `error`."""
        examples = [vlm.encode_example(self._processor, c.turns, c.image) for c in conversations]
        scores = {
            index: Score(logp=0.0, num_answer_tokens=0, num_tokens=len(example.input_ids), error="too long")
            for index, example in enumerate(examples)
            if len(example.input_ids) > max_length
        }
        fitting = sorted(set(range(len(examples))) - scores.keys(), key=lambda i: len(examples[i].input_ids))
        for start in range(0, len(fitting), self._batch_size):
            indices = fitting[start : start + self._batch_size]
            batch = vlm.collate(self._processor, [examples[index] for index in indices])
            logp = self._scorer({name: value.to(self._device) for name, value in batch.items()}).tolist()
            for index, value in zip(indices, logp, strict=True):
                example = examples[index]
                scores[index] = Score(
                    logp=value, num_answer_tokens=example.num_trained, num_tokens=len(example.input_ids)
                )
        return [scores[index] for index in range(len(examples))]
