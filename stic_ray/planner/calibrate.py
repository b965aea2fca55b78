"""Small runs of a configuration, whose records say how fast its stages are. What is made stays in the store, so that
the same command measures nothing twice and goes on after a kill."""

import logging
import sys
from contextlib import redirect_stdout

from stic_ray import preflight, storage
from stic_ray.config import Config
from stic_ray.planner.inputs import GIVEN, Inputs, part_of

logger = logging.getLogger(__name__)


def calibrate(config: Config, inputs: Inputs, size: int) -> list[str]:
    """Run the configuration on so many of its images and on twice as many (samples, where it has no images); the runs'
    folders. Both start all that a stage starts, so that two say how much that varies.

    Raises:
        ValueError: there are not more images than that, or the run refuses its inputs.
    """
    what = next(name for name in GIVEN if name in inputs)
    if 2 * size > inputs[what]:
        raise ValueError(f"--calibrate {size}: there are {inputs[what]:g} {what}: give at most half of them")
    preflight.check_places(config)
    from stic_ray import pipeline

    runs = []
    for number in (size, 2 * size):
        part = part_of(config, number / inputs[what], inputs, f"{config.name}-calibration-{number}")
        logger.info("calibrating on %d of %g %s", number, inputs[what], what)
        with redirect_stdout(sys.stderr):  # Ray writes what its nodes say there, and the plan comes after it
            pipeline.run(part, ["stic-plan", "--calibrate", str(size)])
        runs.append(storage.join(part.runs, part.name))
    return runs
