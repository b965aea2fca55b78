"""Where benchmarks' files are looked for below one folder: as their authors name them, a folder for each benchmark."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stic_ray import storage
from stic_ray.config import (
    Amber,
    Benchmark,
    Chair,
    ChartQa,
    CvBench,
    DocVqa,
    LlavaBench,
    MathVista,
    MmBench,
    MmHal,
    MmVet,
    Mode,
    MultipleChoice,
    ObjectHal,
    Pope,
    ScienceQa,
    TextVqa,
)

# What each benchmark is made with: setting to the files or folders that may be there, the first that is being taken;
# a mapping of them keeps those that are there.
_FILES: Mapping[str, tuple[Callable[..., Benchmark], Mapping[str, Any]]] = {
    "pope": (
        Pope,
        {
            "questions": {
                kind: (f"coco_pope_{kind}.json", f"{kind}.json") for kind in ("random", "popular", "adversarial")
            },
            "images": ("images", "val2014", "../coco/val2014"),
        },
    ),
    "chair": (
        Chair,
        {
            "objects": ("instances_val2014.json", "objects.jsonl", "../coco/annotations/instances_val2014.json"),
            "captions": ("captions_val2014.json", "../coco/annotations/captions_val2014.json", ""),
            "synonyms": ("synonyms.txt", "synonyms_refine.txt", ""),
            "images": ("images", "val2014", "../coco/val2014"),
        },
    ),
    "object_hal": (
        ObjectHal,
        {
            "questions": ("obj_halbench_300_with_image.jsonl", "questions.jsonl"),
            "objects": ("instances_val2014.json", "objects.jsonl", "../coco/annotations/instances_val2014.json"),
            "captions": ("captions_val2014.json", "../coco/annotations/captions_val2014.json", ""),
            "synonyms": ("synonyms.txt", ""),
            "images": ("images", "val2014", "../coco/val2014", "."),
        },
    ),
    "amber": (
        Amber,
        {
            "questions": ("query_generative.json", "query/query_generative.json"),
            "annotations": ("annotations.json",),
            "relations": ("relation.json",),
            "safe_words": ("safe_words.txt",),
            "images": ("images", "image"),
        },
    ),
    "mmhal": (MmHal, {"questions": ("response_template.json",), "images": ("images",)}),
    "scienceqa": (ScienceQa, {"questions": ("problems.json",), "images": ("images/test", "test", "images")}),
    "textvqa": (TextVqa, {"questions": ("TextVQA_0.5.1_val.json",), "images": ("train_images", "images")}),
    "chartqa": (
        ChartQa,
        {
            "questions": {kind: (f"test_{kind}.json", f"test/test_{kind}.json") for kind in ("human", "augmented")},
            "images": ("png", "test/png", "images"),
        },
    ),
    "docvqa": (DocVqa, {"questions": ("val_v1.0.json", "val_v1.0_withQT.json"), "images": ("documents", "images")}),
    "mmbench": (MmBench, {"questions": ("mmbench_dev_en_20231003.tsv", "mmbench_dev_20230712.tsv", "mmbench.tsv")}),
    "mmvet": (MmVet, {"questions": ("mm-vet.json",), "images": ("images",)}),
    "llava_bench": (
        LlavaBench,
        {
            "questions": ("questions.jsonl",),
            "answers": ("answers_gpt4.jsonl",),
            "context": ("context.jsonl",),
            "images": ("images",),
        },
    ),
    "mathvista": (MathVista, {"questions": ("testmini.json",), "images": (".",)}),
    "cvbench": (CvBench, {"questions": {"2D": ("test_2d.parquet",), "3D": ("test_3d.parquet",)}}),
    "mmlu": (MultipleChoice, {"questions": ("test.csv", "mmlu.csv", "test", "data/test")}),
}
NAMES = tuple(_FILES)


def locate(names: Sequence[str], data: str, *, modes: tuple[Mode, ...], limit: int | None) -> dict[str, Benchmark]:
    """The benchmarks of these names, with their files below `data`/NAME.

    Raises:
        ValueError: a name is not known, or a file is not there; the message says where it was looked for.
    """
    return {name: _locate(name, storage.join(data, name), {"modes": modes, "limit": limit}) for name in names}


def _locate(name: str, folder: str, settings: Mapping[str, Any]) -> Benchmark:
    if name not in _FILES:
        raise ValueError(f"there is no benchmark {name!r}: choose of {', '.join(NAMES)}")
    make, files = _FILES[name]
    found: dict[str, Any] = {}
    for setting, places in files.items():
        if isinstance(places, Mapping):
            every = {part: _first(folder, tried) for part, tried in places.items()}
            found[setting] = {part: uri for part, uri in every.items() if uri is not None}
            tried = [file for each in places.values() for file in each]
        else:
            found[setting], tried = _first(folder, places), list(places)
        if found[setting] is None or found[setting] == {}:
            raise ValueError(f"{name}: {folder} has none of {', '.join(tried)} ({setting}): put the benchmark's there")
    return make(**settings, **found)


def _first(folder: str, places: Sequence[str]) -> str | None:
    """The first place that is there; "" is one that may be missing."""
    for place in places:
        if not place:
            return ""
        parent, inside = (folder.rpartition("/")[0], place[3:]) if place.startswith("../") else (folder, place)
        uri = parent if inside == "." else storage.join(parent, *inside.split("/"))
        if storage.exists(uri):
            return uri
    return None
