"""Descriptions (STIC, stage 2): the stage-1 model describes the image of every instruction sample, once an image.

The rows are the samples with their description; where it is put into the conversation is training's matter, so that
the control trains on exactly the same rows. A text-only sample passes as it is.
"""

from collections.abc import Mapping, Sequence

from PIL import Image

from stic_ray import prompts
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config, Prompts, Sampling, to_tree
from stic_ray.engines import EngineStart, engine_for, engine_identity, start_engine
from stic_ray.engines.protocol import Request
from stic_ray.flow import Inputs, Outcome, Task, Work, one_by_one, read_image, run_stage
from stic_ray.records import Sample, make_seed, read_sample

CODE_VERSION = 2


def plan(config: Config, samples: str, stage1: str) -> Plan:
    """The artifact of described samples; `samples` and `stage1` are the parents' fingerprints."""
    identity = {
        "seed": config.seed,
        "simple": to_tree(config.prompts.simple),
        "sampling": to_tree(config.sampling),
        "engine": engine_identity(config),
        "dtype": config.model.dtype,
    }
    parents = {"samples": samples, "model": stage1}
    return Plan(
        stage="descriptions", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Sample.__name__
    )


def run(config: Config, samples: Artifact, model_uri: str, plan: Plan) -> Artifact:
    """Make the artifact: one unit a sample; samples of one image stand together and share its description."""
    engine = engine_for(config, model_uri)
    work = Work(
        record=Sample,
        input_column="id",
        prepare=read_image,
        worker=Describer,
        worker_arguments={
            "engine": engine,
            "sampling": config.sampling,
            "pool": config.prompts,
            "seed": config.seed,
        },
        concurrent_batches=engine.concurrent_batches,
    )
    inputs = Inputs(parent=samples, column="id", read=one_by_one)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


class Describer:
    """An actor's work: one description an image of the batch, shared by its samples."""

    def __init__(
        self,
        *,
        engine: EngineStart,
        sampling: Sampling,
        pool: Prompts,
        seed: int,
    ) -> None:
        self._engine = start_engine(engine)
        self._sampling = sampling
        self._pool = pool
        self._seed = seed

    def figures(self) -> Mapping[str, float]:
        """The engine's."""
        return self._engine.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """Every sample with its image's description, or the reason why not."""
        samples = [read_sample(unit.payload) for unit in tasks]
        images: dict[str, Image.Image] = {}
        for sample, unit in zip(samples, tasks, strict=True):
            if unit.images and sample.image_id not in images:
                images[sample.image_id] = unit.images[0]
        answers = dict(zip(images, self._engine.generate([self._ask(i, im) for i, im in images.items()]), strict=True))
        outcomes = []
        for sample in samples:
            answer = answers.get(sample.image_id)
            reason = answer.error if answer is not None else ""
            described = Sample(**{**vars(sample), "description": answer.text if answer is not None else ""})
            outcomes.append(Outcome(id=sample.id, rows=[] if reason else [described], reason=reason))
        return outcomes

    def _ask(self, image_id: str, image: Image.Image) -> Request:
        prompt = prompts.draw(self._pool.simple, make_seed(self._seed, image_id, "description prompt"))
        seed = make_seed(self._seed, image_id, "description")
        return Request(prompt=prompt, image=image, sampling=self._sampling, seed=seed)
