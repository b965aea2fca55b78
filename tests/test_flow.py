"""The shared flow: what it sends pickles, what stands is not done again, and too many rejects stop it."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.cloudpickle

from stic_ray import artifacts, recipes
from stic_ray.artifacts import Artifact, Plan
from stic_ray.attempts import Attempt
from stic_ray.config import Blur, Execution, Pool, parse_config, read_yaml
from stic_ray.flow import UNIT, Inputs, Outcome, Prepared, Task, TaskWork, Unit, Work, finish_stage, run_stage
from stic_ray.ledger import POISON
from stic_ray.records import Found, PerceptualHash, Reject, make_id
from stic_ray.stages import describe, generate, score

_NO_IMAGE = "not an image, or of a kind that is not read"
_PLAN = Plan(stage="hashes", code_version=1, identity={}, kind="PerceptualHash")


@pytest.mark.parametrize("stage", [generate, describe])
def test_work_of_every_stage_pickles(stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Work] = []
    monkeypatch.setattr(stage, "run_stage", lambda **arguments: sent.append(arguments["work"]))
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), [f"store={tmp_path}"])
    parent = Artifact(uri=str(tmp_path / "none"), record={"fingerprint": "f"})
    plan = stage.plan(config, "f", "base-1")
    arguments = (config, parent, "/model", plan) if stage is describe else (config, parent, plan)
    stage.run(*arguments)
    (work,) = sent
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(work)) == work


@pytest.mark.parametrize("kind", [score.PAIRS, score.SAMPLES])
def test_work_of_scores_and_gains_pickles(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Work] = []
    monkeypatch.setattr(score, "run_stage", lambda **arguments: sent.append(arguments["work"]))
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), [f"store={tmp_path}"])
    items = Artifact(uri=str(tmp_path / "none"), record={"fingerprint": "f"})
    plan = score.plan(kind, items, config.model, "base-1", 100)
    score.run(config, kind, items, config.model, plan)
    scores = Artifact(uri="", record={"fingerprint": "g", "identity": plan.identity})
    score.run_gains(config, scores, config.model, Blur(radius=0.2), score.plan_gains(kind, scores, Blur(radius=0.2)))
    tokens = score.plan_tokens(kind, items, "base-1", 100)
    score.run_tokens(config, kind, items, config.model, tokens)
    assert [work.record.__name__ for work in sent] == ["Score", "Gain", "Score"]
    assert [work.on_gpu for work in sent] == [True, True, False]
    for work in sent:
        assert _plain(ray.cloudpickle.loads(ray.cloudpickle.dumps(work))) == _plain(work)


def _plain(work: Work) -> tuple[Work, Any]:
    """Partial functions are equal to none but themselves."""
    arguments = dict(work.worker_arguments)
    start = arguments.pop("start")
    return replace(work, worker_arguments=arguments), (start.func, start.keywords)


def _row(name: str) -> PerceptualHash:
    return PerceptualHash(id=name, bits="")


@pytest.mark.parametrize(("rejects", "allowed"), [(2, True), (3, False)])
def test_finish_stage_refuses_more_rejects_than_allowed_and_commits_nothing(
    tmp_path: Path, rejects: int, allowed: bool
) -> None:
    uri = str(tmp_path / _PLAN.name)
    bad = [Reject(id=make_id(n), stage="hashes", reason="empty file") for n in range(rejects)]
    artifacts.write_rows(uri, [_row(make_id("good"))], PerceptualHash, bad)
    if allowed:
        finish_stage(store=str(tmp_path), plan=_PLAN, num_units=4, figures={}, max_reject_rate=0.5)
    else:
        with pytest.raises(ValueError, match=r"hashes: 3 of 4 inputs were rejected, most often: empty file \(3\)"):
            finish_stage(store=str(tmp_path), plan=_PLAN, num_units=4, figures={}, max_reject_rate=0.5)
    assert (artifacts.find(str(tmp_path), _PLAN) is not None) is allowed


def test_finish_stage_where_all_may_be_rejected_takes_parts_of_inputs_as_rejects(tmp_path: Path) -> None:
    """An input of six parts, one of them good: five rejects of one input."""
    bad = [Reject(id=make_id(n), stage="hashes", reason="the same") for n in range(5)]
    artifacts.write_rows(str(tmp_path / _PLAN.name), [_row(make_id("good"))], PerceptualHash, bad)
    finish_stage(store=str(tmp_path), plan=_PLAN, num_units=1, figures={}, max_reject_rate=1.0)
    assert artifacts.find(str(tmp_path), _PLAN) is not None


def _prepare(unit: Unit) -> Prepared:
    if unit.payload == "deadly to prepare":
        os._exit(1)
    os.environ["PREPARED_HERE"] = "1"
    images = [b"no image"] if unit.payload == _NO_IMAGE else []
    return Prepared(id=unit.id, images=images, payload=unit.payload, reason="odd" if unit.payload == "odd" else "")


def _outcome(unit: Task | Unit) -> Outcome:
    if unit.payload == "deadly to do":
        os._exit(1)
    reason = "hard" if unit.payload == "hard" else ""
    return Outcome(id=unit.id, rows=[] if reason else [_row(unit.id)], reason=reason)


class _Worker:
    """Gives a row a unit, says which units it was given, and dies of some."""

    def __init__(self, *, log: str) -> None:
        self._log = Path(log)
        self._num_seen = 0

    def figures(self) -> dict[str, float]:
        return {"seen_units": float(self._num_seen)}

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        with self._log.open("a") as file:
            file.write(f"{' '.join(task.id for task in tasks)}\n")
        if any(task.payload == "deadly" for task in tasks):
            os._exit(1)
        assert "PREPARED_HERE" not in os.environ  # CPU work is beside the actors, never in them
        self._num_seen += len(tasks)
        return [_outcome(task) for task in tasks]


def _read(rows: pa.Table) -> pa.Table:
    return pa.table([rows.column("id"), rows.column("uri"), rows.column("key")], schema=UNIT)


def _inputs(folder: Path, payloads: dict[str, str]) -> Inputs:
    """Units with these payloads, in three of a parent's files."""
    rows = [Found(id=key, key=payload, uri="") for key, payload in payloads.items()]
    for part in range(3):
        artifacts.write_rows(str(folder / "parent"), rows[part::3], Found, [])
    return Inputs(parent=Artifact(uri=str(folder / "parent"), record={}), column="id", read=_read)


