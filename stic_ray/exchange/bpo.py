"""BPO: a `prompt` on an `image` with scored `completions`, of which every two whose scores differ are a pair."""

import math
from itertools import combinations
from typing import Any

import pyarrow as pa

from stic_ray.exchange.conversations import MARKER, answer, question, read_text, refuse_markers, unmarked
from stic_ray.exchange.format import IMAGE, PAIR_ORIGIN, Format, Tree, read_picture, write_origin
from stic_ray.exchange.items import IMPORTED, PairItem
from stic_ray.origins import ORIGIN, PairOrigin, read_origin

_IMAGE = "image"
# Its names of what makes an answer worse, by ours (stages/generate.py).
_TYPES = {"noised_image": "mllm-hal", "error_injection": "llm-hal"}
_NEGATIVES = {name: negative for negative, name in _TYPES.items()}
_COMPLETION = pa.struct([("score", pa.int64()), ("response", pa.string()), ("type", pa.string())])


def _write(item: PairItem) -> dict[str, Any]:
    refuse_markers([item.prompt, item.chosen, item.rejected])
    worse = _TYPES.get(item.negative, item.negative)
    return {
        "prompt": f"{item.prompt}\n{MARKER}",
        _IMAGE: item.image,
        "completions": [
            {"score": 1, "response": item.chosen, "type": "gt"},
            {"score": 0, "response": item.rejected, "type": worse},
        ],
        **write_origin(item),
    }


def _read(tree: Tree) -> list[PairItem]:
    image = read_picture(tree, _IMAGE)
    prompt = read_text(tree.get("prompt"), "prompt")
    completions = tree.get("completions")
    if not isinstance(completions, list) or not all(isinstance(entry, dict) for entry in completions):
        raise ValueError("completions is no list of completions")
    scores = [_score(entry.get("score")) for entry in completions]
    texts = [read_text(entry.get("response"), "the response of a completion") for entry in completions]
    kinds = [read_text(entry.get("type") or IMPORTED, "the type of a completion") for entry in completions]
    (asked, *_) = unmarked([question(prompt), *map(answer, texts)], image)
    ranked = sorted(range(len(scores)), key=lambda number: -scores[number])
    pairs = [(one, other) for one, other in combinations(ranked, 2) if scores[one] > scores[other]]
    if not pairs:
        raise ValueError("no two completions differ in their score")
    origin = read_origin(tree, PairOrigin)
    if origin is not None and len(pairs) > 1:
        raise ValueError(f"{ORIGIN} is that of one pair, and the completions make {len(pairs)}: remove it")
    return [
        PairItem(
            image=image,
            prompt=asked.text,
            chosen=texts[better],
            rejected=texts[worse],
            negative=_NEGATIVES.get(kinds[worse], kinds[worse]),
            origin=origin,
        )
        for better, worse in pairs
    ]


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("the score of a completion is no number")
    return float(value)


FORMAT = Format(
    name="bpo",
    image=_IMAGE,
    columns=pa.schema(
        [
            ("prompt", pa.string()),
            (_IMAGE, IMAGE),
            ("completions", pa.list_(_COMPLETION)),
            (ORIGIN, PAIR_ORIGIN),
        ]
    ),
    write=_write,
    read=_read,
)
