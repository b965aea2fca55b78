"""lmms-eval's figures of a run's models: lmms_eval.json in its folder, and a part of its report."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from stic_ray import storage
from stic_ray.artifacts import Artifact
from stic_ray.config import Config
from stic_ray.records import TaskFigure
from stic_ray.report.folder import RunFolder, read_part
from stic_ray.report.html import table_of
from stic_ray.report.markdown import escape

JSON = "lmms_eval.json"  # in a run's folder


def identity(config: Config, artifact: Artifact | None) -> str:
    """What a model's figures are of: a trained one's fingerprint, the base's place."""
    return storage.absolute(config.model.path) if artifact is None else artifact.fingerprint


def figures(models: Mapping[str, Sequence[TaskFigure]], of: Mapping[str, str]) -> dict[str, Any]:
    """lmms_eval.json: a model's figures under its name, with what they are of (`identity`)."""
    return {
        name: {
            "model": of[name],
            "figures": [
                {
                    "task": row.task,
                    "metric": row.metric,
                    "value": row.value,
                    "standard_error": None if math.isnan(row.standard_error) else row.standard_error,
                    "questions": row.num_questions,
                }
                for row in rows
            ],
        }
        for name, rows in models.items()
    }


def read(folder: RunFolder) -> dict[str, Any]:
    """What a run's folder holds of it; {} for nothing. Figures of models that the run has no more are left out."""
    uri = storage.join(folder.uri, JSON)
    tree = read_part(uri, _parse) if storage.exists(uri) else {}
    has = {role: artifact.fingerprint for role, artifact in folder.artifacts.items()}
    has["base"] = identity(folder.config, None)
    return {name: entry for name, entry in tree.items() if entry["model"] == has.get(name)}


def _parse(text: str) -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(text)
    table(tree)
    if not all(isinstance(entry["model"], str) for entry in tree.values()):
        raise ValueError("a model without what it is")
    return tree


def table(tree: Mapping[str, Any]) -> list[list[str]]:
    """A row a figure, a column a model: "value ± standard error"."""
    found = {name: {(row["task"], row["metric"]): row for row in entry["figures"]} for name, entry in tree.items()}
    lines = [["task", "metric", "questions", *found]]
    for place in dict.fromkeys(place for rows in found.values() for place in rows):
        rows = [entry.get(place) for entry in found.values()]
        num = max(row["questions"] for row in rows if row)
        lines.append([*place, str(num), *("-" if row is None else _cell(row) for row in rows)])
    return lines


def _cell(row: Mapping[str, Any]) -> str:
    error = row["standard_error"]
    return f"{row['value']:.4g}" + ("" if error is None else f" ± {error:.2g}")


def section(tree: Mapping[str, Any]) -> str:
    """The part of a report; "" without figures."""
    if not tree:
        return ""
    header, *rows = table(tree)
    told = "<p class=soft>As lmms-eval gives them, on its own data; ± its standard error.</p>"
    return told + table_of(header, [[escape(cell) for cell in row] for row in rows])
