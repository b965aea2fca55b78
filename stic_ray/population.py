"""Population-based training (arXiv 1711.09846) in step, by Ray Tune: for sweeps whose scheduler is `Pbt`."""

import random
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining

from stic_ray.records import make_seed


class Population(PopulationBasedTraining):  # type: ignore[misc]  # Ray has no stubs
    """Draws by the sweep's seed and the number of segments, and by what members reached: a sweep that goes on decides
    as before. All decisions of a segment are made when its last member has reported, or has ended without a report."""

    def __init__(self, seed: int, **settings: Any) -> None:
        # A failed member reports nothing.
        super().__init__(**settings, synch=True, require_attrs=False, log_config=False)
        self._seed = seed

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """The decision on a report."""
        seed = make_seed(self._seed, "segment", result["training_iteration"])
        random.seed(seed)  # both are what Tune draws by, and others in this process may
        np.random.seed(seed % 2**32)
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return decision

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The member that goes on. Tune decides on reports alone: where all others wait for a member that has ended
        instead, it would wait for good."""
        members = tune_controller.get_trials()
        waiting = [trial for trial in members if not trial.is_finished()]
        if waiting and all(trial.status == Trial.PAUSED and self._has_reported(trial) for trial in waiting):
            for trial in set(members) - set(waiting):
                self._trial_state[trial].last_train_time = self._next_perturbation_sync
            self.on_trial_result(tune_controller, waiting[0], self._trial_state[waiting[0]].last_result)
        return super().choose_trial_to_run(tune_controller)

    def _has_reported(self, trial: Trial) -> bool:
        return bool(self._trial_state[trial].last_train_time >= self._next_perturbation_sync)
