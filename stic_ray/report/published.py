"""What the papers report of models that a run may have started from. Never a run's own figures: other data, other
judges, other prompts; CHAIR_s of one model is 32.0 in one paper and 52.9 in another."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Published:
    """A paper's figure of a benchmark before and after its training; `note` says what a reader must know of it."""

    paper: str
    before: float
    after: float
    note: str = ""


_STIC, _VIG, _BPO = "STIC (arXiv 2405.19716)", "VIG (arXiv 2602.17186), 70%", "BPO (arXiv 2403.08730)"
_RECALLED = "recalled, not read again"
_FAMILIES = {
    "LLaVA-1.5-7B": re.compile(r"llava-?v?1\.5-7b", re.IGNORECASE),
    "LLaVA-1.5-13B": re.compile(r"llava-?v?1\.5-13b", re.IGNORECASE),
    "LLaVA-v1.6-mistral-7b": re.compile(r"llava-?v?1\.6-mistral-7b", re.IGNORECASE),
}


def _recalled(before: float, after: float) -> Published:
    return Published(paper=_STIC, before=before, after=after, note=_RECALLED)


def _vig(before: float, after: float) -> Published:
    return Published(paper=_VIG, before=before, after=after)


# By family; then by the benchmark's type and the figure's name.
_FIGURES: Mapping[str, Mapping[tuple[str, str], tuple[Published, ...]]] = {
    "LLaVA-1.5-7B": {
        ("LlavaBench", "relative"): (_vig(59.02, 61.22),),
        ("MmVet", "score"): (_vig(28.62, 32.71), Published(paper=_BPO, before=31.7, after=36.8)),
        ("CvBench", "accuracy"): (_vig(59.18, 62.48),),
        ("Pope", "f1"): (_vig(87.08, 87.47),),
        ("Chair", "chair_s"): (_vig(52.93, 47.00),),
        ("MmHal", "hallucination_rate"): (_vig(71.25, 62.78),),
    },
    "LLaVA-1.5-13B": {
        ("LlavaBench", "relative"): (_vig(72.01, 73.45),),
        ("MmVet", "score"): (_vig(36.19, 36.87), Published(paper=_BPO, before=36.8, after=41.4)),
        ("CvBench", "accuracy"): (_vig(60.16, 62.89),),
        ("Pope", "f1"): (_vig(87.05, 87.53),),
        ("Chair", "chair_s"): (_vig(51.96, 48.19),),
        ("MmHal", "hallucination_rate"): (_vig(67.09, 63.11),),
    },
    "LLaVA-v1.6-mistral-7b": {
        ("ScienceQa", "accuracy"): (_recalled(68.9, 75.3),),
        ("TextVqa", "accuracy"): (_recalled(60.3, 65.2),),
        ("ChartQa", "accuracy"): (_recalled(36.4, 41.5),),
        ("LlavaBench", "relative"): (_recalled(77.3, 79.2),),
        ("MmBench", "circular"): (_recalled(63.7, 67.8),),
        ("MmVet", "score"): (_recalled(42.2, 45.0),),
        ("MathVista", "accuracy"): (_recalled(34.6, 37.0),),
    },
}


def family_of(model: str) -> str:
    """The family, as papers write it, that a checkpoint's path or name belongs to; "" for none that they report."""
    return next((name for name, pattern in _FAMILIES.items() if pattern.search(model)), "")


def published_figures(family: str, benchmark: str, figure: str) -> tuple[Published, ...]:
    """What papers report of a family on a benchmark (the name of its type) by one figure's name."""
    return _FIGURES.get(family, {}).get((benchmark, figure), ())
