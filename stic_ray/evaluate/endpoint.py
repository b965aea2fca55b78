"""A judge behind an OpenAI-compatible server: texts in, one reply each out, in order.

Requests are tasks of one event loop rather than threads: a blocking client's timeout starts anew with every byte, and
only a task can be ended while it sleeps or stalls, by its deadline or by another one that shows a setting to be wrong.
"""

import asyncio
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from stic_ray.config import Endpoint
from stic_ray.records import make_seed

_FIELD = "evaluation.judge"
BACKOFF_S = 1.0
MAX_RETRY_AFTER_S = 60.0
MAX_BYTES = 4 * 2**20
_MAX_DOUBLINGS = 6
_MAX_EXCERPT = 200
_TRIED_AGAIN = frozenset({408, 409, 429})  # and 500 and above
_INCOMPLETE = {"length": "cut off at max_new_tokens", "content_filter": "cut off by the server's content filter"}
logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a judge answered, word for word, or the `error` of the last attempt and no text.

    Tokens are those that the server told of all attempts: answers that cannot be used are billed too.
    """

    text: str
    error: str
    prompt_tokens: int
    new_tokens: int
    attempts: int


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """What one request came to; `again`: another may fare better, after `wait_s` at the earliest."""

    text: str = ""
    error: str = ""
    again: bool = False
    wait_s: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0


class Asker:
    """Asks one server, of several threads in turn, so that `max_concurrent` holds for all of them together."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Nothing is asked yet.

        Raises:
            ValueError: the environment variable of the key is not set.
        """
        self._endpoint = endpoint
        self._client = _Client(endpoint, _read_key(endpoint.key_variable), self._count)
        self._turn = threading.Lock()
        self._counting = threading.Lock()
        names = ("requests", "attempts", "failed", "prompt_tokens", "new_tokens", "cost")
        self._sums = {f"judge_{name}": 0.0 for name in names}

    def ask(self, texts: Sequence[str]) -> list[Reply]:
        """One reply a text, in order, each text a conversation of its own.

        Raises:
            ValueError: the server takes no such address, model or key: no text would fare better.
        """
        with self._turn:
            try:
                return asyncio.run(self._client.answer_all(texts))
            except BaseExceptionGroup as group:  # as a task group tells of the task that ended it
                raise group.exceptions[0] from None

    def figures(self) -> dict[str, float]:
        """Sums since the start: `judge_requests` (texts), `judge_attempts`, `judge_failed`, `judge_prompt_tokens`,
        `judge_new_tokens`, `judge_cost` (dollars)."""
        with self._counting:
            return dict(self._sums)

    def _count(self, reply: Reply) -> None:
        with self._counting:
            self._sums["judge_requests"] += 1
            self._sums["judge_attempts"] += reply.attempts
            self._sums["judge_failed"] += bool(reply.error)
            self._sums["judge_prompt_tokens"] += reply.prompt_tokens
            self._sums["judge_new_tokens"] += reply.new_tokens
            self._sums["judge_cost"] += self._cost(reply)

    def _cost(self, reply: Reply) -> float:
        read, written = self._endpoint.input_price, self._endpoint.output_price
        return (reply.prompt_tokens * read + reply.new_tokens * written) / 1e6


class _Client:
    """What asks. `Asker` itself has no coroutines: Ray would make it an asynchronous actor, where `ask` cannot run."""

    def __init__(self, endpoint: Endpoint, key: str, count: Callable[[Reply], None]) -> None:
        self._endpoint = endpoint
        self._key = key
        self._count = count
        self._url = endpoint.url.rstrip("/") + "/chat/completions"

    async def answer_all(self, texts: Sequence[str]) -> list[Reply]:
        """As `Asker.ask`, but for the group that its ValueError comes in."""
        slots = asyncio.Semaphore(self._endpoint.max_concurrent)
        settings: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {self._key}"} if self._key else {},
            "timeout": aiohttp.ClientTimeout(total=self._endpoint.timeout_s),
            "connector": aiohttp.TCPConnector(limit=self._endpoint.max_concurrent),
            "trust_env": True,  # a proxy, as other clients have it
        }
        async with aiohttp.ClientSession(**settings) as session, asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._answer(session, slots, text)) for text in texts]
        return [task.result() for task in tasks]

    async def _answer(self, session: aiohttp.ClientSession, slots: asyncio.Semaphore, text: str) -> Reply:
        prompt_tokens, new_tokens = 0, 0
        async with slots:  # also while it waits: a server that is too busy is asked less
            for number in range(1, self._endpoint.max_attempts + 1):
                attempt = await self._try(session, text)
                prompt_tokens += attempt.prompt_tokens
                new_tokens += attempt.new_tokens
                if not attempt.again or number == self._endpoint.max_attempts:
                    break
                wait_s = max(attempt.wait_s, backoff_s(text, number))
                logger.info("attempt %d: %s; the next one in %.1f s", number, attempt.error, wait_s)
                await asyncio.sleep(wait_s)
        reply = Reply(
            text=attempt.text,
            error=attempt.error,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            attempts=number,
        )
        self._count(reply)
        return reply

    async def _try(self, session: aiohttp.ClientSession, text: str) -> _Attempt:
        asked = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": self._endpoint.max_new_tokens,
        }
        try:
            # A redirect would take the key elsewhere.
            async with session.post(self._url, json=asked, allow_redirects=False) as response:
                body = self._keyless(await _read_body(response))
        except ValueError as error:  # no address, no header, no certificate for it: all are before any answer
            told = f"{_FIELD}.url is {self._url!r}: it must be an address that can be asked with a key"
            raise ValueError(f"{told} ({self._excerpt(str(error))})") from None
        except TimeoutError:
            return _Attempt(error=f"no whole answer within {self._endpoint.timeout_s:g} s", again=True)
        except (aiohttp.ClientError, OSError) as error:
            return _Attempt(error=self._excerpt(str(error) or type(error).__name__), again=True)
        excerpt = self._excerpt(body.decode(errors="replace"))
        if response.status >= 300:
            return self._refused(response, excerpt)
        return _read_answer(body, excerpt)

    def _refused(self, response: aiohttp.ClientResponse, excerpt: str) -> _Attempt:
        """The attempt that was answered with something else than success.

        Raises:
            ValueError: with this address, model or key none is answered.
        """
        status = response.status
        told = f"the server answered {status}" + (f": {excerpt}" if excerpt else "")
        if status in (401, 403):
            wanted = f"an environment variable with a key that may ask {self._endpoint.model}"
            raise ValueError(f"{_FIELD}.key_variable is {self._endpoint.key_variable!r}: it must be {wanted} ({told})")
        if status == 404:
            wanted = "a server's address up to /v1 and the name of a model there"
            found = f"{_FIELD}.url is {self._endpoint.url!r}, model is {self._endpoint.model!r}"
            raise ValueError(f"{found}: they must be {wanted} ({told})")
        if status < 400:
            return _Attempt(error=f"the server redirects ({status}), which is not followed: set url to where it leads")
        if status in _TRIED_AGAIN or status >= 500:
            return _Attempt(error=told, again=True, wait_s=_wanted_wait_s(response.headers.get("Retry-After", "")))
        return _Attempt(error=told)

    def _keyless(self, body: bytes) -> bytes:
        """A body without the key, which servers send back."""
        return body.replace(self._key.encode(), b"[key]") if self._key else body

    def _excerpt(self, told: str) -> str:
        """The start on one line and without the key."""
        hidden = told.replace(self._key, "[key]") if self._key else told
        return " ".join(hidden.split())[:_MAX_EXCERPT]


def backoff_s(text: str, attempt: int) -> float:
    """How long to wait after a text's attempt (from 1): twice as long each time, less up to a half by the text, so that
    texts that failed together do not come back together."""
    longest = BACKOFF_S * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS)
    return longest * random.Random(make_seed("backoff", text, attempt)).uniform(0.5, 1.0)


def _read_key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if variable and not key:
        remedy = 'set it where the judge is asked (all machines of the cluster), or key_variable: "" for no key'
        raise ValueError(f"{_FIELD}.key_variable is {variable!r}: there is no such environment variable: {remedy}")
    return key


def _wanted_wait_s(header: str) -> float:
    """What a Retry-After asks for, as seconds or as a date; 0 where it cannot be read."""
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", header):
        wanted_s = float(header)
    else:
        try:
            wanted_s = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return 0.0
    return min(max(wanted_s, 0.0), MAX_RETRY_AFTER_S)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body; of one above MAX_BYTES, a part above it."""
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MAX_BYTES:
            break
    return bytes(body)


def _read_answer(body: bytes, excerpt: str) -> _Attempt:
    """What a successful response says."""
    if len(body) > MAX_BYTES:
        return _Attempt(error=f"the answer is above {MAX_BYTES} bytes")
    tree: Any = None
    try:
        tree = json.loads(body)
        choice = tree["choices"][0]
        reason, content = str(choice.get("finish_reason")), choice["message"]["content"] or ""
        content.encode()  # half a surrogate pair is valid JSON, and no text that can be written down
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        reason, content = "", None
    spent = _Attempt(prompt_tokens=_tokens(tree, "prompt_tokens"), new_tokens=_tokens(tree, "completion_tokens"))
    if content is None:
        return replace(spent, error=f"the answer cannot be read: {excerpt}", again=True)
    if reason in _INCOMPLETE:
        return replace(spent, error=_INCOMPLETE[reason])
    if not content.strip():
        return replace(spent, error="the answer is empty", again=True)
    return replace(spent, text=str(content))


def _tokens(tree: Any, name: str) -> int:
    """A number of tokens as the server tells it, 0 where it tells none."""
    try:
        return int(tree["usage"][name])
    except (LookupError, TypeError, ValueError, OverflowError):
        return 0
