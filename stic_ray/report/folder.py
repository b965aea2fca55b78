"""A finished run, as it lies in its folder: settings, artifacts by role, what was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact
from stic_ray.config import Config, parse_config, read_yaml

PAGE = "report.html"  # of a run and of a sweep
Made = TypeVar("Made")


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """A finished run: its folder, its settings and its artifacts by role."""

    uri: str
    config: Config
    artifacts: Mapping[str, Artifact]


def open_run(run: str) -> RunFolder:
    """A run by its folder.

    Raises:
        ValueError: it holds no finished run, or an artifact of it is gone.
    """
    found = {role: artifacts.load(uri) for role, uri in artifacts.read_references(run).items()}
    return RunFolder(uri=run, config=read_config(run), artifacts=found)


def read_config(run: str) -> Config:
    """The settings of a run or a sweep, by its folder.

    Raises:
        ValueError: they are missing or damaged.
    """
    where = storage.join(run, "config.yaml")
    if not storage.exists(where):
        raise ValueError(f"{where} is missing: run the job again, it writes it anew")
    text = storage.read_text(where)
    try:
        return parse_config(read_yaml(text, where), [])
    except ValueError as error:
        raise ValueError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None


def read_part(uri: str, parse: Callable[[str], Made]) -> Made:
    """What a file of a run's folder holds.

    Raises:
        ValueError: it is not what a run writes.
    """
    try:
        return parse(storage.read_text(uri))
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, IsADirectoryError):
        raise ValueError(f"{uri} is damaged: run the job again, it writes it anew") from None
