"""Multiple choice of text alone, in MMLU's form (Hendrycks et al. 2021)."""

from collections.abc import Iterator, Sequence

from stic_ray.config import MultipleChoice
from stic_ray.evaluate.benchmarks import choices
from stic_ray.evaluate.measures import Item, Measure, mean_of
from stic_ray.evaluate.rows import cells
from stic_ray.records import Prediction

_FEWEST = 4  # question, two choices, letter


def read(benchmark: MultipleChoice) -> Iterator[Item]:
    """The rows of a CSV: question, choices, letter."""
    for number, row in cells(benchmark.questions):
        where = f"{benchmark.questions}, row {number}"
        if len(row) < _FEWEST or not all(cell.strip() for cell in row):
            raise ValueError(f"{where}: {len(row)} cells: it must be a question, two choices or more, and a letter")
        question, *options, answer = (cell.strip() for cell in row)
        letters = choices.LETTERS[: len(options)]
        if answer not in list(letters):
            raise ValueError(f"{where}: the answer is {answer[:50]!r}: it must be one of {', '.join(letters)}")
        yield Item(key=str(number), text=choices.write(question, options), answers=[answer], choices=options)


def measure(benchmark: MultipleChoice, rows: Sequence[Prediction]) -> Measure:
    """Accuracy."""
    return mean_of(choices.is_correct, rows)
