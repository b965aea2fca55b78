"""The methods end to end, from top to bottom as in the papers, with their controls and their proof: STIC (arXiv
2405.19716), VIG (2602.17186) and BPO (2403.08730)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from stic_ray import artifacts, deliver
from stic_ray.artifacts import Artifact
from stic_ray.cluster import check_pool, check_training
from stic_ray.config import (
    MAX_LENGTH,
    Annotated,
    Config,
    ImageSource,
    ImportedPairs,
    Instructions,
    Model,
    NearDuplicates,
    RandomSelection,
    Training,
    Vig,
)
from stic_ray.deliver import Measured
from stic_ray.evaluate import predict
from stic_ray.evaluate.benchmarks import read_objects, read_vocabulary
from stic_ray.records import Prediction
from stic_ray.run import Run, Step
from stic_ray.stages import (
    describe,
    fit,
    generate,
    hashes,
    images,
    imported,
    listing,
    pair,
    samples,
    score,
    select,
    unique,
)
from stic_ray.train import driver
from stic_ray.train.job import ChosenData, PairData, SampleData, ScoredPairs, TrainingData


@dataclass(frozen=True, kw_only=True)
class _Start:
    """A model that something is done with: its fingerprint and where it is."""

    fingerprint: str
    uri: str


def run(config: Config, command: list[str], name: str = "") -> str:
    """Do everything that is not yet in the store and write `runs/NAME/`; returns the closing summary.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=name, checks=(check_pool, check_training)) as this:
        models = {"base": _Start(fingerprint=this.base_model(), uri=config.model.path)}

        # Stage 1: preference pairs, by the model itself or from annotations, then regularised DPO.
        if config.stage1 is not None:
            models |= train_on_pairs(this, make_pairs(this), models["base"])

        # Stage 2: (description-infused) fine-tuning on instruction samples, from the stage-1 model.
        if config.stage2 is not None:
            models |= train_on_samples(this, models.get("stage1", models["base"]))

        measured = evaluate_models(this, models)
        with this.explained("report"):
            return deliver.write_run(this, measured, command)


def train_on_pairs(this: Run, pairs: Sequence[Artifact], base: _Start) -> dict[str, _Start]:
    """Stage 1 and its control: supervised fine-tuning on the chosen answers alone."""
    config = this.config
    steps = []
    for role, training, kind in (
        ("stage1", config.stage1, PairData),
        ("stage1_control", config.stage1_control, ChosenData),
    ):
        if training is None:
            continue
        parts, parents = [], {"model": base.fingerprint}
        for number, one in enumerate(pairs):
            # The reference's scores: training holds no reference model. Parents are told apart by their number.
            scores = make_scores(this, score.PAIRS, one, config.model)
            selected = make_selection(this, role, score.PAIRS, one)
            parts.append(ScoredPairs(scores=scores.uri, selection=_uri(selected)))
            parents |= _numbered(number, {"scores": scores, "selection": selected})
        steps.append(_training(config, role, training, kind(parts=tuple(parts)), parents, base.uri))
    return dict(zip([step.role for step in steps], map(_trained, this.make_together(steps)), strict=True))


def train_on_samples(this: Run, start: _Start) -> dict[str, _Start]:
    """Stage 2 and its control: the same samples without descriptions."""
    config = this.config
    training = config.stage2
    assert config.instructions is not None and training is not None  # the configuration refuses it
    instructions = make_samples(this, "samples", config.instructions)
    described = instructions
    if config.prompts.infused:
        described = this.make(
            "descriptions",
            describe.plan(config, instructions.fingerprint, start.fingerprint),
            partial(describe.run, config, instructions, start.uri),
        )
    fitting = this.make(
        "fitting",
        fit.plan(config, described.fingerprint, this.base_model(), training.max_length),
        partial(fit.run, config, described, training.max_length),
    )
    steps = []
    for role, each, infused in (
        ("stage2", training, config.prompts.infused),
        ("stage2_control", config.stage2_control, ""),
    ):
        if each is None:
            continue
        selected = make_selection(this, role, score.SAMPLES, instructions)
        parents = {"model": start.fingerprint, "samples": fitting.fingerprint, **_numbered(0, {"selection": selected})}
        data = SampleData(samples=fitting.uri, infused=infused, selection=_uri(selected))
        steps.append(_training(config, role, each, data, parents, start.uri))
    return dict(zip([step.role for step in steps], map(_trained, this.make_together(steps)), strict=True))


