"""MMBench (Liu et al. 2024): multiple choice, each question asked once for every turn of its choices."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from stic_ray.config import MmBench
from stic_ray.evaluate.benchmarks import choices
from stic_ray.evaluate.intervals import FloatArray
from stic_ray.evaluate.measures import Item, Measure, ratio
from stic_ray.evaluate.rows import Embedded, Row, table_lines
from stic_ray.records import Prediction

TURN = 1_000_000  # what the index of a question's next turn is larger by, in files that hold the turns


def read(benchmark: MmBench) -> Iterator[Item]:
    """The questions of a TSV, with their turns: those that the file holds, else of our own making. The group is the
    question that a turn is of. A row may name another row's index instead of an image.
    """
    embedded, images = Embedded(benchmark.questions), dict[str, str]()
    rows = list(table_lines(benchmark.questions, ("index",)))
    in_file = Counter(str(row.number("index") % TURN) for row in rows)
    has_turns = any(row.number("index") >= TURN for row in rows)
    for row in rows:
        place = embedded.location(row, "image")
        index = row.key("index")
        images[index] = place or images.get(row.text("image"), "")
        if not images[index]:
            row.fail("image", "an image in base64, or the index of a row before")
        options = _options(row)
        answer = row.any_text("answer")
        if answer and answer not in list(choices.LETTERS[: len(options)]):
            row.fail("answer", f"one of {', '.join(choices.LETTERS[: len(options)])}, or empty where it is secret")
        question = str(row.number("index") % TURN)
        num_turns = len(options) if benchmark.circular and not has_turns else 1
        for turn in range(num_turns):
            yield Item(
                key=index if turn == 0 else str(row.number("index") + turn * TURN),
                text=choices.write(row.text("question"), _turned(options, turn), row.any_text("hint")),
                image=question,
                image_uri=images[index],
                answers=[_turned_letter(answer, turn, len(options))] if answer else [],
                choices=_turned(options, turn),
                form=f"{len(options)} made" if num_turns > 1 else f"{in_file[question]} there",
                category=row.any_text("category"),
                group=question,
            )


def _options(row: Row) -> list[str]:
    found = [row.any_text(letter) for letter in "ABCDE" if row.any_text(letter) not in ("", "nan")]
    if len(found) < 2:
        row.fail("B", "a choice: a question has two at least")
    return found


def _turned(options: Sequence[str], turn: int) -> list[str]:
    return [*options[turn:], *options[:turn]]


def _turned_letter(answer: str, turn: int, num_options: int) -> str:
    return choices.LETTERS[(choices.LETTERS.index(answer) - turn) % num_options]


def measure(benchmark: MmBench, rows: Sequence[Prediction]) -> Measure:
    """Circular accuracy: the share of questions of which all turns are right, of those whose turns were all answered;
    and `accuracy`, of single turns. A question whose answer is secret is not counted: see the submission file."""
    categories = sorted({row.category for row in rows if row.category})

    def count(answers: Sequence[Prediction]) -> tuple[float, ...]:
        of: defaultdict[str, list[Prediction]] = defaultdict(list)
        for row in answers:
            of[row.group].append(row)
        counts = np.zeros((2, len(categories) + 2))
        for turns in of.values():
            right = [choices.is_correct(row) for row in turns]
            counts[:, 1] += [sum(right), len(right)]
            if len(right) < _num_turns(turns[0]):
                continue  # a turn was not answered: nobody knows whether all are right
            counts[:, 0] += [all(right), 1]
            if turns[0].category:
                counts[:, 2 + categories.index(turns[0].category)] += [all(right), 1]
        return tuple(counts.ravel())

    def figures(sums_XS: FloatArray) -> dict[str, FloatArray]:
        right_XN, asked_XN = np.split(sums_XS, 2, axis=-1)
        shares_XN = 100 * ratio(right_XN, asked_XN, empty=np.nan)
        names = ["circular", "accuracy", *(f"category/{name}" for name in categories)]
        return dict(zip(names, np.moveaxis(shares_XN, -1, 0), strict=True))

    turned = any(_num_turns(row) > 1 for row in rows)
    main = {"circular": "circular accuracy", "accuracy": "accuracy of single turns"}
    return Measure(count=count, figures=figures, main=main if turned else {"accuracy": "accuracy"})


def _num_turns(row: Prediction) -> int:
    return int(row.form.partition(" ")[0])


def is_of_the_file(row: Prediction) -> bool:
    """Whether a turn stands in the file, rather than being of our own making."""
    return row.form.endswith("there") or row.key == row.group
