"""How fast this pipeline generates beside the bare engines, side by side in one run: `make bench NAME=generation`.

STIC's requests: two for every image, a preferred one and a dispreferred one, half of the latter by a misleading prompt
on the same image, half on a corrupted image. Every way of answering them gets the same image files, prompts, sampling
and order, reads and decodes the images inside its clock, and runs in processes of its own, one after another, in
rounds; the medians count. An engine's start and a few answers that warm it up come before the clock and are reported.

a  this pipeline (Ray Data, reading, corruption, writing, commit) with vLLM
b  `LLM.generate` on all requests at once
c  this pipeline with transformers
d  `generate` in batches
e  `generate` on one image at a time, on a sample
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from harness import Bar, lacks_gpu, write_results
from stic_ray.config import (
    ColorJitter,
    CorruptedImage,
    Downsize,
    Execution,
    MisleadingPrompt,
    Negatives,
    Pool,
    Sampling,
    Transformers,
    Vllm,
)
from stic_ray.engines import EngineStart
from stic_ray.flow import Inputs, Outcome, Prepared, Task, Unit, Work, image_alone
from stic_ray.images import corrupt, decode
from stic_ray.prompts import PAPER
from stic_ray.records import make_id
from stic_ray.stages.generate import Draw, Prepare, Responder, draw_requests

WAYS = ("a", "b", "c", "d", "e")
THREADS = len(os.sched_getaffinity(0))
SAMPLING = Sampling(temperature=0.7, max_new_tokens=32)
_CORRUPTIONS = (Downsize(short_side_px=20), ColorJitter(brightness=0.5, hue=0.3))
NEGATIVES = Negatives(kinds=(MisleadingPrompt(), CorruptedImage(corruptions=_CORRUPTIONS)))
VLLM = Vllm(cpu_cache_gib=4.0, max_concurrent=256, concurrent_batches=8)
HF_BATCH = 16
SLOW_SHARE = 0.05  # of the images, one at a time
BLOCKS = {"cpu": 128, "cuda": 16}  # tokens of a prefix-cache block of vLLM


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all ways have in common: the folder with the model and the images, how many images, and where they run."""

    folder: Path
    num_images: int
    device: str = "cpu"

    @property
    def dtype(self) -> str:
        """Of all weights."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def block(self) -> int:
        """Tokens of a prefix-cache block."""
        return BLOCKS[self.device]

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    def units(self) -> list[Unit]:
        """The images in the order of work."""
        paths = sorted((self.folder / "images").glob("*.jpg"))[: self.num_images]
        return [Unit(id=make_id(path.name), image_uri=str(path), payload="") for path in paths]


@dataclass(frozen=True, kw_only=True)
class Leg:
    """One way once: how long its start and its answers took, and what was counted."""

    start_s: float
    seconds: float
    requests: int
    new_tokens: float
    figures: dict[str, float]

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


def make_setting(folder: Path, num_images: int, device: str) -> Setting:
    """A random LLaVA to whom an image is 576 tokens, and photos of a usual size.

    On a GPU it has LLaVA-1.5-7B's sizes. On CPUs 50 million weights, 14 of them in the language model's layers: with
    3 of 20, as in a smaller one, reading and corrupting images and what else Python does would be a fifth of all work
    on two cores.
    """
    import torch

    from random_models import LLAVA_7B, Size, save_random_model

    small = Size(tile_px=336, hidden=512, layers=6, vocabulary=32768, positions=2048, spread=0.02)
    size, dtype = (LLAVA_7B, torch.bfloat16) if device == "cuda" else (small, torch.float32)
    save_random_model("llava", folder / "model", size, device=device, dtype=dtype)
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(num_images):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        noise = rng.normal(0, 8, (480, 640, 3))
        pixels = np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:04}.jpg", quality=90)
    return Setting(folder=folder, num_images=num_images, device=device)


def draws_of(unit: Unit) -> list[Draw]:
    """The two requests of an image."""
    return draw_requests(unit.id, seed=0, pool=PAPER, negatives=NEGATIVES)


def read_requests(units: Sequence[Unit]) -> list[tuple[str, Image.Image, int]]:
    """All requests as the bare engines get them: prompt, image as the model sees it, seed."""
    asked = []
    for unit in units:
        image = decode(Path(unit.image_uri).read_bytes())
        asked += [(draw.prompt, corrupt(image, draw.corruption), draw.seed) for draw in draws_of(unit)]
    return asked


# This pipeline: a and c


@dataclass(frozen=True, kw_only=True)
class PrepareWhenReady:
    """The stage's preparation, which begins with the clock: when the engine has started."""

    prepare: Prepare
    ready: str

    def __call__(self, unit: Unit) -> Prepared:
        """As the stage does."""
        while not os.path.exists(self.ready):
            time.sleep(0.01)
        return self.prepare(unit)


