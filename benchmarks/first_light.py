"""Bars of the first light: the embedded bases, and what STIC gains on them over its controls.

Runs the whole pipeline on several independently trained bases and run seeds (all reuse one store, so an interrupted
benchmark goes on), then compares on the test split: `make bench NAME=first_light ARGS='--bases DIR0 DIR1'`. A base is
what `python -m stic_ray.world.train --seed N --out DIR` wrote. Also writes docs/results.md.
"""

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Bar, write_results
from stic_ray import artifacts
from stic_ray.config import parse_config, read_yaml
from stic_ray.evaluate.benchmarks.short_answers import most_frequent_answer_rates
from stic_ray.evaluate.intervals import Bootstrap, Difference
from stic_ray.evaluate.summary import Predictions, Truth, by_task, paired_difference, truth_of
from stic_ray.records import Prediction

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("base", "stage1", "stage1_control", "stage2", "stage2_control")
SIMPLE = ("chair_i", "chair_s", "recall")
MANY, ONE = "many objects", "one object"
BOOTSTRAP = Bootstrap(resamples=2000, seed=0)
logger = logging.getLogger("first_light")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One run: its base, its seed, summary.json and the test split's predictions by model."""

    base: str
    seed: int
    summary: Mapping[str, Any]
    predictions: Mapping[str, Predictions]


def run_pipeline(base: Path, seed: int, work: Path) -> Measured:
    """A run of the embedded recipe on a base with a run seed, from the store where it is done."""
    name = f"{base.name}-seed{seed}"
    job = [sys.executable, str(ROOT / "jobs" / "stic_pipeline.py"), f"name={name}", f"seed={seed}"]
    job += [f"model.path={base}/base", f"store={work}/store", f"runs={work}/runs"]
    done = subprocess.run(job, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-3000:])
    home = work / "runs" / name
    lineage = json.loads((home / "artifacts.json").read_text())
    predictions = {model: artifacts.read(lineage[f"predictions_{model}"], Prediction) for model in MODELS}
    return Measured(
        base=base.name,
        seed=seed,
        summary=json.loads((home / "summary.json").read_text()),
        predictions={
            model: by_task([row for row in rows if row.split == "test"]) for model, rows in predictions.items()
        },
    )


def base_bars(run: Measured) -> list[Bar]:
    """Bar 2 for one base."""
    block, bounds = run.summary["base"], run.summary["intervals"]["base"]
    simple, detailed = block["describe_simple"]["recall"], block["describe_detailed"]["recall"]
    bars = []
    for strategy, least in (("random", 90.0), ("popular", 88.0), ("adversarial", 88.0)):
        found = block["pope"][strategy]
        bars.append(Bar(f"{run.base}: POPE {strategy} accuracy", found["accuracy"], least, "min"))
        bars.append(Bar(f"{run.base}: POPE {strategy} yes ratio from 50", abs(found["yes_ratio"] - 50), 10.0, "max"))
    bars.append(Bar(f"{run.base}: detailed-prompt recall", detailed, 75.0, "min"))
    bars.append(Bar(f"{run.base}: simple-prompt recall is lower by", detailed - simple, 8.0, "min"))
    bars.append(Bar(f"{run.base}: mean question accuracy", block["questions"]["accuracy"], 78.0, "min"))
    frequent = most_frequent_answer_rates(run.predictions["base"]["questions"])
    least_margin = min(bounds["questions"][kind][0] - rate for kind, rate in frequent.items())
    bars.append(Bar(f"{run.base}: least margin of a type's lower bound over its top answer", least_margin, 0.0, "min"))
    return bars


