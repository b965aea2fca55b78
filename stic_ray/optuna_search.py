"""Optuna for sweeps whose trials may be stopped early (extra `sweep`): imported only where a sweep asks for it."""

from typing import Any

from ray.tune.search.optuna import OptunaSearch


class FinishedOnly(OptunaSearch):  # type: ignore[misc]  # Ray has no stubs
    """Optuna learns from trials that made all `num_reports` reports: a stopped one's figures are another model's."""

    def __init__(self, *, num_reports: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._num_reports = num_reports

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna what a trial came to; nothing where it did not finish."""
        finished = result is not None and result.get("training_iteration", 0) >= self._num_reports
        super().on_trial_complete(trial_id, result if finished else None, error)
