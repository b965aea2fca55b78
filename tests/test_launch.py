"""The command line: instant, and one clear line for every mistake."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import yaml
from fsspec import AbstractFileSystem

from stic_ray import job_specs, launch, preflight, storage
from stic_ray.config import Chair, Mlflow, Pope, parse_config

_JOB = Path(__file__).resolve().parent.parent / "jobs" / "stic_pipeline.py"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a store and runs are looked for, and made."""
    monkeypatch.chdir(tmp_path)


def _call(*arguments: str, cwd: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """A call of the job in a process of its own, and the CPU seconds that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(_JOB), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_help_answers_in_less_than_a_second_of_cpu(tmp_path: Path) -> None:
    done, seconds = _call("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "stage1.loss.alpha" in done.stdout and "embedded" in done.stdout
    assert seconds < 1.0


def test_importing_the_command_line_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = "import sys, stic_ray.launch; print({'torch', 'transformers', 'ray', 'peft', 'vllm'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of one's own with an image folder, an empty one and a file."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["stage1.loss.alhpa=1"], ["stage1.loss.alhpa", "did you mean alpha?"]),
        (["seed=one"], ["seed is 'one'", "whole number"]),
        (["stage1.loss.alpha"], ["dotted.key=value"]),
        (["unlabeled.uri=missing"], ["unlabeled.uri", "missing does not exist"]),
        (["unlabeled.uri=empty"], ["unlabeled.uri", "empty holds no image", ".png"]),
        (["unlabeled.uri=file"], ["unlabeled.uri", "file is a file"]),
        (["unlabeled.uri=nosuch://bucket"], ["unlabeled.uri: cannot open nosuch://bucket"]),
        (["unlabeled.uri=sftp://me:secret@host/photos"], ["unlabeled.uri holds a password", "through its environment"]),
        (["instructions.uri=missing.json"], ["instructions.uri", "missing.json does not exist"]),
        (["instructions.images=missing"], ["instructions.images", "missing does not exist", "give the folder"]),
        (["instructions.uri=empty"], ["instructions.uri", "empty is a folder"]),
        (
            ["imported={uri: no.jsonl, format: trl}"],
            ["imported.uri", "no.jsonl does not exist: give a file of records"],
        ),
        (["imported={uri: file, format: trl}"], ["imported.uri", "file is empty: give a file of records"]),
        (["instructions={type: TrlMessages, uri: empty}"], ["instructions.uri", "empty is a folder without .parquet"]),
        (["model.path=empty"], ["model.path", "holds no config.json"]),
        (
            ["engine.type=Vllm", "engine.tensor_parallel=2", "execution.pool.num_gpus=1"],
            ["engine.type is Vllm on 2 GPUs", "execution.pool.num_gpus is 1: set it to 2"],
        ),
        (
            ["evaluation.test.pope.questions.random=missing"],
            ["evaluation.test.pope.questions.random", "does not exist"],
        ),
        (["unlabeled.uri=photos", "store=file"], ["store", "file cannot be written", "set store="]),
        (["unlabeled.uri=photos", "store=s", "runs=file/deep"], ["runs", "file/deep cannot be written", "set runs="]),
        (["unlabeled.uri=photos", "store=/proc/store"], ["store /proc/store cannot be written", "set store="]),
        (["store=memory://x"], ["store memory://x", "memory of its own"]),
        (["unlabeled.uri=photos", "store=http://127.0.0.1:9/x"], ["store http://127.0.0.1:9/x cannot be"]),
        ([f"name={'n' * 101}"], ["name is 'nnn", "at most 100 bytes"]),
        (["name=" + "漢" * 40], ["at most 100 bytes"]),
        (["sampling.temperature=1e-40"], ["sampling.temperature is 1e-40", "between 0.001 and 1000"]),
        (["contrast={strength: 1e300}"], ["contrast.strength is 1e+300", "at most 1000"]),
        (["execution.batch_size=99999999999999999999"], ["execution.batch_size", "at most"]),
        (["--config", "missing.yaml"], ["--config missing.yaml: No such file"]),
        (["--config", "photos"], ["--config photos: Is a directory"]),
        (["--recipe", "embeded"], ["there is no recipe 'embeded'", "embedded"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_mistake_is_one_clear_line_and_exit_2(place: Path, arguments: list[str], expected: list[str]) -> None:
    done, seconds = _call(*arguments, cwd=place)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert [part for part in expected if part not in lines[0]] == [], lines[0]
    assert "secret" not in lines[0]
    assert done.stdout == ""
    assert seconds < 2.0


@pytest.mark.parametrize("settings", [[], ["store=/tmp/x"], ["store=s", "runs=/tmp/x"], ["store=file://s", "runs=/x"]])
def test_relative_output_of_a_submitted_job_is_refused(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert launch.main(settings) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a relative path" in line and "store=URI and runs=URI" in line


def test_absolute_output_of_a_submitted_job_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = launch.resolve_config(launch.parse_arguments(["store=s3://bucket/store", "runs=/runs"]))
    assert (config.store, config.runs) == ("s3://bucket/store", "/runs")


def test_resolve_config_makes_every_place_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["model.path", "unlabeled.uri", "instructions.uri", "instructions.images"]
    names += ["evaluation.test.describe_simple.images", "evaluation.test.pope.questions.popular"]
    config = launch.resolve_config(launch.parse_arguments([f"{name}=here/{name}" for name in names]))
    assert config.evaluation is not None and config.unlabeled is not None and config.instructions is not None
    chair, pope = config.evaluation.test["describe_simple"], config.evaluation.test["pope"]
    assert isinstance(chair, Chair) and isinstance(pope, Pope)
    found = (
        config.model.path,
        config.unlabeled.uri,
        config.instructions.uri,
        config.instructions.images,
        chair.images,
        pope.questions["popular"],
    )
    assert found == tuple(f"{tmp_path}/here/{name}" for name in names)
    assert (config.store, config.runs) == (f"{tmp_path}/store", f"{tmp_path}/runs")
    assert chair.objects == "embedded://test/objects.jsonl"


def test_show_config_prints_what_reads_back_as_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert launch.main(["--show-config", "seed=7", "stage1.lr=1e-3"]) == 0
    text = capsys.readouterr().out
    shown = parse_config(yaml.safe_load(text), [])
    assert shown.stage1 is not None
    assert (shown.seed, shown.stage1.lr) == (7, 0.001)
    (tmp_path / "mine.yaml").write_text(text)
    assert launch.resolve_config(launch.parse_arguments(["--config", str(tmp_path / "mine.yaml")])) == shown


def test_config_file_that_is_no_text_names_itself(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"--config .*x\.yaml: no UTF-8 text"):
        launch.resolve_config(launch.parse_arguments(["--config", str(tmp_path / "x.yaml")]))


class _NoCredentialsError(Exception):
    """As botocore's, which is no OSError."""


class _Bucket(AbstractFileSystem):  # type: ignore[misc]
    """An object store that knows no credentials of ours."""

    protocol = "bucket"

    def _refuse(self, *_: object, **__: object) -> None:
        raise _NoCredentialsError("Unable to locate credentials")

    ls = info = exists = pipe_file = mv = makedirs = _refuse


@pytest.mark.parametrize(
    "field",
    [
        "model.path",
        "unlabeled.uri",
        "instructions.uri",
        "instructions.images",
        "evaluation.test.pope.images",
        "store",
    ],
)
def test_check_places_without_credentials_is_one_line_with_the_place(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], field: str
) -> None:
    monkeypatch.chdir(place)
    fsspec.register_implementation("bucket", _Bucket, clobber=True)
    assert launch.main([f"{field}=bucket://b/x"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{field} bucket://b/x" in line and "cannot be reached: Unable to locate credentials; check" in line


def test_check_places_leaves_nothing_in_the_output_folders(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    config = launch.resolve_config(launch.parse_arguments(["unlabeled.uri=photos", "evaluation=null"]))
    preflight.check_places(config)
    assert list((place / "store").iterdir()) == list((place / "runs").iterdir()) == []


def test_jobs_without_their_data_say_what_to_set(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    nothing = ["unlabeled=null", "stage1=null", "stage1_control=null", "instructions=null", "stage2=null"]
    nothing += ["stage2_control=null", "vig={blind: {type: NoImage}}"]
    for job, expected in (
        (launch.import_pairs, "imported is null: say what, like imported.uri=pairs.jsonl imported.format=trl"),
        (launch.build_preferences, "unlabeled, annotated and imported are null: set one of them"),
        (launch.score_vig, "instructions, unlabeled, annotated and imported are null: set one"),
    ):
        assert job(nothing) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            ["execution.trackers=[{type: Mlflow, uri: mlruns}]"],
            "execution.trackers has Mlflow, and the package alembic is not installed here: install the extra track",
        ),
        (
            ["execution.trackers=[{type: Wandb}]"],
            "execution.trackers has Wandb, and the package wandb is not installed here: install the extra track",
        ),
        (
            ["stage2.weights={type: Lora, rank: 1, lora_alpha: 1, quantize: true}", "execution.train_gpus=1"],
            "stage2.weights.quantize is true, and the package bitsandbytes is not installed here: install bitsandbytes",
        ),
    ],
)
def test_packages_that_a_training_lacks_are_named_before_it_starts(
    settings: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for module in ("alembic", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    config = launch.resolve_config(launch.parse_arguments(settings))
    with pytest.raises(ValueError, match=expected):
        preflight.check_places(config)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    preflight.check_places(config)


@pytest.mark.parametrize("changed", ["chat template", "tokenizer"])
def test_a_scorer_with_other_tokens_is_refused_where_tokens_are_masked(changed: str, tmp_path: Path) -> None:
    world = launch.resolve_config(launch.parse_arguments(["--recipe", "embedded-vig"])).model.path
    scorer = tmp_path / "scorer"
    shutil.copytree(storage.local_copy(world), scorer)
    settings = ["--recipe", "embedded-vig", f"vig.scorer={{path: {scorer}, dtype: float32}}"]
    own = f"store={tmp_path}/store", f"runs={tmp_path}/runs"
    preflight.check_places(launch.resolve_config(launch.parse_arguments([*settings, *own])))
    if changed == "chat template":
        (scorer / "chat_template.jinja").write_text("{{ messages[0]['content'][0]['text'] }}")
    else:
        tree = json.loads((scorer / "tokenizer.json").read_text())
        tree["added_tokens"] = tree["added_tokens"][:-1]
        (scorer / "tokenizer.json").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=f"its {changed} is another than that of model.path, and stage2.selection"):
        preflight.check_places(launch.resolve_config(launch.parse_arguments([*settings, *own])))
    whole = ["stage2.selection.tokens={type: AllTokens}"]
    preflight.check_places(launch.resolve_config(launch.parse_arguments([*settings, *own, *whole])))
    masked = launch.resolve_config(launch.parse_arguments([*settings, *own]))
    preflight.check_places(masked, job_specs.SCORES)  # masks none


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://me:secret@host/runs", r"execution\.trackers\[0\]\.uri holds a password"),
        ("http://me:secret@host", r"execution\.trackers\[0\]\.uri holds a password"),
    ],
)
def test_a_password_in_a_trackers_address_is_refused(uri: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        launch.resolve_config(launch.parse_arguments([f"execution.trackers=[{{type: Mlflow, uri: '{uri}'}}]"]))


def test_a_trackers_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri, expected in (("mlruns", f"{tmp_path}/mlruns"), ("http://host:5000", "http://host:5000")):
        config = launch.resolve_config(launch.parse_arguments([f"execution.trackers=[{{type: Mlflow, uri: '{uri}'}}]"]))
        (tracker,) = config.execution.trackers
        assert isinstance(tracker, Mlflow) and tracker.uri == expected


def test_resolve_config_leaves_a_folder_of_images_that_is_not_given() -> None:
    config = launch.resolve_config(launch.parse_arguments(["imported={uri: s3://b/x.jsonl, format: trl}"]))
    assert config.imported is not None
    assert (config.imported.uri, config.imported.images) == ("s3://b/x.jsonl", "")


def test_method_leaves_one_source_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    for method, kept in (("bpo", "annotated"), ("stic", "unlabeled")):
        recipe = ["--recipe", "embedded-together", "--method", method, "--show-config", "contrast={}"]
        assert launch.build_preferences(recipe) == 0
        shown = yaml.safe_load(capsys.readouterr().out)
        assert [name for name in ("unlabeled", "annotated", "imported") if shown[name] is not None] == [kept]
    assert launch.build_preferences(["--method", "bpo", "--show-config"]) == 2
    assert capsys.readouterr().err.startswith("error: --method bpo: annotated is null: set it, or take a recipe")


@pytest.mark.parametrize(
    ("job", "file", "message"),
    [
        (job_specs.PIPELINE, "sweep.json", "holds a sweep: give this one a name of its own"),
        (job_specs.SWEEP, "summary.json", "holds a run: give this one a name of its own"),
    ],
)
def test_run_and_sweep_do_not_share_a_folder(tmp_path: Path, job: job_specs.Job, file: str, message: str) -> None:
    config = launch.resolve_config(launch.parse_arguments([f"runs={tmp_path}", "name=x"]))
    preflight.check_home(config, job)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / file).write_text("{}")
    preflight.check_home(config, job_specs.SFT)
    with pytest.raises(ValueError, match=message):
        preflight.check_home(config, job)
