"""Named recipes: YAML files beside this module, each a whole configuration."""

from importlib import resources

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
