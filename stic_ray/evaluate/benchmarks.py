"""Readers of one split with ground truth: questions of every task, objects of every image, CHAIR's vocabulary.

Each file is optional; a line that cannot be read is an error that names the file, the line, the field and the remedy.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from stic_ray import storage
from stic_ray.config import Benchmark, Prompts
from stic_ray.evaluate.metrics import Vocabulary, make_vocabulary, normalise_answer
from stic_ray.records import Question, make_id
from stic_ray.sources import image_id

SIMPLE_TASK, DETAILED_TASK = DESCRIBE_TASKS = ("describe_simple", "describe_detailed")
POPE_STRATEGIES = ("random", "popular", "adversarial")
QUESTION_TASKS = ("questions", "questions_dar")
RESERVED_CATEGORY = "accuracy"


@dataclass(frozen=True)
class _Row:
    """One line of a JSON-lines file; its readers complain by file, line and field."""

    uri: str
    line: int
    values: Mapping[str, Any]

    def fail(self, name: str, wanted: str) -> NoReturn:
        given = repr(self.values[name]) if name in self.values else "missing"
        raise ValueError(f"{self.uri}, line {self.line}: {name} is {given}: it must be {wanted}")

    def text(self, name: str) -> str:
        value = self.values.get(name)
        if not isinstance(value, str) or not value.strip():
            self.fail(name, "a text that is not empty")
        return value

    def question_id(self) -> str:
        value = self.values.get("question_id")
        if isinstance(value, bool) or not isinstance(value, int | str):
            self.fail("question_id", "a whole number or a text")
        return str(value)

    def image_uri(self, images: str) -> str:
        try:
            return storage.join_inside(images, self.text("image"))
        except ValueError:
            self.fail("image", f"a path below {images}, without ..")


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a split's questions come from."""

    split: str
    images: str


def read_questions(benchmark: Benchmark, prompts: Prompts, *, split: str) -> list[Question]:
    """Every question of one split, task by task in file order; only tasks whose file the benchmark names.

    `describe_simple` and `describe_detailed` ask each image of the objects file for the pool's first prompt; the
    latter also asks the images of the questions file, since describe-and-respond needs their descriptions.
    `questions_dar` repeats `questions`: whoever answers it puts a description in front. Without a template for that
    (`prompts.infused`) there are none.

    Raises:
        ValueError: a file is missing or empty, or one of its lines is malformed.
    """
    source = _Source(split=split, images=benchmark.images)
    objects = list(_object_rows(benchmark)) if benchmark.objects else []
    asked = list(_question_rows(benchmark.questions)) if benchmark.questions else []
    tasks = QUESTION_TASKS if prompts.infused else QUESTION_TASKS[:1]
    described = {row.text("image"): row for row in [*objects, *(asked if prompts.infused else [])]}
    questions = [_description(SIMPLE_TASK, row, prompts.simple[0], source) for row in objects]
    questions += [_description(DETAILED_TASK, row, prompts.detailed[0], source) for row in described.values()]
    for strategy in POPE_STRATEGIES:
        uri = getattr(benchmark, f"pope_{strategy}")
        if uri:
            questions += [_pope(f"pope_{strategy}", row, source) for row in _question_rows(uri)]
    questions += [_short_answer(task, row, source) for task in tasks for row in asked]
    return questions


def read_objects(benchmark: Benchmark) -> dict[str, frozenset[str]]:
    """The objects of every image, by image URI and under their canonical names; {} where there is no such file.

    Raises:
        ValueError: the file is missing or empty, a line is malformed or names an object the vocabulary lacks.
    """
    if not benchmark.objects:
        return {}
    vocabulary = read_vocabulary(benchmark)
    objects = {}
    for row in _object_rows(benchmark):
        names = row.values.get("objects")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            row.fail("objects", "a list of names")
        canonical = [vocabulary.canonical(name) for name in names]
        if None in canonical:
            unknown = names[canonical.index(None)]
            raise ValueError(
                f"{row.uri}, line {row.line}: objects holds {unknown!r}, which the vocabulary lacks: "
                f"add it to {benchmark.vocabulary}"
            )
        objects[row.image_uri(benchmark.images)] = frozenset(name for name in canonical if name is not None)
    return objects


