"""STIC end to end, from top to bottom as in the paper (arXiv 2405.19716), with its controls and its proof."""

from functools import partial

from stic_ray import artifacts, deliver
from stic_ray.artifacts import Artifact
from stic_ray.cluster import check_pool, check_training
from stic_ray.config import Config, Model, NearDuplicates, Training, Vig
from stic_ray.deliver import Measured
from stic_ray.evaluate import predict
from stic_ray.evaluate.benchmarks import read_objects, read_vocabulary
from stic_ray.records import Prediction
from stic_ray.run import Run, Step
from stic_ray.stages import describe, fit, generate, hashes, images, listing, pair, samples, score, select, unique
from stic_ray.train import driver
from stic_ray.train.job import ChosenData, PairData, SampleData, ScoredPairs, TrainingData


def run(config: Config, command: list[str]) -> str:
    """Do everything that is not yet in the store and write `runs/NAME/`; returns the closing summary.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, checks=(check_pool, check_training)) as this:
        base = this.base_model()

        # Stage 1: preference pairs from unlabeled images, then regularised DPO.
        pairs = make_pairs(this, base)
        references = make_scores(this, score.PAIRS, pairs, config.model)
        trained = []
        for role, training, kind in (
            ("stage1", config.stage1, PairData),
            # Its control: supervised fine-tuning on the chosen answers alone.
            ("stage1_control", config.stage1_control, ChosenData),
        ):
            if training is not None:
                selected = make_selection(this, role, score.PAIRS, pairs)
                parents = {"model": base, "scores": references.fingerprint, **_fingerprint("selection", selected)}
                data = kind(parts=(ScoredPairs(scores=references.uri, selection=_uri(selected)),))
                trained.append(_training(config, role, training, data, parents, config.model.path))
        stage1 = this.make_together(trained)[0]

        # Stage 2: description-infused fine-tuning, from the stage-1 model.
        instructions = this.make("samples", samples.plan(config), partial(samples.run, config))
        described = this.make(
            "descriptions",
            describe.plan(config, instructions.fingerprint, stage1.fingerprint),
            partial(describe.run, config, instructions, driver.model_of(stage1)),
        )
        fitting = this.make(
            "fitting",
            fit.plan(config, described.fingerprint, base),
            partial(fit.run, config, described),
        )
        trained = []
        for role, training, infused in (
            ("stage2", config.stage2, config.prompts.infused),
            # Its control: the same samples without descriptions.
            ("stage2_control", config.stage2_control, ""),
        ):
            if training is not None:
                selected = make_selection(this, role, score.SAMPLES, instructions)
                parents = {
                    "model": stage1.fingerprint,
                    "samples": fitting.fingerprint,
                    **_fingerprint("selection", selected),
                }
                sampled = SampleData(samples=fitting.uri, infused=infused, selection=_uri(selected))
                trained.append(_training(config, role, training, sampled, parents, driver.model_of(stage1)))
        this.make_together(trained)

        models = {"base": (base, config.model.path)}
        for stage in ("stage1", "stage1_control", "stage2", "stage2_control"):
            if stage in this.artifacts:
                artifact = this.artifacts[stage]
                models[stage] = (artifact.fingerprint, driver.model_of(artifact))
        measured = evaluate_models(this, models)
        with this.explained("report"):
            return deliver.write_run(this, measured, command)


def make_pairs(this: Run, base: str) -> Artifact:
    """Preference pairs of the model's own answers to unlabeled images; `base` is the model's fingerprint."""
    config = this.config
    listed = this.make("listing", listing.plan(config), partial(listing.run, config))
    readable = this.make("images", images.plan(listed.fingerprint), partial(images.run, config, listed))
    looks = None
    if isinstance(config.duplicates, NearDuplicates):
        looks = this.make("hashes", hashes.plan(readable.fingerprint), partial(hashes.run, config, readable))
    distinct = this.make(
        "unique",
        unique.plan(config, readable.fingerprint, looks.fingerprint if looks else ""),
        partial(unique.run, config, readable, looks),
    )
    responses = this.make(
        "responses",
        generate.plan(config, distinct.fingerprint, base),
        partial(generate.run, config, distinct),
    )
    return this.make("pairs", pair.plan(config, responses.fingerprint), partial(pair.run, config, responses))


def make_scores(this: Run, kind: str, items: Artifact, model: Model) -> Artifact:
    """Log-probabilities of the answers of `items` (score.PAIRS or score.SAMPLES) under a model."""
    config = this.config
    training = config.stage1 if kind == score.PAIRS else config.stage2
    plan = score.plan(kind, items, model, this.fingerprint_of(model), training.max_length)
    role = f"{kind}_scores" if model == config.model else f"{kind}_scores_of_scorer"
    return this.make(role, plan, partial(score.run, config, kind, items, model))


def make_gains(this: Run, kind: str, items: Artifact, vig: Vig) -> Artifact:
    """The visual information gain of every answer token of `items`."""
    model = vig.scorer or this.config.model
    scores = make_scores(this, kind, items, model)
    plan = score.plan_gains(kind, scores, vig.blind)
    return this.make(f"{kind}_gains", plan, partial(score.run_gains, this.config, scores, model, vig.blind))


def make_selection(this: Run, stage: str, kind: str, items: Artifact) -> Artifact | None:
    """What the training of a stage uses of `items`; None where it uses all."""
    config = this.config
    chosen = getattr(config, stage).selection
    if chosen is None:
        return None
    assert config.vig is not None  # the configuration refuses it
    gains = make_gains(this, kind, items, config.vig)
    plan = select.plan(config, kind, gains, chosen)
    return this.make(f"{stage}_selection", plan, partial(select.run, config, gains, chosen))


def _fingerprint(role: str, artifact: Artifact | None) -> dict[str, str]:
    return {role: artifact.fingerprint} if artifact is not None else {}


def _uri(artifact: Artifact | None) -> str:
    return artifact.uri if artifact is not None else ""


def build_preferences(config: Config, command: list[str]) -> str:
    """Pairs alone, from unlabeled images; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=f"{config.name}-preferences", checks=(check_pool,)) as this:
        make_pairs(this, this.base_model())
        return deliver.write_stages(this, command)


