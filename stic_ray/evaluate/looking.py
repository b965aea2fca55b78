"""How a model looks at images: attention to them by layer and resistance to misleading text (VIG, arXiv 2602.17186),
answers' log-probabilities under noise (BPO, arXiv 2403.08730). For small numbers, in one process, without Ray.

What cannot be used (an image that is gone, a text that the model cannot take) is left out and counted.
"""

import heapq
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from PIL import Image

from stic_ray import images, sources, storage, vlm
from stic_ray.config import MAX_LENGTH
from stic_ray.engines import start_scorer
from stic_ray.engines.protocol import Conversation, Scorer
from stic_ray.images import BadImageError
from stic_ray.noise import NUM_STEPS, Noise
from stic_ray.records import Pair, Sample, Turn, make_seed

logger = logging.getLogger(__name__)
MISLEADING = "The answer is {wrong}. {question}"
STEPS = (*range(0, NUM_STEPS, 100), NUM_STEPS - 1)
Figures = dict[str, Any]  # as vig.json has them
_ROW_TOKENS = 4096


@dataclass(frozen=True, kw_only=True)
class Misled:
    """A question with a one-word answer on an image, and a wrong answer that another question of its kind has."""

    image_uri: str
    question: str
    answer: str
    wrong: str


def draw_samples(samples: Iterable[Sample], num: int, seed: int) -> list[Sample]:
    """So many samples with an image, drawn by their ids: the same whatever the order and the others are."""
    return _draw((sample for sample in samples if sample.image_uri), num, seed)


def draw_short_samples(samples: Iterable[Sample], num: int, seed: int) -> list[Sample]:
    """`draw_samples` of those that ask for one word."""
    return _draw((sample for sample in samples if sample.image_uri and _short_turns(sample)), num, seed)


def draw_pairs(pairs: Iterable[Pair], num: int, seed: int) -> list[Pair]:
    """So many pairs, drawn by their ids."""
    return _draw(pairs, num, seed)


def _draw(rows: Iterable[Any], num: int, seed: int) -> list[Any]:
    return heapq.nsmallest(num, rows, key=lambda row: (make_seed(seed, row.id, "vig report"), row.id))


def _short_turns(sample: Sample) -> list[tuple[str, str]]:
    """The questions of a sample whose answer is one word, with it."""
    texts = [turn.text.strip() for turn in sample.turns]
    asked = zip(texts[::2], texts[1::2], strict=True)
    return [(question, answer) for question, answer in asked if _bare(answer) and len(answer.split()) == 1]


def _bare(answer: str) -> str:
    return answer.strip(" .,;:!?\"'")


def _kinds(question: str) -> list[tuple[str, ...]]:
    """What a question's answer is like, by its first two words, then by its first one."""
    words = question.lower().split()
    return [tuple(words[:num]) for num in (2, 1)]


def mislead(samples: Sequence[Sample], seed: int) -> list[Misled]:
    """One question of each sample with a wrong answer, both drawn; none where all questions of its kind have the same.

    `samples` are as `draw_short_samples` gives them. Answers that differ in case and in stops alone are the same.
    """
    answers: dict[tuple[str, ...], dict[str, str]] = {}
    for sample in samples:
        for question, answer in _short_turns(sample):
            for kind in _kinds(question):
                answers.setdefault(kind, {}).setdefault(_bare(answer).lower(), answer)
    found = []
    for sample in samples:
        rng = random.Random(make_seed(seed, sample.id, "misleading text"))
        question, answer = rng.choice(_short_turns(sample))
        others = [
            [answers[kind][key] for key in sorted(answers[kind]) if key != _bare(answer).lower()]
            for kind in _kinds(question)
        ]
        wrong = next((rng.choice(each) for each in others if each), "")
        if wrong:
            found.append(Misled(image_uri=sample.image_uri, question=question, answer=answer, wrong=wrong))
    return found


def misled_question(asked: Misled) -> str:
    """The question behind a sentence that asserts the wrong answer."""
    return MISLEADING.format(wrong=_bare(asked.wrong), question=asked.question)


@dataclass(frozen=True, kw_only=True)
class Probes:
    """What models are asked, drawn from a run's data; `seed` is the run's."""

    samples: Sequence[Sample]
    questions: Sequence[Misled]
    pairs: Sequence[Pair]
    seed: int


def measure(models: Mapping[str, str], dtype: str, probes: Probes) -> Figures:
    """All figures of models by name, one after the other; `models` says where each is."""
    torch.set_num_threads(1)  # the same sums in the same order on every machine
    transformers.logging.disable_progress_bar()
    attention, misled, noise = dict[str, Figures](), dict[str, Figures](), dict[str, Figures]()
    for name, uri in models.items():
        logger.info("%s: %d samples, %d pairs", name, len(probes.samples), len(probes.pairs))
        scorer = start_scorer(model_uri=uri, dtype=dtype, row_tokens=_ROW_TOKENS)
        misled[name] = measure_misled(scorer, probes.questions)
        noise[name] = measure_noise(scorer, probes.pairs, probes.seed)
        del scorer  # its memory is the next model's
        attention[name] = measure_attention(uri, dtype, probes.samples)
    return {
        "attention": _side_by_side(attention, "conversations", "no sample with an image"),
        "misleading": _side_by_side(misled, "questions", "no question with a one-word answer and another one like it"),
        "noise": _side_by_side(noise, "pairs", "no pair"),
    }


