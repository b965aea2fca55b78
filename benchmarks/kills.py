"""Bar: SIGKILL of the driver at a random moment of every stage, ten times over, loses and doubles nothing.

In every other round all of its processes die with it; in the others they live on beside the rerun. The run is the
embedded recipe on fewer images, without POPE, and evaluated on the dev images. Resumable: finished rounds stand in
--work.
"""

import argparse
import json
import logging
import random
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness import Bar, write_results
from kill_rounds import Comparison, audit, compare, finish, kill_round, references

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "unlabeled.sample=96",
    "instructions.sample=96",
    "execution.rows_per_file=16",
    "execution.batch_size=16",
    "execution.pool.min_size=1",
    "execution.checkpoint_every=2",
    "evaluation.test.describe_simple.images=embedded://dev/images",
    "evaluation.test.describe_simple.objects=embedded://dev/objects.jsonl",
    "evaluation.test.describe_detailed=null",
    "evaluation.test.questions.images=embedded://dev/images",
    "evaluation.test.questions.questions=embedded://dev/questions.jsonl",
    "evaluation.test.pope=null",
    "evaluation.resamples=10",
    "stage1.epochs=1",
    "stage1_control.epochs=1",
)
logger = logging.getLogger("kills")


def command(work: Path, overrides: list[str]) -> list[str]:
    """The driver's command line for a store of its own."""
    job = str(ROOT / "jobs" / "stic_pipeline.py")
    return [sys.executable, job, f"store={work}/store", f"runs={work}/runs", *SMALL, *overrides]


def main() -> int:
    """Run the rounds; exit status 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("/tmp/stic-ray-kills"))
    parser.add_argument("overrides", nargs="*", help="settings of the run")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    calm = arguments.work / "undisturbed"
    calm.mkdir(parents=True, exist_ok=True)
    finish(command(calm, arguments.overrides), calm)
    undisturbed = references(calm / "runs" / "embedded")
    logger.info("undisturbed run done: %d artifacts", len(undisturbed))
    rounds = []
    for number in range(arguments.rounds):
        rounds.append(one_round(arguments, number, undisturbed))
        logger.info("round %d: %s", number, rounds[-1])
    total = Comparison()
    for found in rounds:
        total.add(Comparison(**found["comparison"]))
    equal = 1 - total.num_different_texts / max(total.num_texts, 1)
    hits = sum(len(found["hit"]) for found in rounds)
    bars = [
        Bar("rounds", len(rounds), 10, "min"),
        Bar("ids lost", total.num_lost, 0, "max"),
        Bar("ids double", total.num_double, 0, "max"),
        Bar("rows with other ids, prompts or draws", total.num_different_draws, 0, "max"),
        Bar("audit and artifact faults", len(total.faults), 0, "max"),
        Bar("share of texts equal", equal, 0.999, "min"),
    ]
    return write_results("kills", {"kills": hits, "stages": len(undisturbed), "rounds": rounds}, bars)


def one_round(arguments: argparse.Namespace, number: int, undisturbed: dict[str, str]) -> dict[str, Any]:
    """One round's figures, from its file where it is finished."""
    work = arguments.work / f"round-{number:02d}"
    done = work / "done.json"
    if done.exists():
        found: dict[str, Any] = json.loads(done.read_text())
        return found
    work.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"{arguments.seed} {number}")
    whole_node = number % 2 == 0
    line = command(work, arguments.overrides)
    hit = kill_round(line, work, work / "store", undisturbed, rng, whole_node=whole_node)
    home = work / "runs" / "embedded"
    comparison = compare(undisturbed, references(home))
    comparison.faults += audit(home)
    result: dict[str, Any] = {"whole_node": whole_node, "hit": hit, "comparison": asdict(comparison)}
    done.write_text(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(main())
