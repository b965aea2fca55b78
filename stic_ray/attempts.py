"""What the attempts at an artifact add up, so that its record tells of all of them, killed ones included.

Each attempt is a small file beside the artifact's data, written again every few seconds.
"""

import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping

from stic_ray import storage

_EVERY_S = 10.0
logger = logging.getLogger(__name__)


class Attempt:
    """This process's attempt at the artifact at `uri`; nothing is written before there is something to note."""

    def __init__(self, uri: str) -> None:
        self._folder = storage.join(uri, "attempts")
        self._file = storage.join(self._folder, f"{uuid.uuid4().hex}.json")
        self._noted = time.monotonic()

    def note(self, figures: Mapping[str, float]) -> None:
        """Write down what this attempt has added up since its start."""
        storage.write_bytes(self._file, json.dumps(dict(figures)).encode())
        self._noted = time.monotonic()

    def note_sometimes(self, look: Callable[[], Mapping[str, float]]) -> None:
        """`note` what `look` gives, every ten seconds: what a killed attempt did since is missing in the sums."""
        if time.monotonic() - self._noted >= _EVERY_S:
            self.note(look())

    def sums_of_all(self) -> dict[str, float]:
        """Every figure, added up over all attempts that noted something, this one included.

        A damaged note is left out and named in the log: figures are not worth a run.
        """
        sums: Counter[str] = Counter()
        for file in storage.list_files(self._folder, ".json"):
            try:
                sums.update({str(name): float(value) for name, value in json.loads(storage.read_text(file)).items()})
            except (ValueError, AttributeError, TypeError):
                logger.warning("%s is damaged: the record goes without that attempt's figures", file)
        return dict(sums)
