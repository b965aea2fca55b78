"""A population in step, by Tune itself: a member that ends without a report is waited for no longer."""

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray.tune.search import BasicVariantGenerator

from stic_ray.population import Population

_SEGMENTS, _MEMBERS = 3, 3
_STATE = "done.json"


def _train(values: dict[str, Any], *, folder: Path, end: str, end_after: int) -> None:
    """One report a segment; the first member ends after `end_after` of them, when all others wait for its next one."""
    number, done = int(tune.get_context().get_trial_id()[-1]), 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as place:
            done = json.loads((Path(place) / _STATE).read_text())
    while done < _SEGMENTS:
        if number == 0 and done == end_after:
            while len(list(folder.glob(f"*-{done + 1}"))) < _MEMBERS - 1:
                time.sleep(0.05)
            time.sleep(1)  # Tune hears of them
            if end == "raises":
                raise RuntimeError("no more")
            return
        done += 1
        (folder / f"{number}-{done}").touch()
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / _STATE).write_text(json.dumps(done))
            tune.report({"score": values["rate"]}, checkpoint=tune.Checkpoint.from_directory(place))


@pytest.mark.slow
@pytest.mark.parametrize(("end", "end_after"), [("returns", 0), ("raises", 1)])
@pytest.mark.usefixtures("ray_local")
def test_others_go_on_when_a_member_ends_without_a_report(tmp_path: Path, end: str, end_after: int) -> None:
    (reports := tmp_path / "reports").mkdir()
    rates = [1.0, 2.0, 3.0]
    mutations = {"rate": rates}
    population = Population(
        7,
        metric="score",
        mode="max",
        time_attr="training_iteration",
        perturbation_interval=1,
        hyperparam_mutations=mutations,
        quantile_fraction=0.5,
    )
    tuner = tune.Tuner(
        tune.with_resources(partial(_train, folder=reports, end=end, end_after=end_after), {"CPU": 0.1}),
        param_space={"rate": tune.choice(rates)},
        tune_config=tune.TuneConfig(
            num_samples=_MEMBERS,
            search_alg=BasicVariantGenerator(points_to_evaluate=[{"rate": rate} for rate in rates]),
            scheduler=population,
        ),
        run_config=tune.RunConfig(storage_path=str(tmp_path / "tune"), verbose=0),
    )
    tuner.fit()
    made = {number: len(list(reports.glob(f"{number}-*"))) for number in range(_MEMBERS)}
    assert made == {0: end_after, 1: _SEGMENTS, 2: _SEGMENTS}
