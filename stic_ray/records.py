"""Record types that flow between stages, each with one explicit Arrow schema.

A record is a frozen dataclass; `schema(Record)` derives the Arrow schema from its annotations. Every record
has an `id`, the hash of what it was made from, so that a retry gives the same id, and an `error`, "" when fine:
a row with an error ends in the artifact's rejects, never in its data.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc

_PLACE = re.compile(r"\A[^\n]{1,500}? (?:line|row) \d+(?: \(record \d+\))?: ")  # that a reject's reason may begin with

Short = Annotated[int, "held in 32 bits"]  # a token's id, a place in a text
Single = Annotated[float, "held in 32 bits"]  # a token's log-probability


@dataclass(frozen=True, kw_only=True)
class Found:
    """An image that a source lists, or a file that may hold several; nothing of it has been read yet.

    `uri` is a file's, or a place inside one (see members.py). `error` says why it is not even read.
    """

    id: str
    key: str
    uri: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageRef:
    """An image of a source. `id` hashes the source-relative key; `content_hash` the encoded bytes."""

    id: str
    key: str
    uri: str
    content_hash: str
    num_bytes: int
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class PerceptualHash:
    """What an image looks like, in 64 bits as 16 hex digits: alike images differ in few of them."""

    id: str
    bits: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """What a model's vision tower makes of an image: the mean of the patch features that the projector takes.

    `source` is the artifact that names the image (its directory in the store): images of two sets may have one
    `image_id`, which hashes their place in their set.
    """

    id: str
    image_id: str
    source: str
    vector: list[Single]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Response:
    """One answer to one request on one image: a model's, or one that the data itself gives.

    `item_id` is what it belongs to with the other answers: the image, or the sample that was annotated. `negative` is
    "" for the preferred role, else what makes the response worse (a negative's name); `corruption` is the JSON of what
    was drawn to weaken the image, "" for a clean image; `seen_hash` hashes the pixels that went into the model and
    noise that was added to them, so that anybody can check that a corrupted image really was seen; "" where none was.
    `finish_reason` is "stop", "length", or "given" for the data's own.
    """

    id: str
    item_id: str
    image_id: str
    image_uri: str
    role: str
    prompt: str
    negative: str
    corruption: str
    seed: int
    seen_hash: str
    text: str
    num_prompt_tokens: int
    num_tokens: int
    finish_reason: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair with the whole story of both answers; `item_id` as in `Response`."""

    id: str
    item_id: str
    image_id: str
    image_uri: str
    prompt: str
    chosen: str
    rejected: str
    negative: str
    chosen_id: str
    chosen_prompt: str
    chosen_seed: int
    chosen_seen_hash: str
    rejected_id: str
    rejected_prompt: str
    rejected_seed: int
    rejected_seen_hash: str
    corruption: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation; `role` is "user" or "assistant". The image stands before the first user text."""

    role: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An instruction sample. `image_uri` is "" for a text-only sample; `description` "" where none was infused.

    `category` is what the data itself calls the sample's kind or data set, "" where it does not.
    """

    id: str
    image_id: str
    image_uri: str
    category: str
    description: str
    turns: list[Turn]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A conversation with the log-probability (nats) of every token of its answers, end tokens included.

    `item_id` is the pair's or the sample's, `role` says which of its conversations this is: "chosen" and "rejected" of
    a pair, "answer" of a sample. `category` is the sample's, of a pair what made its rejected answer. Of each token:
    its id, its answer's number, and the characters of that answer (stripped) that it stands for; an end token's are
    behind the last one. A text-only sample is not scored: its lists are empty.
    """

    id: str
    item_id: str
    role: str
    image_id: str
    image_uri: str
    category: str
    turns: list[Turn]
    token_ids: list[Short]
    answers: list[Short]
    starts: list[Short]
    stops: list[Short]
    logp: list[Single]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A score with what its model says of the same tokens without the image, and so each token's visual information
    gain (VIG, arXiv 2602.17186, equation 3): `gains` = `logp` - `blind_logp`; `mean_gain` is the conversation's.

    `first_word` is the first answer's, in lower case.
    """

    id: str
    item_id: str
    role: str
    image_id: str
    image_uri: str
    category: str
    first_word: str
    turns: list[Turn]
    token_ids: list[Short]
    answers: list[Short]
    starts: list[Short]
    stops: list[Short]
    logp: list[Single]
    blind_logp: list[Single]
    gains: list[Single]
    mean_gain: float
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What a training uses of a conversation: which of its answers' tokens, and with what weight.

    `token_ids` are those that were scored: training's own must be the same. Both lists are empty where all is used;
    `num_used` counts the tokens that are, of those that were scored.
    """

    id: str
    item_id: str
    role: str
    image_id: str
    stratum: str
    mean_gain: float
    weight: float
    num_used: int
    token_ids: list[Short]
    used: list[bool]
    error: str = ""


def read_turns(tree: dict[str, Any]) -> dict[str, Any]:
    """The fields of a record that has `turns`, from its row as plain data."""
    return {**tree, "turns": [Turn(**turn) for turn in tree["turns"]]}


def read_sample(text: str) -> Sample:
    """A sample from its JSON."""
    return Sample(**read_turns(json.loads(text)))


@dataclass(frozen=True, kw_only=True)
class Question:
    """One benchmark question on one image, or on none (`image_uri` "", and an `image_id` of its own).

    `task` is the benchmark's name in the configuration, with an ending where the model describes the image first;
    `key` the question's own id in the benchmark's file. `answers` are the gold answers (of a description, the objects
    that are there), `choices` what may be chosen (for AMBER, what is likely to be imagined), `form` how an answer is to
    be read where that differs by question, `context` what a judge is told of the image. `image_id` hashes the split
    with where the image is, so that files of one name stay apart; `category` is the question's type,
    `group` a coarser grouping that the file gives ("one object"), "" where none.
    """

    id: str
    split: str
    task: str
    key: str
    image_id: str
    image_uri: str
    text: str
    answers: list[str]
    choices: list[str]
    form: str
    context: str
    category: str
    group: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A model's answer to a question: `id` and what else the question has are the question's, its text is `question`.

    `description` is what describe-and-respond read.
    """

    id: str
    split: str
    task: str
    key: str
    image_id: str
    image_uri: str
    question: str
    answers: list[str]
    choices: list[str]
    form: str
    context: str
    category: str
    group: str
    description: str
    text: str
    num_tokens: int
    finish_reason: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a judge is asked about an answer to a question of a benchmark (the name of its type). `id` hashes the
    question's id with the answer's text.
    """

    id: str
    question_id: str
    benchmark: str
    text: str
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge says of an answer: `id` is the ask's, `text` the judge's own, `values` the numbers read in it,
    `names` the words.
    """

    id: str
    question_id: str
    text: str
    values: list[float]
    names: list[str]
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An input that a stage could not turn into output, and why."""

    id: str
    stage: str
    reason: str


def reason_kind(reason: str) -> str:
    """A reject's reason without the file and line that it begins with, where it does: what is counted together."""
    return _PLACE.sub("", reason, count=1)


def reason_kinds(reasons: pa.ChunkedArray) -> pa.ChunkedArray:
    """`reason_kind` of a column."""
    return pc.replace_substring_regex(reasons, pattern=_PLACE.pattern, replacement="", max_replacements=1)


@dataclass(frozen=True, kw_only=True)
class TaskFigure:
    """A figure that lmms-eval gave a model: its task, metric and value, the standard error (NaN where it told none)
    and how many questions it stands on."""

    id: str
    task: str
    metric: str
    value: float
    standard_error: float
    num_questions: int
    error: str = ""


Record = (
    Found
    | ImageRef
    | PerceptualHash
    | Embedding
    | Response
    | Pair
    | Sample
    | Score
    | Gain
    | Selected
    | Question
    | Prediction
    | Ask
    | Verdict
    | TaskFigure
    | Reject
)

_ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    Short: pa.int32(),
    Single: pa.float32(),
}


