"""The methods end to end, from top to bottom as in the papers, with their controls and their proof: STIC (arXiv
2405.19716), VIG (2602.17186) and BPO (2403.08730)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from stic_ray import deliver
from stic_ray.artifacts import ROUND, Artifact
from stic_ray.cluster import check_pool, check_training
from stic_ray.config import (
    MAX_LENGTH,
    Config,
    Evaluation,
    ImageSource,
    ImportedPairs,
    Instructions,
    Model,
    NearDuplicates,
    OwnModel,
    RandomSelection,
    Training,
    Vig,
    blind_of,
)
from stic_ray.evaluate import judging, predict, questions
from stic_ray.evaluate.measured import Measured, measure
from stic_ray.evaluate.predict import Candidate
from stic_ray.outline import needs_scores
from stic_ray.records import make_seed
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
class Round:
    """A round of stage 1: the run's configuration, with the model that the round starts from and a seed of its own, and
    what the names of its artifacts end in."""

    config: Config
    suffix: str = ""


def run(config: Config, command: list[str], name: str = "") -> str:
    """Do everything that is not yet in the store and write `runs/NAME/`; returns the closing summary.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=name, checks=(check_pool, check_training)) as this:
        *_, models = [{"base": config.model}, *train(this)]
        measured = evaluate_models(this, {name: Candidate(model=model) for name, model in models.items()})
        with this.explained("report"):
            return deliver.write_run(this, measured, command)


def train(this: Run) -> Iterator[dict[str, Model]]:
    """The models that there are after each round of stage 1 and after stage 2, the newest last but for its control."""
    config = this.config
    models = {"base": config.model}

    # Stage 1: preference pairs, by the model itself or from annotations, then regularised DPO; in rounds.
    if config.stage1 is not None:
        source = list_sources(this)
        for number in range(1, config.rounds + 1):
            now = _round(this, number, models)
            models = models | train_on_pairs(this, now, make_pairs(this, now, source))
            yield models

    # Stage 2: (description-infused) fine-tuning on instruction samples, from the stage-1 model.
    if config.stage2 is not None:
        yield models | train_on_samples(this, models.get("stage1", config.model))


def _round(this: Run, number: int, models: Mapping[str, Model]) -> Round:
    """A round, from 1, of which `models` has those before. What it draws is drawn anew; the last has no suffix."""
    config = this.config
    if number > 1:
        seed = make_seed(config.seed, "round", number) % 2**31
        config = replace(config, model=models[f"stage1{ROUND}{number - 1}"], seed=seed)
    return Round(config=config, suffix="" if number == config.rounds else f"{ROUND}{number}")


def train_on_pairs(this: Run, now: Round, pairs: Mapping[str, Artifact]) -> dict[str, Model]:
    """Stage 1 and its control: supervised fine-tuning on the chosen answers alone."""
    config = now.config
    steps = []
    trainings = [training for training in (config.stage1, config.stage1_control) if training is not None]
    make = make_scores if any(map(needs_scores, (*config.stage1_before, *trainings))) else make_tokens
    for role, training, data in (
        ("stage1", config.stage1, _pair_data),
        ("stage1_control", config.stage1_control, _chosen_data),
    ):
        if training is None:
            continue
        parts: list[ScoredPairs] = []
        parents: dict[str, str] = {}
        for number, (name, made) in enumerate(pairs.items()):
            # The reference's scores: training holds no reference model. Parents are told apart by their number.
            items = Items(kind=score.PAIRS, name=name, artifact=made)
            scores = make(this, now, items, config.model)
            selected = make_selection(this, now, role, items)
            hidden = blind_of(training.loss)
            gains = make_gains(this, now, items, Vig(blind=hidden), "_of_loss") if hidden else None
            parts.append(ScoredPairs(scores=scores.uri, selection=_uri(selected), gains=_uri(gains)))
            parents |= _numbered(number, {"scores": scores, "selection": selected, "gains": gains})
        start = now
        for number, before in enumerate(config.stage1_before if role == "stage1" else (), 1):
            of = {"model": this.fingerprint_of(start.config.model), **parents}
            step = _training(start, f"{role}_before{number}", before, data(tuple(parts), before), of)
            start = _go_on(this, start, number, step)
        of = {"model": this.fingerprint_of(start.config.model), **parents}
        steps.append(_training(start, role, training, data(tuple(parts), training), of))
    return _train(this, steps)


