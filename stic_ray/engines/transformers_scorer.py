"""Log-probabilities of given answers with transformers, in rows without padding; nothing is ever truncated."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch

from stic_ray import storage, vlm
from stic_ray.engines.protocol import Conversation, Scored


class TransformersTokenizer:
    """A scorer without weights: it says how conversations are cut into tokens, and refuses those that are too long."""

    def __init__(self, model_uri: str) -> None:
        self._processor = vlm.load_processor(storage.local_copy(model_uri))

    def figures(self) -> dict[str, float]:
        """None: it only reads."""
        return {}

    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Scored]:
        """As a scorer's, without log-probabilities."""
        encoded = (found for run in _runs(conversations) for found in self.encode(list(run.values()), max_length))
        return [found if isinstance(found, Scored) else _scored(found, []) for found in encoded]

    def encode(self, conversations: Sequence[Conversation], max_length: int) -> list[vlm.Example | Scored]:
        """Conversations on one image, which is processed once; an `error` for each that cannot be scored."""
        first = conversations[0]
        try:
            examples = vlm.encode_group(self._processor, [c.turns for c in conversations], first.image, first.noise)
        except ValueError as error:
            if len(conversations) == 1:
                return [_refused(str(error), 0)]
            return [found for each in conversations for found in self.encode([each], max_length)]
        return [
            example
            if len(example.input_ids) <= max_length
            else _refused(f"longer than max_length {max_length} tokens", len(example.input_ids))
            for example in examples
        ]


class TransformersScorer:
    """A scorer on one forward pass a row of at most `row_tokens`; only what predicts an answer meets the head.

    Conversations on one image that follow each other, like the two of a pair, share what they begin with.
    """

    def __init__(self, model_uri: str, dtype: str, row_tokens: int) -> None:
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = TransformersTokenizer(model_uri)
        self._scorer = vlm.AnswerScorer(vlm.load_model(storage.local_copy(model_uri), dtype).to(self._device))
        self._row_tokens = row_tokens
        self._num_tokens = 0

    def figures(self) -> dict[str, float]:
        """Tokens read since the start."""
        return {"scored_tokens": float(self._num_tokens)}

    @torch.inference_mode()
    def score(self, conversations: Sequence[Conversation], max_length: int) -> list[Scored]:
        """One score a conversation, in order; one that cannot be scored, like one that is too long, has an `error`."""
        scores: dict[int, Scored] = {}
        groups: list[dict[int, vlm.Example]] = []
        for run in _runs(conversations):
            encoded = dict(zip(run, self._tokenizer.encode(list(run.values()), max_length), strict=True))
            scores |= {index: found for index, found in encoded.items() if isinstance(found, Scored)}
            examples = {index: found for index, found in encoded.items() if isinstance(found, vlm.Example)}
            groups += [examples] if examples else []
        for numbers in vlm.fill_rows([[list(group.values())] for group in groups], self._row_tokens):
            row = vlm.pack([list(groups[number].values()) for number in numbers])
            self._num_tokens += row.input_ids.numel()
            logp = self._scorer(row.to(self._device)).cpu().split(row.num_tokens)
            found = [numbered for number in numbers for numbered in groups[number].items()]
            for (index, example), logp_N in zip(found, logp, strict=True):
                scores[index] = _scored(example, logp_N.tolist())
        return [scores[index] for index in range(len(conversations))]


def _runs(conversations: Sequence[Conversation]) -> Iterator[dict[int, Conversation]]:
    """Those that follow each other on one image, by their number."""
    for _, run in groupby(enumerate(conversations), key=lambda numbered: _view(*numbered)):
        yield dict(run)


def _view(index: int, conversation: Conversation) -> tuple[object, ...]:
    """What conversations that lie together have in common: what they see; those that see nothing lie alone."""
    if conversation.image is None:
        return (index,)
    return (id(conversation.image), conversation.noise)


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
