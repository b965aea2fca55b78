"""Named recipes: YAML files beside this module, each a whole configuration."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from stic_ray import prompts
from stic_ray.config import to_tree

EMBEDDED = "embedded"


def names() -> list[str]:
    """The recipes there are, sorted."""
    entries = resources.files(__name__).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def read(name: str) -> str:
    """A recipe's YAML text.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in names():
        raise ValueError(f"there is no recipe {name!r}: choose one of {', '.join(names())}")
    return (resources.files(__name__) / f"{name}.yaml").read_text()


def expand(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's tree with `prompts: paper` replaced by the papers' pools."""
    return {**tree, "prompts": to_tree(prompts.PAPER)} if tree.get("prompts") == "paper" else dict(tree)