def _work(folder: Path) -> Work:
    arguments = {"log": str(folder / "log")}
    return Work(record=PerceptualHash, input_column="id", prepare=_prepare, worker=_Worker, worker_arguments=arguments)


_EXECUTION = Execution(pool=Pool(num_cpus=0.5), task_cpus=0.5, batch_size=7, rows_per_file=16)


@pytest.mark.usefixtures("ray_local")
def test_run_stage_refuses_a_parent_that_lacks_rows_of_its_record(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path, {make_id(n): "" for n in range(9)})
    for rows, whole in ((10, False), (8, False), (9, True)):
        parent = Artifact(uri=inputs.parent.uri, record={"counts": {"rows": rows, "rejects": 0}})
        work = TaskWork(record=PerceptualHash, input_column="id", do=_outcome)
        arguments = {"store": str(tmp_path), "plan": _PLAN, "work": work, "execution": _EXECUTION}
        if whole:
            assert run_stage(**arguments, inputs=replace(inputs, parent=parent)).num_rows == 9  # type: ignore[arg-type]
            continue
        with pytest.raises(ValueError, match=rf"holds 9 rows, and its record says {rows}: .* remove it"):
            run_stage(**arguments, inputs=replace(inputs, parent=parent))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_run_stage_does_only_what_is_not_there_and_ends_every_unit_once(tmp_path: Path) -> None:
    kinds = {1: "odd", 2: "hard", 3: _NO_IMAGE}
    payloads = {make_id(n): kinds.get(n % 10, "") for n in range(40)}
    uri = str(tmp_path / _PLAN.name)
    fine = [key for key, payload in payloads.items() if not payload]
    artifacts.write_rows(uri, [_row(key) for key in fine[:5]], PerceptualHash, [])
    Attempt(uri).note({"seconds": 1000.0, "seen_units": 5.0, "retried_units": 2})
    made = run_stage(
        store=str(tmp_path), plan=_PLAN, work=_work(tmp_path), inputs=_inputs(tmp_path, payloads), execution=_EXECUTION
    )
    assert sorted(row.id for row in artifacts.read(made.uri, PerceptualHash)) == sorted(fine)
    assert made.num_rows == len(fine)
    reasons = {row.id: row.reason for row in artifacts.read_rejects(made.uri)}
    assert reasons == {key: payload for key, payload in payloads.items() if payload}
    given = (tmp_path / "log").read_text().split()
    assert sorted(given) == sorted(key for key in payloads if key not in fine[:5] and payloads[key] in ("", "hard"))
    record = made.record
    assert (record["inputs"], record["seen_units"], record["retried_units"]) == (40, 5 + len(given), 2)
    assert record["seconds"] > 1000.0 and record["inputs_per_s"] == round(40 / record["seconds"], 3)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_run_stage_that_was_killed_before_it_settled_commits_every_unit_once(tmp_path: Path) -> None:
    keys = [make_id(n) for n in range(6)]
    uri = str(tmp_path / _PLAN.name)
    for written in (keys[:4], keys[2:]):
        artifacts.write_rows(uri, [_row(key) for key in written], PerceptualHash, [])
    rejects = [Reject(id=keys[0], stage="hashes", reason="from a run that another one overtook")]
    artifacts.write_rows(uri, [], PerceptualHash, rejects)
    inputs = _inputs(tmp_path, dict.fromkeys(keys, ""))
    made = run_stage(store=str(tmp_path), plan=_PLAN, work=_work(tmp_path), inputs=inputs, execution=_EXECUTION)
    assert made.record["counts"] == {"rows": 6, "rejects": 0, "rejects_by_reason": {}}
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_run_stage_without_a_model_ends_every_unit_once(tmp_path: Path) -> None:
    payloads = {make_id(n): "hard" if n % 10 == 2 else "deadly to do" if n == 9 else "" for n in range(40)}
    made = run_stage(
        store=str(tmp_path),
        plan=_PLAN,
        work=TaskWork(record=PerceptualHash, input_column="id", do=_outcome),
        inputs=_inputs(tmp_path, payloads),
        execution=_EXECUTION,
    )
    assert {row.id for row in artifacts.read(made.uri, PerceptualHash)} == {
        key for key, text in payloads.items() if not text
    }
    reasons = {row.id: row.reason for row in artifacts.read_rejects(made.uri)}
    assert reasons == {key: "hard" if text == "hard" else POISON for key, text in payloads.items() if text}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_run_stage_rejects_what_kills_its_worker_twice_alone_and_nothing_else(tmp_path: Path) -> None:
    kinds = {3: "deadly", 11: "deadly to prepare", 21: "deadly"}
    payloads = {make_id(n): kinds.get(n, "") for n in range(24)}
    deadly = {key for key, payload in payloads.items() if payload}
    made = run_stage(
        store=str(tmp_path), plan=_PLAN, work=_work(tmp_path), inputs=_inputs(tmp_path, payloads), execution=_EXECUTION
    )
    assert {row.id: row.reason for row in artifacts.read_rejects(made.uri)} == dict.fromkeys(deadly, POISON)
    assert {row.id for row in artifacts.read(made.uri, PerceptualHash)} == payloads.keys() - deadly
    calls = (tmp_path / "log").read_text().splitlines()
    alone = {key: calls.count(key) for key in deadly if payloads[key] == "deadly"}
    assert len(alone) == 2 and set(alone.values()) == {2}
    assert made.record["retried_units"] > 0