class TimedResponder:
    """The stage's worker, which says when it is ready and what its engine has counted."""

    def __init__(self, *, ready: str, figures: str, warm_up: list[Unit], prepare: Prepare, **arguments: Any) -> None:
        begin = time.time()
        self._responder = Responder(**arguments)
        self._responder([_decoded(prepare(unit)) for unit in warm_up])
        self._before = self._responder.figures()
        self._figures = Path(figures)
        now = time.time()
        aside = Path(f"{ready}.part")
        aside.write_text(json.dumps({"at": now, "start_s": now - begin}))
        aside.rename(ready)

    def figures(self) -> Mapping[str, float]:
        """As the stage does."""
        return self._responder.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """As the stage does."""
        outcomes = self._responder(tasks)
        since = {name: value - self._before[name] for name, value in self._responder.figures().items()}
        self._figures.with_name(f"{int(since['requests']):06}.json").write_text(json.dumps(since))
        return outcomes


def _decoded(prepared: Prepared) -> Task:
    return Task(id=prepared.id, images=[decode(data) for data in prepared.images], payload=prepared.payload)


def run_pipeline(setting: Setting, engine: Transformers | Vllm) -> Leg:
    """The stage of responses through `run_stage`, from the ready engine to the committed artifact."""
    import ray

    from stic_ray import artifacts
    from stic_ray.artifacts import Artifact, Plan
    from stic_ray.flow import run_stage
    from stic_ray.records import Found, Response

    units = setting.units()
    prepare = Prepare(seed=0, pool=PAPER, negatives=NEGATIVES)
    # One actor on all cores; the tasks that read and corrupt images run beside it, on the same cores.
    ray.init(address="local", num_cpus=2 * THREADS, object_store_memory=10**9, include_dashboard=False)
    with tempfile.TemporaryDirectory() as work_folder:
        home = Path(work_folder)
        (home / "figures").mkdir()
        start = EngineStart(settings=engine, model_uri=setting.model, dtype=setting.dtype, batch_size=HF_BATCH)
        work = Work(
            record=Response,
            input_column="item_id",
            prepare=PrepareWhenReady(prepare=prepare, ready=str(home / "ready")),
            worker=TimedResponder,
            worker_arguments={
                "ready": str(home / "ready"),
                "figures": str(home / "figures" / "x"),
                "warm_up": units[-2:],
                "prepare": prepare,
                "engine": start,
                "sampling": SAMPLING,
                "negatives": NEGATIVES,
                "pool": PAPER,
                "model": "random",
            },
            concurrent_batches=start.concurrent_batches,
        )
        batch_size = 16 if isinstance(engine, Vllm) else 64
        pool = Pool(num_cpus=THREADS) if setting.device == "cpu" else Pool(num_gpus=1.0)
        execution = Execution(pool=pool, task_cpus=1.0, batch_size=batch_size)
        plan = Plan(stage="responses", code_version=1, identity={}, kind="Response")
        parent = Artifact(uri=str(home / "parent"), record={})
        rows = [Found(id=unit.id, key=unit.image_uri, uri=unit.image_uri) for unit in units[:-2]]
        artifacts.write_rows(parent.uri, rows, Found, [])
        inputs = Inputs(parent=parent, column="id", read=image_alone)
        made = run_stage(store=str(home / "store"), plan=plan, work=work, inputs=inputs, execution=execution)
        end = time.time()
        ready = json.loads((home / "ready").read_text())
        figures = json.loads(max((home / "figures").iterdir()).read_text())
    assert made.num_rows == 2 * len(units[:-2])
    seconds = end - ready["at"]
    return Leg(
        start_s=ready["start_s"],
        seconds=seconds,
        requests=made.num_rows,
        new_tokens=figures["new_tokens"],
        figures=figures,
    )


# The bare engines: b, d and e