def _arrow_type(annotation: Any) -> pa.DataType:
    if get_origin(annotation) is list:
        (item,) = get_args(annotation)
        return pa.list_(_arrow_type(item))
    if annotation in _ARROW:
        return _ARROW[annotation]
    return pa.struct(list(schema(annotation)))


@cache
def schema(record: type) -> pa.Schema:
    """The Arrow schema of a record type: its fields in order, none of them null."""
    return pa.schema([pa.field(name, _arrow_type(hint), nullable=False) for name, hint in _hints(record).items()])


@cache
def _hints(record: type) -> dict[str, Any]:
    hints = get_type_hints(record, include_extras=True)
    return {f.name: hints[f.name] for f in fields(record)}


def _items(annotation: Any) -> type | None:
    """The record type of a list's items, None for every other annotation."""
    (item,) = get_args(annotation) if get_origin(annotation) is list else (None,)
    return item if isinstance(item, type) and is_dataclass(item) else None


def to_table(rows: Sequence[Any], record: type) -> pa.Table:
    """Rows of one record type as an Arrow table with exactly that record's schema. Column by column: 5 us a row."""
    columns = []
    for field, hint in zip(schema(record), _hints(record).values(), strict=True):
        values = [getattr(row, field.name) for row in rows]
        if _items(hint) is not None:
            values = [[vars(item) for item in value] for value in values]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema(record))


def from_table(table: pa.Table, record: type) -> list[Any]:
    """The rows of a table as records.

    Raises:
        ValueError: the table's columns are not the record's.
    """
    hints = _hints(record)
    if table.schema.names != list(hints):
        raise ValueError(f"{record.__name__}: the table has columns {table.schema.names}, not {list(hints)}")
    columns = []
    for column, hint in zip(table.columns, hints.values(), strict=True):
        values, item = column.to_pylist(), _items(hint)
        columns.append(values if item is None else [[item(**tree) for tree in value] for value in values])
    return [record(**dict(zip(hints, values, strict=True))) for values in zip(*columns, strict=True)]


def make_id(*parts: object) -> str:
    """A 128-bit hash, as 32 hex digits, of the parts in order; the same parts give the same id for ever."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = str(part).encode(errors="surrogatepass")  # a damaged id still names its reject
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()[:32]


def make_seed(*parts: object) -> int:
    """A 63-bit seed from the parts in order: randomness is a function of (run seed, id, step) and of nothing else."""
    return int(make_id("seed", *parts)[:16], 16) >> 1
