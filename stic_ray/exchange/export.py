"""Export: pairs or samples of a run or an artifact, as a file in another tool's format."""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stic_ray import artifacts, members, sources, storage
from stic_ray.artifacts import RECORD, ROUND, Artifact
from stic_ray.exchange import llama_factory, writing
from stic_ray.exchange.format import Format, Samples
from stic_ray.exchange.formats import FORMATS
from stic_ray.exchange.items import Picture, item_of_pair, item_of_sample
from stic_ray.images import BadImageError, hash_bytes, suffix_of
from stic_ray.records import Pair, Sample

PAIRS, SAMPLES = "pairs", "samples"
ROLES = {PAIRS: ("pairs", "annotated_pairs", "imported_pairs"), SAMPLES: ("samples", "annotations")}
REFERENCE, EMBEDDED, COPY = "reference", "embedded", "copy"
_KINDS: dict[str, type] = {PAIRS: Pair, SAMPLES: Sample}
_AT_ONCE = 16  # images that are read at a time


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be written of `artifacts` ("pairs" or "samples"), in which format, where, and how its images."""

    artifacts: Sequence[Artifact]
    what: str
    format: Format
    images: str
    uri: str

    @property
    def file_name(self) -> str:
        """The file's name."""
        return self.uri.rpartition("/")[2]

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return re.sub(r"\.(jsonl|json|parquet)$", "", self.file_name)

    @property
    def copies(self) -> str:
        """The folder of copied images, beside the file."""
        return f"{self.uri.rpartition('/')[0]}/{self.name}_images"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What came out: rows that were written, those that were left out by reason, and images inside of other files."""

    num_rows: int
    left_out: Mapping[str, int]
    num_inside: int


def find_artifacts(uri: str, what: str) -> list[Artifact]:
    """The artifacts of pairs or samples of a run, or the one that stands at `uri`.

    Raises:
        ValueError: there is none.
    """
    kind = _KINDS[what].__name__
    if storage.exists(storage.join(uri, RECORD)):
        found = [artifacts.load(uri)]
    else:
        references = artifacts.read_references(uri)
        made = [role for role in references if role.partition(ROUND)[0] in ROLES[what]]
        unique = dict.fromkeys(references[role] for role in made)
        found = [artifacts.load(one) for one in unique]
    found = [artifact for artifact in found if artifact.record["kind"] == kind]
    if not found:
        raise ValueError(f"{uri} holds no {what}: give a run that made some, or such an artifact of the store")
    return found


def export(order: Order) -> Exported:
    """Write the file, its copied images before.

    Raises:
        ValueError: not one row could be written.
    """
    left_out: Counter[str] = Counter()
    inside = Counter[bool]()
    columns = order.format.columns if order.what == PAIRS else _samples(order.format).columns
    number = writing.write(order.uri, _trees(order, left_out, inside), order.format.image, columns)
    if not number and left_out:
        storage.remove(order.uri)
        reason, count = left_out.most_common(1)[0]
        raise ValueError(f"nothing could be written, most often because {reason} ({count} {order.what})")
    if order.format.name == llama_factory.NAME:
        _describe(order)
    return Exported(num_rows=number, left_out=left_out, num_inside=inside[True])


def _trees(order: Order, left_out: Counter[str], inside: Counter[bool]) -> Iterator[dict[str, Any]]:
    copied: set[str] = set()
    rows = _rows(order)
    with ThreadPoolExecutor(_AT_ONCE) as readers:
        while some := list(islice(rows, _AT_ONCE)):
            images = readers.map(lambda row: _picture(order, row, copied), some)
            for row, image in zip(some, images, strict=True):
                try:
                    if isinstance(image, BadImageError):
                        raise image
                    tree = _tree(order, row, image)
                except ValueError as error:
                    left_out[str(error)] += 1
                    continue
                inside[image is not None and members.is_inside(image.path)] += 1
                yield tree


def _rows(order: Order) -> Iterator[Any]:
    for artifact in order.artifacts:
        for rows in artifacts.iterate(artifact.uri, _KINDS[order.what]):
            yield from rows


def _tree(order: Order, row: Any, image: Picture | None) -> dict[str, Any]:
    if order.what == PAIRS:
        return order.format.write(item_of_pair(row, image))
    return _samples(order.format).write(item_of_sample(row, image))


def _samples(format: Format) -> Samples:
    assert format.samples is not None  # the command line refuses it
    return format.samples


def _picture(order: Order, row: Any, copied: set[str]) -> Picture | BadImageError | None:
    """A row's image as it is to be written; a copy is made once an image."""
    if not row.image_uri:
        return None
    if order.images == REFERENCE:
        return Picture(path=row.image_uri)
    try:
        data = sources.read_image(row.image_uri)
        name = f"{hash_bytes(data)}{suffix_of(data)}"  # two sources may hold different images of one path
    except BadImageError as error:
        return error
    if order.images == EMBEDDED:
        return Picture(path=name, data=data)
    uri = storage.join(order.copies, name)
    if name not in copied:
        storage.write_bytes(uri, data)
        copied.add(name)
    # What loads tables takes relative paths for the working directory's, what loads JSON mostly for the file's folder.
    return Picture(path=uri if writing.holds_images(order.uri) else "/".join(uri.rsplit("/", 2)[-2:]))