def run_bare_vllm(setting: Setting) -> Leg:
    """`LLM.generate` on all requests at once, with the engine's arguments of `a`."""
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    begin = time.time()
    from vllm import LLM, SamplingParams

    from stic_ray import vlm
    from stic_ray.engines.vllm import engine_arguments

    llm = LLM(**engine_arguments(setting.model, setting.dtype, VLLM))
    processor = vlm.load_processor(setting.model)
    ends = vlm.end_token_ids(processor, vlm.load_generation_config(setting.model))

    def answer(units: Sequence[Unit]) -> list[Any]:
        prompts, settings = [], []
        for prompt, image, seed in read_requests(units):
            text = vlm.render_prompt(processor, prompt, has_image=True)
            (tokens,) = vlm.tokenize(processor, [text])
            prompts.append({"prompt_token_ids": tokens, "multi_modal_data": {"image": image}})
            settings.append(
                SamplingParams(
                    temperature=SAMPLING.temperature,
                    max_tokens=SAMPLING.max_new_tokens,
                    seed=seed,
                    stop_token_ids=ends,
                    detokenize=False,
                )
            )
        outputs = llm.generate(prompts, settings, use_tqdm=False)
        for output in outputs:
            processor.tokenizer.decode(output.outputs[0].token_ids)
        return list(outputs)

    def count(outputs: list[Any]) -> tuple[int, dict[str, float]]:
        cached = sum(output.num_cached_tokens or 0 for output in outputs)
        read = sum(len(output.prompt_token_ids) for output in outputs)
        figures = {"cached_tokens": float(cached), "prompt_tokens": float(read)}
        return sum(len(output.outputs[0].token_ids) for output in outputs), figures

    return _time(setting.units(), begin, answer, count)


