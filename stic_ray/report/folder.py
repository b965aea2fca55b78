"""A finished run, as it lies in its folder: settings, artifacts by role, what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass

from stic_ray import artifacts, storage
from stic_ray.artifacts import Artifact
from stic_ray.config import Config, parse_config, read_yaml


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
    where = storage.join(run, "config.yaml")
    return RunFolder(uri=run, config=parse_config(read_yaml(storage.read_text(where), where), []), artifacts=found)
