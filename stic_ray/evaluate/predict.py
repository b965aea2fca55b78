"""Predictions: a model's answers to the questions of all splits, describe-and-respond included, as an artifact.

Unit = an image with all its questions: the image is read once, and describe-and-respond reads the description that
the same actor has just written.
"""

import json
import time
from collections.abc import Mapping, Sequence
from itertools import groupby

from PIL import Image

from stic_ray import artifacts, prompts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Benchmark, Config, Sampling, to_tree
from stic_ray.engines import EngineStart, engine_for, engine_identity, start_engine
from stic_ray.engines.protocol import Completion, Request
from stic_ray.evaluate.benchmarks import DETAILED_TASK, read_questions
from stic_ray.flow import Inputs, Outcome, Task, Work, by_image, finish_stage, read_image, run_stage
from stic_ray.records import Prediction, Question

CODE_VERSION = 2
DAR_SUFFIX = "_dar"
_ROWS_PER_FILE = 4096


def plan_questions(config: Config, splits: Mapping[str, Benchmark]) -> Plan:
    """The artifact of all splits' questions."""
    identity = {
        "splits": {split: _versions(benchmark) for split, benchmark in splits.items()},
        "prompts": [config.prompts.simple[0], config.prompts.detailed[0]],
        "describe_and_respond": bool(config.prompts.infused),
    }
    return Plan(stage="questions", code_version=CODE_VERSION, identity=identity, kind=Question.__name__)


def _versions(benchmark: Benchmark) -> dict[str, list[str]]:
    files = {name: uri for name, uri in to_tree(benchmark).items() if uri and name != "images"}
    versions = {name: [uri, storage.file_version(uri)] for name, uri in files.items()}
    return {"images": [benchmark.images, storage.listing_version(benchmark.images)], **versions}


def run_questions(config: Config, splits: Mapping[str, Benchmark], plan: Plan) -> Artifact:
    """Make the artifact; an image's questions stand together."""
    start = time.monotonic()
    questions = [
        question
        for split, benchmark in splits.items()
        for question in read_questions(benchmark, config.prompts, split=split)
    ]
    questions.sort(key=lambda question: (question.image_id, question.id))
    uri = storage.join(config.store, plan.name)
    part: list[Question] = []
    for _, asked in groupby(questions, key=lambda question: question.image_id):
        part += asked
        if len(part) >= _ROWS_PER_FILE:
            artifacts.write_rows(uri, part, Question, [])
            part = []
    artifacts.write_rows(uri, part, Question, [])
    artifacts.remove_duplicates(uri, "image_id")
    figures = {"seconds": round(time.monotonic() - start, 3)}
    return finish_stage(store=config.store, plan=plan, num_units=len(questions), figures=figures, max_reject_rate=0.0)


def plan(config: Config, questions: str, model: str) -> Plan:
    """The artifact of predictions; `questions` and `model` are the parents' fingerprints."""
    if config.evaluation is None:
        raise ValueError("evaluation is not configured")
    identity = {
        "max_new_tokens": config.evaluation.max_new_tokens,
        "infused": config.prompts.infused,
        "engine": engine_identity(config),
        "dtype": config.model.dtype,
    }
    parents = {"questions": questions, "model": model}
    return Plan(
        stage="predictions", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Prediction.__name__
    )


def run(config: Config, questions: Artifact, model_uri: str, plan: Plan) -> Artifact:
    """Make the artifact: greedy answers to every question."""
    engine = engine_for(config, model_uri)
    work = Work(
        record=Prediction,
        input_column="image_id",
        prepare=read_image,
        worker=Answerer,
        worker_arguments={
            "engine": engine,
            "max_new_tokens": plan.identity["max_new_tokens"],
            "infused": config.prompts.infused,
        },
        concurrent_batches=engine.concurrent_batches,
    )
    inputs = Inputs(parent=questions, column="image_id", read=by_image)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


class Answerer:
    """An actor's work: descriptions first, then every question, those of describe-and-respond with the description."""

    def __init__(
        self,
        *,
        engine: EngineStart,
        max_new_tokens: int,
        infused: str,
    ) -> None:
        self._engine = start_engine(engine)
        self._sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
        self._infused = infused

    def figures(self) -> Mapping[str, float]:
        """The engine's."""
        return self._engine.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """A prediction a question; an image with a question that could not be answered is a reject."""
        images = {unit.id: unit.images[0] for unit in tasks}
        asked = [(unit.id, Question(**tree)) for unit in tasks for tree in json.loads(unit.payload)]
        first = [(i, q) for i, q in asked if q.task == DETAILED_TASK]
        answers = self._answer([(images[i], q.text) for i, q in first])
        descriptions = {i: answer.text for (i, _), answer in zip(first, answers, strict=True)}
        rest = [(i, q) for i, q in asked if q.task != DETAILED_TASK]
        answers += self._answer([(images[i], self._text(q, descriptions.get(i, ""))) for i, q in rest])
        rows: dict[str, list[Prediction]] = {unit.id: [] for unit in tasks}
        reasons = dict.fromkeys(rows, "")
        for (image_id, question), answer in zip(first + rest, answers, strict=True):
            reasons[image_id] = reasons[image_id] or answer.error
            description = descriptions.get(image_id, "") if question.task.endswith(DAR_SUFFIX) else ""
            rows[image_id].append(_prediction(question, description, answer))
        return [
            Outcome(id=image_id, rows=[] if reasons[image_id] else made, reason=reasons[image_id])
            for image_id, made in rows.items()
        ]

    def _text(self, question: Question, description: str) -> str:
        if not question.task.endswith(DAR_SUFFIX):
            return question.text
        return prompts.infuse(self._infused, description, question.text)

    def _answer(self, asks: list[tuple[Image.Image, str]]) -> list[Completion]:
        requests = [Request(prompt=text, image=image, sampling=self._sampling, seed=0) for image, text in asks]
        return self._engine.generate(requests)


def _prediction(question: Question, description: str, answer: Completion) -> Prediction:
    return Prediction(
        id=question.id,
        split=question.split,
        image_id=question.image_id,
        task=question.task,
        image_uri=question.image_uri,
        question=question.text,
        description=description,
        answer=question.answer,
        category=question.category,
        group=question.group,
        text=answer.text,
        num_tokens=answer.num_tokens,
        finish_reason=answer.finish_reason,
    )
