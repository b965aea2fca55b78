"""What an engine counts from its start on, by several threads at once."""

import threading
from collections.abc import Iterable

from stic_ray.engines.protocol import Completion


class Counters:
    """Sums over all completions that an engine has given."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums = dict.fromkeys(("requests", "refused", "prompt_tokens", "cached_tokens", "new_tokens"), 0.0)

    def add(self, completions: Iterable[Completion]) -> None:
        """Count what was answered and what was refused; a refused prompt's tokens were never read."""
        with self._lock:
            for completion in completions:
                self._sums["requests"] += 1
                if completion.error:
                    self._sums["refused"] += 1
                    continue
                self._sums["prompt_tokens"] += completion.num_prompt_tokens
                self._sums["cached_tokens"] += completion.num_cached_tokens
                self._sums["new_tokens"] += completion.num_tokens

    def read(self) -> dict[str, float]:
        """The sums so far."""
        with self._lock:
            return dict(self._sums)
