"""Multiple choice of text alone, in MMLU's form (Hendrycks et al. 2021)."""

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from stic_ray import storage
from stic_ray.config import MultipleChoice
from stic_ray.evaluate.benchmarks import choices
from stic_ray.evaluate.measures import Item, Measure, category, mean_of
from stic_ray.evaluate.rows import cells
from stic_ray.records import Prediction

_FEWEST = 4  # question, two choices, letter


def read(benchmark: MultipleChoice) -> Iterator[Item]:
    """The rows of a CSV, or of every one of a folder: question, choices, letter. The category is the file's name."""
    folder = storage.is_directory(benchmark.questions)
    subjects: dict[str, str] = {}
    for uri in storage.list_files(benchmark.questions, ".csv") if folder else [benchmark.questions]:
        subject = PurePosixPath(uri).stem.removesuffix("_test")
        if subjects.setdefault(subject, uri) != uri:
            raise ValueError(f"{uri}: its subject is that of {subjects[subject]}: rename one of them")
        yield from _of_file(uri, subject)


def _of_file(uri: str, subject: str) -> Iterator[Item]:
    for number, row in cells(uri):
        where = f"{uri}, row {number}"
        if len(row) < _FEWEST or not all(cell.strip() for cell in row):
            raise ValueError(f"{where}: {len(row)} cells: it must be a question, two choices or more, and a letter")
        question, *options, answer = (cell.strip() for cell in row)
        if len(options) > len(choices.LETTERS):
            raise ValueError(f"{where}: {len(options)} choices: at most {len(choices.LETTERS)} have a letter")
        letters = choices.LETTERS[: len(options)]
        if answer not in list(letters):
            raise ValueError(f"{where}: the answer is {answer[:50]!r}: it must be one of {', '.join(letters)}")
        text = choices.write(question, options)
        yield Item(key=f"{subject}-{number}", text=text, answers=[answer], choices=options, category=subject)


def measure(benchmark: MultipleChoice, rows: Sequence[Prediction]) -> Measure:
    """Accuracy over all questions, and by subject."""
    return mean_of(choices.is_correct, rows, by={"subject": category})
