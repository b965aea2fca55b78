"""What a judge says of answers, as an artifact: each is asked once, and a judge that fails gives a reject, no score."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import JUDGED, Benchmark, Config, Endpoint, Evaluation, OwnModel, Sampling
from stic_ray.engines import EngineStart, engine_for, engine_identity, start_engine
from stic_ray.engines.protocol import Request
from stic_ray.evaluate.benchmarks import judge_prompt, judge_question, read_verdict
from stic_ray.evaluate.endpoint import Asker
from stic_ray.evaluate.measures import verdict_id
from stic_ray.evaluate.questions import modes_of, task_of
from stic_ray.flow import UNIT, Inputs, Outcome, Task, TooManyRejectsError, Work, finish_stage, read_image, run_stage
from stic_ray.records import Ask, Prediction, Verdict, make_id

CODE_VERSION = 1
_NO_VERDICT = "the judge's answer holds no verdict that can be read"


def judged_tasks(config: Config, evaluation: Evaluation) -> dict[tuple[str, str], Benchmark]:
    """The benchmarks that a judge reads, by split and task; none where there is no judge."""
    if evaluation.judge is None:
        return {}
    return {
        (split, task_of(name, mode)): benchmark
        for split, benchmarks in evaluation.splits().items()
        for name, benchmark in benchmarks.items()
        if isinstance(benchmark, JUDGED)
        for mode in modes_of(benchmark, config.prompts.infused)
    }


def plan_asks(predictions: Artifact, tasks: Mapping[tuple[str, str], Benchmark]) -> Plan:
    """The artifact of what the judge is asked about a model's answers."""
    told = [[*key, type(benchmark).__name__, make_id(judge_prompt(benchmark))] for key, benchmark in tasks.items()]
    identity = {"tasks": told}
    parents = {"predictions": predictions.fingerprint}
    return Plan(stage="asks", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Ask.__name__)


def run_asks(config: Config, predictions: Artifact, tasks: Mapping[tuple[str, str], Benchmark], plan: Plan) -> Artifact:
    """Make the artifact: one ask an answer."""
    start = time.monotonic()
    asks: dict[str, Ask] = {}
    for rows in artifacts.iterate(predictions.uri, Prediction):
        for row in rows:
            benchmark = tasks.get((row.split, row.task))
            if benchmark is not None:
                text = judge_question(benchmark)(row)
                asks[verdict_id(row)] = Ask(
                    id=verdict_id(row), question_id=row.id, benchmark=type(benchmark).__name__, text=text
                )
    uri = storage.join(config.store, plan.name)
    artifacts.write_rows(uri, [asks[key] for key in sorted(asks)], Ask, [])
    figures = {"seconds": round(time.monotonic() - start, 3)}
    return finish_stage(store=config.store, plan=plan, num_units=len(asks), figures=figures, max_reject_rate=0.0)


def plan(config: Config, judge: Endpoint | OwnModel, asks: Artifact, model: str) -> Plan:
    """The artifact of verdicts; `model` is the fingerprint of a judge of our own, "" for an endpoint."""
    if isinstance(judge, Endpoint):
        identity = {"url": judge.url, "model": judge.model, "max_new_tokens": judge.max_new_tokens}
    else:
        engine = engine_identity(config)
        identity = {"max_new_tokens": judge.max_new_tokens, "engine": engine, "dtype": config.model.dtype}
    parents = {"asks": asks.fingerprint, **({"model": model} if model else {})}
    return Plan(stage="verdicts", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Verdict.__name__)


def run(config: Config, evaluation: Evaluation, asks: Artifact, plan: Plan) -> Artifact:
    """Make the artifact.

    Raises:
        ValueError: more failures than `evaluation.max_judge_failures`, or the endpoint refuses the key or the model.
    """
    judge = evaluation.judge
    assert judge is not None  # what is to be judged, is with a judge: see judged_tasks
    engine = engine_for(config, judge.path) if isinstance(judge, OwnModel) else None
    work = Work(
        record=Verdict,
        input_column="id",
        prepare=read_image,
        worker=Judge,
        worker_arguments={"judge": judge, "engine": engine},
        on_gpu=engine is not None,
        concurrent_batches=engine.concurrent_batches if engine is not None else 1,
    )
    inputs = Inputs(parent=asks, column="id", read=_units)
    execution = replace(config.execution, max_reject_rate=evaluation.max_judge_failures)
    try:
        return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=execution)
    except TooManyRejectsError as error:
        accepted = f"up to {evaluation.max_judge_failures:.0%} of its answers may fail (evaluation.max_judge_failures)"
        raise ValueError(f"{error.told} See to the judge (evaluation.judge); {accepted}") from None


def check_failures(evaluation: Evaluation, verdicts: Artifact) -> None:
    """Whether the judge failed no more often than this run accepts, whichever run asked it.

    Raises:
        ValueError: it did.
    """
    counts = verdicts.record["counts"]
    if counts["rejects"] > evaluation.max_judge_failures * (counts["rows"] + counts["rejects"]):
        raise ValueError(
            f"the judge failed on {counts['rejects']} of {counts['rows'] + counts['rejects']} answers, in a run that "
            f"accepted it: raise evaluation.max_judge_failures, or remove {verdicts.uri} to have it asked again"
        )


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the judge was asked about a model's answers, and what it said."""

    asks: Artifact
    verdicts: Artifact


def _units(asks: pa.Table) -> pa.Table:
    """A unit an ask, without an image: judges are not shown it."""
    payloads = [json.dumps(ask) for ask in asks.to_pylist()]
    return pa.table([asks.column("id"), [""] * asks.num_rows, payloads], schema=UNIT)


@dataclass(frozen=True)
class _Said:
    text: str
    error: str


class Judge:
    """An actor's work: ask, and read the verdict."""

    def __init__(self, *, judge: Endpoint | OwnModel, engine: EngineStart | None) -> None:
        self._asker = Asker(judge) if isinstance(judge, Endpoint) else None
        self._engine = start_engine(engine) if engine is not None else None
        self._sampling = Sampling(temperature=0.0, max_new_tokens=judge.max_new_tokens)

    def figures(self) -> Mapping[str, float]:
        """The endpoint's, with what it cost, or the engine's."""
        source = self._asker or self._engine
        assert source is not None
        return source.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """A verdict an answer; where the judge failed, a reject that says how."""
        asks = [Ask(**json.loads(task.payload)) for task in tasks]
        return [_outcome(ask, said) for ask, said in zip(asks, self._ask([ask.text for ask in asks]), strict=True)]

    def _ask(self, texts: Sequence[str]) -> list[_Said]:
        if self._asker is not None:
            return [_Said(reply.text, reply.error) for reply in self._asker.ask(texts)]
        assert self._engine is not None
        requests = [Request(prompt=text, image=None, sampling=self._sampling, seed=0) for text in texts]
        return [_Said(answer.text, answer.error) for answer in self._engine.generate(requests)]


def _outcome(ask: Ask, said: _Said) -> Outcome:
    found = None if said.error else read_verdict(ask.benchmark, said.text)
    if found is None:
        return Outcome(id=ask.id, rows=[], reason=said.error or _NO_VERDICT)
    values, names = found
    row = Verdict(id=ask.id, question_id=ask.question_id, text=said.text, values=values, names=names)
    return Outcome(id=ask.id, rows=[row], reason="")