_OF_A_MODEL = frozenset({"layers", "plain", "misled", "chosen", "rejected"})


def _side_by_side(found: Mapping[str, Figures], counted: str, missing: str) -> Figures:
    """What is the same of all models once, and what is each one's under `models`."""
    first = next(iter(found.values()))
    if not first[counted]:
        return {"skipped": f"{missing} could be used"}
    alike = {key: value for key, value in first.items() if key not in _OF_A_MODEL}
    own = {name: {key: one[key] for key in one if key in _OF_A_MODEL} for name, one in found.items()}
    return {**alike, "models": own}


def measure_misled(scorer: Scorer, asked: Sequence[Misled]) -> Figures:
    """How often the right answer as a whole, its end included, is likelier than the wrong one: with and without the
    misleading sentence."""
    found: Figures = {"template": MISLEADING, "questions": 0, "left_out": 0, "plain": 0, "misled": 0}
    for one, image in _with_images((each, each.image_uri) for each in asked):
        logp = None
        if image is not None:
            answers = [(text, answer) for text in (one.question, misled_question(one)) for answer in _choices(one)]
            logp = _score(scorer, [_conversation(text, answer, image) for text, answer in answers])
        if logp is None:
            found["left_out"] += 1
            continue
        plain, plain_wrong, misled, misled_wrong = (sum(each) for each in logp)
        found["questions"] += 1
        found["plain"] += plain > plain_wrong
        found["misled"] += misled > misled_wrong
    return found


def _choices(asked: Misled) -> tuple[str, str]:
    return asked.answer, asked.wrong


def measure_noise(scorer: Scorer, pairs: Sequence[Pair], seed: int) -> Figures:
    """Log-probability of a token of the chosen and of the rejected answers at each of STEPS: the mean over answers of
    their tokens' means. An image is mixed with the same noise at every step: the step alone makes the curve."""
    sums = {role: [0.0] * len(STEPS) for role in ("chosen", "rejected")}
    num, kinds = 0, Counter[str]()
    for pair, image in _with_images((each, each.image_uri) for each in pairs):
        if image is None:
            continue
        noises = [Noise(step=step, seed=make_seed(seed, pair.id, "noise curve")) for step in STEPS]
        asked = [_conversation(pair.prompt, text, image, n) for text in (pair.chosen, pair.rejected) for n in noises]
        logp = _score(scorer, asked)
        if logp is None:
            continue
        means = [sum(each) / len(each) for each in logp]
        for role, part in (("chosen", means[: len(STEPS)]), ("rejected", means[len(STEPS) :])):
            sums[role] = [total + value for total, value in zip(sums[role], part, strict=True)]
        num += 1
        kinds[pair.negative] += 1
    curves = {role: [total / max(num, 1) for total in totals] for role, totals in sums.items()}
    used = {"pairs": num, "left_out": len(pairs) - num, "kinds": dict(sorted(kinds.items()))}
    return {**used, "steps": list(STEPS), **curves}


def measure_attention(model_uri: str, dtype: str, samples: Sequence[Sample]) -> Figures:
    """The mean of `vlm.image_attention` over all answer tokens, by layer."""
    path = storage.local_copy(model_uri)
    processor = vlm.load_processor(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = vlm.load_model(path, dtype, attention="eager").to(device)
    parts = []
    for sample, image in _with_images((each, each.image_uri) for each in samples):
        if image is None:
            continue
        try:
            example = vlm.encode_example(processor, sample.turns, image)
        except ValueError:  # counted: what the model cannot be trained on
            continue
        if len(example.input_ids) <= MAX_LENGTH:
            parts.append(vlm.image_attention(model, processor.image_token_id, example))
    used = {"conversations": len(parts), "left_out": len(samples) - len(parts)}
    if not parts:
        return {**used, "tokens": 0, "layers": []}
    mass_LN = torch.cat(parts, dim=1)
    return {**used, "tokens": mass_LN.shape[1], "layers": mass_LN.mean(dim=1).tolist()}


def _conversation(question: str, answer: str, image: Image.Image, noise: Noise | None = None) -> Conversation:
    turns = [Turn(role="user", text=question), Turn(role="assistant", text=answer)]
    return Conversation(turns=turns, image=image, noise=noise)


def _score(scorer: Scorer, asked: Sequence[Conversation]) -> list[list[float]] | None:
    """The tokens' log-probabilities of all conversations, None where one cannot be scored."""
    scored = scorer.score(asked, MAX_LENGTH)
    return None if any(each.error for each in scored) else [each.logp for each in scored]


def _with_images(rows: Iterable[tuple[Any, str]]) -> Iterator[tuple[Any, Image.Image | None]]:
    """Rows with their images, one after the other, since photos decoded are large; None where there is none."""
    for row, uri in rows:
        try:
            yield row, images.decode(sources.read_image(uri))
        except BadImageError:
            yield row, None