def _go_on(this: Run, now: Round, number: int, step: Step) -> Round:
    """The round from the model of one of its trainings on; what follows sees the pairs in another order."""
    (model,) = _train(this, [step]).values()
    seed = make_seed(now.config.seed, "before", number) % 2**31
    return replace(now, config=replace(now.config, model=model, seed=seed))


def _pair_data(parts: tuple[ScoredPairs, ...], training: Training) -> TrainingData:
    return PairData(parts=parts, hidden=blind_of(training.loss))


def _chosen_data(parts: tuple[ScoredPairs, ...], training: Training) -> TrainingData:
    return ChosenData(parts=parts)


def train_on_samples(this: Run, start: Model) -> dict[str, Model]:
    """Stage 2 and its control: the same samples without descriptions."""
    config = this.config
    now = Round(config=config)
    training = config.stage2
    assert config.instructions is not None and training is not None  # the configuration refuses it
    instructions = make_samples(this, "samples", config.instructions)
    described = instructions
    if config.prompts.infused:
        described = this.make(
            "descriptions",
            describe.plan(config, instructions.fingerprint, this.fingerprint_of(start)),
            partial(describe.run, config, instructions, start.path),
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
        selected = make_selection(this, now, role, _samples(instructions))
        parents = {"model": this.fingerprint_of(start), "samples": fitting.fingerprint}
        parents |= _numbered(0, {"selection": selected})
        data = SampleData(samples=fitting.uri, infused=infused, selection=_uri(selected))
        steps.append(_training(replace(now, config=replace(config, model=start)), role, each, data, parents))
    return _train(this, steps)


def _numbered(number: int, parents: Mapping[str, Artifact | None]) -> dict[str, str]:
    """Fingerprints of the parents that there are, by role and, from the second on, number."""
    suffix = f"_{number}" if number else ""
    return {f"{role}{suffix}": parent.fingerprint for role, parent in parents.items() if parent is not None}


def _train(this: Run, steps: Sequence[Step]) -> dict[str, Model]:
    """The models that trainings make, by role."""
    made = dict(zip([step.role for step in steps], this.make_together(steps), strict=True))
    return {role: this.made_model(driver.model_of(artifact), artifact) for role, artifact in made.items()}


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What pairs are made of: the same in every round, whatever happens to the folders meanwhile."""

    images: Artifact | None
    annotations: Artifact | None
    pairs: Artifact | None


def list_sources(this: Run) -> Sources:
    """Unlabeled images that are fit for use, annotated samples, and pairs of another tool, of those that are set."""
    config = this.config
    return Sources(
        images=list_images(this, config.unlabeled) if config.unlabeled else None,
        annotations=make_samples(this, "annotations", config.annotated.data) if config.annotated else None,
        pairs=make_imported_pairs(this, config.imported) if config.imported else None,
    )


def list_images(this: Run, source: ImageSource) -> Artifact:
    """Unlabeled images that can be read, each once."""
    config = this.config
    listed = this.make("listing", listing.plan(config, source), partial(listing.run, config, source))
    readable = this.make("images", images.plan(listed.fingerprint), partial(images.run, config, listed))
    looks = None
    if isinstance(config.duplicates, NearDuplicates):
        looks = this.make("hashes", hashes.plan(readable.fingerprint), partial(hashes.run, config, readable))
    return this.make(
        "unique",
        unique.plan(config, readable.fingerprint, looks.fingerprint if looks else ""),
        partial(unique.run, config, readable, looks),
    )


def make_pairs(this: Run, now: Round, source: Sources) -> dict[str, Artifact]:
    """Preference pairs by kind: of the model's own answers to unlabeled images, of annotated data, imported, or all."""
    found = {}
    if source.images is not None:
        found["pairs"] = make_described_pairs(this, now, source.images)
    if source.annotations is not None:
        found["annotated_pairs"] = make_annotated_pairs(this, now, source.annotations)
    if source.pairs is not None:
        found["imported_pairs"] = source.pairs
    return found


def make_described_pairs(this: Run, now: Round, distinct: Artifact) -> Artifact:
    """STIC: the model describes unlabeled images, well and badly."""
    config = now.config
    responses = this.make(
        f"responses{now.suffix}",
        generate.plan(config, distinct.fingerprint, this.fingerprint_of(config.model)),
        partial(generate.run, config, distinct),
    )
    plan = pair.plan(config, responses.fingerprint)
    return this.make(f"pairs{now.suffix}", plan, partial(pair.run, config, responses))


def make_annotated_pairs(this: Run, now: Round, annotations: Artifact) -> Artifact:
    """BPO: the data's own answers, and worse ones by the model."""
    config = now.config
    assert config.annotated is not None  # whose annotations they are
    responses = this.make(
        f"annotated_responses{now.suffix}",
        generate.plan_annotated(config, config.annotated, annotations.fingerprint, this.fingerprint_of(config.model)),
        partial(generate.run_annotated, config, config.annotated, annotations),
    )
    plan = pair.plan_annotated(responses.fingerprint)
    return this.make(f"annotated_pairs{now.suffix}", plan, partial(pair.run, config, responses))


def make_imported_pairs(this: Run, source: ImportedPairs) -> Artifact:
    """Pairs that are there already, in another tool's format."""
    return this.make("imported_pairs", imported.plan(source), partial(imported.run, this.config, source))


def make_samples(this: Run, role: str, source: Instructions) -> Artifact:
    """The samples of instruction data."""
    return this.make(role, samples.plan(this.config, source), partial(samples.run, this.config, source))


@dataclass(frozen=True, kw_only=True)
class Items:
    """What is scored: pairs or samples (`kind`: score.PAIRS or score.SAMPLES), what they are called, and where."""

    kind: str
    name: str
    artifact: Artifact


def _samples(instructions: Artifact) -> Items:
    return Items(kind=score.SAMPLES, name="samples", artifact=instructions)


def make_scores(this: Run, now: Round, items: Items, model: Model) -> Artifact:
    """Log-probabilities of the answers of `items` under a model."""
    config = now.config
    plan = score.plan(items.kind, items.artifact, model, this.fingerprint_of(model), _max_length(config, items))
    role = f"{items.name}_scores" + ("" if model == config.model else "_of_scorer")
    return this.make(f"{role}{now.suffix}", plan, partial(score.run, config, items.kind, items.artifact, model))


def make_tokens(this: Run, now: Round, items: Items, model: Model) -> Artifact:
    """The tokens of the answers of `items`, where nobody needs their log-probabilities."""
    config = now.config
    plan = score.plan_tokens(items.kind, items.artifact, this.fingerprint_of(model), _max_length(config, items))
    work = partial(score.run_tokens, config, items.kind, items.artifact, model)
    return this.make(f"{items.name}_tokens{now.suffix}", plan, work)


def _max_length(config: Config, items: Items) -> int:
    training = config.stage1 if items.kind == score.PAIRS else config.stage2
    return training.max_length if training is not None else MAX_LENGTH


def make_gains(this: Run, now: Round, items: Items, vig: Vig, whose: str = "") -> Artifact:
    """The visual information gain of every answer token of `items`; `whose` is part of the role's name."""
    config = now.config
    model = vig.scorer or config.model
    scores = make_scores(this, now, items, model)
    plan = score.plan_gains(items.kind, scores, vig.blind)
    work = partial(score.run_gains, config, scores, model, vig.blind)
    return this.make(f"{items.name}_gains{whose}{now.suffix}", plan, work)


def make_selection(this: Run, now: Round, stage: str, items: Items) -> Artifact | None:
    """What the training of a stage uses of `items`; None where it uses all."""
    config = now.config
    chosen = getattr(config, stage).selection
    if chosen is None:
        return None
    assert config.vig is not None  # the configuration refuses it
    gains = make_gains(this, now, items, config.vig)
    like = None
    role = f"{stage}_selection_of_{items.name}"
    if isinstance(chosen, RandomSelection):
        plan = select.plan(items.kind, gains, chosen.like)
        work = partial(select.run, config, gains, chosen.like, None)
        like = this.make(f"{role}_like{now.suffix}", plan, work)
    plan = select.plan(items.kind, gains, chosen, like, config.seed)
    return this.make(f"{role}{now.suffix}", plan, partial(select.run, config, gains, chosen, like))


def _uri(artifact: Artifact | None) -> str:
    return artifact.uri if artifact is not None else ""


def build_preferences(config: Config, command: list[str]) -> str:
    """Pairs alone, of every source that is set; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=f"{config.name}-preferences", checks=(check_pool,)) as this:
        make_pairs(this, Round(config=config), list_sources(this))
        return deliver.write_stages(this, command)


def import_pairs(config: Config, command: list[str]) -> str:
    """Pairs of another tool alone; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the file and the line.
    """
    assert config.imported is not None  # looked at before: see preflight.py
    with Run(config, name=f"{config.name}-imported", checks=(check_pool,)) as this:
        make_imported_pairs(this, config.imported)
        return deliver.write_stages(this, command)


def describe_samples(config: Config, command: list[str]) -> str:
    """Descriptions of the instruction samples' images by `model.path` alone; returns where they are.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    assert config.instructions is not None  # looked at before: see preflight.py
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
    now = Round(config=config)
    with Run(config, name=f"{config.name}-gains", checks=(check_pool,)) as this:
        if config.instructions is not None:
            make_gains(this, now, _samples(make_samples(this, "samples", config.instructions)), config.vig)
        else:
            for kind, pairs in make_pairs(this, now, list_sources(this)).items():
                make_gains(this, now, Items(kind=score.PAIRS, name=kind, artifact=pairs), config.vig)
        return deliver.write_stages(this, command)


def select_samples(config: Config, command: list[str]) -> str:
    """The selection of stage 2 alone; returns where it is.

    Raises:
        ValueError: `stage2.selection` is not set, or inputs cannot be used.
    """
    assert config.instructions is not None  # looked at before: see preflight.py
    if config.stage2 is None or config.stage2.selection is None:
        raise ValueError("stage2.selection is null: say what is to be selected, like type: VigSelection")
    with Run(config, name=f"{config.name}-selection", checks=(check_pool,)) as this:
        instructions = make_samples(this, "samples", config.instructions)
        make_selection(this, Round(config=config), "stage2", _samples(instructions))
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
        rounds=1,
        stage1=None,
        stage1_control=None,
        stage2_control=control,
        prompts=replace(config.prompts, infused=""),
    )
    return run(alone, command, name=f"{config.name}-sft")


