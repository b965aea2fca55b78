"""A whole run."""

from dataclasses import dataclass, field
from typing import get_args

from stic_ray.config.checks import require
from stic_ray.config.data import Duplicates, ExactDuplicates, ImageSource, ImportedPairs, Instructions, Model, Prompts
from stic_ray.config.evaluation import Evaluation
from stic_ray.config.execution import Auto, EngineSettings, Execution, Hub
from stic_ray.config.losses import SftLoss, blind_of, needs_reference
from stic_ray.config.negatives import Annotated, Contrast, ErrorInjection, Negatives, Sampling
from stic_ray.config.sweep import Sweep
from stic_ray.config.training import AdapterOff, Lora, PairSelection, SampleSelection, Training, Vig, WeightedPairs


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run: preference training (stage 1) on pairs, then fine-tuning (stage 2) on instruction samples.

    Pairs come from `unlabeled` images, which the model describes itself (STIC: `prompts`, `negatives`, `sampling`, and
    `contrast` for preferred descriptions that are decoded contrastively), from `annotated` data (BPO), are `imported`,
    or all of these; null for none. A stage is left out by null; `stage1_control` and `stage2_control` are the controls
    beside them. `vig` is how gains are measured for the stages' `selection`. Stage 1 runs in `rounds`: the model of
    each writes the next one's pairs about the same images, is its reference and trained on. The last model is pushed to
    `hub`, null for nowhere. `sweep` says what jobs/sweep.py tries; a single run does not look at it. Of
    `stage1_before` each trains on the same pairs before `stage1` does, from the model of the one before.
    """

    name: str
    seed: int
    model: Model
    unlabeled: ImageSource | None
    instructions: Instructions | None
    prompts: Prompts
    negatives: Negatives
    sampling: Sampling
    stage1: Training | None
    stage1_control: Training | None
    stage2: Training | None
    stage2_control: Training | None
    rounds: int = 1
    annotated: Annotated | None = None
    imported: ImportedPairs | None = None
    evaluation: Evaluation | None = None
    vig: Vig | None = None
    contrast: Contrast | None = None
    duplicates: Duplicates = field(default_factory=ExactDuplicates)
    engine: EngineSettings = field(default_factory=Auto)
    execution: Execution = field(default_factory=Execution)
    hub: Hub | None = None
    sweep: Sweep | None = None
    stage1_before: tuple[Training, ...] = ()
    store: str = "./store"
    runs: str = "./runs"

    def __post_init__(self) -> None:
        plain = self.name.strip(".") != "" and ".." not in self.name and not set(self.name) & {"/", "\0"}
        require(plain and len(self.name.encode()) <= 100, "name", self.name, "a plain name of at most 100 bytes")
        preference = self.stage1 is None or not isinstance(self.stage1.loss, SftLoss)
        require(preference, "stage1.loss.type", "SftLoss", "a loss of pairs; fine-tuning on them is stage1_control")
        self._check_before()
        for name in ("stage1_control", "stage2", "stage2_control"):
            training = getattr(self, name)
            sft = training is None or isinstance(training.loss, SftLoss)
            require(sft, f"{name}.loss", training and training.loss, "type: SftLoss")
        self._check_data()
        self._check_selections()
        self._check_quantized()
        again = not self.prompts.infused and self.stage2 is not None and self.stage2 == self.stage2_control
        wanted = "null or with another selection: without prompts.infused it would be stage2 again"
        require(not again, "stage2_control", "as stage2", wanted)
        for name, control in (("stage1", self.stage1_control), ("stage2", self.stage2_control)):
            require(control is None or getattr(self, name), f"{name}_control", "set", f"null, where {name} is")
            limit = getattr(self, name) and getattr(self, name).max_length
            fits = control is None or control.max_length >= limit
            wanted = f"at least {name}.max_length ({limit}), since both train on the same data"
            require(fits, f"{name}_control.max_length", control and control.max_length, wanted)

    def _check_before(self) -> None:
        """A schedule of trainings on pairs: what they are held against is the model that wrote the pairs, by scores."""
        stage1 = self.stage1
        wanted = "[], or stage1 set: they come before it"
        require(not self.stage1_before or stage1 is not None, "stage1_before", "set", wanted)
        for number, training in enumerate(self.stage1_before):
            assert stage1 is not None  # as required above
            where = f"stage1_before.{number}"
            fits = not isinstance(training.loss, SftLoss) and blind_of(training.loss) == blind_of(stage1.loss)
            require(fits, f"{where}.loss", type(training.loss).__name__, "a loss of pairs that sees what stage1's does")
            for name in ("selection", "max_length"):
                same = getattr(training, name) == getattr(stage1, name)
                require(same, f"{where}.{name}", getattr(training, name), f"that of stage1 ({getattr(stage1, name)})")
            asks = needs_reference(training.loss) or needs_reference(stage1.loss)
            off = isinstance(training.reference, AdapterOff) or isinstance(stage1.reference, AdapterOff)
            wanted = "ScoredReference, as stage1's: adapters switched off are the training before"
            require(not (asks and off), f"{where}.reference.type", "AdapterOff", wanted)

    def _check_data(self) -> None:
        has_pairs = any(source is not None for source in (self.unlabeled, self.annotated, self.imported))
        wanted = "null, or unlabeled, annotated or imported set: it needs pairs"
        require(self.stage1 is None or has_pairs, "stage1", "set", wanted)
        wanted = "null, where unlabeled is: it is of the model's own descriptions"
        require(self.contrast is None or self.unlabeled is not None, "contrast", "set", wanted)
        wanted = "a positive number" if self.stage1 is not None else "1, where stage1 is null"
        require(self.rounds == 1 or (self.rounds > 0 and self.stage1 is not None), "rounds", self.rounds, wanted)
        require(
            self.stage2 is None or self.instructions is not None, "instructions", None, "set, since stage2 needs it"
        )
        every = self.negatives.kinds if self.unlabeled else ()
        every += self.annotated.negatives.kinds if self.annotated else ()
        if any(isinstance(kind, ErrorInjection) for kind in every):
            for name in ("rewrite_description", "rewrite_answer"):
                require(bool(getattr(self.prompts, name)), f"prompts.{name}", "", "set, since ErrorInjection needs it")

    def _check_quantized(self) -> None:
        for name, training in self.trainings().items():
            quantized = isinstance(training.weights, Lora) and training.weights.quantize
            wanted = "false, or execution.train_gpus set: weights of 4 bits need GPUs"
            require(not quantized or self.execution.train_gpus > 0, f"{name}.weights.quantize", True, wanted)

    def trainings(self) -> dict[str, Training]:
        """Those that there are, by field."""
        names = ("stage1", "stage1_control", "stage2", "stage2_control")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def _check_selections(self) -> None:
        control = self.stage1_control and self.stage1_control.selection
        wanted = "null, GainedPairs or MaskedPairs: fine-tuning has no pairs to weight"
        require(not isinstance(control, WeightedPairs), "stage1_control.selection.type", "WeightedPairs", wanted)
        for name, kinds in (("stage1", PairSelection), ("stage2", SampleSelection)):
            for training in (name, f"{name}_control"):
                chosen = getattr(self, training) and getattr(self, training).selection
                types_of = ", ".join(kind.__name__ for kind in get_args(kinds))
                fits = chosen is None or isinstance(chosen, kinds)
                require(fits, f"{training}.selection.type", type(chosen).__name__, f"one of {types_of}")
                strata = getattr(getattr(chosen, "like", chosen), "strata", ())
                named = self.instructions is not None and self.instructions.category
                wanted = "the field that says a sample's kind, since the selection has strata by it"
                require("category" not in strata or bool(named), "instructions.category", "", wanted)
                require(
                    chosen is None or self.vig is not None, "vig", None, f"set, since {training}.selection needs it"
                )
