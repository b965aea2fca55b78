"""Secrets that tests give to runs by their environment, and the search for them in all that is written."""

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from stic_ray import storage

SECRETS = {
    name: f"planted{number}secret{number}of{number}nobody"
    for number, name in enumerate(
        (
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "HF_TOKEN",
            "WANDB_API_KEY",
            "MLFLOW_TRACKING_PASSWORD",
            "JUDGE_KEY",
        )
    )
}


def secrets_in_bytes(data: bytes) -> list[str]:
    """The names of those whose values stand in it."""
    return [name for name, value in SECRETS.items() if value.encode() in data]


def secrets_in_folder(folder: Path) -> list[str]:
    """Names and files, of all files below a folder."""
    return _found(str(path) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def secrets_in_store(uri: str) -> list[str]:
    """As in a folder, of all below a URI."""
    return _found(listed.uri for listed in storage.walk(uri))


def _found(uris: Iterable[str]) -> list[str]:
    return [f"{name} in {uri}" for uri in uris for name in secrets_in_bytes(_content(uri))]


def _content(uri: str) -> bytes:
    """A file's bytes; of a table, which is compressed, also its rows."""
    data = storage.read_bytes(uri)
    if uri.endswith(".parquet"):
        with storage.split(uri)[0].open(storage.split(uri)[1], "rb") as file:
            data += repr(pq.read_table(file).to_pydict()).encode()
    return data