def _training(now: Round, stage: str, training: Training, data: TrainingData, parents: dict[str, str]) -> Step:
    """A training that starts from the round's model."""
    infused = data.infused if isinstance(data, SampleData) else ""
    plan = driver.plan(now.config, stage, training, parents, infused)
    work = partial(driver.run, now.config, training, data)
    return Step(role=f"{stage}{now.suffix}", plan=plan, work=work)


def compare_models(config: Config, candidates: Mapping[str, Candidate], command: list[str]) -> str:
    """Models that are there already on the benchmarks, against the first of them; returns the closing summary.

    Raises:
        ValueError: inputs that cannot be used, with the field or file and the remedy.
    """
    with Run(config, name=config.name, checks=(check_pool,)) as this:
        measured = evaluate_models(this, candidates)
        with this.explained("report"):
            return deliver.write_comparison(this, measured, command)


def evaluate_models(this: Run, candidates: Mapping[str, Candidate]) -> dict[str, Measured]:
    """Every model's answers to the benchmarks of every split, and what a judge says of them, by split name; {} where
    there are none."""
    config, evaluation = this.config, this.config.evaluation
    if evaluation is None:
        return {}
    asked = this.make("questions", questions.plan(config, evaluation), partial(questions.run, config, evaluation))
    answers, judged = {}, {}
    for name, candidate in candidates.items():
        on = replace(candidate.model, path=candidate.adapter)
        adapter = this.fingerprint_of(on) if candidate.adapter else ""
        plan = predict.plan(config, asked.fingerprint, this.fingerprint_of(candidate.model), adapter)
        answers[name] = this.make(f"predictions_{name}", plan, partial(predict.run, config, asked, candidate))
        judged[name] = _judge(this, name, answers[name], evaluation)
    return measure(evaluation, asked, answers, judged)


def _judge(this: Run, name: str, answers: Artifact, evaluation: Evaluation) -> judging.Judged | None:
    """What the judge says of a model's answers; None where there is nothing for it."""
    config, judge = this.config, evaluation.judge
    tasks = judging.judged_tasks(config, evaluation)
    if judge is None or not tasks:
        return None
    asks = this.make(
        f"asks_{name}", judging.plan_asks(answers, tasks), partial(judging.run_asks, config, answers, tasks)
    )
    own = this.fingerprint_of(Model(path=judge.path, dtype=config.model.dtype)) if isinstance(judge, OwnModel) else ""
    plan = judging.plan(config, judge, asks, own)
    said = this.make(f"verdicts_{name}", plan, partial(judging.run, config, evaluation, asks))
    judging.check_failures(evaluation, said)
    return judging.Judged(asks=asks, verdicts=said)
