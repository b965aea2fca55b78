"""Asking a judge: over HTTP, of a small server that behaves as the first word of each text says."""

import inspect
import json
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from servers import free_ports
from stic_ray.config import Endpoint
from stic_ray.evaluate import endpoint
from stic_ray.evaluate.endpoint import Asker, Reply

_KEY = "sk-very/secret-0123456789"
_PATH = "/v1/chat/completions"


class Server(ThreadingHTTPServer):
    """What it was asked, and how many of its answers at most were in the making at once."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", free_ports(1)[0]), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.now, self.most = 0, 0
        self.paths: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.times: dict[str, list[float]] = {}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = asked["messages"][0]["content"]
        with self.server.lock:
            self.server.paths.append(self.path)
            self.server.asked.append(asked)
            self.server.authorizations.append(self.headers["Authorization"])
            times = self.server.times.setdefault(text, [])
            times.append(time.monotonic())
        name, once, _ = text.split()[0].partition("-once")
        try:
            _BEHAVIOURS[name if not once or len(times) == 1 else "ok"](self, text)
        except OSError:  # the client has left
            self.close_connection = True

    def reply(self, status: int, body: str, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body.encode()))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


Behaviour = Callable[[_Handler, str], None]


def _answer_of(text: str) -> str:
    return f" {text}: 5 of 10\nbecause é\u2028 \n"


def _completion(content: Any, finish_reason: str = "stop") -> str:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish_reason}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 10, "completion_tokens": 3}})


def _ok(handler: _Handler, text: str) -> None:
    server = handler.server
    with server.lock:
        server.now += 1
        server.most = max(server.most, server.now)
    time.sleep(0.01)
    with server.lock:
        server.now -= 1
    handler.reply(200, _completion(_answer_of(text)))


def _status(status: int, body: str = "", **headers: str) -> Behaviour:
    return lambda handler, text: handler.reply(status, body, **headers)


def _in_two_seconds(handler: _Handler, text: str) -> None:
    handler.reply(429, "", Retry_After=formatdate(time.time() + 2, usegmt=True))


def _stall(handler: _Handler, text: str) -> None:
    handler.server.ended.wait()


def _drip(whole: bytes) -> Behaviour:
    def drip(handler: _Handler, text: str) -> None:
        for byte in whole:
            handler.wfile.write(bytes([byte]))
            if handler.server.ended.wait(0.05):
                break

    return drip


def _close(start: bytes) -> Behaviour:
    def close(handler: _Handler, text: str) -> None:
        handler.wfile.write(start)
        handler.close_connection = True

    return close


def _endless(handler: _Handler, text: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not handler.server.ended.is_set():
        handler.wfile.write(b" " * 2**16)


def _echo(status: int) -> Behaviour:
    """The key comes back, behind so much that the end of what is shown would cut it in two."""
    return lambda handler, text: handler.reply(status, f"{'x' * 185}\n{handler.headers['Authorization']} is wrong")


_BEHAVIOURS: dict[str, Behaviour] = {
    "ok": _ok,
    **{str(status): _status(status, f"told {status}") for status in (400, 401, 403, 404, 408, 409)},
    "429": _status(429, Retry_After="0.2"),
    "429-date": _in_two_seconds,
    "429-long": _status(429, Retry_After="20"),
    "429-unreadable": _status(429, Retry_After="soon"),
    "500": _status(500, "broken\n" + "x" * 1000),
    "stall": _stall,
    "drip-headers": _drip(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 20),
    "drip-body": _drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b" " * 1000),
    "close": _close(b""),
    "break-off": _close(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"choices"'),
    "garbage": _status(200, "<html>\nnot JSON</html>"),
    "nested": _status(200, "[" * 100_000),
    "no-choices": _status(200, '{"error": "upstream"}'),
    "list": _status(200, "[]"),
    "parts": _status(200, _completion([{"type": "text", "text": "5"}])),
    "half-character": _status(200, _completion("\ud83d")),
    "empty": _status(200, _completion(" \n")),
    "null": _status(200, _completion(None)),
    "long": _status(200, _completion("the beginning of", "length")),
    "long-empty": _status(200, _completion(None, "length")),
    "filtered": _status(200, _completion("the beginning of", "content_filter")),
    "endless": _endless,
    "redirect": _status(307, Location="/elsewhere"),
    "echo-400": _echo(400),
    "echo-401": _echo(401),
    "echo-500": _echo(500),
    "echo": lambda handler, text: handler.reply(200, _completion(f"yes, {handler.headers['Authorization']}")),
}
_FAILED = (
    *("400", "500", "stall", "drip-headers", "drip-body", "close", "break-off", "garbage", "nested", "no-choices"),
    *("list", "parts", "half-character", "empty", "null", "long", "long-empty", "filtered", "endless", "redirect"),
)
_MENDED = ("408", "409", "429", "429-unreadable", "500", "stall", "close", "break-off", "garbage", "empty")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(endpoint, "BACKOFF_S", 0.02)
    monkeypatch.setenv("JUDGE_KEY", _KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield made
    made.ended.set()
    made.shutdown()
    thread.join()
    made.server_close()


def _settings(server: Server) -> Endpoint:
    settings = Endpoint(url=server.url, model="a-judge", key_variable="JUDGE_KEY", input_price=2.0, output_price=5.0)
    return replace(settings, timeout_s=30.0, max_attempts=2, max_new_tokens=77)


def _ask_one(server: Server, text: str, **settings: Any) -> Reply:
    (reply,) = Asker(replace(_settings(server), **settings)).ask([text])
    return reply


def test_ask_of_mixed_behaviours_answers_each_text_by_its_own_or_fails(server: Server) -> None:
    texts = [f"{name} {index}" for index, name in enumerate([*_FAILED, *(f"{n}-once" for n in _MENDED), *["ok"] * 10])]
    random.Random(0).shuffle(texts)
    asker = Asker(replace(_settings(server), timeout_s=0.6, max_attempts=3))  # a busy machine may be late once
    replies = asker.ask(texts)
    for text, reply in zip(texts, replies, strict=True):
        fails = text.split()[0] in _FAILED
        assert (reply.text, bool(reply.error)) == ("" if fails else _answer_of(text), fails), text
        assert "\n" not in reply.error and len(reply.error) < 280, text
    assert 1 < server.most <= 8
    figures = asker.figures()
    assert (figures["judge_requests"], figures["judge_failed"]) == (40, 20)
    assert figures["judge_attempts"] == sum(reply.attempts for reply in replies)


def test_ask_sends_each_text_alone_at_temperature_zero(server: Server) -> None:
    text = "ok é \U0001f600\n" + "x" * 100_000
    replies = Asker(_settings(server)).ask([text, text])
    assert [reply.text for reply in replies] == [_answer_of(text)] * 2
    message = {"role": "user", "content": text}
    assert server.asked == [{"model": "a-judge", "messages": [message], "temperature": 0, "max_tokens": 77}] * 2
    assert server.paths == [_PATH] * 2


def test_ask_of_no_text_asks_nothing(server: Server) -> None:
    assert Asker(_settings(server)).ask([]) == []
    assert server.asked == []


def test_threads_that_ask_together_keep_the_limit_together(server: Server) -> None:
    asker = Asker(replace(_settings(server), max_concurrent=3))
    texts = [[f"ok {number} {index}" for index in range(12)] for number in range(3)]
    replies: dict[int, list[Reply]] = {}
    threads = [threading.Thread(target=lambda n: replies.update({n: asker.ask(texts[n])}), args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [[reply.text for reply in replies[n]] for n in range(3)] == [[_answer_of(t) for t in part] for part in texts]
    assert 1 < server.most <= 3


@pytest.mark.parametrize(
    ("text", "told", "attempts"),
    [
        ("500", "the server answered 500: broken " + "x" * 193, 2),
        ("close", "Server disconnected", 2),
        ("garbage", "the answer cannot be read: <html> not JSON</html>", 2),
        ("no-choices", 'the answer cannot be read: {"error": "upstream"}', 2),
        ("empty", "the answer is empty", 2),
        ("long-empty", "cut off at max_new_tokens", 1),
        ("filtered", "cut off by the server's content filter", 1),
        ("endless", "the answer is above 4194304 bytes", 1),
        ("400", "the server answered 400: told 400", 1),
        ("redirect", "the server redirects (307), which is not followed: set url to where it leads", 1),
    ],
)
def test_text_without_an_answer_fails_with_what_happened(server: Server, text: str, told: str, attempts: int) -> None:
    reply = _ask_one(server, text)
    assert (reply.text, reply.error, reply.attempts) == ("", told, attempts)
    assert server.paths == [_PATH] * attempts


@pytest.mark.parametrize("text", ["drip-headers", "drip-body", "stall"])
def test_request_ends_at_its_deadline_whatever_the_server_drips(server: Server, text: str) -> None:
    start = time.monotonic()
    assert _ask_one(server, text, timeout_s=0.3, max_attempts=1).error == "no whole answer within 0.3 s"
    assert 0.3 <= time.monotonic() - start < 5.0


def test_server_that_nobody_runs_fails_after_all_attempts(server: Server) -> None:
    reply = _ask_one(server, "ok", url=f"http://127.0.0.1:{free_ports(1)[0]}/v1")
    assert (reply.text, reply.attempts) == ("", 2)
    assert reply.error.startswith("Cannot connect to host 127.0.0.1")


@pytest.mark.parametrize(
    ("text", "cap_s", "least_s"),
    [("429", 60.0, 0.2), ("429-date", 60.0, 0.9), ("429-long", 0.3, 0.3), ("429-unreadable", 60.0, 0.0)],
)
def test_retry_after_is_waited_for_up_to_the_cap(
    server: Server, monkeypatch: pytest.MonkeyPatch, text: str, cap_s: float, least_s: float
) -> None:
    monkeypatch.setattr(endpoint, "MAX_RETRY_AFTER_S", cap_s)
    assert _ask_one(server, f"{text}-once").text == _answer_of(f"{text}-once")
    first, second = server.times[f"{text}-once"]
    assert least_s <= second - first < 10.0


def test_backoff_doubles_and_is_drawn_by_the_text_alone() -> None:
    state = random.getstate()
    for attempt in range(1, 60):
        longest = min(2.0 ** (attempt - 1), 64.0)
        waits = [endpoint.backoff_s(text, attempt) for text in "abcdefgh"]
        assert len(set(waits)) == 8 and all(longest / 2 <= wait <= longest for wait in waits)
        assert waits == [endpoint.backoff_s(text, attempt) for text in "abcdefgh"]
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("401", r"judge.key_variable is 'JUDGE_KEY': it must be .* \(the server answered 401: told 401\)$"),
        (
            "403",
            r"judge.key_variable is 'JUDGE_KEY': it must be .*may ask a-judge \(the server answered 403: told 403\)$",
        ),
        (
            "404",
            r"judge.url is 'http.*', model is 'a-judge': they must be .* \(the server answered 404: told 404\)$",
        ),
    ],
)
def test_wrong_setting_ends_all_texts_at_once(server: Server, text: str, told: str) -> None:
    asker = Asker(_settings(server))
    start = time.monotonic()
    with pytest.raises(ValueError, match=told):
        asker.ask(["stall", *[f"{text} {index}" for index in range(100)]])
    assert time.monotonic() - start < 10.0
    assert len(server.asked) < 30


@pytest.mark.parametrize("url", ["http://", "http://user:word@127.0.0.1:1/v1"])
def test_address_that_cannot_be_asked_with_a_key_is_refused(server: Server, url: str) -> None:
    with pytest.raises(ValueError, match=r"url is .*: it must be an address"):
        _ask_one(server, "ok", url=url)


def test_missing_key_is_refused_before_anything_is_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(ValueError, match=r"judge.key_variable is 'JUDGE_KEY': there is no such .*: set it"):
        Asker(_settings(server))


def test_server_without_a_key_is_sent_none(server: Server) -> None:
    assert _ask_one(server, "ok", key_variable="").text == _answer_of("ok")
    assert server.authorizations == [None]


def test_key_is_sent_and_told_nowhere_else(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("JUDGE_KEY", f"{_KEY}\n")  # as a file gives it
    asker = Asker(_settings(server))
    replies = asker.ask(["echo-400", "echo-500", "ok", "close", "garbage", "redirect", "echo"])
    with pytest.raises(ValueError, match=r"key_variable .*\[key\]") as refused:
        asker.ask(["echo-401"])
    told = [repr(asker), repr(replies), repr(refused.value), repr(refused.value.__context__), caplog.text]
    assert set(server.authorizations) == {f"Bearer {_KEY}"}
    assert replies[-1].text == "yes, Bearer [key]"
    assert replies[0].error.endswith("Bearer [key] i") and "the next one in" in caplog.text
    assert not [text for text in told if _KEY[:5] in text]


def test_asker_has_no_coroutine_that_would_make_its_actor_asynchronous() -> None:
    assert inspect.getmembers(Asker, inspect.iscoroutinefunction) == []


def test_figures_add_up_what_every_attempt_cost(server: Server) -> None:
    asker = Asker(_settings(server))
    replies = [*asker.ask(["ok", "empty-once", "long"]), *asker.ask(["500"])]
    assert [(reply.prompt_tokens, reply.new_tokens) for reply in replies] == [(10, 3), (20, 6), (10, 3), (0, 0)]
    assert asker.figures() == {
        "judge_requests": 4,
        "judge_attempts": 6,
        "judge_failed": 2,
        "judge_prompt_tokens": 40,
        "judge_new_tokens": 12,
        "judge_cost": pytest.approx((40 * 2 + 12 * 5) / 1e6),
    }
