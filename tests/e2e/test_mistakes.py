"""What a user does wrong, and a disk that is full: one clear line, and nothing lost."""

import json
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_files import write_bad_files
from e2e_project import Project

from kill_rounds import audit, compare, references
from stic_ray import artifacts
from stic_ray.records import ImageRef
from stic_ray.sources import image_id

pytestmark = pytest.mark.slow


def _error_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that names the mistake, the last one that the run wrote."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "ERROR" not in done.stderr, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.stderr
    assert "artifacts made" not in done.stdout
    return lines[-1]


def test_corrupt_files_among_good_ones_are_rejected_with_a_reason_and_nothing_else_is(
    finished: Project, tmp_path: Path
) -> None:
    good = {path.name for path in (finished.home / "images").iterdir() if path.is_file()}
    bad = {f"bad/{name}": reason for name, reason in write_bad_files(tmp_path / "bad").items()}
    made = references(finished.run_home)
    kept = {row.key for row in artifacts.read(made["unique"], ImageRef)}
    rejected = {row.id: row.reason for role in ("images", "unique") for row in artifacts.read_rejects(made[role])}
    twins = {"000.jpg", "bad/copy.jpg"}
    (stays,) = kept & twins  # of exact duplicates the smaller id
    assert kept == (good - twins) | {stays}
    assert rejected.pop(image_id(*(twins - {stays}))) == "duplicate of another image's bytes"
    assert rejected.keys() == {image_id(key) for key in bad}
    assert [key for key, reason in bad.items() if reason not in rejected[image_id(key)]] == []
    assert audit(finished.run_home) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("unlabeled.uri=nowhere", ["unlabeled.uri", "nowhere does not exist", "give a folder of images"]),
        ("unlabeled.uri=empty", ["unlabeled.uri", "empty holds no image", ".jpg"]),
        ("instructions.uri=nowhere.json", ["instructions.uri", "nowhere.json does not exist"]),
        ("store=samples.json", ["store", "samples.json cannot be written", "set store="]),
        ("runs=samples.json", ["runs", "samples.json cannot be written", "set runs="]),
        ("stage1.loss.alhpa=1", ["stage1.loss.alhpa", "did you mean alpha?"]),
        ("stage1.epochs=two", ["stage1.epochs is 'two'", "whole number"]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistake_is_one_line_within_two_seconds(project: Project, override: str, expected: list[str]) -> None:
    (project.home / "empty").mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = project.run(override)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = _error_line(done)
    assert done.stderr == f"{line}\n" and done.stdout == ""
    assert [part for part in expected if part not in line] == [], line
    # Of CPU: other processes of a busy machine are no fault of ours.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.0


def test_folder_of_bad_images_only_is_one_line(project: Project) -> None:
    folder = project.home / "bad_only"
    number = len(write_bad_files(folder))
    line = _error_line(project.run(f"unlabeled.uri={folder}"))
    assert line.startswith(f"error: images: {number} of {number} inputs were rejected, most often: ")
    assert "Mend the inputs" in line


def test_mistake_that_only_a_generation_worker_can_see_is_one_line(project: Project, tiny_llava: Path) -> None:
    model = project.home / "model"
    shutil.copytree(tiny_llava, model)
    template = model / "chat_template.jinja"
    template.write_text("{{ messages | length }} " + template.read_text())  # changes with every turn
    line = _error_line(project.run(f"model.path={model}"))
    assert line == ("error: responses: the chat template changes a prompt when it is answered: it cannot be trained on")


def test_mistake_that_only_a_training_worker_can_see_is_one_line(finished: Project, tmp_path: Path) -> None:
    line = _error_line(finished.copy(tmp_path / "lr").run("stage1.lr=1e30", "execution.max_train_failures=0"))
    assert line.startswith("error: stage1: loss or gradient is not finite at step ")
    assert line.endswith("lower the learning rate, look at these items, or let max_skipped steps be left out")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "nonsense"])
