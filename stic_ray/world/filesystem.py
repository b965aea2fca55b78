"""`embedded://`: the world's files, read-only, made on demand and the same on every machine.

```
unlabeled/00000.png ...                    images without ground truth
{dev,test}/images/00000.png ...            objects.jsonl, questions.jsonl, pope_{random,popular,adversarial}.jsonl,
                                           reading.jsonl (questions of text alone)
vocabulary.txt                             CHAIR's synonyms file
sft/instructions.json, sft/images/...      instruction data in LLaVA's format
sft/noisy_instructions.json                as in the wild: with errors
sft/{noisy,clean}_captions.json            annotated captions
models/{base,aligned}/...                  checkpoint directories
```
"""

import errno
import functools
import hashlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from stic_ray.world import splits
from stic_ray.world.questions import POPE_STRATEGIES

_CHECKPOINTS = Path(__file__).parent / "checkpoints"
_VERSION = f"world-{splits.VERSION}"

Produce = Callable[[], bytes]


@functools.cache
def _files() -> dict[str, Produce]:
    """Every file's path and what makes its bytes."""
    files: dict[str, Produce] = {"vocabulary.txt": splits.vocabulary_txt}
    for split, count in splits.NUM_IMAGES.items():
        folder = split if split == "unlabeled" else f"{split}/images"
        for index in range(count):
            files[f"{folder}/{splits.image_name(index)}"] = partial(splits.image_png, split, index)
    for split in splits.LABELED:
        files[f"{split}/objects.jsonl"] = _once(splits.objects_jsonl, split)
        files[f"{split}/questions.jsonl"] = _once(splits.questions_jsonl, split)
        files[f"{split}/reading.jsonl"] = _once(splits.reading_jsonl, split)
        for strategy in POPE_STRATEGIES:
            files[f"{split}/pope_{strategy}.jsonl"] = _once(splits.pope_jsonl, split, strategy)
    files["sft/instructions.json"] = _once(splits.instructions_json)
    files["sft/noisy_instructions.json"] = _once(splits.noisy_instructions_json)
    for kind in ("noisy", "clean"):
        files[f"sft/{kind}_captions.json"] = _once(splits.captions_json, kind)
    for path in sorted(_CHECKPOINTS.glob("*/*")):
        files[f"models/{path.parent.name}/{path.name}"] = path.read_bytes
    return files


def _once(make: Callable[..., bytes], *arguments: str) -> Produce:
    return functools.cache(partial(make, *arguments))


@functools.cache
def _directories() -> dict[str, tuple[str, ...]]:
    """Every directory's entries as full paths; the root is ""."""
    entries: dict[str, dict[str, None]] = {"": {}}
    for file in _files():
        child = file
        while child:
            parent = child.rpartition("/")[0]
            entries.setdefault(parent, {})[child] = None
            child = parent
    return {directory: tuple(sorted(children)) for directory, children in entries.items()}


@functools.cache
def _checkpoint_version(path: str) -> str:
    return f"{_VERSION}-{hashlib.sha256(_files()[path]()).hexdigest()[:16]}"


class WorldFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Read-only fsspec filesystem of the world."""

    protocol = "embedded"
    root_marker = ""

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """The entries of a directory, or the one entry of a file."""
        name = self._strip_protocol(path)
        if name in _files():
            names: tuple[str, ...] = (name,)
        elif name in _directories():
            names = _directories()[name]
        else:
            raise FileNotFoundError(errno.ENOENT, "no such file in the embedded world", path)
        return [self._describe(entry) for entry in names] if detail else list(names)

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Name, type, size (None for an image, which is not made for this) and version of an entry."""
        name = self._strip_protocol(path)
        if name not in _files() and name not in _directories():
            raise FileNotFoundError(errno.ENOENT, "no such file in the embedded world", path)
        return self._describe(name)

    @staticmethod
    def _describe(name: str) -> dict[str, Any]:
        if name not in _files():
            return {"name": name, "type": "directory", "size": 0, "version": _VERSION}
        is_checkpoint = name.startswith("models/")
        size = None if name.endswith(".png") else len(_files()[name]())
        version = _checkpoint_version(name) if is_checkpoint else _VERSION
        return {"name": name, "type": "file", "size": size, "version": version}

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> io.BytesIO:
        if mode != "rb":
            raise OSError(errno.EROFS, "the embedded world is read-only", path)
        name = self._strip_protocol(path)
        if name in _directories():
            raise IsADirectoryError(errno.EISDIR, "a directory of the embedded world", path)
        if name not in _files():
            raise FileNotFoundError(errno.ENOENT, "no such file in the embedded world", path)
        return io.BytesIO(_files()[name]())
