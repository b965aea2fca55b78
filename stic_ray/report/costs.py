"""How fast every stage was, what it used of GPUs, and what that cost where a price is given."""

from collections.abc import Mapping
from typing import Any

from stic_ray.artifacts import MODEL
from stic_ray.config import Execution
from stic_ray.report.collect import RunFacts
from stic_ray.report.html import facts, table_of
from stic_ray.report.markdown import escape

_BY_POOL = ("new_tokens", "scored_tokens")  # figures of stages that ask a model, in the pool's actors
_WITHOUT_GPU = ("pair_tokens",)


def costs(facts_of_run: RunFacts) -> str:
    """Sums, then a row a stage."""
    execution = facts_of_run.folder.config.execution
    rows, seconds, gpu_hours = [], 0.0, 0.0
    for role, artifact in facts_of_run.folder.artifacts.items():
        record = artifact.record
        num_gpus = gpus_of(record, execution)
        seconds += record["seconds"]
        gpu_hours += num_gpus * record["seconds"] / 3600
        rows.append(
            [
                escape(role),
                f"{record['seconds']:,.1f}",
                _rate(record.get("inputs_per_s", record.get("last", {}).get("samples_per_s"))),
                _rate(_tokens_per_s(record)),
                f"{facts_of_run.attempts.get(role, 1)}",
                f"{record.get('retried_units', 0):,.0f}",
                f"{num_gpus:g}",
            ]
        )
    sums = {"seconds of all stages, added up": f"{seconds:,.0f}", "GPU hours": f"{gpu_hours:,.2f}"}
    if facts_of_run.gpu_hour_price is not None:
        sums["cost of these"] = f"{gpu_hours * facts_of_run.gpu_hour_price:,.2f}"
        sums["price of a GPU hour"] = f"{facts_of_run.gpu_hour_price:g}"
    header = ["stage", "seconds", "inputs/s", "tokens/s", "attempts", "units again", "GPUs"]
    told = (
        "Seconds are those of the run that made an artifact, which may be an earlier one; GPUs as this run's settings "
        "give them. Tokens are written or scored ones; of a training those in rows, in its last step."
    )
    return f"{facts(sums)}{table_of(header, rows)}<p class=soft>{told}</p>"


def gpus_of(record: Mapping[str, Any], execution: Execution) -> float:
    """The GPUs that a stage holds at most under these settings."""
    if record["kind"] == MODEL:
        return execution.train_gpus * execution.num_train_workers
    asks = any(name in record for name in _BY_POOL) and record["stage"] not in _WITHOUT_GPU
    return execution.pool.num_gpus * execution.pool.max_size if asks else 0.0


def _tokens_per_s(record: Mapping[str, Any]) -> float | None:
    if record["kind"] == MODEL:
        found: float | None = record.get("last", {}).get("tokens_per_s")
        return found
    num = next((record[name] for name in _BY_POOL if name in record), None)
    return None if num is None or not record["seconds"] else num / record["seconds"]


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
