"""Ray Tune over settings of a configuration: a trial is a run whose models are measured on dev after each stage.

Trials share the store: what does not depend on the swept settings is made once, before the first of them, and what two
of them want at the same moment by one, while the other waits.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from stic_ray import pipeline
from stic_ray.cluster import check_pool, check_training, connected
from stic_ray.config import (
    Choice,
    Config,
    Domain,
    GridSearch,
    LogUniform,
    Objective,
    OptunaSearch,
    Sweep,
    parse_config,
)
from stic_ray.evaluate.predict import Candidate
from stic_ray.records import make_id
from stic_ray.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What every trial starts from: the configuration as a tree with the user's overrides, and the sweep."""

    tree: Mapping[str, Any]
    overrides: tuple[str, ...]
    sweep: Sweep

    def config_of(self, values: Mapping[str, Any]) -> Config:
        """A trial's configuration: the swept settings over the user's; its run is called by their hash."""
        settings = [f"{path}={json.dumps(value)}" for path, value in sorted(values.items())]
        config = parse_config(self.tree, [*self.overrides, *settings])
        evaluation = config.evaluation
        if evaluation is None or not evaluation.dev:
            raise ValueError("evaluation.dev is empty: trials are ranked on dev, so name benchmarks of dev images there")
        name = f"{config.name}-{make_id(*settings)[:8]}"
        return replace(config, name=name, evaluation=replace(evaluation, test={}))


def run_trial(values: Mapping[str, Any], *, trials: Trials) -> None:
    """One trial: train stage by stage, and report the newest model's figures on dev after each."""
    config = trials.config_of(values)
    with Run(config, checks=(check_pool, check_training), waits=True) as this:
        for models in pipeline.train(this):
            name = [name for name in models if not name.endswith("_control")][-1]
            measured = pipeline.evaluate_models(this, {name: Candidate(model=models[name])})
            figures = measured["dev"].figures(name)
            tune.report({objective.figure: figures[objective.figure] for objective in trials.sweep.objectives})


def domain_of(domain: Domain, *, grid: bool) -> Any:
    """What Tune draws a setting from."""
    if isinstance(domain, Choice):
        return tune.grid_search(list(domain.values)) if grid else tune.choice(list(domain.values))
    kind = tune.loguniform if isinstance(domain, LogUniform) else tune.uniform
    return kind(domain.low, domain.high)