def _describe(order: Order) -> None:
    """LLaMA-Factory finds a file by an entry in the `dataset_info.json` beside it, which may hold others."""
    uri = storage.join(order.uri.rpartition("/")[0], llama_factory.INFO)
    entries = json.loads(storage.read_text(uri)) if storage.exists(uri) else {}
    entries[order.name] = llama_factory.info_entry(order.file_name, order.what)
    storage.write_bytes(uri, (json.dumps(entries, indent=2) + "\n").encode())


def check(order: Order) -> None:
    """Raises ValueError for what cannot be written as it is asked for."""
    if order.what == SAMPLES and order.format.samples is None:
        raise ValueError(f"--format {order.format.name} holds pairs only: take another one for samples")
    if order.images == EMBEDDED and not writing.holds_images(order.uri):
        raise ValueError(
            f"--out {order.uri}: JSON holds no images: end it in .parquet, leave the ending out for a data set on "
            "disk, or take --images copy"
        )
    if order.name == order.file_name and re.search(r"\.(jsonl?|parquet|csv|tsv|arrow)$", order.name, re.IGNORECASE):
        raise ValueError(
            f"--out {order.uri}: end it in .jsonl, .json or .parquet, or leave the ending out for a data set on disk"
        )
    if storage.exists(order.uri):
        raise ValueError(f"--out {order.uri} is there already: remove it, or give another place")
    if order.format.name == llama_factory.NAME:
        uri = storage.join(order.uri.rpartition("/")[0], llama_factory.INFO)
        try:
            entries = json.loads(storage.read_text(uri)) if storage.exists(uri) else {}
        except ValueError:
            entries = None
        if not isinstance(entries, dict):
            raise ValueError(f"{uri} is damaged: mend or remove it, an entry has to be added there")
        before = entries.get(order.name, {})
        if not isinstance(before, dict) or before.get("file_name", order.file_name) != order.file_name:
            raise ValueError(f"{uri} has an entry {order.name} of another file: give --out another name")


def main(argv: list[str] | None = None) -> int:
    """Export; exit status 2 for a mistake in the call or its inputs."""
    arguments = _parse(argv)
    try:
        with storage.reaching(f"{arguments.source} or --out {arguments.out}"):
            order = Order(
                artifacts=find_artifacts(storage.absolute(arguments.source), arguments.what),
                what=arguments.what,
                format=FORMATS[arguments.format],
                images=arguments.images,
                uri=storage.absolute(arguments.out),
            )
            check(order)
            done = export(order)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(_story(order, done))
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write pairs or samples of a run in another tool's format.")
    parser.add_argument("source", metavar="RUN_OR_ARTIFACT", help="runs/NAME, or an artifact of the store (any URI)")
    parser.add_argument("--format", required=True, choices=list(FORMATS), help="whose records")
    parser.add_argument(
        "--out",
        required=True,
        help="a file that ends in .jsonl, .json or .parquet; else a Hugging Face data set on disk",
    )
    parser.add_argument("--what", choices=list(ROLES), default=PAIRS, help="what to write (default: %(default)s)")
    parser.add_argument(
        "--images",
        choices=[REFERENCE, EMBEDDED, COPY],
        default=REFERENCE,
        help="where each one is, itself in the record, or a copy in OUT_images beside the file (default: %(default)s)",
    )
    return parser.parse_args(argv)


def _story(order: Order, done: Exported) -> str:
    lines = [f"{order.format.name:<14}{done.num_rows:>9} {order.what:<8} {order.uri}"]
    lines += [f"left out      {count:>9} {order.what:<8} {reason}" for reason, count in sorted(done.left_out.items())]
    if order.images == COPY:
        lines.append(f"images        {order.copies}")
    if done.num_inside:
        lines.append(
            f"note          {done.num_inside} images lie inside of tables or tars: other tools cannot follow a "
            "reference there; take --images embedded or copy"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
