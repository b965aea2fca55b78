"""Benchmarks by lmms-eval: what it is started with, what its results become, what it says to a wrong call.

Where `STIC_RAY_LMMS_PYTHON` is the Python of an environment with lmms-eval, a task of the tests' own is really asked; a
small package of that name stands for it elsewhere.
"""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from stic_ray import artifacts, lmms_eval, recipes
from stic_ray.artifacts import Plan
from stic_ray.config import parse_config, read_yaml, to_tree
from stic_ray.flow import finish_stage
from stic_ray.records import Found
from stic_ray.report import lmms as report
from stic_ray.report.folder import open_run
from stic_ray.stages import lmms

_RESULTS = {
    "results": {
        "tiny": {"alias": "tiny", "accuracy,none": 0.75, "accuracy_stderr,none": 0.25, "accuracy_stderr_clt,none": 0.2},
        "other": {"alias": "x", "score,strict": 3, "score_stderr,strict": "N/A", "note,none": "text"},
    },
    "n-samples": {"tiny": {"original": 9, "effective": 4}},
}
_STAND_IN = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if given["--tasks"] == "broken":
    print("no data here")
else:
    (pathlib.Path(given["--output_path"]) / "x_results.json").write_text(json.dumps({results}))
"""


def test_results_become_figures_with_their_errors_and_sizes() -> None:
    tiny, other = lmms.read_results(_RESULTS)
    assert (tiny.task, tiny.metric, tiny.value, tiny.standard_error, tiny.num_questions) == (
        "tiny",
        "accuracy",
        0.75,
        0.25,
        4,
    )
    assert (other.metric, other.value, other.num_questions) == ("score (strict)", 3.0, 0)
    assert math.isnan(other.standard_error)
    with pytest.raises(ValueError, match="hold no figure"):
        lmms.read_results({"results": {"tiny": {"alias": "tiny"}}})


def test_command_names_the_checkpoint_the_device_and_the_tasks() -> None:
    tasks = lmms.Tasks(
        python="py", names=("a", "b"), include="/t", limit=5, model_class="llava_hf", arguments={"x": "1"}, batch_size=2
    )
    told = lmms.command("/m", "bfloat16", tasks, "cuda", "/out")
    assert told[:5] == ["py", "-m", "lmms_eval", "--model", "llava_hf"]
    assert told[told.index("--model_args") + 1] == "pretrained=/m,device=cuda,device_map=cuda,dtype=bfloat16,x=1"
    for name, value in {"--tasks": "a,b", "--limit": "5", "--include_path": "/t", "--output_path": "/out"}.items():
        assert told[told.index(name) + 1] == value


def test_section_of_a_report_escapes_what_tasks_are_called() -> None:
    figure = {"task": "<b>", "metric": "m", "value": 0.5, "standard_error": None, "questions": 3}
    tree = {"base": {"model": "f", "figures": [figure]}}
    assert "<b>" not in report.section(tree) and "&#60;b&#62;" in report.section(tree) and "0.5" in report.section(tree)
    assert report.section({}) == ""


def _run_folder(home: Path, model: Path) -> Path:
    given = [f"store={home / 'store'}", f"model.path={model}"]
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), given)
    run = home / "runs" / "mine"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(to_tree(config)))
    plan = Plan(stage="listing", code_version=1, identity={}, kind="Found")
    uri = str(home / "store" / plan.name)
    artifacts.write_rows(uri, [Found(id="0" * 32, key="k", uri="u")], Found, [])
    finish_stage(store=str(home / "store"), plan=plan, num_units=1, figures={"seconds": 0.1}, max_reject_rate=0.0)
    (run / "artifacts.json").write_text(json.dumps({"listing": uri}))
    return run


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python that has a package lmms_eval."""
    packages = tmp_path / "packages"
    (packages / "lmms_eval").mkdir(parents=True)
    (packages / "lmms_eval" / "__main__.py").write_text(_STAND_IN.format(results=repr(_RESULTS)))
    known = packages / "lmms_eval-0.7.3.dist-info"
    known.mkdir()
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: lmms_eval\nVersion: 0.7.3\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_figures_stand_in_the_run_and_nothing_is_asked_again(
    tmp_path: Path, tiny_llava: Path, stand_in: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run_folder(tmp_path, tiny_llava)
    call = [str(run), "--python", stand_in]
    assert lmms_eval.main([*call, "--tasks", "broken"]) == 2
    assert "without results" in capsys.readouterr().err
    assert lmms_eval.main([*call, "--tasks", "tiny,other"]) == 0
    assert "0.75 ± 0.25" in capsys.readouterr().out
    tree = json.loads((run / "lmms_eval.json").read_text())
    assert [row["value"] for row in tree["base"]["figures"]] == [0.75, 3.0]
    assert "Further benchmarks" in (run / "report.html").read_text()
    folder = open_run(str(run))
    assert report.read(folder) == tree
    model = replace(folder.config.model, path="embedded://models/base")
    assert report.read(replace(folder, config=replace(folder.config, model=model))) == {}  # of another model
    (tmp_path / "packages" / "lmms_eval" / "__main__.py").write_text("raise SystemExit(1)")
    assert lmms_eval.main([*call, "--tasks", "other,tiny"]) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (["{run}", "--tasks", "a", "--python", "/no/such"], "--python /no/such does not run"),
        (["{run}", "--tasks", "a", "--python", sys.executable], "has no lmms-eval"),
        (["{run}", "--tasks", ",", "--python", sys.executable], "--tasks is empty"),
        (["{run}", "--tasks", "a", "--python", "x", "--models", "stage9"], "--models stage9: the run has base"),
        (["{run}", "--tasks", "a", "--python", "x", "--include", "{run}/none"], "holds no task"),
        (["{run}/none", "--tasks", "a", "--python", "x"], "holds no artifacts.json"),
    ],
)
def test_wrong_call_is_one_line(
    call: list[str], message: str, tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run_folder(tmp_path, tiny_llava)
    assert lmms_eval.main([part.format(run=run) for part in call]) == 2
    told = capsys.readouterr().err
    assert message in told and told.startswith("error: ") and told.count("\n") == 1


_TASK: dict[str, Any] = {
    "task": "tiny_color",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_target": "answer",
    "generation_kwargs": {"max_new_tokens": 4, "temperature": 0, "do_sample": False},
    "metric_list": [{"metric": "accuracy", "aggregation": "mean", "higher_is_better": True}],
}
_TASK_CODE = """
from PIL import Image

def doc_to_visual(doc):
    return [Image.open(doc["image"]).convert("RGB")]

def doc_to_text(doc):
    return doc["question"]

def process_results(doc, results):
    return {"accuracy": float(bool(results[0].strip()))}
"""


@pytest.mark.slow
@pytest.mark.skipif("STIC_RAY_LMMS_PYTHON" not in os.environ, reason="STIC_RAY_LMMS_PYTHON names no lmms-eval")
@pytest.mark.usefixtures("ray_local")
def test_lmms_eval_itself_answers(tmp_path: Path, tiny_llava: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run_folder(tmp_path, tiny_llava)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    row = {"image": str(tmp_path / "red.png"), "question": "what color ?", "answer": "red"}
    (tmp_path / "q.jsonl").write_text("\n".join(json.dumps(row) for _ in range(3)))
    functions = "".join(
        f"{name}: !function utils.{name}\n" for name in ("doc_to_visual", "doc_to_text", "process_results")
    )
    given = {**_TASK, "dataset_kwargs": {"data_files": {"test": str(tmp_path / "q.jsonl")}}}
    (tasks / "tiny.yaml").write_text(yaml.safe_dump(given) + functions)
    (tasks / "utils.py").write_text(_TASK_CODE)
    call = [str(run), "--python", os.environ["STIC_RAY_LMMS_PYTHON"], "--tasks", "tiny_color", "--include", str(tasks)]
    assert lmms_eval.main(call) == 0, capsys.readouterr().err
    (figure,) = json.loads((run / "lmms_eval.json").read_text())["base"]["figures"]
    assert (figure["task"], figure["metric"], figure["questions"]) == ("tiny_color", "accuracy", 3)
