"""Perceptual hashes of the images, made only where near duplicates are looked for."""

import importlib.util

from stic_ray import sources
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.flow import Inputs, Outcome, TaskWork, Unit, image_alone, run_stage
from stic_ray.images import BadImageError, decode
from stic_ray.records import PerceptualHash

CODE_VERSION = 1


def plan(images: str) -> Plan:
    """The artifact of the hashes; `images` is the parent's fingerprint."""
    parents = {"images": images}
    kind = PerceptualHash.__name__
    return Plan(stage="hashes", code_version=CODE_VERSION, identity={}, parents=parents, kind=kind)


def run(config: Config, images: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row an image.

    Raises:
        ValueError: the library that hashes is not installed.
    """
    if not importlib.util.find_spec("imagehash"):
        raise ValueError("duplicates.type is NearDuplicates, which needs imagehash: install the extra near")
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=PerceptualHash, input_column="id", do=_hash),
        inputs=Inputs(parent=images, column="id", read=image_alone),
        execution=config.execution,
    )


def _hash(unit: Unit) -> Outcome:
    import imagehash

    try:
        bits = str(imagehash.phash(decode(sources.read_image(unit.image_uri))))
    except BadImageError as error:
        return Outcome(id=unit.id, rows=[], reason=str(error))
    return Outcome(id=unit.id, rows=[PerceptualHash(id=unit.id, bits=bits)], reason="")
