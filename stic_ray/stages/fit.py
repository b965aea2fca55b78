"""Fitting: the proof, before stage 2 trains, that every described sample fits the length limit with its description.

Only a processor is needed, so this runs on CPUs; it is the only stage that a change of the infusion template redoes
before training. The rows are the samples as they were; nothing is ever truncated.
"""

from collections.abc import Mapping, Sequence

from stic_ray import prompts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.engines import start_tokenizer
from stic_ray.engines.protocol import Conversation
from stic_ray.flow import Inputs, Outcome, Task, Work, one_by_one, read_image, run_stage
from stic_ray.records import Sample, read_sample

CODE_VERSION = 1


def plan(config: Config, described: str, model: str, max_length: int) -> Plan:
    """The artifact of samples that fit; `described` and `model` are the parents' fingerprints."""
    identity = {"infused": config.prompts.infused, "max_length": max_length}
    parents = {"descriptions": described, "model": model}
    return Plan(stage="fitting", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Sample.__name__)


def run(config: Config, described: Artifact, max_length: int, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row a sample."""
    work = Work(
        record=Sample,
        input_column="id",
        prepare=read_image,
        worker=Fitter,
        worker_arguments={
            "model_uri": config.model.path,
            "infused": config.prompts.infused,
            "max_length": max_length,
        },
        on_gpu=False,
    )
    inputs = Inputs(parent=described, column="id", read=one_by_one)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


class Fitter:
    """An actor's work: the length of every sample's conversation, image tokens and description included."""

    def __init__(self, *, model_uri: str, infused: str, max_length: int) -> None:
        self._tokenizer = start_tokenizer(model_uri=model_uri)
        self._infused = infused
        self._max_length = max_length

    def figures(self) -> Mapping[str, float]:
        """None: it only counts."""
        return {}

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Every sample as it is, or the reason why it cannot be trained on."""
        samples = [read_sample(unit.payload) for unit in tasks]
        reasons = [self._reason(sample, unit) for sample, unit in zip(samples, tasks, strict=True)]
        return [
            Outcome(id=sample.id, rows=[] if reason else [sample], reason=reason)
            for sample, reason in zip(samples, reasons, strict=True)
        ]

    def _reason(self, sample: Sample, unit: Task) -> str:
        turns = prompts.infused_turns(sample, self._infused) if self._infused else sample.turns
        image = unit.images[0] if unit.images else None
        (found,) = self._tokenizer.score([Conversation(turns=turns, image=image)], self._max_length)
        return found.error
