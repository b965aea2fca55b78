"""References: log-probabilities of both answers of every pair under the frozen base, computed once.

Training then holds no reference model and does no reference forward, and a sweep over alpha or beta repeats none.
A pair that is longer than training allows is rejected here, before training: nothing is ever truncated.
"""

import json
from collections.abc import Sequence

import torch

from stic_ray import artifacts, storage, vlm
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import Config
from stic_ray.flow import Outcome, Prepared, Unit, Work, read_image, run_stage
from stic_ray.images import decode
from stic_ray.records import Pair, Reference, Turn

CODE_VERSION = 1


def plan(config: Config, pairs: str, model: str) -> Plan:
    """The artifact of references; `pairs` and `model` are the parents' fingerprints."""
    identity = {"dtype": config.model.dtype, "max_length": config.stage1.max_length}
    parents = {"pairs": pairs, "model": model}
    return Plan(
        stage="references", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Reference.__name__
    )


def run(config: Config, pairs: Artifact, plan: Plan) -> Artifact:
    """Make the artifact: one unit and one row a pair."""
    units = [
        Unit(id=pair.id, image_uri=pair.image_uri, payload=json.dumps([pair.prompt, pair.chosen, pair.rejected]))
        for rows in artifacts.iterate(pairs.uri, Pair)
        for pair in rows
    ]
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
    return run_stage(store=config.store, plan=plan, work=work, units=units, execution=config.execution)


class ReferenceScorer:
    """An actor's work: answer log-probabilities in length-sorted batches."""

    def __init__(self, *, model_uri: str, dtype: str, batch_size: int, max_length: int) -> None:
        path = storage.local_copy(model_uri)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._processor = vlm.load_processor(path)
        self._scorer = vlm.AnswerScorer(vlm.load_model(path, dtype).to(self._device))
        self._batch_size = batch_size
        self._max_length = max_length

    def __call__(self, units: Sequence[Prepared]) -> list[Outcome]:
        """One reference a unit, or that it is too long."""
        encoded = {unit.id: self._encode(unit) for unit in units}
        outcomes = []
        fitting = []
        for unit_id, examples in encoded.items():
            longest = max(len(example.input_ids) for example in examples)
            if longest > self._max_length:
                reason = f"longer than stage1.max_length {self._max_length} tokens"
                outcomes.append(Outcome(id=unit_id, rows=[], reason=reason))
            else:
                fitting.append((longest, unit_id))
        ordered = [unit_id for _, unit_id in sorted(fitting)]
        step = max(1, self._batch_size // 2)
        for start in range(0, len(ordered), step):
            ids = ordered[start : start + step]
            outcomes += self._score(ids, [encoded[i] for i in ids])
        return outcomes

    def _encode(self, unit: Prepared) -> tuple[vlm.Example, vlm.Example]:
        prompt, chosen, rejected = json.loads(unit.payload)
        image = decode(unit.images[0])
        question = Turn(role="user", text=prompt)
        one, two = (
            vlm.encode_example(self._processor, [question, Turn(role="assistant", text=answer)], image)
            for answer in (chosen, rejected)
        )
        return one, two

    @torch.inference_mode()
    def _score(self, ids: list[str], pairs: list[tuple[vlm.Example, vlm.Example]]) -> list[Outcome]:
        flat = [example for pair in pairs for example in pair]
        batch = vlm.collate(self._processor, flat)
        logp = self._scorer({name: value.to(self._device) for name, value in batch.items()}).tolist()
        return [
            Outcome(
                id=unit_id,
                rows=[
                    Reference(
                        id=unit_id,
                        chosen_logp=logp[2 * index],
                        rejected_logp=logp[2 * index + 1],
                        num_chosen_tokens=pair[0].num_trained,
                        num_rejected_tokens=pair[1].num_trained,
                    )
                ],
                reason="",
            )
            for index, (unit_id, pair) in enumerate(zip(ids, pairs, strict=True))
        ]