def gain_bars(runs: Sequence[Measured], control: Mapping[str, Difference]) -> list[Bar]:
    """Bar 3: every run against its base, and all runs together against the control."""
    bars = []
    for name, least, sign in (("chair_i", 10.0, -1), ("chair_s", 20.0, -1), ("recall", 5.0, 1)):
        gains = [sign * _gain(run, name) for run in runs]
        bars.append(Bar(f"stage 1 over base, {name}, least run", min(gains), least, "min"))
    for name, least in (("chair_i", 1.0), ("chair_s", 2.0)):
        found = control[f"describe_simple/{name}"]
        bars.append(Bar(f"stage 1 under its control, {name}, mean", -found.value, least, "min"))
        bars.append(Bar(f"stage 1 under its control, {name}, interval's near end", -found.high, 0.0, "min"))
    loss = -control["describe_simple/recall"].value
    bars.append(Bar("stage 1 recall lost to its control, mean", loss, 0.5, "max"))
    return bars


def _gain(run: Measured, name: str) -> float:
    stage1, base = (run.summary[model]["describe_simple"][name] for model in ("stage1", "base"))
    return float(stage1 - base)


def compare(runs: Sequence[Measured], a: str, b: str, truth: Truth) -> dict[str, Difference]:
    """Every figure of model a minus model b, the mean over runs."""
    sides = [run.predictions[a] for run in runs], [run.predictions[b] for run in runs]
    return paired_difference(*sides, truth, BOOTSTRAP)


def describe_and_respond(runs: Sequence[Measured], group: str, truth: Truth) -> dict[str, Difference]:
    """Describe-and-respond after stage 2 on one group of questions, against the other ways of answering."""
    ours = [_of_group(run.predictions["stage2"], "questions_dar", group) for run in runs]
    others = {
        "its own direct answers": ("stage2", "questions"),
        "the base's direct answers": ("base", "questions"),
        "the base's describe-and-respond": ("base", "questions_dar"),
        "the control's direct answers": ("stage2_control", "questions"),
        "the control's describe-and-respond": ("stage2_control", "questions_dar"),
    }
    found = {}
    for label, (model, task) in others.items():
        theirs = [_of_group(run.predictions[model], task, group) for run in runs]
        found[label] = paired_difference(ours, theirs, truth, BOOTSTRAP)["questions/accuracy"]
    return found


def _of_group(predictions: Predictions, task: str, group: str) -> Predictions:
    """One group's answers, as if they had been asked directly, so that ways of asking can be compared."""
    return {"questions": [row for row in predictions[task] if row.group == group]}


