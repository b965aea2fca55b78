"""Bars of VIG scoring: side by side with two forwards that make all logits, its pool in Ray Data, and SIGKILLs.

Every leg is a process of its own on all cores. The plain way gets the same batches, tensors and precision, and makes
the logits of every position; one at a time is reported beside it. The pool is the stage of scores with an actor a core,
from the ready scorers to the committed artifact, against the bare scorer on the same files: in one process on all
cores, and beside it in a process a core. `--kills` ends drivers of `jobs/score_vig.py` at random moments of its stages.
"""

import argparse
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat
from multiprocessing import Manager, get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from harness import Bar, write_results
from kill_rounds import Comparison, audit, compare, finish, kill_round, references
from stic_ray.config import Blur, Execution, Pool
from stic_ray.flow import Outcome, Prepared, Task, Unit, read_image
from stic_ray.images import blind, decode
from stic_ray.records import Sample, Turn, make_id

ROOT = Path(__file__).resolve().parents[1]
DTYPE = "float32"
THREADS = len(os.sched_getaffinity(0))
BATCH = 16
ROW_TOKENS = 4096
VIEW = Blur(radius=0.1)
MAX_LENGTH = 2048
SIZES = {"small": {"hidden": 256, "layers": 2}, "large": {"hidden": 512, "layers": 8}}
POOL_LEGS = ("bare", "bare-each", "pool")
WAYS = ("ours", "plain", "single")
LEAST_SPEEDUP = {"small": 2.0, "large": 1.4}
WORDS = (
    "a",
    "small",
    "dog",
    "sits",
    "on",
    "the",
    "green",
    "grass",
    "next",
    "to",
    "a",
    "wooden",
    "bench",
    "under",
    "sky",
)
KILL_SETTINGS = (
    "vig={blind: {type: Blur, radius: 0.2}}",
    "instructions.sample=400",
    "execution.rows_per_file=16",
    "execution.batch_size=16",
    "execution.pool.min_size=1",
)
logger = logging.getLogger("scoring")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the legs have in common: a folder with a random LLaVA to which an image is 576 tokens, and its images."""

    folder: Path
    size: str
    num_samples: int

    @property
    def model(self) -> str:
        return str(self.folder / self.size)

    def samples(self) -> list[Sample]:
        """Instruction samples: a question and an answer of 20 to 60 words."""
        found = []
        for number in range(self.num_samples):
            rng = random.Random(number)
            answer = " ".join(rng.choices(WORDS, k=rng.randint(20, 60)))
            turns = [Turn(role="user", text="describe the image"), Turn(role="assistant", text=answer)]
            uri = str(self.folder / "images" / f"{number:04}.jpg")
            key = make_id("sample", number)
            found.append(Sample(id=key, image_id=key, image_uri=uri, category="", description="", turns=turns))
        return found


def make_setting(folder: Path, size: str, num_samples: int) -> Setting:
    """Write the model and the images."""
    from random_models import Size, save_random_model

    save_random_model(
        "llava", folder / size, Size(tile_px=336, vocabulary=32768, positions=MAX_LENGTH, spread=0.02, **SIZES[size])
    )
    (folder / "images").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(num_samples):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        coarse.save(folder / "images" / f"{number:04}.jpg", quality=90)
    return Setting(folder=folder, size=size, num_samples=num_samples)


# The legs


def run_way(way: str, setting: Setting) -> dict[str, Any]:
    """One way over all samples: seconds, added peak memory, and every token's gain."""
    import torch

    from stic_ray import vlm

    torch.set_num_threads(THREADS)
    samples = setting.samples()
    score: Callable[[Sequence[Sample]], list[list[float]]]
    if way == "ours":
        from stic_ray.engines import start_scorer

        score = partial(_ours, start_scorer(model_uri=setting.model, dtype=DTYPE, row_tokens=ROW_TOKENS))
    else:
        score = partial(_plain, vlm.load_processor(setting.model), vlm.load_model(setting.model, DTYPE))
    size = 1 if way == "single" else BATCH
    samples = samples[: max(8, len(samples) // 8)] if way == "single" else samples
    before = _reset_peak()
    score(samples[:size])
    begin = time.perf_counter()
    gains: list[list[float]] = []
    for start in range(0, len(samples), size):
        gains += score(samples[start : start + size])
    seconds = time.perf_counter() - begin
    return {"samples_per_s": len(samples) / seconds, "added_bytes": _peak() - before, "gains": gains}


def _read(sample: Sample) -> Image.Image:
    return decode(Path(sample.image_uri).read_bytes())


def _ours(scorer: Any, batch: Sequence[Sample]) -> list[list[float]]:
    from stic_ray import vig
    from stic_ray.engines.protocol import Conversation

    images = [_read(sample) for sample in batch]
    views = [
        scorer.score([Conversation(turns=s.turns, image=i) for s, i in zip(batch, seen, strict=True)], MAX_LENGTH)
        for seen in (images, [blind(image, VIEW) for image in images])
    ]
    return [vig.token_gains(one.logp, other.logp).tolist() for one, other in zip(*views, strict=True)]


def _plain(processor: Any, model: Any, batch: Sequence[Sample]) -> list[list[float]]:
    """Two forwards over a batch with the logits of all positions, and their log-softmax."""
    import torch

    from stic_ray import vlm

    images = [_read(sample) for sample in batch]
    found = []
    for seen in (images, [blind(image, VIEW) for image in images]):
        examples = [vlm.encode_example(processor, s.turns, i) for s, i in zip(batch, seen, strict=True)]
        inputs, trained_BT = _padded(examples)
        with torch.inference_mode():
            logp_BTV = model(**inputs).logits[:, :-1].log_softmax(dim=-1)
        logp_BT = logp_BTV.gather(2, inputs["input_ids"][:, 1:, None])[:, :, 0]
        found.append([row[mask].tolist() for row, mask in zip(logp_BT, trained_BT, strict=True)])
    return [[a - b for a, b in zip(one, other, strict=True)] for one, other in zip(*found, strict=True)]


def _padded(examples: Sequence[Any]) -> tuple[dict[str, Any], Any]:
    """A batch padded on the right, and which tokens are answers but for the first position, which nothing predicts."""
    import torch

    rows = [torch.tensor([example.input_ids, [1] * len(example.input_ids), example.trained]) for example in examples]
    padded = torch.nn.utils.rnn.pad_sequence([row.T for row in rows], batch_first=True)
    pixels = torch.cat([example.image_inputs["pixel_values"] for example in examples])
    inputs = {"input_ids": padded[..., 0], "attention_mask": padded[..., 1], "pixel_values": pixels}
    return inputs, padded[:, 1:, 2].bool()


def _reset_peak() -> int:
    """Forget the peak of memory so far; what is resident now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


# The pool


@dataclass(frozen=True, kw_only=True)
class ReadWhenReady:
    """The stage's preparation, which begins with the clock: when all scorers have started."""

    ready: str
    actors: int

    def __call__(self, unit: Unit) -> Prepared:
        """As the stage does."""
        while len(os.listdir(self.ready)) < self.actors:
            time.sleep(0.01)
        return read_image(unit)


class TimedScorer:
    """The stage's worker, which says when it is ready."""

    def __init__(self, *, ready: str, warm_up: Task, **arguments: Any) -> None:
        from stic_ray.stages.score import AnswerScorer

        self._scorer = AnswerScorer(**arguments)
        self._scorer([warm_up])
        Path(ready, str(os.getpid())).touch()

    def figures(self) -> Mapping[str, float]:
        """As the stage does."""
        return self._scorer.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """As the stage does."""
        return self._scorer(tasks)


def _payload(sample: Sample) -> str:
    return json.dumps({**vars(sample), "turns": [vars(turn) for turn in sample.turns]})


def run_pool(setting: Setting) -> dict[str, Any]:
    """Scores of all samples as a stage, on an actor a core."""
    import ray

    from stic_ray import artifacts
    from stic_ray.artifacts import Artifact, Plan
    from stic_ray.engines import start_scorer
    from stic_ray.flow import Inputs, Work, one_by_one, run_stage
    from stic_ray.records import Score
    from stic_ray.stages.score import conversations_of_sample

    samples = setting.samples()
    ray.init(address="local", num_cpus=2 * THREADS, object_store_memory=10**9, include_dashboard=False)
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder, "ready")
        ready.mkdir()
        artifacts.write_rows(f"{folder}/parent", samples, Sample, [])
        work = Work(
            record=Score,
            input_column="item_id",
            prepare=ReadWhenReady(ready=str(ready), actors=THREADS),
            worker=TimedScorer,
            worker_arguments={
                "ready": str(ready),
                "warm_up": Task(id=samples[0].id, images=[_read(samples[0])], payload=_payload(samples[0])),
                "start": partial(start_scorer, model_uri=setting.model, dtype=DTYPE, row_tokens=ROW_TOKENS),
                "max_length": MAX_LENGTH,
                "split": conversations_of_sample,
            },
        )
        pool = Pool(num_cpus=1.0, min_size=THREADS, max_size=THREADS)
        made = run_stage(
            store=f"{folder}/store",
            plan=Plan(stage="sample_scores", code_version=1, identity={}, kind="Score"),
            work=work,
            inputs=Inputs(parent=Artifact(uri=f"{folder}/parent", record={}), column="id", read=one_by_one),
            execution=Execution(pool=pool, task_cpus=1.0, batch_size=BATCH),
        )
        seconds = time.time() - max(file.stat().st_mtime for file in ready.iterdir())
    assert made.num_rows == len(samples)
    return {"samples_per_s": len(samples) / seconds}


def run_bare(setting: Setting, *, processes: int) -> dict[str, Any]:
    """The bare scorer on the same files, view of the image alone: in one process on all cores, or in one a core."""
    samples = setting.samples()
    shares = [samples[number::processes] for number in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor, Manager() as manager:
        arguments = (repeat(setting.model), shares, repeat(THREADS // processes), repeat(manager.Barrier(processes)))
        spans = list(executor.map(_score_bare, *arguments))
    seconds = max(end for _, end in spans) - min(begin for begin, _ in spans)
    return {"samples_per_s": len(samples) / seconds}


def _score_bare(model: str, samples: Sequence[Sample], threads: int, barrier: Any) -> tuple[float, float]:
    """A share of the samples, from when all have started; begin and end."""
    import torch

    from stic_ray.engines import start_scorer
    from stic_ray.engines.protocol import Conversation

    torch.set_num_threads(threads)
    scorer = start_scorer(model_uri=model, dtype=DTYPE, row_tokens=ROW_TOKENS)
    scorer.score([Conversation(turns=samples[0].turns, image=_read(samples[0]))], MAX_LENGTH)
    barrier.wait()
    begin = time.time()
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        scorer.score([Conversation(turns=s.turns, image=_read(s)) for s in batch], MAX_LENGTH)
    return begin, time.time()


# Kills


def run_kills(work: Path, least: int) -> dict[str, Any]:
    """Rounds of SIGKILLs of `jobs/score_vig.py`'s driver, one in each stage, until there were so many."""
    job = [sys.executable, str(ROOT / "jobs" / "score_vig.py"), *KILL_SETTINGS]
    calm = work / "undisturbed"
    calm.mkdir(parents=True, exist_ok=True)
    finish([*job, f"store={calm}/store", f"runs={calm}/runs"], calm)
    stages = references(calm / "runs" / "embedded-gains")
    total, hits, number = Comparison(), 0, 0
    while hits < least:
        home = work / f"round-{number:02d}"
        home.mkdir(parents=True, exist_ok=True)
        line = [*job, f"store={home}/store", f"runs={home}/runs"]
        rng = random.Random(number)
        hits += len(kill_round(line, home, home / "store", stages, rng, whole_node=number % 2 == 0))
        total.add(compare(stages, references(home / "runs" / "embedded-gains")))
        total.faults += audit(home / "runs" / "embedded-gains")
        number += 1
        logger.info("round %d: %d kills so far, %s", number, hits, total)
    return {"kills": hits, "rounds": number, **asdict(total)}


def main() -> int:
    """Run all legs; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=96, help="of the ways side by side")
    parser.add_argument("--pool-samples", type=int, default=384, help="of the pool and the bare scorer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--leg", nargs=3, metavar=("NAME", "SIZE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.leg:
        name, size, folder = arguments.leg
        setting = Setting(folder=Path(folder), size=size, num_samples=arguments.samples)
        pools: dict[str, Callable[[Setting], dict[str, Any]]] = {
            "pool": run_pool,
            "bare": partial(run_bare, processes=1),
            "bare-each": partial(run_bare, processes=THREADS),
        }
        found = pools[name](setting) if name in pools else run_way(name, setting)
        print(json.dumps(found))
        return 0
    figures: dict[str, Any] = {}
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            make_setting(Path(folder), size, max(arguments.samples, arguments.pool_samples))
            legs = [*WAYS, *POOL_LEGS] if size == "large" else list(WAYS)
            rounds = [{leg: _leg(arguments, leg, size, folder) for leg in legs} for _ in range(arguments.rounds)]
            figures[size] = _summarise(rounds)
            bars += _bars(size, figures[size])
        if arguments.kills:
            figures["kills"] = killed = run_kills(Path(folder) / "kills", arguments.kills)
            bars += [Bar("kills", killed["kills"], arguments.kills, "min")]
            bars += [Bar(f"kills: {name}", killed[name], 0, "max") for name in ("num_lost", "num_double")]
            bars.append(Bar("kills: faults", len(killed["faults"]), 0, "max"))
    return write_results("scoring", figures, bars)


def _leg(arguments: argparse.Namespace, leg: str, size: str, folder: str) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"}
    samples = arguments.pool_samples if leg in POOL_LEGS else arguments.samples
    command = [sys.executable, __file__, "--samples", str(samples), "--leg", leg, size, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    logger.info("%s, %s: %.2f samples/s", size, leg, found["samples_per_s"])
    return found


def _summarise(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, ratios of legs that ran in one round, and how far the gains are from the plain way's."""
    figures: dict[str, Any] = {f"{leg} samples/s": median(r[leg]["samples_per_s"] for r in rounds) for leg in rounds[0]}
    figures["ours/plain"] = [r["ours"]["samples_per_s"] / r["plain"]["samples_per_s"] for r in rounds]
    figures["ours/single"] = [r["ours"]["samples_per_s"] / r["single"]["samples_per_s"] for r in rounds]
    figures["added memory, ours/plain"] = [r["ours"]["added_bytes"] / r["plain"]["added_bytes"] for r in rounds]
    for leg in ("ours", "plain"):
        figures[f"{leg} added bytes"] = median(r[leg]["added_bytes"] for r in rounds)
    for bare in POOL_LEGS[:-1] if "pool" in rounds[0] else ():
        figures[f"pool/{bare}"] = [r["pool"]["samples_per_s"] / r[bare]["samples_per_s"] for r in rounds]
    first = rounds[0]
    pairs = zip(first["ours"]["gains"], first["plain"]["gains"], strict=True)
    figures["largest difference of a gain"] = max(
        abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True)
    )
    return figures


def _bars(size: str, figures: Mapping[str, Any]) -> list[Bar]:
    bars = [
        Bar(f"{size}: ours/plain, samples/s", median(figures["ours/plain"]), LEAST_SPEEDUP[size], "min"),
        Bar(f"{size}: ours/plain, added memory", median(figures["added memory, ours/plain"]), 0.35, "max"),
        Bar(f"{size}: largest difference of a gain", figures["largest difference of a gain"], 1e-4, "max"),
    ]
    if "pool/bare" in figures:
        bars.append(Bar(f"{size}: pool/bare, samples/s", median(figures["pool/bare"]), 0.95, "min"))
    return bars


if __name__ == "__main__":
    sys.exit(main())
