"""References: log-probabilities of both answers of every pair under the frozen base, computed once.

Training then holds no reference model and does no reference forward, and a sweep over alpha or beta repeats none.
A pair that is longer than training allows is rejected here, before training: nothing is ever truncated.
"""

import json
from collections.abc import Mapping, Sequence

from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.engines import start_scorer
from stic_ray.engines.protocol import Conversation, Score
from stic_ray.flow import Inputs, Outcome, Task, Work, one_by_one, read_image, run_stage
from stic_ray.records import Reference, Turn

CODE_VERSION = 2


def plan(config: Config, pairs: str, model: str) -> Plan:
    """The artifact of references; `pairs` and `model` are the parents' fingerprints."""
    identity = {"engine": "transformers", "dtype": config.model.dtype, "max_length": config.stage1.max_length}
    parents = {"pairs": pairs, "model": model}
    return Plan(
        stage="references", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Reference.__name__
    )


def run(config: Config, pairs: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row a pair."""
    work = Work(
        record=Reference,
        input_column="id",
        prepare=read_image,
        worker=ReferenceScorer,
        worker_arguments={
            "model_uri": config.model.path,
            "dtype": config.model.dtype,
            "batch_size": config.execution.batch_size,
            "max_length": config.stage1.max_length,
        },
    )
    inputs = Inputs(parent=pairs, column="id", read=one_by_one)
    return run_stage(store=config.store, plan=plan, work=work, inputs=inputs, execution=config.execution)


class ReferenceScorer:
    """An actor's work: both answers of every pair of a batch through one scorer."""

    def __init__(self, *, model_uri: str, dtype: str, batch_size: int, max_length: int) -> None:
        self._scorer = start_scorer(model_uri=model_uri, dtype=dtype, batch_size=batch_size)
        self._max_length = max_length

    def figures(self) -> Mapping[str, float]:
        """The scorer's."""
        return self._scorer.figures()

    def __call__(self, tasks: Sequence[Task]) -> list[Outcome]:
        """One reference a unit, or the reason why there is none, mostly its length (stage1.max_length)."""
        conversations = []
        for unit in tasks:
            pair = json.loads(unit.payload)
            for answer in (pair["chosen"], pair["rejected"]):
                turns = [Turn(role="user", text=pair["prompt"]), Turn(role="assistant", text=answer)]
                conversations.append(Conversation(turns=turns, image=unit.images[0]))
        scores = self._scorer.score(conversations, self._max_length)
        return [
            _outcome(unit.id, chosen, rejected)
            for unit, chosen, rejected in zip(tasks, scores[::2], scores[1::2], strict=True)
        ]


def _outcome(pair_id: str, chosen: Score, rejected: Score) -> Outcome:
    if chosen.error or rejected.error:
        return Outcome(id=pair_id, rows=[], reason=chosen.error or rejected.error)
    row = Reference(
        id=pair_id,
        chosen_logp=chosen.logp,
        rejected_logp=rejected.logp,
        num_chosen_tokens=chosen.num_answer_tokens,
        num_rejected_tokens=rejected.num_answer_tokens,
    )
    return Outcome(id=pair_id, rows=[row], reason="")
