"""The jobs that a configuration starts: what each is called, what it needs, and what its --help shows."""

from dataclasses import dataclass

from stic_ray import recipes


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a command line starts: a function of a module by name, so that nothing heavy is imported before."""

    function: str
    script: str
    console: str
    description: str
    needs: frozenset[str]  # which inputs are looked at before it starts
    examples: tuple[str, ...]  # settings that matter to it, for --help
    stages: tuple[str, ...] = ()  # that it trains, with their controls
    module: str = "stic_ray.pipeline"
    recipe: str = recipes.EMBEDDED  # where no configuration is given


PIPELINE = Job(
    function="run",
    script="jobs/stic_pipeline.py",
    console="stic-pipeline",
    description="Self-train a vision-language model on unlabeled images (STIC), and measure what it gained.",
    needs=frozenset({"pairs", "instructions", "evaluation"}),
    examples=(
        "name=other                            another run beside the first; it shares what it can",
        "seed=1                                another run seed",
        "stage1.loss.alpha=1e-3                the regulariser's weight: stage 1 and what follows is made anew",
        "unlabeled.uri=s3://bucket/photos      your images",
    ),
    stages=("stage1", "stage2"),
)
PREFERENCES = Job(
    function="build_preferences",
    script="jobs/build_preferences.py",
    console="stic-build-preferences",
    description="Preference pairs: of the model's own answers to unlabeled images, or of annotated data.",
    needs=frozenset({"pairs"}),
    examples=(
        "unlabeled.uri=s3://bucket/photos      your images",
        "unlabeled.sample=1000                 so many of them, drawn",
        "sampling.temperature=0.7              how the answers are drawn",
        "negatives.per_positive=2              so many dispreferred answers for each preferred one",
    ),
)
DESCRIPTIONS = Job(
    function="describe_samples",
    script="jobs/describe.py",
    console="stic-describe",
    description="Describe the images of the instruction samples with model.path; nothing is trained.",
    needs=frozenset({"instructions"}),
    examples=(
        "model.path=runs/mine/stage1/merged    who describes",
        "instructions.uri=samples.json         whose images, with instructions.images=FOLDER",
        "instructions.sample=1000              so many samples, drawn",
    ),
)


IMPORT = Job(
    function="import_pairs",
    script="jobs/import_pairs.py",
    console="stic-import-pairs",
    description="Preference pairs of another tool into the store, where runs with the same settings find them.",
    needs=frozenset({"imported"}),
    examples=(
        "imported.uri=pairs.jsonl              a file of records, or a data set that save_to_disk wrote",
        "imported.format=trl                   whose: trl, llama_factory, ms_swift, llava, bpo, stic",
        "imported.images=photos                where image paths start, if not beside the file",
    ),
)
SCORES = Job(
    function="score_samples",
    script="jobs/score_vig.py",
    console="stic-score-vig",
    description="Visual information gain of every answer token of instruction samples or pairs; nothing is trained.",
    needs=frozenset({"instructions"}),
    examples=(
        "vig='{blind: {type: Blur, radius: 0.2}}'     what stands for no image",
        "instructions.uri=samples.json         whose answers, with instructions.images=FOLDER",
        "instructions.category=dataset         the samples' field that says their data set",
        "instructions=null                     score the pairs (unlabeled, annotated, imported) instead, as with",
        "                                      --recipe embedded-together",
    ),
)
SELECTION = Job(
    function="select_samples",
    script="jobs/select_samples.py",
    console="stic-select-samples",
    description="Which samples and tokens stage2.selection takes, by their gain; nothing is trained.",
    needs=frozenset({"instructions"}),
    examples=(
        "--recipe embedded-vig                 with gains to select by",
        "stage2.selection.keep_share=0.5       another threshold; nothing is scored again",
        "stage2.selection.strata=[category]    a threshold for each kind of sample",
    ),
)
SFT = Job(
    function="train_sft",
    script="jobs/train_sft.py",
    console="stic-train-sft",
    description="Fine-tune model.path on instruction samples (stage2, with its selection), and measure what it gained.",
    needs=frozenset({"instructions", "evaluation"}),
    examples=(
        "--recipe embedded-vig stage2.selection.keep_share=0.5",
        "                                      on the samples that need their image most",
        "stage2_control=null                   without the control beside it",
    ),
    stages=("stage2",),
)

SWEEP = Job(
    function="run",
    module="stic_ray.sweep",
    script="jobs/sweep.py",
    console="stic-sweep",
    description="Try settings side by side (sweep), and write the best as a configuration of its own.",
    needs=frozenset({"pairs", "instructions", "evaluation"}),
    examples=(
        "--recipe embedded-sweep               alpha of stage 1 against the share of samples kept for stage 2",
        "sweep.trials=20 sweep.max_concurrent=4",
        "sweep.search.type=OptunaSearch        settings by what others reached (extra sweep)",
        "sweep.scheduler=null                  no trial is stopped early",
        "sweep.space='{stage1.loss.beta: {type: LogUniform, low: 0.02, high: 0.5}}'",
    ),
    stages=("stage1", "stage2"),
    recipe="embedded-sweep",
)
