"""The ledger: whose worker died is a suspect, runs alone, and is condemned by two deaths alone and nothing less."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from stic_ray import ledger
from stic_ray.ledger import MAX_DEATHS_ALONE, POISON, PREPARE, WORK, Book, Done, Guard, Ledger

_WHERE = ("responses-0", WORK)


@dataclass(frozen=True)
class _Unit:
    id: str
    reason: str = ""


class _Method:
    """A method of a ledger in this process, called as an actor's."""

    def __init__(self, method: Any) -> None:
        self._method = method

    def remote(self, *arguments: Any) -> "_Method":
        self._value = self._method(*arguments)
        return self

    def future(self) -> "_Method":
        return self

    def result(self) -> Any:
        return self._value


class _Handle:
    def __init__(self, actor: Ledger) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> _Method:
        return _Method(getattr(self._actor, name))


def _units(names: str) -> list[_Unit]:
    return [_Unit(name) for name in names]


def _guard(actor: Ledger, worker: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> "Guard[_Unit, _Unit]":
    monkeypatch.setattr(ledger, "_WORKER", worker)
    return Guard(Book(ledger=_Handle(actor), artifact=_WHERE[0]), WORK, lambda key, reason: _Unit(key, reason), **more)


class _DeathError(BaseException):
    """What stands for a SIGKILL: nothing is crossed off."""


def _die_of(deadly: str, calls: list[str]) -> Any:
    def work(units: Sequence[_Unit]) -> Sequence[_Unit]:
        calls.append("".join(unit.id for unit in units))
        if deadly in calls[-1]:
            raise _DeathError
        return units

    return work


def test_unit_that_kills_workers_is_found_and_its_company_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    actor, calls = Ledger("run"), list[str]()
    made: list[_Unit] = []
    for attempt in range(5):
        try:
            made = _guard(actor, f"worker {attempt}", monkeypatch).do(_units("abcd"), _die_of("c", calls))
            break
        except _DeathError:
            continue
    assert calls == ["abcd", "a", "b", "c", "ab", "c", "ab", "d"]
    assert sorted(made, key=lambda unit: unit.id) == [_Unit("a"), _Unit("b"), _Unit("c", POISON), _Unit("d")]
    assert calls.count("c") == MAX_DEATHS_ALONE


def test_condemned_unit_stays_condemned_when_its_batch_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    actor, calls = Ledger("run"), list[str]()
    for attempt in range(3):
        with pytest.raises(_DeathError):
            _guard(actor, f"worker {attempt}", monkeypatch).do(_units("ab"), _die_of("b", calls))
    for attempt in range(2):
        made = _guard(actor, f"later {attempt}", monkeypatch).do(_units("ab"), _die_of("b", calls))
        assert _Unit("b", POISON) in made
    assert calls.count("b") == MAX_DEATHS_ALONE


def test_death_in_company_twice_condemns_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = Ledger("run")
    for attempt in range(2):
        with pytest.raises(_DeathError):
            _guard(actor, f"worker {attempt}", monkeypatch).do(_units("ab"), _die_of("a" if attempt else "ab", []))
    assert actor.state("responses-0").num_suspects == 2
    made = _guard(actor, "worker 2", monkeypatch).do(_units("ab"), lambda units: units)
    assert made == _units("ab")
    assert actor.state("responses-0").num_suspects == 0


def test_suspect_runs_when_no_other_call_is_in_its_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = Ledger("run")
    with pytest.raises(_DeathError):
        _guard(actor, "first", monkeypatch).do(_units("s"), _die_of("s", []))
    guard = _guard(actor, "second", monkeypatch, slots=2)
    now: set[str] = set()
    together: list[set[str]] = []

    def work(units: Sequence[_Unit]) -> Sequence[_Unit]:
        now.update(unit.id for unit in units)
        together.append(set(now))
        time.sleep(0.2)
        now.difference_update(unit.id for unit in units)
        return units

    calls = [threading.Thread(target=guard.do, args=(_units(name), work)) for name in ("a", "s", "b", "c")]
    for call in calls:
        call.start()
        time.sleep(0.02)
    for call in calls:
        call.join()
    assert {"s"} in together and all(company == {"s"} for company in together if "s" in company)
    assert any(len(company) == 2 for company in together)  # the others did share


def test_figures_are_what_was_added_since_the_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    actor, tokens = Ledger("run"), {"tokens": 0.0}
    guard = _guard(actor, "one", monkeypatch, figures=lambda: dict(tokens))
    for number in (3.0, 4.0):
        tokens["tokens"] += number
        guard.do(_units("ab"), lambda units: [_Unit("a"), _Unit("b", "too long")])
    state = actor.state("responses-0")
    assert state.figures == {"tokens": 7.0}
    assert (state.num_in_work, state.num_retried) == (0, 0)


def test_state_tells_how_long_workers_worked_apart_from_how_long_the_stage_stood() -> None:
    actor = Ledger("run")
    assert actor.state("responses-0").times == {"span_s": 0.0, "worked_s": 0.0, "prepared_s": 0.0}
    actor.begin("responses-0", PREPARE, "one", ["a", "b"])
    actor.end("responses-0", PREPARE, Done(ids=["a", "b"], seconds=0.25))
    time.sleep(0.05)
    for worker, key in (("one", "a"), ("other", "b")):
        actor.begin("responses-0", WORK, worker, [key])
    time.sleep(0.1)
    for key in ("a", "b"):
        actor.end("responses-0", WORK, Done(ids=[key], seconds=2.0))
    times = actor.state("responses-0").times
    assert (times["worked_s"], times["prepared_s"]) == (4.0, 0.25)
    assert 0.1 <= times["span_s"] < 5.0


def test_isolating_names_the_worker_only_while_it_has_a_suspect_alone() -> None:
    actor = Ledger("run")
    actor.begin(*_WHERE, "12@host-x", ["a", "b"])
    assert actor.isolating() == []
    assert actor.begin(*_WHERE, "34@host-y", ["a", "b"]) == {"a": 0, "b": 0}
    actor.begin_alone(*_WHERE, "34@host-y", "a")
    assert actor.isolating() == ["34@host-y"]
    actor.end(*_WHERE, Done(ids=["a"]))
    assert actor.isolating() == []


def test_lost_message_of_a_survivor_is_no_evidence() -> None:
    actor = Ledger("run")
    actor.begin(*_WHERE, "first", ["a", "b"])
    actor.begin(*_WHERE, "second", ["a", "b"])
    for worker in ("second", "third", "fourth"):
        actor.begin_alone(*_WHERE, worker, "a")  # that it has ended never arrives
        actor.begin_alone(*_WHERE, worker, "b")  # but it goes on, and dies of b
        found = actor.begin(*_WHERE, f"{worker}'s follower", ["a", "b"])
        assert "a" not in found
        actor.end(*_WHERE, Done(ids=["a"]))
    assert found == {"b": 3}


def test_artifacts_of_one_stage_know_nothing_of_each_other() -> None:
    actor = Ledger("run")
    for worker in ("first", "second", "third"):
        actor.begin("responses-0", WORK, worker, ["a"])
        actor.begin_alone("responses-0", WORK, worker, "a")
    assert actor.begin("responses-0", WORK, "fourth", ["a"]) == {"a": 3}
    assert actor.begin("responses-1", WORK, "fourth", ["a"]) == {}
    actor.open("responses-0")
    assert actor.begin("responses-0", WORK, "fourth", ["a"]) == {}


def _fail_on(bad: str, calls: list[str]) -> Any:
    def work(units: Sequence[_Unit]) -> Sequence[_Unit]:
        calls.append("".join(unit.id for unit in units))
        if set(calls[-1]) & set(bad):
            raise RuntimeError(f"no\nroom for {calls[-1]}")
        return units

    return work


def test_unit_that_raises_alone_is_refused_and_its_batch_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    made = _guard(Ledger("run"), "w", monkeypatch).do(_units("abcd"), _fail_on("c", calls))
    assert [(unit.id, unit.reason) for unit in made] == [
        ("a", ""),
        ("b", ""),
        ("c", "RuntimeError: no room for c"),
        ("d", ""),
    ]
    assert calls == ["abcd", "a", "b", "c", "d"]


def test_worker_in_which_every_unit_raises_refuses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="no\nroom for e"):
        _guard(Ledger("run"), "w", monkeypatch).do(_units("abcdefgh"), _fail_on("abcdefgh", []))


@pytest.mark.parametrize("error", [ValueError("the adapter is not there"), OSError(28, "No space left on device")])
def test_error_that_is_no_units_fault_ends_the_stage(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_: Sequence[_Unit]) -> Sequence[_Unit]:
        raise error

    with pytest.raises(type(error)):
        _guard(Ledger("run"), "w", monkeypatch).do(_units("ab"), work)