def read_vocabulary(benchmark: Benchmark) -> Vocabulary:
    """CHAIR's synonyms file: one object a line, its names separated by commas; empty where there is no such file.

    Raises:
        ValueError: the file is missing or empty, a name is empty, or stands on the lines of two objects.
    """
    if not benchmark.vocabulary:
        return Vocabulary()
    lines = [line.split(",") if line.strip() else [] for line in _read(benchmark.vocabulary).split("\n")]
    try:
        return make_vocabulary([[name.strip() for name in names] for names in lines])
    except ValueError as error:
        raise ValueError(f"{benchmark.vocabulary}, {error}") from None


def _description(task: str, row: _Row, prompt: str, source: _Source) -> Question:
    return Question(
        id=make_id(source.split, task, row.text("image"), prompt),
        split=source.split,
        image_id=image_id(f"{source.split}/{row.text('image')}"),
        task=task,
        image_uri=row.image_uri(source.images),
        text=prompt,
        answer="",
        category="",
        group="",
    )


def _pope(task: str, row: _Row, source: _Source) -> Question:
    if row.values.get("label") not in ("yes", "no"):
        row.fail("label", "yes or no")
    return Question(
        id=make_id(source.split, task, row.text("image"), row.question_id()),
        split=source.split,
        image_id=image_id(f"{source.split}/{row.text('image')}"),
        task=task,
        image_uri=row.image_uri(source.images),
        text=row.text("text"),
        answer=row.text("label"),
        category="existence",
        group="",
    )


def _short_answer(task: str, row: _Row, source: _Source) -> Question:
    if row.text("category") == RESERVED_CATEGORY:
        row.fail("category", f"another name: {RESERVED_CATEGORY} is the mean over the categories")
    if not normalise_answer(row.text("answer")):
        row.fail("answer", "more than punctuation")
    group = row.values.get("group", "")
    if not isinstance(group, str):
        row.fail("group", "a text, or left out")
    return Question(
        id=make_id(source.split, task, row.text("image"), row.question_id()),
        split=source.split,
        image_id=image_id(f"{source.split}/{row.text('image')}"),
        task=task,
        image_uri=row.image_uri(source.images),
        text=row.text("text"),
        answer=row.text("answer"),
        category=row.text("category"),
        group=group,
    )


def _object_rows(benchmark: Benchmark) -> Iterator[_Row]:
    return _unique_rows(benchmark.objects, ("image",))


def _question_rows(uri: str) -> Iterator[_Row]:
    return _unique_rows(uri, ("image", "question_id"))


def _unique_rows(uri: str, key: tuple[str, ...]) -> Iterator[_Row]:
    """The rows of a JSON-lines file; two lines with the same key would become one question and are refused."""
    lines: dict[tuple[str, ...], int] = {}
    for number, line in _lines(uri):
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{uri}, line {number}: not JSON ({error.msg}): write one object a line") from None
        if not isinstance(values, dict):
            raise ValueError(f"{uri}, line {number}: {type(values).__name__}: it must be a JSON object")
        row = _Row(uri, number, values)
        identity = tuple(row.question_id() if name == "question_id" else row.text(name) for name in key)
        first = lines.setdefault(identity, number)
        if first != number:
            row.fail(key[-1], f"different from line {first}'s")
        yield row


def _lines(uri: str) -> Iterator[tuple[int, str]]:
    """The lines of a text file that hold anything, numbered from 1."""
    # splitlines() would also split at U+2028, which JSON texts may hold.
    for number, line in enumerate(_read(uri).split("\n"), start=1):
        if line.strip():
            yield number, line.strip()


def _read(uri: str) -> str:
    try:
        text = storage.read_text(uri).removeprefix("\ufeff")
    except FileNotFoundError:
        raise ValueError(f"{uri} is not there: correct the benchmark's path or leave it out") from None
    except UnicodeDecodeError:
        raise ValueError(f"{uri} is not UTF-8 text: convert it, or correct the benchmark's path") from None
    if not text.strip():
        raise ValueError(f"{uri} is empty: fill it, or leave it out of the benchmark")
    return text
