"""Predictions: a model's answers to the questions of all benchmarks, describe-and-respond included, as an artifact.

Unit = an image with all its questions: the image is read once, and describe-and-respond reads the description that
the same actor has just written.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from stic_ray import prompts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import DAR_SUFFIX, Config, Model, Sampling
from stic_ray.engines import EngineStart, engine_for, engine_identity, start_engine
from stic_ray.engines.protocol import Completion, Request
from stic_ray.flow import Inputs, Outcome, Task, Work, by_image, read_image, run_stage
from stic_ray.records import Prediction, Question

CODE_VERSION = 3


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model to be measured, with a LoRA adapter on it ("": none), as peft saves one."""

    model: Model
    adapter: str = ""


def plan(config: Config, questions: str, model: str, adapter: str = "") -> Plan:
    """The artifact of predictions; `questions`, `model` and `adapter` are the parents' fingerprints."""
    if config.evaluation is None:
        raise ValueError("evaluation is not configured")
    every = [benchmark for each in config.evaluation.splits().values() for benchmark in each.values()]
    described = config.prompts.infused and any("describe_first" in benchmark.modes for benchmark in every)
    identity = {
        "max_new_tokens": config.evaluation.max_new_tokens,
        "description": config.prompts.detailed[0] if described else "",
        "infused": config.prompts.infused if described else "",
        "engine": engine_identity(config),
        "dtype": config.model.dtype,
    }
    parents = {"questions": questions, "model": model, **({"adapter": adapter} if adapter else {})}
    return Plan(
        stage="predictions", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Prediction.__name__
    )


def run(config: Config, questions: Artifact, candidate: Candidate, plan: Plan) -> Artifact:
    """Make the artifact: greedy answers to every question."""
    engine = engine_for(config, candidate.model.path)
    work = Work(
        record=Prediction,
        input_column="image_id",
        prepare=read_image,
        worker=Answerer,
        worker_arguments={
            "engine": engine,
            "max_new_tokens": plan.identity["max_new_tokens"],
            "description": plan.identity["description"],
            "infused": plan.identity["infused"],
            "adapter": candidate.adapter,
        },
        concurrent_batches=engine.concurrent_batches,
    )
    inputs = Inputs(parent=questions, column="image_id", read=by_image)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


class Answerer:
    """An actor's work: what is asked of the image alone first, descriptions too, then what follows a description."""

    def __init__(
        self, *, engine: EngineStart, max_new_tokens: int, description: str, infused: str, adapter: str
    ) -> None:
        self._engine = start_engine(engine)
        self._sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
        self._description = description
        self._infused = infused
        self._adapter = adapter

    def figures(self) -> Mapping[str, float]:
        """The engine's."""
        return self._engine.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """A prediction a question; what could not be answered is a reject of its own."""
        images = {task.id: task.images[0] if task.images else None for task in tasks}
        asked = {task.id: [Question(**tree) for tree in json.loads(task.payload)] for task in tasks}
        first = self._answer({(unit, self._first(q)): images[unit] for unit, found in asked.items() for q in found})
        later = {
            (unit, self._second(q, first[unit, self._description].text)): images[unit]
            for unit, found in asked.items()
            for q in found
            if _is_described(q) and not first[unit, self._description].error
        }
        answers = first | self._answer(later)
        return [self._outcome(unit, found, answers) for unit, found in asked.items()]

    def _first(self, question: Question) -> str:
        return self._description if _is_described(question) else question.text

    def _second(self, question: Question, description: str) -> str:
        return prompts.infuse(self._infused, description, question.text)

    def _outcome(self, unit: str, asked: Sequence[Question], answers: Mapping[tuple[str, str], Completion]) -> Outcome:
        rows, refused = [], {}
        for question in asked:
            answer, description = answers[unit, self._first(question)], ""
            if _is_described(question) and not answer.error:
                description = answer.text
                answer = answers[unit, self._second(question, description)]
            if answer.error:
                refused[question.id] = answer.error
            else:
                rows.append(_prediction(question, description, answer))
        if rows:
            return Outcome(id=unit, rows=rows, reason="", refused=refused)
        return Outcome(id=unit, rows=[], reason=next(iter(refused.values())))

    def _answer(self, asks: Mapping[tuple[str, str], Image.Image | None]) -> dict[tuple[str, str], Completion]:
        requests = [
            Request(prompt=text, image=image, sampling=self._sampling, seed=0, adapter=self._adapter)
            for (_, text), image in asks.items()
        ]
        return dict(zip(asks, self._engine.generate(requests) if requests else [], strict=True))


def _is_described(question: Question) -> bool:
    """A question of text alone has nothing to describe: it is asked as it is in every mode."""
    return question.task.endswith(DAR_SUFFIX) and bool(question.image_uri)


def _prediction(question: Question, description: str, answer: Completion) -> Prediction:
    asked = {name: value for name, value in vars(question).items() if name != "text"}
    return Prediction(
        **asked,
        question=question.text,
        description=description,
        text=answer.text,
        num_tokens=answer.num_tokens,
        finish_reason=answer.finish_reason,
    )