def test_wrong_ray_address_is_one_line(project: Project, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    line = _error_line(project.run())
    assert line.startswith(f"error: RAY_ADDRESS {address}: no cluster can be joined there (")
    assert line.endswith("give the head's address, like HOST:6379, or unset it to start a local Ray")


def _mount(place: Path, options: str) -> None:
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        reason = f"needs the right to mount a small tmpfs: {done.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def small_disk(finished: Project, project: Project) -> Iterator[Project]:
    """A project with the finished one's inputs, and a store on a disk that holds the stages of images."""
    (project.home / "own.yaml").write_text((finished.home / "own.yaml").read_text())
    project.store.mkdir()
    _mount(project.store, "size=236k")
    yield project
    subprocess.run(["umount", "--lazy", str(project.store)], check=True)


def test_full_disk_is_one_line_and_a_bigger_one_goes_on_from_there(small_disk: Project, finished: Project) -> None:
    # Full while Ray Data's workers write; small files, because a file takes whole pages of a tmpfs.
    expected = "no space left where store"
    line = _error_line(small_disk.run("execution.rows_per_file=2"))
    assert line.startswith(f"error: responses: {expected}") and "the same command goes on" in line
    assert small_disk.stages() == ["images", "listing", "unique"]
    # Full while Ray Train's workers write.
    _mount(small_disk.store, "remount,size=460k")
    line = _error_line(small_disk.run("execution.max_train_failures=0"))
    assert line.startswith(f"error: stage1: {expected}")
    stands = {"listing", "images", "unique", "responses", "pairs", "pair_scores"}
    assert set(small_disk.stages()) == stands
    written = {path: path.stat().st_mtime_ns for path in small_disk.store.glob("*/record.json")}
    # Large enough. What comes after is there as if another run had made it.
    _mount(small_disk.store, "remount,size=8m")
    small_disk.take(finished, "samples", "descriptions", "fitting", "stage2")
    small_disk.finish()
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert audit(small_disk.run_home) == []
    found = compare(references(finished.run_home), references(small_disk.run_home))
    assert found.faults == []
    assert (found.num_lost, found.num_double, found.num_different_draws) == (0, 0, 0)
    assert found.num_different_texts <= 0.001 * found.num_texts


def test_disk_that_is_full_from_the_start_is_one_line(small_disk: Project) -> None:
    (small_disk.store / "other").write_bytes(random.Random(0).randbytes(230_000))
    line = _error_line(small_disk.run())
    assert "store" in line and "cannot be written: No space left on device" in line and "has space left" in line


def test_runs_on_a_full_disk_is_one_line_and_makes_nothing_again(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "again")
    shutil.rmtree(project.home / "runs")
    (project.home / "runs").mkdir()
    _mount(project.home / "runs", "size=128k")
    try:
        line = _error_line(project.run())
        assert line.startswith("error: report: no space left where store")
        _mount(project.home / "runs", "remount,size=8m")
        done = project.run()
        assert done.returncode == 0 and "0 artifacts made" in done.stdout, done.stderr
    finally:
        subprocess.run(["umount", "--lazy", str(project.home / "runs")], check=True)


def test_a_training_that_diverges_stops_at_once_and_names_its_items(finished: Project, tmp_path: Path) -> None:
    """Ray would try it again, from the last checkpoint and to the same end."""
    project = finished.copy(tmp_path / "project")
    line = _error_line(project.run("stage1.lr=1e30", "stage1.validation=null", "stage2=null"))
    assert line.startswith("error: stage1: loss or gradient is not finite at step ") and "not_finite.json" in line
    (trained,) = (path for path in project.store.glob("stage1-*") if not (path / "record.json").exists())
    assert len((trained / "attempts.jsonl").read_text().splitlines()) == 1
    ids = json.loads((trained / "not_finite.json").read_text())["ids"]
    assert len(ids) == 4 and ids[0] in line
