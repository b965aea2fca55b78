"""The shared flow: what it sends pickles, what stands is not done again, and too many rejects stop it."""

from pathlib import Path
from typing import Any

import pytest
import ray.cloudpickle

from stic_ray import artifacts, recipes
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Execution, Pool, parse_config, read_yaml
from stic_ray.flow import Outcome, Prepared, Unit, Work, finish_stage, run_stage
from stic_ray.records import Reference, Reject, make_id
from stic_ray.stages import describe, generate, references

_PLAN = Plan(stage="references", code_version=1, identity={}, kind="Reference")


@pytest.mark.parametrize("stage", [generate, references, describe])
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


def _row(name: str) -> Reference:
    return Reference(id=name, chosen_logp=0.0, rejected_logp=0.0, num_chosen_tokens=1, num_rejected_tokens=1)


@pytest.mark.parametrize(("rejects", "allowed"), [(2, True), (3, False)])
def test_finish_stage_refuses_more_rejects_than_allowed_and_commits_nothing(
    tmp_path: Path, rejects: int, allowed: bool
) -> None:
    uri = str(tmp_path / _PLAN.name)
    bad = [Reject(id=make_id(n), stage="references", reason="empty file") for n in range(rejects)]
    artifacts.write_rows(uri, [_row(make_id("good"))], Reference, bad)
    if allowed:
        finish_stage(store=str(tmp_path), plan=_PLAN, num_units=4, seconds=1.0, max_reject_rate=0.5)
    else:
        with pytest.raises(ValueError, match=r"references: 3 of 4 inputs were rejected, most often: empty file \(3\)"):
            finish_stage(store=str(tmp_path), plan=_PLAN, num_units=4, seconds=1.0, max_reject_rate=0.5)
    assert (artifacts.find(str(tmp_path), _PLAN) is not None) is allowed


def _prepare(unit: Unit) -> Prepared:
    return Prepared(id=unit.id, images=[b"x"], payload=unit.payload, reason="odd" if unit.payload == "odd" else "")


class _Worker:
    """Gives a row a unit, and says which units it was given."""

    def __init__(self, *, log: str) -> None:
        self._log = Path(log)

    def __call__(self, units: list[Prepared]) -> list[Outcome]:
        with self._log.open("a") as file:
            file.writelines(f"{unit.id}\n" for unit in units)
        return [
            Outcome(
                id=u.id, rows=[] if u.payload == "hard" else [_row(u.id)], reason="hard" if u.payload == "hard" else ""
            )
            for u in units
        ]


@pytest.mark.slow
def test_run_stage_does_only_what_is_not_there_and_ends_every_unit_once(ray_local: None, tmp_path: Path) -> None:
    payloads = {make_id(n): ("odd" if n % 10 == 1 else "hard" if n % 10 == 2 else "") for n in range(40)}
    units = [Unit(id=key, image_uri="", payload=payload) for key, payload in payloads.items()]
    uri = str(tmp_path / _PLAN.name)
    fine = [key for key, payload in payloads.items() if not payload]
    artifacts.write_rows(uri, [_row(key) for key in fine[:5]], Reference, [])
    work = Work(
        record=Reference,
        input_column="id",
        prepare=_prepare,
        worker=_Worker,
        worker_arguments={"log": str(tmp_path / "log")},
    )
    execution = Execution(pool=Pool(num_cpus=0.5), task_cpus=0.5, batch_size=7, rows_per_file=16)
    made = run_stage(store=str(tmp_path), plan=_PLAN, work=work, units=units, execution=execution)
    assert sorted(row.id for row in artifacts.read(made.uri, Reference)) == sorted(fine)
    assert made.num_rows == len(fine)
    reasons = {row.id: row.reason for row in artifacts.read_rejects(made.uri)}
    assert reasons == {key: payload for key, payload in payloads.items() if payload}
    given = (tmp_path / "log").read_text().split()
    assert sorted(given) == sorted(key for key in payloads if key not in fine[:5] and payloads[key] != "odd")