def describe_samples(config: Config, command: list[str]) -> str:
    """Descriptions of the instruction samples' images by `model.path` alone; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=f"{config.name}-descriptions", checks=(check_pool,)) as this:
        instructions = this.make("samples", samples.plan(config), partial(samples.run, config))
        this.make(
            "descriptions",
            describe.plan(config, instructions.fingerprint, this.base_model()),
            partial(describe.run, config, instructions, config.model.path),
        )
        return deliver.write_stages(this, command)


def _training(
    config: Config, stage: str, training: Training, data: TrainingData, parents: dict[str, str], model_uri: str
) -> Step:
    infused = data.infused if isinstance(data, SampleData) else ""
    plan = driver.plan(config, stage, training, parents, infused)
    return Step(role=stage, plan=plan, work=partial(driver.run, config, training, data, model_uri))


def evaluate_models(this: Run, models: dict[str, tuple[str, str]]) -> dict[str, Measured]:
    """Every model's predictions on every split by split name; {} where there is no ground truth."""
    evaluation = this.config.evaluation
    if evaluation is None:
        return {}
    splits = {"test": evaluation.test, **({"dev": evaluation.dev} if evaluation.dev is not None else {})}
    questions = this.make(
        "questions",
        predict.plan_questions(this.config, splits),
        partial(predict.run_questions, this.config, splits),
    )
    rows = {}
    for name, (fingerprint, uri) in models.items():
        artifact = this.make(
            f"predictions_{name}",
            predict.plan(this.config, questions.fingerprint, fingerprint),
            partial(predict.run, this.config, questions, uri),
        )
        rows[name] = artifacts.read(artifact.uri, Prediction)
    return {
        split: Measured(
            predictions={name: [row for row in found if row.split == split] for name, found in rows.items()},
            objects=read_objects(benchmark),
            vocabulary=read_vocabulary(benchmark),
        )
        for split, benchmark in splits.items()
    }
