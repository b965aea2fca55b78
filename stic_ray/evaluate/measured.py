"""What a split's answers come to: answers, truth, and the count of every question that has no figure."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from stic_ray import artifacts
from stic_ray.artifacts import Artifact
from stic_ray.config import JUDGED, Evaluation
from stic_ray.evaluate.benchmarks import measurable
from stic_ray.evaluate.judging import Judged
from stic_ray.evaluate.measures import Verdicts
from stic_ray.evaluate.summary import Predictions, Truth, by_task, truth_of
from stic_ray.records import Ask, Prediction, Question, Verdict, reason_kind

Coverage = Mapping[str, Mapping[str, int]]
"""Of a model, by task: `asked`, and how many of these have no answer or no verdict, by reason."""


_NO_JUDGE = "there is no judge (evaluation.judge)"
_SECRET = "the file has no answer to it"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One split's answers by model, with what they are held against and what is missing of each model's."""

    predictions: Mapping[str, Predictions]
    truth: Truth
    coverage: Mapping[str, Coverage]


def measure(
    evaluation: Evaluation,
    questions: Artifact,
    answers: Mapping[str, Artifact],
    judged: Mapping[str, Judged | None],
) -> dict[str, Measured]:
    """The splits' answers, of the artifacts of questions, and of predictions and of what was judged by model."""
    asked = artifacts.read(questions.uri, Question)
    said = [artifacts.read(each.verdicts.uri, Verdict) for each in judged.values() if each is not None]
    found: Verdicts = {verdict.id: verdict for each in said for verdict in each}
    rows = {name: artifacts.read(artifact.uri, Prediction) for name, artifact in answers.items()}
    missing = {name: _missing(artifact, judged[name]) for name, artifact in answers.items()}
    splits = {}
    for split, benchmarks in evaluation.splits().items():
        truth = truth_of(benchmarks, found)
        predictions = {name: by_task([row for row in each if row.split == split]) for name, each in rows.items()}
        of_split = [question for question in asked if question.split == split]
        coverage = {name: _coverage(of_split, predictions[name], missing[name], truth) for name in answers}
        splits[split] = Measured(predictions=predictions, truth=truth, coverage=coverage)
    return splits


def _missing(answers: Artifact, judged: Judged | None) -> dict[str, str]:
    """Why there is no answer or no verdict: by the id of a question, or of an image for all of its questions."""
    found = {reject.id: reject.reason for reject in artifacts.read_rejects(answers.uri)}
    if judged is not None:
        reasons = {reject.id: reject.reason for reject in artifacts.read_rejects(judged.verdicts.uri)}
        asks = artifacts.read(judged.asks.uri, Ask) if reasons else []
        found |= {ask.question_id: reasons[ask.id] for ask in asks if ask.id in reasons}
    return found


def _coverage(
    asked: list[Question], predictions: Predictions, missing: Mapping[str, str], truth: Truth
) -> dict[str, dict[str, int]]:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    measured = {
        row.id
        for task, benchmark in truth.benchmarks.items()
        for row in measurable(benchmark, predictions.get(task, ()), truth.verdicts)
    }
    for question in asked:
        counts[question.task]["asked"] += 1
        if question.id not in measured:
            judged = isinstance(truth.benchmarks[question.task], JUDGED)
            reason = missing.get(question.id) or missing.get(question.image_id)
            counts[question.task][reason_kind(reason or (_NO_JUDGE if judged else _SECRET))] += 1
    return {task: dict(found) for task, found in counts.items()}
