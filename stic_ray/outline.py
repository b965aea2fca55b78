"""What a run will make, by role and in its order, as its settings alone imply: nothing is read, listed or planned.

`pipeline.py` is what makes it; a test holds the two together.
"""

from collections.abc import Iterator
from dataclasses import replace

from stic_ray.artifacts import ROUND
from stic_ray.config import (
    JUDGED,
    Config,
    NearDuplicates,
    RandomSelection,
    ScoredReference,
    Training,
    blind_of,
    needs_reference,
)


def roles(config: Config) -> list[str]:
    """The roles of a whole run's artifacts, in the order in which they are made."""
    return list(dict.fromkeys(_roles(config)))


def _roles(config: Config) -> Iterator[str]:
    models = ["base"]
    if config.stage1 is not None:
        yield from _sources(config)
        for number in range(1, config.rounds + 1):
            suffix = "" if number == config.rounds else f"{ROUND}{number}"
            trained = [f"{stage}{suffix}" for stage in ("stage1", "stage1_control") if getattr(config, stage)]
            start = config.model if number == 1 else replace(config.model, path=f"{ROUND}{number - 1}")
            yield from _stage1(replace(config, model=start), suffix)
            yield from trained
            models += trained
    if config.stage2 is not None:
        yield from _stage2(config)
        trained = [stage for stage in ("stage2", "stage2_control") if getattr(config, stage)]
        yield from trained
        models += trained
    yield from _evaluation(config, models)


def _sources(config: Config) -> Iterator[str]:
    if config.unlabeled is not None:
        yield from ("listing", "images")
        if isinstance(config.duplicates, NearDuplicates):
            yield "hashes"
        yield "unique"
    if config.annotated is not None:
        yield "annotations"
    if config.imported is not None:
        yield "imported_pairs"


def _stage1(config: Config, suffix: str) -> Iterator[str]:
    pairs = []
    for source, name, responses in (
        (config.unlabeled, "pairs", "responses"),
        (config.annotated, "annotated_pairs", "annotated_responses"),
    ):
        if source is not None:
            yield from (f"{responses}{suffix}", f"{name}{suffix}")
            pairs.append(name)
    pairs += ["imported_pairs"] if config.imported is not None else []
    trainings = {name: getattr(config, name) for name in ("stage1", "stage1_control") if getattr(config, name)}
    scored = "scores" if any(map(needs_scores, (*config.stage1_before, *trainings.values()))) else "tokens"
    for stage, training in trainings.items():
        for name in pairs:
            yield f"{name}_{scored}{suffix}"
            yield from _selection(config, stage, name, suffix)
            if blind_of(training.loss) is not None:
                yield from (f"{name}_scores{suffix}", f"{name}_gains_of_loss{suffix}")
    yield from (f"stage1_before{number}{suffix}" for number in range(1, len(config.stage1_before) + 1))


def needs_scores(training: Training) -> bool:
    """Whether a training on pairs needs log-probabilities of earlier: as its reference or to select by."""
    asks = needs_reference(training.loss) and isinstance(training.reference, ScoredReference)
    return asks or training.selection is not None or blind_of(training.loss) is not None


def _stage2(config: Config) -> Iterator[str]:
    yield "samples"
    if config.prompts.infused:
        yield "descriptions"
    yield "fitting"
    for stage in ("stage2", "stage2_control"):
        if getattr(config, stage) is not None:
            yield from _selection(config, stage, "samples", "")


def _selection(config: Config, stage: str, name: str, suffix: str) -> Iterator[str]:
    chosen = getattr(config, stage).selection
    if chosen is None:
        return
    assert config.vig is not None  # the configuration refuses it
    other = config.vig.scorer is not None and config.vig.scorer != config.model
    yield from (f"{name}_scores{'_of_scorer' if other else ''}{suffix}", f"{name}_gains{suffix}")
    role = f"{stage}_selection_of_{name}"
    if isinstance(chosen, RandomSelection):
        yield f"{role}_like{suffix}"
    yield f"{role}{suffix}"


def _evaluation(config: Config, models: list[str]) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation is None:
        return
    yield "questions"
    tasks = [benchmark for split in evaluation.splits().values() for benchmark in split.values()]
    is_judged = evaluation.judge is not None and any(isinstance(benchmark, JUDGED) for benchmark in tasks)
    for name in models:
        yield f"predictions_{name}"
        if is_judged:
            yield from (f"asks_{name}", f"verdicts_{name}")