def _numbered(number: int, parents: Mapping[str, Artifact | None]) -> dict[str, str]:
    """Fingerprints of the parents that there are, by role and, from the second on, number."""
    suffix = f"_{number}" if number else ""
    return {f"{role}{suffix}": parent.fingerprint for role, parent in parents.items() if parent is not None}


def _trained(artifact: Artifact) -> _Start:
    return _Start(fingerprint=artifact.fingerprint, uri=driver.model_of(artifact))


def make_pairs(this: Run) -> list[Artifact]:
    """Preference pairs: of the model's own answers to unlabeled images, of annotated data, imported, or all."""
    found = []
    if this.config.unlabeled is not None:
        found.append(make_described_pairs(this, this.config.unlabeled))
    if this.config.annotated is not None:
        found.append(make_annotated_pairs(this, this.config.annotated))
    if this.config.imported is not None:
        found.append(make_imported_pairs(this, this.config.imported))
    return found


def make_described_pairs(this: Run, source: ImageSource) -> Artifact:
    """STIC: the model describes unlabeled images, well and badly."""
    config = this.config
    listed = this.make("listing", listing.plan(config, source), partial(listing.run, config, source))
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
        generate.plan(config, distinct.fingerprint, this.base_model()),
        partial(generate.run, config, distinct),
    )
    return this.make("pairs", pair.plan(config, responses.fingerprint), partial(pair.run, config, responses))


def make_annotated_pairs(this: Run, annotated: Annotated) -> Artifact:
    """BPO: the data's own answers, and worse ones by the model."""
    config = this.config
    annotations = make_samples(this, "annotations", annotated.data)
    responses = this.make(
        "annotated_responses",
        generate.plan_annotated(config, annotated, annotations.fingerprint, this.base_model()),
        partial(generate.run_annotated, config, annotated, annotations),
    )
    return this.make("annotated_pairs", pair.plan(config, responses.fingerprint), partial(pair.run, config, responses))


def make_imported_pairs(this: Run, source: ImportedPairs) -> Artifact:
    """Pairs that are there already, in another tool's format."""
    return this.make("imported_pairs", imported.plan(source), partial(imported.run, this.config, source))


def make_samples(this: Run, role: str, source: Instructions) -> Artifact:
    """The samples of instruction data."""
    return this.make(role, samples.plan(this.config, source), partial(samples.run, this.config, source))


def make_scores(this: Run, kind: str, items: Artifact, model: Model) -> Artifact:
    """Log-probabilities of the answers of `items` (score.PAIRS or score.SAMPLES) under a model."""
    config = this.config
    training = config.stage1 if kind == score.PAIRS else config.stage2
    max_length = training.max_length if training is not None else MAX_LENGTH
    plan = score.plan(kind, items, model, this.fingerprint_of(model), max_length)
    role = f"{this.role_of(items)}_scores"
    role = role if model == config.model else f"{role}_of_scorer"
    return this.make(role, plan, partial(score.run, config, kind, items, model))


def make_gains(this: Run, kind: str, items: Artifact, vig: Vig) -> Artifact:
    """The visual information gain of every answer token of `items`."""
    model = vig.scorer or this.config.model
    scores = make_scores(this, kind, items, model)
    plan = score.plan_gains(kind, scores, vig.blind)
    work = partial(score.run_gains, this.config, scores, model, vig.blind)
    return this.make(f"{this.role_of(items)}_gains", plan, work)


def make_selection(this: Run, stage: str, kind: str, items: Artifact) -> Artifact | None:
    """What the training of a stage uses of `items`; None where it uses all."""
    config = this.config
    chosen = getattr(config, stage).selection
    if chosen is None:
        return None
    assert config.vig is not None  # the configuration refuses it
    gains = make_gains(this, kind, items, config.vig)
    like = None
    role = f"{stage}_selection_of_{this.role_of(items)}"
    if isinstance(chosen, RandomSelection):
        plan = select.plan(kind, gains, chosen.like)
        like = this.make(f"{role}_like", plan, partial(select.run, config, gains, chosen.like, None))
    plan = select.plan(kind, gains, chosen, like, config.seed)
    return this.make(role, plan, partial(select.run, config, gains, chosen, like))