def run_bare_transformers(setting: Setting, batch_size: int) -> Leg:
    """`generate` of transformers on batches of so many requests, in their order."""
    begin = time.time()
    import torch
    from transformers import GenerationConfig

    from stic_ray import vlm

    torch.set_num_threads(THREADS)
    processor = vlm.load_processor(setting.model)
    model = vlm.load_model(setting.model, setting.dtype).to(setting.device)
    settings = GenerationConfig(
        max_new_tokens=SAMPLING.max_new_tokens,
        do_sample=True,
        temperature=SAMPLING.temperature,
        top_k=0,
        eos_token_id=vlm.end_token_ids(processor, model.generation_config),
        pad_token_id=processor.tokenizer.pad_token_id,
    )

    def answer(units: Sequence[Unit]) -> list[Any]:
        ids = []
        per_batch = max(1, batch_size // 2)  # images, read when they are needed
        for start in range(0, len(units), per_batch):
            asked = read_requests(units[start : start + per_batch])
            for first in range(0, len(asked), batch_size):
                part = asked[first : first + batch_size]
                texts = [vlm.render_prompt(processor, prompt, has_image=True) for prompt, _, _ in part]
                inputs = processor(
                    text=texts,
                    images=[[image] for _, image, _ in part],
                    padding=True,
                    return_tensors="pt",
                    add_special_tokens=False,
                ).to(setting.device)
                with torch.inference_mode():
                    output = model.generate(**inputs, generation_config=settings)
                new = output[:, inputs["input_ids"].shape[1] :]
                processor.tokenizer.batch_decode(new, skip_special_tokens=True)
                ids += list(new)
        return ids

    units = setting.units()
    if batch_size == 1:
        units = [*units[: max(4, round(SLOW_SHARE * len(units)))], *units[-2:]]
    return _time(units, begin, answer, lambda outputs: (sum(len(ids) for ids in outputs), {}))


def _time(
    units: list[Unit],
    begin: float,
    answer: Callable[[Sequence[Unit]], list[Any]],
    count: Callable[[list[Any]], tuple[int, dict[str, float]]],
) -> Leg:
    """Warm up on the last two images, then the clock around all others."""
    answer(units[-2:])
    start = time.time()
    outputs = answer(units[:-2])
    seconds = time.time() - start
    new_tokens, figures = count(outputs)
    return Leg(
        start_s=start - begin, seconds=seconds, requests=len(outputs), new_tokens=float(new_tokens), figures=figures
    )


def run_leg(way: str, setting: Setting) -> Leg:
    """One way, in this process."""
    if way == "a":
        return run_pipeline(setting, VLLM)
    if way == "b":
        return run_bare_vllm(setting)
    if way == "c":
        return run_pipeline(setting, Transformers())
    return run_bare_transformers(setting, HF_BATCH if way == "d" else 1)


# The comparison


def shareable_tokens(setting: Setting) -> tuple[int, int]:
    """Prompt tokens that an image's second request has in common with its first, in whole blocks; and all tokens."""
    from stic_ray import vlm

    processor = vlm.load_processor(setting.model)
    shareable = total = 0
    for unit in setting.units()[:-2]:
        draws = draws_of(unit)
        rows = vlm.tokenize(processor, [vlm.render_prompt(processor, draw.prompt, has_image=True) for draw in draws])
        expanded = vlm.beginning_length(processor) - (rows[0].index(processor.image_token_id) + 1)
        common = next((i for i, (one, other) in enumerate(zip(*rows, strict=False)) if one != other), len(rows[0]))
        total += sum(len(row) + expanded for row in rows)
        if not draws[1].corruption:
            shareable += (common + expanded) // setting.block * setting.block
    return shareable, total


def in_own_process(way: str, setting: Setting) -> Leg:
    """One way in a process of its own, so that none inherits another's threads, caches or memory."""
    out = setting.folder / "leg.json"
    command = [sys.executable, __file__, "--leg", way, "--folder", str(setting.folder)]
    command += ["--images", str(setting.num_images - 2), "--out", str(out)]
    command += ["--gpu"] if setting.device == "cuda" else []
    with (setting.folder / "log").open("ab") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    leg = Leg(**json.loads(out.read_text()))
    print(
        f"{way}: {leg.requests_per_s:.3f} requests/s, {leg.seconds:.1f} s, started in {leg.start_s:.1f} s", flush=True
    )
    return leg


def compare(setting: Setting, rounds: int, ways: Sequence[str]) -> int:
    """The given ways in each round, then the bars on the medians."""
    legs: dict[str, list[Leg]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            legs[way].append(in_own_process(way, setting))
    rate = {way: statistics.median(leg.requests_per_s for leg in legs[way]) for way in ways}
    bars = []
    if "a" in rate and "b" in rate:
        bars.append(Bar("a/b: this pipeline with vLLM over LLM.generate", rate["a"] / rate["b"], 0.95, "min"))
    if "c" in rate and "d" in rate:
        name = "c/d: this pipeline with transformers over batched generate"
        bars.append(Bar(name, rate["c"] / rate["d"], 0.95, "min"))
    figures: dict[str, Any] = {
        "images": setting.num_images - 2,
        "requests": legs[ways[0]][0].requests,
        "rounds": rounds,
        **{f"{way}: requests/s, median": rate[way] for way in ways},
        **{f"{way}: engine start, s, median": statistics.median(leg.start_s for leg in legs[way]) for way in ways},
    }
    if "a" in rate:
        shareable, total = shareable_tokens(setting)
        cached = statistics.median(leg.figures["cached_tokens"] for leg in legs["a"])
        name = "share of the shareable prompt tokens that came from the prefix cache"
        bars.append(Bar(name, cached / shareable, 0.9, "min"))
        figures["prefix cache: block size, tokens"] = setting.block
        figures["prefix cache: share of all prompt tokens that are shareable"] = shareable / total
    if "a" in rate and "e" in rate:
        figures["a/e: over one image at a time"] = rate["a"] / rate["e"]
    figures["legs"] = {way: [asdict(leg) for leg in legs[way]] for way in ways}
    return write_results("generation" if setting.device == "cpu" else "generation_gpu", figures, bars)


def main() -> int:
    """Measure, or run one leg for the process that measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="how many images, each with two requests")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default="".join(WAYS), help="which of them, as abcde; bars need a and b, c and d")
    parser.add_argument("--gpu", action="store_true", help="on one GPU, in bfloat16")
    for name in ("--leg", "--folder", "--out"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = "cuda" if given.gpu else "cpu"
    if given.leg:
        setting = Setting(folder=Path(given.folder), num_images=given.images + 2, device=device)
        Path(given.out).write_text(json.dumps(asdict(run_leg(given.leg, setting))))
        return 0
    if given.gpu and lacks_gpu("generation"):
        return 0
    with tempfile.TemporaryDirectory(prefix="generation-") as folder:
        return compare(make_setting(Path(folder), given.images + 2, device), given.rounds, given.ways)


if __name__ == "__main__":
    sys.exit(main())
