"""Named recipes: YAML files beside this module, each a whole configuration."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from stic_ray import prompts
from stic_ray.config import read_yaml, to_tree

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
    """A configuration's tree on top of the recipe that it `extends`, `prompts: paper` replaced by the papers' pools.

    Raises:
        ValueError: there is no such recipe.
    """
    own = {name: value for name, value in tree.items() if name != "extends"}
    if "extends" in tree:
        own = _merge(expand(read_yaml(read(str(tree["extends"])), f"recipe {tree['extends']}")), own)
    return {**own, "prompts": to_tree(prompts.PAPER)} if own.get("prompts") == "paper" else own


def _merge(below: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others, key by key; what says another `type` takes the place of all that was there."""
    merged = dict(below)
    for name, value in own.items():
        before = merged.get(name)
        if not (isinstance(value, Mapping) and isinstance(before, Mapping)):
            merged[name] = value
        elif value.get("type", before.get("type")) == before.get("type"):
            merged[name] = _merge(before, value)
        else:
            merged[name] = value
    return merged
