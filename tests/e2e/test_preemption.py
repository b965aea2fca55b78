"""A submitted run on a cluster that begins without a GPU and loses nodes, as a spot pool does: all is there."""

import logging
import time
from pathlib import Path

import pytest
from e2e_project import Project, make_project
from fake_cloud import start_cloud
from heads import wait

from kill_rounds import audit, compare, references
from stic_ray import artifacts
from stic_ray.artifacts import RECORD

pytestmark = [pytest.mark.slow, pytest.mark.long]
_NUM_IMAGES = 60
_STEPS = 100
_SETTINGS = (
    "sampling.max_new_tokens=200",  # a second of one core for each image: longer than it takes to grow
    "stage1.validation=null",
    f"stage1.steps={_STEPS}",
    "stage2=null",
    "execution.batch_size=1",
    "execution.rows_per_file=4",
    "execution.checkpoint_every=1000",  # none but that of the notice
)
_POOL = ("execution.pool={min_size: 1, max_size: 3, num_cpus: 0.5, num_gpus: 1}", "execution.train_cpus=1")
_MAX_NODES = 3
# How Ray names the processes of an actor that answers and of one that trains.
_ANSWERS, _TRAINS = "ray::MapWorker(MapBatches(_Actor)).submit", "ray::RayTrainWorker"
_RETURN_S = 120.0
logger = logging.getLogger(__name__)


def _undisturbed(project: Project) -> dict[str, str]:
    project.finish(*_SETTINGS, "execution.pool={num_cpus: 0.5, min_size: 2, max_size: 2}")
    return references(project.run_home)


def test_run_that_loses_nodes_in_generation_and_training_ends_as_on_one_node(tmp_path: Path, tiny_llava: Path) -> None:
    """The first node goes without a word, the second after a notice, which the training answers with a checkpoint."""
    project = make_project(tmp_path, tiny_llava, _NUM_IMAGES)
    expected = _undisturbed(project)
    store, runs = tmp_path / "elsewhere", tmp_path / "runs-elsewhere"
    responses, stage1 = (store / Path(expected[role]).name for role in ("responses", "stage1"))
    command = ("python", "jobs/stic_pipeline.py", "--config", str(project.home / "own.yaml"), *_SETTINGS, *_POOL)
    # What the head has beside the entrypoint is too little for a training.
    with start_cloud(_MAX_NODES, head_cpus=1, serves_jobs=True) as cloud:
        assert cloud.num_nodes() == 0
        job = "preempted"
        cloud.jobs.start(job, *command, f"store={store}", f"runs={runs}", options=("--entrypoint-num-cpus", "0.5"))

        def story() -> str:
            return f"{cloud.jobs.status(job)}; {cloud.story()}; {cloud.jobs.logs(job)[-3000:]}"

        def goes_on() -> bool:
            return cloud.jobs.status(job) in ("PENDING", "RUNNING")

        wait(lambda: cloud.num_nodes() > 1 and any(responses.glob("data/*.parquet")), story, goes_on)
        assert not (responses / RECORD).exists(), story()
        wait(lambda: cloud.node_of(_ANSWERS) != "", story, goes_on)
        cloud.take_away(cloud.node_of(_ANSWERS) or cloud.oldest_node())
        wait(lambda: cloud.node_of(_TRAINS) != "", story, goes_on)  # told while it loads what it needs
        trains_on = cloud.node_of(_TRAINS)
        cloud.tell_node(trains_on, 60)
        wait(lambda: any(stage1.glob("checkpoints/*/checkpoint.json")), story, goes_on)
        assert not (stage1 / RECORD).exists(), story()
        cloud.take_away(trains_on)
        wait(lambda: cloud.jobs.status(job) == "SUCCEEDED", story, lambda: cloud.jobs.status(job) != "FAILED")
        ended = time.monotonic()
        wait(lambda: cloud.num_nodes() == 0, story)
        returned_s = time.monotonic() - ended
        seen = cloud.story()
    assert returned_s < _RETURN_S, seen
    made = references(runs / "own")
    found = compare(expected, made)
    assert found.faults == [] and audit(runs / "own") == []
    assert (found.num_lost, found.num_double, found.num_different_draws) == (0, 0, 0)
    assert found.num_texts > 0 and found.num_different_texts <= 0.001 * found.num_texts
    attempts = artifacts.load(made["stage1"]).record["attempts"]
    assert [attempt["step"] > 0 for attempt in attempts] == [False, True]
    retried = artifacts.load(made["responses"]).record["retried_units"]
    logger.info("%s; back after %.0f s; %s units again; %s", seen, returned_s, retried, attempts)
