"""A trained model's README.md: what it is, what it was made of, and what it scored."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

from stic_ray.report.markdown import escape, render_table


def render_card(
    *, base: str, is_adapter: bool, origin: Mapping[str, str], training: Any, step: Mapping[str, float]
) -> str:
    """The card of what `base` was trained to; `origin` names its artifact and the fingerprints of its parents, `step`
    has the metrics of the step that the weights are of."""
    head = {  # without `base_model`: a hub takes names of its own there, and refuses a folder or a bucket
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["stic_ray"],
    }
    uses = (
        "`PeftModel.from_pretrained(model, FOLDER)` puts it into the model that it was trained on"
        if is_adapter
        else "`AutoModelForImageTextToText.from_pretrained(FOLDER)` loads it"
    )
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        "",
        f"# {'An adapter' if is_adapter else 'A model'} trained by stic_ray",
        "",
        f"{uses}; files are safetensors.",
        "",
        "## Where it comes from",
        "",
        f"- trained from: {escape(base)}",
        *(f"- {name}: {escape(value)}" for name, value in origin.items()),
        "",
        "## Training",
        "",
        "```json",
        json.dumps(training, indent=1),
        "```",
        "",
        "The step that its weights are of:",
        "",
        "| metric | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in step.items()),
        "",
    ]
    return "\n".join(lines)


def add_scores(card: str, role: str, summary: Mapping[str, Any]) -> str:
    """A card with what the run measured, of this model and those beside it."""
    if role not in summary:
        return card
    return f"{card}\n## Scores\n\nThis is {role} below.\n\n```\n{render_table(summary)}\n```\n"
