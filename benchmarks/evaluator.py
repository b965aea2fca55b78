"""The evaluator without its model: 10,000 POPE questions on photos, answered by an engine that only waits.

The engine takes a fixed time a request, one batch after the other, as one GPU does; bare, it is called in a loop on the
same questions in this process; in the evaluator from as many threads as vLLM is. What the evaluator adds is reading and
decoding the images, Ray, predictions that can be resumed, and the figures with their intervals. Rates are of the
engine's kind: 250 requests a second is faster than a model of 7 billion weights on one GPU; 1,000 shows where the
evaluator itself ends.
"""

import argparse
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import ray
from PIL import Image

from harness import Bar, write_results
from stic_ray import recipes
from stic_ray.artifacts import load
from stic_ray.cluster import connected
from stic_ray.config import Config, Evaluation, Pope, Sampling, Vllm, parse_config, read_yaml
from stic_ray.engines.protocol import Completion, Request
from stic_ray.evaluate import predict, questions
from stic_ray.evaluate.intervals import Bootstrap
from stic_ray.evaluate.measured import measure
from stic_ray.evaluate.predict import Answerer, Candidate
from stic_ray.evaluate.summary import split_block

NUM_QUESTIONS, A_IMAGE = 10_000, 6
RATES = (250.0, 1000.0)  # requests/s of the engine
BATCH = 96
LABELS = ("yes", "no")


class WaitingEngine:
    """An engine that takes a fixed time a request and always says no."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._requests = 0
        self._busy = threading.Lock()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """One answer a request."""
        with self._busy:
            time.sleep(len(requests) / self._rate)
            self._requests += len(requests)
        return [Completion(text="No", num_prompt_tokens=600, num_tokens=1, finish_reason="stop") for _ in requests]

    def figures(self) -> dict[str, float]:
        """Requests."""
        return {"requests": self._requests}


class WaitingAnswerer(Answerer):
    """The evaluator's own worker, with that engine; importable, so that workers find it by name."""

    def __init__(self, *, engine: float, max_new_tokens: int, description: str, infused: str, adapter: str) -> None:
        self._engine = WaitingEngine(engine)
        self._sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
        self._description, self._infused, self._adapter = description, infused, adapter


def make_data(home: Path) -> Pope:
    """Photos of 640 x 480 (noise over a gradient, about 60 kB) and questions about them, in POPE's format."""
    folder = home / "images"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(-(-NUM_QUESTIONS // A_IMAGE))]
    kinds = []
    for _ in range(16):
        pixels = np.linspace(0, 200, 640 * 480 * 3).reshape(480, 640, 3) + rng.integers(0, 40, (480, 640, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "JPEG", quality=80)
        kinds.append(buffer.getvalue())
    for number, name in enumerate(names):
        (folder / name).write_bytes(kinds[number % len(kinds)])
    lines = [
        {
            "question_id": n,
            "image": names[n // A_IMAGE],
            "text": f"Is there a thing {n}?",
            "label": ("yes", "no")[n % 2],
        }
        for n in range(NUM_QUESTIONS)
    ]
    file = home / "coco_pope_random.json"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Pope(questions={"random": str(file)}, images=str(folder))


def configure(home: Path, benchmark: Pope) -> Config:
    """The embedded recipe's configuration with that benchmark alone."""
    overrides = [f"store={home}/store", "evaluation.max_new_tokens=16", f"execution.batch_size={BATCH}"]
    overrides += ["execution.pool={min_size: 1, max_size: 1, num_cpus: 0.5}", "execution.task_cpus=0.5"]
    config = parse_config(recipes.expand(read_yaml(recipes.read("embedded"), "embedded")), overrides)
    return Config(**{**vars(config), "evaluation": Evaluation(test={"pope": benchmark}, max_new_tokens=16)})


def run_bare(rate: float) -> float:
    """Seconds of the engine alone, in batches."""
    engine = WaitingEngine(rate)
    ask = Request(prompt="", image=None, sampling=None, seed=0)  # type: ignore[arg-type]
    start = time.monotonic()
    for first in range(0, NUM_QUESTIONS, BATCH):
        engine.generate([ask] * min(BATCH, NUM_QUESTIONS - first))
    return time.monotonic() - start


def run_ours(config: Config, rate: float, number: int) -> Mapping[str, float]:
    """Seconds of the evaluator: questions, predictions, figures with intervals; Ray stands."""
    evaluation = config.evaluation
    assert evaluation is not None
    start = time.monotonic()
    plan = questions.plan(config, evaluation)
    asked = questions.run(config, evaluation, plan)
    made = time.monotonic()
    answers = predict.run(
        config, asked, Candidate(model=config.model), predict.plan(config, asked.fingerprint, f"stub-{rate}-{number}")
    )
    answered = time.monotonic()
    found = measure(evaluation, load(asked.uri), {"stub": answers}, {"stub": None})["test"]
    block = split_block(found.predictions, found.truth, Bootstrap(resamples=1000, seed=0))
    assert block["stub"]["pope"]["accuracy"] == 50.0
    assert found.coverage["stub"]["pope"] == {"asked": NUM_QUESTIONS}
    end = time.monotonic()
    return {
        "seconds": end - start,
        "questions": made - start,
        "predictions": answered - made,
        "figures": end - answered,
    }


def main() -> int:
    """Run everything; exit status 1 when the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    vars(predict)["Answerer"] = WaitingAnswerer
    rounds = []
    with tempfile.TemporaryDirectory() as folder, connected():
        home = Path(folder)
        benchmark = make_data(home)
        ray.get([ray.remote(lambda: None).remote() for _ in range(2)])  # workers stand
        for number in range(arguments.rounds):
            for rate in RATES:
                vars(predict)["engine_for"] = partial(_start, rate)
                config = configure(home / f"{number}-{rate:.0f}", benchmark)
                bare, ours = run_bare(rate), run_ours(config, rate, number)
                rounds.append({"rate": rate, "bare_s": bare, **ours, "ratio": bare / ours["seconds"]})
                print(json.dumps(rounds[-1]), flush=True)
    medians = {
        f"{rate:.0f} requests/s": statistics.median(each["ratio"] for each in rounds if each["rate"] == rate)
        for rate in RATES
    }
    bars = [Bar("evaluator / bare engine at 250 requests/s", medians["250 requests/s"], 0.8, "min")]
    return write_results("evaluator", {"medians": medians, "rounds": rounds}, bars)


def _start(rate: float, config: Config, model_uri: str) -> "_Start":
    """In place of `engine_for`."""
    return _Start(rate)


class _Start(float):
    """What the worker is started with: the engine's rate; the evaluator asks how many batches it wants at once."""

    concurrent_batches = Vllm().concurrent_batches


if __name__ == "__main__":
    sys.exit(main())