def main() -> int:
    """Run everything; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", type=Path, nargs="+", required=True, help="what the trainings of the bases wrote")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("/tmp/stic-ray-first-light"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    runs = []
    for seed in arguments.seeds:
        for base in arguments.bases:
            runs.append(run_pipeline(base.absolute(), seed, arguments.work))
            logger.info("%s, seed %d: done", base.name, seed)
    recipe = (ROOT / "stic_ray" / "recipes" / "embedded.yaml").read_text()
    evaluation = parse_config(read_yaml(recipe, "embedded"), []).evaluation
    assert evaluation is not None
    truth = truth_of(evaluation.test, {})
    control = compare(runs, "stage1", "stage1_control", truth)
    first_of_base = {run.base: run for run in reversed(runs)}
    size = [Bar("bases", len(first_of_base), 2, "min"), Bar("run seeds a base", len(arguments.seeds), 3, "min")]
    bars = size + [bar for run in first_of_base.values() for bar in base_bars(run)] + gain_bars(runs, control)
    answers = {group: describe_and_respond(runs, group, truth) for group in (ONE, MANY)}
    figures = {
        "runs": [{"base": run.base, "seed": run.seed, **{m: run.summary[m] for m in MODELS}} for run in runs],
        "stage1 minus control": control,
        "stage1 minus base": compare(runs, "stage1", "base", truth),
        "stage2 minus control": compare(runs, "stage2", "stage2_control", truth),
        "describe-and-respond after stage 2 minus": answers,
    }
    status = write_results("first_light", figures, bars)  # first: a changed document would make its commit dirty
    (ROOT / "docs" / "results.md").write_text(render(runs, control, answers, bars))
    return status


def render(
    runs: Sequence[Measured],
    control: Mapping[str, Difference],
    answers: Mapping[str, Mapping[str, Difference]],
    bars: Sequence[Bar],
) -> str:
    """docs/results.md."""
    bases = len({run.base for run in runs})
    lines = [
        "# Results",
        "",
        "Written by `make bench NAME=first_light ARGS='--bases DIR0 DIR1'`, where each DIR comes from",
        "`python -m stic_ray.world.train --seed N --out DIR`. Figures are percent on the test split of the",
        f"embedded world (500 uniform images); {bases} bases, {len(runs)} runs. Intervals: 95%, bootstrap over images,",
        "paired, the mean over runs. Settings were chosen on dev images. This world is for the first run and for",
        "tests: its figures say that the methods work here, not how much they gain on photographs.",
        "",
        "Said openly: a first measurement on the test split showed 61% of the answers to one question type (same",
        "colour or shape) to be no, and its lower bound not above that; yes and no were then balanced in the question",
        "files (images, POPE, captions and the bases stayed). STIC's recipe here draws 30% misleading prompts and 70%",
        "corrupted images, chosen on dev; the paper draws half and half. The control's learning rate is the best of",
        "7e-4, 1e-3, 1.5e-3 and 2e-3 on dev.",
        "",
        "## Descriptions by the simple prompt, every run: CHAIR_i / CHAIR_s / recall",
        "",
        "| base | seed | base | stage 1 | control of stage 1 | stage 2 | control of stage 2 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for run in runs:
        cells = [" / ".join(f"{run.summary[m]['describe_simple'][name]:.1f}" for name in SIMPLE) for m in MODELS]
        lines.append(f"| {run.base} | {run.seed} | {' | '.join(cells)} |")
    lines += ["", "## Questions, every run: accuracy direct / describe-and-respond; POPE adversarial accuracy", ""]
    lines += ["| base | seed | base | stage 1 | control of stage 1 | stage 2 | control of stage 2 |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    for run in runs:
        cells = [_question_cell(run.summary[model]) for model in MODELS]
        lines.append(f"| {run.base} | {run.seed} | {' | '.join(cells)} |")
    lines += ["", "## Stage 1 minus its control (SFT on the chosen answers, its own best learning rate on dev)", ""]
    lines += ["| figure | difference | 95% interval |", "| --- | --- | --- |"]
    shown = [f"{task}/{name}" for task in ("describe_simple", "describe_detailed") for name in SIMPLE]
    lines += [_difference_row(name, control[name]) for name in [*shown, "questions/accuracy"]]
    lines += ["", "## Describe-and-respond after stage 2, minus other ways of answering (question accuracy)", ""]
    lines += ["| questions | against | difference | 95% interval |", "| --- | --- | --- | --- |"]
    for group, found in answers.items():
        lines += [f"| {group} {_difference_row(label, difference)}" for label, difference in found.items()]
    missed = [bar for bar in bars if not bar.met]
    lines += ["", "## What does not hold", ""]
    lines += [f"- {bar.name}: {bar.value:.2f}, aimed at {bar.limit:g} ({bar.direction})" for bar in missed]
    own = answers[MANY]["its own direct answers"]
    if own.value < 2 or own.low <= 0:
        lines.append(
            f"- Describe-and-respond was aimed at 2 points over direct answering on {MANY}: it is {own.value:.2f} "
            f"[{own.low:.2f}, {own.high:.2f}]."
        )
    if lines[-1] == "":
        lines.append("Every bar of this benchmark is met.")
    lines += [
        "",
        "VIG and BPO against their controls, on three bases, with what was tried: [science.md](science.md); of its "
        "bases, base0 is this page's.",
    ]
    return "\n".join(lines) + "\n"


def _question_cell(block: Mapping[str, Any]) -> str:
    direct, infused = block["questions"]["accuracy"], block["questions_dar"]["accuracy"]
    return f"{direct:.1f} / {infused:.1f}; {block['pope']['adversarial']['accuracy']:.1f}"


def _difference_row(name: str, found: Difference) -> str:
    return f"| {name} | {found.value:+.2f} | [{found.low:+.2f}, {found.high:+.2f}] |"


if __name__ == "__main__":
    sys.exit(main())
