"""How a run makes artifacts, and what it makes of errors, here and on workers."""

import errno
import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import ray.exceptions

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, parse_config, read_yaml
from stic_ray.recipes import read
from stic_ray.run import Run, Step
from stic_ray.standing import FINISHED, INTERRUPTED, read_standing

_TRACE = """\
ray::MapWorker(MapBatches(_Actor)).submit() (pid=1, ip=192.0.2.2)
  File "/usr/lib/python3.11/concurrent/futures/thread.py", line 58, in run
    result = self.fn(*self.args, **self.kwargs)
             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "{file}", line 123, in encode_example
    raise ValueError("no chat template")
{error}

The above exception was the direct cause of the following exception:

ray.exceptions.UserCodeException: UDF failed to process a data block.
"""


@pytest.fixture
def config() -> Config:
    return parse_config(read_yaml(read("embedded"), "embedded"), ["store=/s", "runs=/r"])


class _DualError(ray.exceptions.RayError, ValueError):  # type: ignore[misc]
    """As Ray makes them: its wrapping has the class of what it wraps too."""


@pytest.mark.parametrize("file", ["/a/stic_ray/vlm.py", "/v/lib/site-packages/stic_ray/vlm.py"])
def test_mistake_found_on_a_worker_is_one_line(config: Config, file: str) -> None:
    trace = _TRACE.format(file=file, error="ValueError: no chat template")
    with pytest.raises(ValueError, match=r"^pairs: no chat template$"), Run(config).explained("pairs"):
        raise ray.exceptions.RayError(trace)


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("/stic_ray/.venv/lib/site-packages/numpy/core.py", "ValueError: shapes do not match"),
        ("/a/stic_ray/vlm.py", "KeyError: 'x'"),
    ],
)
def test_fault_on_a_worker_keeps_its_trace(config: Config, file: str, error: str) -> None:
    trace = _TRACE.format(file=file, error=error)
    with pytest.raises(RuntimeError, match="pairs: a worker failed") as raised, Run(config).explained("pairs"):
        raise _DualError(trace)
    assert str(raised.value.__cause__) == trace
    with pytest.raises(ray.exceptions.RayError, match="UDF failed"), Run(config).explained("pairs"):
        raise ray.exceptions.RayError(trace)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EDQUOT, "full"),
        ray.exceptions.RayError("OSError: [Errno 28] No space left on device"),
    ],
)
def test_full_disk_is_one_line_with_what_to_do(config: Config, error: Exception) -> None:
    expected = r"^pairs: no space left .*/s.*/r.* goes on from there$"
    with pytest.raises(ValueError, match=expected), Run(config).explained("pairs"):
        raise error


def test_other_errors_pass_as_they_are(config: Config) -> None:
    for error in (OSError(errno.EACCES, "no"), ValueError("no"), KeyError("no")):
        with pytest.raises(type(error)) as raised, Run(config).explained("pairs"):
            raise error
        assert raised.value is error


def test_run_says_what_it_refers_to_from_the_first_artifact_on(config: Config, tmp_path: Path) -> None:
    config = replace(config, store=str(tmp_path / "store"), runs=str(tmp_path / "runs"))
    home = tmp_path / "runs" / "mine"
    plan = Plan(stage="pairs", code_version=1, identity={}, kind="Pair")
    artifacts.commit(config.store, plan, {})
    with Run(config, name="mine") as run:
        made = run.make("pairs", plan, lambda _: pytest.fail("it is there"))
        assert json.loads((home / "underway.json").read_text()) == {"pairs": made.uri}
        assert not (home / "artifacts.json").exists()
        run.deliver()
    assert json.loads((home / "artifacts.json").read_text()) == {"pairs": made.uri}
    assert not (home / "underway.json").exists()


def test_base_model_is_the_users_version_or_of_its_files(config: Config, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    models = [replace(config, model=replace(config.model, path=str(tmp_path), version=v)) for v in ("mine", "")]
    assert Run(models[0]).base_model() == "base-mine"
    before = Run(models[1]).base_model()
    assert before == f"base-{storage.model_version(str(tmp_path))[:16]}"
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert Run(models[1]).base_model() != before


def test_base_model_of_files_listed_by_size_alone_tells_two_models_of_one_size_apart(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_version_of", lambda info: f"{info['size']}:None")
    without = replace(config, model=replace(config.model, path=str(tmp_path), version=""))
    found = set()
    for weights in (b"1", b"2"):
        (tmp_path / "model.safetensors").write_bytes(weights)
        found.add(Run(without).base_model())
    assert len(found) == 2


# Several artifacts at once


def _step(config: Config, role: str, meet: threading.Barrier, fail: str = "") -> Step:
    plan = Plan(stage=role, code_version=1, identity={}, kind="model")

    def work(plan: Plan) -> Artifact:
        meet.wait(timeout=20)  # broken, and so an error, unless all are at work at once
        if fail:
            raise ValueError(fail)
        return artifacts.commit(config.store, plan, {"steps": 1})

    return Step(role=role, plan=plan, work=work)


@pytest.fixture
def local_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(Run, "_connect", lambda self: None)  # nothing here asks Ray for anything
    return Run(parse_config(read_yaml(read("embedded"), "embedded"), [f"store={tmp_path}", f"runs={tmp_path}"]))


def test_make_together_works_on_all_at_once_and_keeps_their_order(local_run: Run) -> None:
    meet = threading.Barrier(2)
    steps = [_step(local_run.config, role, meet) for role in ("b", "a")]
    made = local_run.make_together(steps)
    assert [artifact.record["stage"] for artifact in made] == list(local_run.artifacts) == ["b", "a"]
    again = Run(local_run.config)
    again.make_together(steps)
    assert again.reused == {"a", "b"}


def test_make_together_raises_the_error_and_keeps_what_the_others_made(local_run: Run) -> None:
    meet = threading.Barrier(2)
    bad, fine = _step(local_run.config, "bad", meet, fail="lower it"), _step(local_run.config, "fine", meet)
    with pytest.raises(ValueError, match="lower it"):
        local_run.make_together([bad, fine])
    assert artifacts.find(local_run.config.store, fine.plan) is not None
    assert artifacts.find(local_run.config.store, bad.plan) is None


def test_run_that_whoever_asked_wants_no_more_of_is_finished(local_run: Run) -> None:
    for error, ended in ((GeneratorExit, FINISHED), (KeyboardInterrupt, INTERRUPTED)):
        with pytest.raises(error), local_run.__class__(local_run.config) as run:
            raise error
        standing = read_standing(run.home)
        assert standing is not None and standing.ended == ended