def _uri(artifact: Artifact | None) -> str:
    return artifact.uri if artifact is not None else ""


def build_preferences(config: Config, command: list[str]) -> str:
    """Pairs alone, of every source that is set; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=f"{config.name}-preferences", checks=(check_pool,)) as this:
        make_pairs(this)
        return deliver.write_stages(this, command)


def import_pairs(config: Config, command: list[str]) -> str:
    """Pairs of another tool alone; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the file and the line.
    """
    assert config.imported is not None  # looked at before: see launch.py
    with Run(config, name=f"{config.name}-imported", checks=(check_pool,)) as this:
        make_imported_pairs(this, config.imported)
        return deliver.write_stages(this, command)


def describe_samples(config: Config, command: list[str]) -> str:
    """Descriptions of the instruction samples' images by `model.path` alone; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    assert config.instructions is not None  # looked at before: see launch.py
    with Run(config, name=f"{config.name}-descriptions", checks=(check_pool,)) as this:
        instructions = make_samples(this, "samples", config.instructions)
        this.make(
            "descriptions",
            describe.plan(config, instructions.fingerprint, this.base_model()),
            partial(describe.run, config, instructions, config.model.path),
        )
        return deliver.write_stages(this, command)


def score_samples(config: Config, command: list[str]) -> str:
    """Gains of the answers of the instruction samples, or of the pairs where there are none; returns where they are.

    Raises:
        ValueError: `vig` is not set, or inputs cannot be used.
    """
    if config.vig is None:
        raise ValueError("vig is null: say what stands for no image, like vig='{blind: {type: Blur, radius: 0.2}}'")
    with Run(config, name=f"{config.name}-gains", checks=(check_pool,)) as this:
        if config.instructions is not None:
            make_gains(this, score.SAMPLES, make_samples(this, "samples", config.instructions), config.vig)
        else:
            for pairs in make_pairs(this):
                make_gains(this, score.PAIRS, pairs, config.vig)
        return deliver.write_stages(this, command)


def select_samples(config: Config, command: list[str]) -> str:
    """The selection of stage 2 alone; returns where it is.

    Raises:
        ValueError: `stage2.selection` is not set, or inputs cannot be used.
    """
    assert config.instructions is not None  # looked at before: see launch.py
    if config.stage2 is None or config.stage2.selection is None:
        raise ValueError("stage2.selection is null: say what is to be selected, like type: VigSelection")
    with Run(config, name=f"{config.name}-selection", checks=(check_pool,)) as this:
        make_selection(this, "stage2", score.SAMPLES, make_samples(this, "samples", config.instructions))
        return deliver.write_stages(this, command)


def train_sft(config: Config, command: list[str]) -> str:
    """Stage 2 from `model.path` on the samples as they are, without descriptions; returns the closing summary.

    Raises:
        ValueError: `stage2` is not set, or inputs cannot be used.
    """
    if config.stage2 is None:
        raise ValueError("stage2 is null: say how to train")
    control = None if config.stage2_control == config.stage2 else config.stage2_control
    alone = replace(
        config,
        stage1=None,
        stage1_control=None,
        stage2_control=control,
        prompts=replace(config.prompts, infused=""),
    )
    return run(alone, command, name=f"{config.name}-sft")


def _training(
    config: Config, stage: str, training: Training, data: TrainingData, parents: dict[str, str], model_uri: str
) -> Step:
    infused = data.infused if isinstance(data, SampleData) else ""
    plan = driver.plan(config, stage, training, parents, infused)
    return Step(role=stage, plan=plan, work=partial(driver.run, config, training, data, model_uri))


def evaluate_models(this: Run, models: Mapping[str, _Start]) -> dict[str, Measured]:
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
    for name, model in models.items():
        artifact = this.make(
            f"predictions_{name}",
            predict.plan(this.config, questions.fingerprint, model.fingerprint),
            partial(predict.run, this.config, questions, model.uri),
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
