"""What is never written down: the values of environment variables whose names say that they are secrets.

Others' words (a server's refusal, a library's error) may repeat them.
"""

import os
import re

_NAMES = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_SHORTEST = 8  # characters: less is a word or a number that says nothing


def masked(text: str) -> str:
    """A text in which the names of such variables stand for their values."""
    if not text:
        return text
    secrets = [(value, name) for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= _SHORTEST]
    for value, name in sorted(secrets, key=lambda secret: -len(secret[0])):  # one may be part of another
        text = text.replace(value, f"[{name}]")
    return text
