"""`python jobs/plan.py` as it is called."""

import html
import json
from pathlib import Path

import pytest

from stic_ray.planner import command
from stic_ray.planner.rates import read_rates
from tests.planner.small_run import embedded, make_run


@pytest.fixture
def run(tmp_path: Path) -> str:
    return make_run(tmp_path)


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Settings that keep to a folder; the stages that `make_run` has."""
    return [f"store={tmp_path / 'store'}", f"runs={tmp_path / 'runs'}", "stage2=null", "instructions=null"]


def test_plan_tells_every_stage_and_the_sums(run: str, places: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cluster = "{cpus: 2, node_hour_price: 36}"
    assert command.main(["--from", run, "--images", "4000", "--cluster", cluster, *places]) == 0
    told = capsys.readouterr().out
    lines = {line.split()[0]: line for line in told.partition("memory of a process")[0].splitlines() if line}
    assert {"responses", "stage1", "stage1_control", "predictions_base", "time", "money", "store"} <= lines.keys()
    assert "384" in lines["responses"]  # unlabeled.sample takes no more
    assert "(beside)" in lines["stage1_control"]
    assert f"rates: of {run}" in told
    assert "everything was measured once, so no interval" in told


def test_json_has_all_that_the_page_shows(
    run: str, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, file = tmp_path / "out" / "plan.html", tmp_path / "rates.yaml"
    asked = ["--from", run, "--scale", "--json", "--html", str(page), "--write-rates", str(file)]
    assert command.main([*asked, *places]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["money"] is None
    assert [one["nodes"] for one in found["scaling"]][-1] == 1000
    written = html.unescape(page.read_text())
    for stage in found["stages"]:
        assert stage["role"] in written
    assert "http" not in written.partition("</head>")[2].replace("http-equiv", "")
    assert command.main(["--rates", str(file), "--json", *places]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["seconds"]["value"] == pytest.approx(found["seconds"]["value"], rel=0.01)
    assert [stage["told_by"] for stage in again["stages"]] == [run] * len(again["stages"])
    assert read_rates(str(file)).inputs["images"] == 96.0


def test_other_settings_than_the_measured_ones_are_named(
    run: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--from", run, "sampling.max_new_tokens=400", *places]) == 0
    assert "other settings in sampling" in capsys.readouterr().out.replace("instructions, ", "")


def test_images_beyond_those_that_are_drawn_are_told_with_the_setting_that_draws(
    run: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--from", run, "--images", "1000000", "--samples", "5", *places]) == 0
    told = capsys.readouterr().out
    assert "unlabeled.sample is 384: of 1,000,000 images the run takes 384; unlabeled.sample=null takes all" in told
    assert "listing: its time is that of the source that was measured: of 1,000,000 images say its start_s" in told
    assert "--samples 5 changes nothing" in told
    assert command.main(["--from", run, "--images", "384", *places]) == 0
    assert "the run takes" not in capsys.readouterr().out


def test_sweep_is_no_run_and_a_configuration_with_one_is_planned_as_one_run(
    run: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = "sweep={space: {stage1.learning_rate: {type: LogUniform, low: 1e-6, high: 1e-4}}}"
    assert command.main(["--from", run, *places]) == 0
    assert "not of its trials" not in capsys.readouterr().out
    assert command.main(["--from", run, sweep, *places]) == 0
    told = capsys.readouterr().out
    assert "the plan of one run of it, not of its trials" in told
    assert "sweep: their rates" not in told
    (Path(run) / "sweep.json").write_text("{}")
    assert command.main(["--from", run, *places]) == 2
    assert f"--from {run} is a sweep's folder: give a run made with its best.yaml" in capsys.readouterr().err


def test_rates_of_cpus_for_a_plan_on_gpus_are_named(
    run: str, places: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = ["execution.train_gpus=1", "execution.pool.num_gpus=1"]
    cluster = "{cpus: 8, gpus: 2, gpu: L4RELATIVE}"
    asked = ["--from", run, *gpus, *places, "--cluster"]
    assert command.main([*asked, cluster.replace("RELATIVE", "")]) == 0
    told = capsys.readouterr().out
    stages = "responses, pairs_scores, stage1, stage1_control, predictions_base"
    assert f"measured on CPUs and planned on GPUs: {stages}: calibrate there" in told
    assert command.main([*asked, cluster.replace("RELATIVE", ", relative_speed: 20")]) == 0
    assert "planned on" not in capsys.readouterr().out
    on_gpus = make_run(tmp_path / "gpus", config=embedded("name=gpus", *gpus))
    assert command.main(["--from", on_gpus, *places]) == 0
    assert f"measured on GPUs and planned on CPUs: {stages}: calibrate there" in capsys.readouterr().out


def test_memory_that_nobody_says_and_lengths_that_nobody_measured_are_told(
    run: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    unknown, assumed = "give memory_gib (or gpu)", "700 tokens in a prompt and 200 in an answer"
    assert command.main(places) == 0
    told = capsys.readouterr().out
    assert unknown in told and assumed in told
    assert command.main(["--from", run, *places, "--cluster", "{cpus: 2, memory_gib: 8}"]) == 0
    told = capsys.readouterr().out
    assert unknown not in told and assumed not in told


def test_model_that_does_not_fit_ends_with_1_and_the_remedy(
    run: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    gpus = ["execution.train_gpus=1", "execution.pool.num_gpus=1"]
    small = "{cpus: 8, gpus: 2, gpu: tiny, gpu_gib: 0.12}"
    assert command.main(["--cluster", small, *gpus, *places]) == 1
    told = capsys.readouterr().out
    assert "NO" in told and "execution.recompute_activations=true" in told
    assert command.main(["--cluster", "{cpus: 8, gpus: 2, gpu: L4}", *gpus, *places]) == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--scale", "--images", "9"], "--images, --scale: nothing says how fast it is"),
        (["--from", "nowhere"], "holds no artifacts.json"),
        (["--rates", "nowhere.yaml"], "is no file"),
        (["--cluster", "{gpu: H101}"], "gpu is 'H101': it must be one of A10G"),
        (["--cluster", "{nodes: 0}"], "nodes is 0: it must be above 0"),
        (["--cluster", "nowhere.yaml"], "is no file"),
        (["model.path=/nowhere"], "holds no config.json"),
        (["--calibrate", "300"], "give at most half of them"),
    ],
)
def test_mistakes_are_one_line_with_the_remedy(
    arguments: list[str], told: str, places: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([*arguments, *places]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert told in line
