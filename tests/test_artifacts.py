"""Artifacts: what makes them the same, when they are there, and that nothing in them is lost or double."""

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stic_ray import artifacts, leases, storage
from stic_ray.artifacts import RECORD, Plan
from stic_ray.leases import LEASE, LEASE_S, BusyError, Lease
from stic_ray.records import ImageRef, Reject, to_table

_PLAN = Plan(
    stage="references",
    code_version=2,
    identity={"seed": 0, "prompts": ["ü", "b"], "beta": 0.1, "none": None},
    parents={"pairs": "0123456789abcdef"},
    kind="ImageRef",
)


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/store"
    return str(tmp_path / "store") if request.param == "local" else f"memory://store-{uuid.uuid4().hex}"


def _id(name: object) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:32]


def _row(name: object, value: int = 0) -> ImageRef:
    return ImageRef(id=_id(name), key="", uri="", content_hash="", num_bytes=value)


def _reject(name: object, reason: str = "bad") -> Reject:
    return Reject(id=_id(name), stage="references", reason=reason)


def _ids(uri: str) -> list[str]:
    """Every id that stands in a data file, as often as it stands there."""
    files = artifacts.data_files(uri)
    return sorted(key for file in files for key in artifacts.read_file(file, ["id"]).column("id").to_pylist())


def test_fingerprint_is_what_it_was_in_the_first_release() -> None:
    assert _PLAN.fingerprint == "2320bb9cc7bb5257"
    assert _PLAN.name == "references-2320bb9cc7bb5257"


def test_fingerprint_does_not_depend_on_the_order_of_keys_or_on_kind() -> None:
    turned = Plan(
        stage="references",
        code_version=2,
        identity=dict(reversed(list(_PLAN.identity.items()))),
        parents=dict(_PLAN.parents),
        kind="other",
    )
    assert turned.fingerprint == _PLAN.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "pairs"},
        {"code_version": 3},
        {"identity": {**_PLAN.identity, "seed": 1}},
        {"identity": {**_PLAN.identity, "more": None}},
        {"identity": {**_PLAN.identity, "prompts": ["b", "ü"]}},
        {"parents": {"pairs": "fedcba9876543210"}},
        {"parents": {"other": "0123456789abcdef"}},
    ],
)
def test_fingerprint_changes_with_everything_that_changes_the_result(change: dict[str, Any]) -> None:
    assert Plan(**{**vars(_PLAN), **change}).fingerprint != _PLAN.fingerprint


def test_commit_makes_the_artifact_found_with_its_counts(store: str) -> None:
    uri = storage.join(store, _PLAN.name)
    artifacts.write_rows(uri, [_row(1), _row(2)], ImageRef, [_reject(3, "b"), _reject(4, "a")])
    artifacts.write_rows(uri, [_row(5)], ImageRef, [_reject(6, "a")])
    assert artifacts.find(store, _PLAN) is None
    committed = artifacts.commit(store, _PLAN, {"seconds": 1.5})
    found = artifacts.find(store, _PLAN)
    assert found == committed == artifacts.load(uri)
    assert (found.fingerprint, found.num_rows, found.uri) == (_PLAN.fingerprint, 3, uri)
    record = json.loads(storage.read_text(storage.join(uri, RECORD)))
    assert record["counts"] == {"rows": 3, "rejects": 3, "rejects_by_reason": {"a": 2, "b": 1}}
    assert (record["parents"], record["identity"]) == (_PLAN.parents, _PLAN.identity)
    assert (record["seconds"], record["kind"], record["code_version"]) == (1.5, "ImageRef", 2)
    assert record["versions"]["pyarrow"] == pa.__version__


def test_load_unfinished_artifact_is_refused_by_name(store: str) -> None:
    uri = storage.join(store, _PLAN.name)
    artifacts.write_rows(uri, [_row(1)], ImageRef, [])
    with pytest.raises(ValueError, match=f"{_PLAN.name} has no {RECORD}: it is unfinished"):
        artifacts.load(uri)


@pytest.mark.parametrize("text", [b"", b'{"fingerprint": "0', b"\xff\xfe"])
def test_load_damaged_record_is_refused_by_name(store: str, text: bytes) -> None:
    storage.write_bytes(storage.join(store, _PLAN.name, RECORD), text)
    with pytest.raises(ValueError, match=f"{_PLAN.name}: {RECORD} is damaged"):
        artifacts.load(storage.join(store, _PLAN.name))


def test_write_rows_again_changes_nothing_and_in_another_order_gives_the_same_file(store: str) -> None:
    uri = storage.join(store, "a")
    artifacts.write_rows(uri, [_row(1), _row(2)], ImageRef, [_reject(3)])
    files = artifacts.data_files(uri), artifacts.reject_files(uri)
    artifacts.write_rows(uri, [_row(2), _row(1)], ImageRef, [_reject(3)])
    artifacts.write_rows(uri, [], ImageRef, [])
    assert (artifacts.data_files(uri), artifacts.reject_files(uri)) == files
    assert [len(each) for each in files] == [1, 1]


def test_read_is_sorted_by_id_and_gives_one_row_an_id_from_the_first_file(store: str) -> None:
    uri = storage.join(store, "a")
    artifacts.write_rows(uri, [_row(1, 1), _row(2, 1)], ImageRef, [])
    artifacts.write_rows(uri, [_row(2, 2), _row(3, 2)], ImageRef, [])
    first = artifacts.read_file(artifacts.data_files(uri)[0]).column("num_bytes").to_pylist()[0]
    rows = artifacts.read(uri, ImageRef)
    assert [row.id for row in rows] == sorted(_id(name) for name in (1, 2, 3))
    assert {row.id: row.num_bytes for row in rows}[_id(2)] == first


def test_read_rejects_gives_one_an_id_from_the_first_file(store: str) -> None:
    uri = storage.join(store, "a")
    artifacts.write_rows(uri, [], ImageRef, [_reject(1, "x"), _reject(2, "x")])
    artifacts.write_rows(uri, [], ImageRef, [_reject(2, "y"), _reject(3, "y")])
    first = artifacts.read_file(artifacts.reject_files(uri)[0]).column("reason").to_pylist()[0]
    rejects = artifacts.read_rejects(uri)
    assert [row.id for row in rejects] == sorted(_id(name) for name in (1, 2, 3))
    assert {row.id: row.reason for row in rejects}[_id(2)] == first


def test_packed_ids_are_the_ids_of_each_file_and_are_found_again(store: str) -> None:
    uri = storage.join(store, "a")
    artifacts.write_rows(uri, [_row(n) for n in range(300)], ImageRef, [])
    artifacts.write_rows(uri, [_row(n) for n in range(400, 500)], ImageRef, [])
    parts = artifacts.input_ids(artifacts.data_files(uri), "id")
    for file, packed in zip(artifacts.data_files(uri), parts, strict=True):
        listed = artifacts.read_file(file, ["id"]).column("id").to_pylist()
        assert [artifacts.unpacked_id(value) for value in packed.tolist()] == listed
        assert [artifacts.unpacked_id(v) for v in artifacts.packed_ids(pa.chunked_array([listed])[7:])] == listed[7:]
    known = artifacts.merge_ids([*parts, *parts])
    assert len(known) == 400 and artifacts.are_in(np.concatenate(parts), known).all()
    others = artifacts.packed_ids(pa.chunked_array([[_id(n) for n in range(300, 400)]]))
    assert not artifacts.are_in(others, known).any() and not artifacts.are_in(others, known[:0]).any()


def test_packed_ids_keep_zeros_at_the_end_of_an_id() -> None:
    ids = ["00" * 16, "ab" * 15 + "00", "0" * 31 + "1"]
    packed = artifacts.packed_ids(pa.chunked_array([ids]))
    assert [artifacts.unpacked_id(value) for value in packed.tolist()] == ids
    assert artifacts.are_in(packed, artifacts.merge_ids([packed])).all()


def test_remove_duplicates_leaves_what_read_saw(store: str) -> None:
    uri = storage.join(store, "a")
    artifacts.write_rows(uri, [_row(n, 1) for n in (1, 2, 3)], ImageRef, [_reject(7)])
    artifacts.write_rows(uri, [_row(n, 2) for n in (3, 4)], ImageRef, [_reject(7), _reject(8)])
    artifacts.write_rows(uri, [_row(n, 3) for n in (1, 4, 5)], ImageRef, [])
    artifacts.write_rows(uri, [_row(n, 4) for n in (6,)], ImageRef, [])
    before = artifacts.read(uri, ImageRef)
    artifacts.remove_duplicates(uri, "id")
    assert artifacts.read(uri, ImageRef) == before
    assert _ids(uri) == sorted(_id(n) for n in range(1, 7))
    assert [row.id for row in artifacts.read_rejects(uri)] == sorted([_id(7), _id(8)])
    files = artifacts.data_files(uri)
    artifacts.remove_duplicates(uri, "id")
    assert artifacts.data_files(uri) == files


def test_remove_duplicates_takes_the_reject_of_an_input_that_has_output(store: str) -> None:
    uri = storage.join(store, "a")
    artifacts.write_rows(uri, [_row(1), _row(2)], ImageRef, [_reject(2), _reject(3)])
    artifacts.remove_duplicates(uri, "id")
    assert [row.id for row in artifacts.read_rejects(uri)] == [_id(3)]
    assert _ids(uri) == sorted([_id(1), _id(2)])
    artifacts.write_rows(uri, [_row(3)], ImageRef, [])
    artifacts.remove_duplicates(uri, "id")
    assert artifacts.read_rejects(uri) == [] and artifacts.reject_files(uri) == []


def test_remove_duplicates_keeps_a_row_whose_remainder_has_the_name_of_a_later_file(store: str) -> None:
    """Files {a, b}, {b, c}, {c} in name order: what is left of the second is named as the third."""

    def name(*ids: str) -> str:
        return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:32]

    a, b, c = next(
        trio
        for trio in itertools.permutations(range(12), 3)
        if name(*map(_id, trio[:2])) < name(*map(_id, trio[1:])) < name(_id(trio[2]))
    )
    uri = storage.join(store, "a")
    for names in ((a, b), (b, c), (c,)):
        artifacts.write_rows(uri, [_row(n) for n in names], ImageRef, [])
    artifacts.remove_duplicates(uri, "id")
    assert _ids(uri) == sorted(map(_id, (a, b, c)))


@pytest.mark.slow
def test_remove_duplicates_random_overlaps_keep_every_id_once(store: str) -> None:
    rng = random.Random(0)
    for trial in range(12):
        uri = storage.join(store, f"trial-{trial}")
        files = [rng.sample(range(6), rng.randint(1, 3)) for _ in range(8)]
        for number, names in enumerate(files):
            artifacts.write_rows(uri, [_row(n, number) for n in names], ImageRef, [_reject(n) for n in names[:1]])
        before = artifacts.read(uri, ImageRef)
        artifacts.remove_duplicates(uri, "id")
        assert artifacts.read(uri, ImageRef) == before
        assert _ids(uri) == sorted({_id(n) for names in files for n in names})
        assert artifacts.read_rejects(uri) == []


def test_read_file_with_a_flipped_byte_in_its_data_is_refused(tmp_path: Path) -> None:
    artifacts.write_rows(str(tmp_path), [_row(n) for n in range(50)], ImageRef, [])
    (file,) = artifacts.data_files(str(tmp_path))
    data = bytearray(Path(file).read_bytes())
    data[len(data) // 4] ^= 1
    Path(file).write_bytes(data)
    with pytest.raises(artifacts.DamagedError, match=r"is damaged .*: remove .*, and the same command makes it again"):
        artifacts.read_file(file)
    Path(file).write_bytes(b"")
    with pytest.raises(artifacts.DamagedError):
        artifacts.count_rows(file)


@pytest.mark.parametrize("content", ["[]", "null", "5", "{}", '{"stage": ', "\xff"])
def test_a_damaged_record_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    uri = str(tmp_path / _PLAN.name)
    artifacts.write_rows(uri, [_row(1)], ImageRef, [])
    artifacts.commit(str(tmp_path), _PLAN, {})
    (tmp_path / _PLAN.name / artifacts.RECORD).write_text(content)
    with pytest.raises(ValueError, match=r"record\.json is damaged; remove"):
        artifacts.load(uri)


def test_a_record_in_another_artifacts_directory_is_refused(tmp_path: Path) -> None:
    artifacts.write_rows(str(tmp_path / _PLAN.name), [_row(1)], ImageRef, [])
    made = artifacts.commit(str(tmp_path), _PLAN, {})
    (tmp_path / _PLAN.name).rename(tmp_path / "pairs-0000000000000000")
    with pytest.raises(ValueError, match=r"record\.json is damaged"):
        artifacts.load(str(tmp_path / "pairs-0000000000000000"))
    assert made.num_rows == 1


@pytest.mark.parametrize("content", ["[]", "5", "{}", '{"started": 5}', ""])
def test_a_damaged_lease_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / leases.LEASE).write_text(content)
    assert leases.holder(str(tmp_path)) == ""
    with Lease(str(tmp_path), "mine"):
        assert "mine" in leases.holder(str(tmp_path))


def test_commit_counts_rows_of_files_written_outside_write_rows_too(tmp_path: Path) -> None:
    uri = str(tmp_path / _PLAN.name)
    artifacts.write_rows(uri, [_row(1)], ImageRef, [])
    artifacts._write_table(f"{uri}/data", to_table([_row(2), _row(3)], ImageRef))
    assert artifacts.commit(str(tmp_path), _PLAN, {}).num_rows == 3


def test_manifest_has_the_hash_of_every_file_of_the_parts(store: str) -> None:
    for part in (("deep", "w"), ("log",), ("checkpoints", "x")):
        storage.write_bytes(storage.join(store, "m", *part), b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    assert artifacts.manifest(storage.join(store, "m"), ["deep", "log"]) == {"deep/w": digest, "log": digest}


# Leases


@pytest.fixture(autouse=True)
def _settle_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_SETTLE_S", 0.01)
    monkeypatch.setattr(leases, "_LOOK_EVERY_S", 0.05)


def _lease_entry(**changes: Any) -> bytes:
    entry = {
        "holder": "other",
        "token": "t",
        **leases._place(),
        "pid": os.getpid(),
        "started": leases._process_start(os.getpid()),
        "renewed_at": time.time(),
    }
    return json.dumps({**entry, **changes}).encode()


def test_lease_of_a_live_run_is_refused_by_name(store: str) -> None:
    uri = storage.join(store, "a")
    with Lease(uri, "first"):
        with pytest.raises(BusyError, match=rf"a is being made by run 'first' \(process {os.getpid()} on "):
            Lease(uri, "second").__enter__()
        assert json.loads(storage.read_text(storage.join(uri, LEASE)))["holder"] == "first"
    assert not storage.exists(storage.join(uri, LEASE))
    with Lease(uri, "second"):
        pass


def test_lease_is_given_back_when_the_work_fails(store: str) -> None:
    with pytest.raises(RuntimeError), Lease(storage.join(store, "a"), "first"):
        raise RuntimeError
    assert not storage.exists(storage.join(store, "a", LEASE))


def _dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def _assert_taken_over(uri: str) -> None:
    with Lease(uri, "mine"):
        assert json.loads(storage.read_text(storage.join(uri, LEASE)))["holder"] == "mine"


def test_lease_of_a_dead_process_of_this_host_is_taken_over_at_once(store: str) -> None:
    uri = storage.join(store, "a")
    storage.write_bytes(storage.join(uri, LEASE), _lease_entry(pid=_dead_pid(), started="123"))
    _assert_taken_over(uri)


def test_lease_of_a_process_whose_number_was_given_to_another_is_taken_over(store: str) -> None:
    uri = storage.join(store, "a")
    storage.write_bytes(storage.join(uri, LEASE), _lease_entry(started="123"))
    _assert_taken_over(uri)


def test_lease_that_was_half_written_is_taken_over(store: str) -> None:
    uri = storage.join(store, "a")
    storage.write_bytes(storage.join(uri, LEASE), _lease_entry()[:20])
    _assert_taken_over(uri)


@contextmanager
def _renewed(uri: str, **changes: Any) -> Iterator[None]:
    """A lease that somebody renews."""
    ended = Event()

    def renew() -> None:
        while not ended.wait(0.02):
            storage.write_bytes(storage.join(uri, LEASE), _lease_entry(**changes))

    storage.write_bytes(storage.join(uri, LEASE), _lease_entry(**changes))
    thread = Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


_ELSEWHERE = [{"host": "elsewhere"}, {"pid_namespace": "pid:[1]"}, {"boot": "earlier"}]


@pytest.mark.parametrize("other", _ELSEWHERE)
def test_lease_of_another_machine_is_refused_when_it_is_seen_renewed(store: str, other: dict[str, str]) -> None:
    """A container or a boot is another machine: its processes' numbers are its own."""
    uri = storage.join(store, "a")
    with _renewed(uri, pid=_dead_pid(), started="123", **other), pytest.raises(BusyError, match="is being made by"):
        Lease(uri, "mine").__enter__()


@pytest.mark.parametrize("other", _ELSEWHERE)
def test_lease_of_another_machine_is_waited_for_until_it_expires(
    store: str, other: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    uri = storage.join(store, "a")
    expires = time.time() + 0.5
    storage.write_bytes(storage.join(uri, LEASE), _lease_entry(renewed_at=expires - LEASE_S, **other))
    _assert_taken_over(uri)
    assert time.time() >= expires and "a: waiting whether run 'other'" in caplog.text


def test_lease_of_another_machine_that_is_given_up_is_taken_at_once(store: str) -> None:
    uri = storage.join(store, "a")
    storage.write_bytes(storage.join(uri, LEASE), _lease_entry(host="elsewhere"))
    Timer(0.3, storage.remove, [storage.join(uri, LEASE)]).start()
    _assert_taken_over(uri)


def test_lease_taken_over_by_two_at_once_goes_to_the_later_where_nothing_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read the dead lease, the first replaces it, then the second replaces the first's."""
    uri = f"memory://store-{uuid.uuid4().hex}/a"
    storage.write_bytes(storage.join(uri, LEASE), _lease_entry(started="123"))

    def be_the_second(_: float) -> None:
        storage.remove(storage.join(uri, LEASE))
        storage.create_exclusively(storage.join(uri, LEASE), _lease_entry(holder="second"))

    monkeypatch.setattr(time, "sleep", be_the_second)
    with pytest.raises(BusyError, match="'second'"):
        Lease(uri, "first").__enter__()
    assert json.loads(storage.read_text(storage.join(uri, LEASE)))["holder"] == "second"


def test_commit_under_a_lease_that_was_lost_is_refused(store: str) -> None:
    uri = storage.join(store, _PLAN.name)
    artifacts.write_rows(uri, [_row(1)], ImageRef, [])
    with Lease(uri, "stopped for long"):
        storage.write_bytes(storage.join(uri, LEASE), _lease_entry())
        with pytest.raises(BusyError, match=r"was taken over by run 'other' .*may not commit"):
            artifacts.commit(store, _PLAN, {})
        storage.remove(storage.join(uri, LEASE))
        with pytest.raises(BusyError, match=r"was taken over by another run, which has ended"):
            artifacts.commit(store, _PLAN, {})
        assert artifacts.find(store, _PLAN) is None
    with Lease(uri, "next"):
        artifacts.commit(store, _PLAN, {})
    assert artifacts.find(store, _PLAN) is not None


def test_lease_that_was_lost_is_said(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.04)
    uri = storage.join(store, "a")
    with Lease(uri, "mine"):
        for _ in range(20):  # again where a renewal was just under way
            storage.write_bytes(storage.join(uri, LEASE), _lease_entry())
            time.sleep(0.1)
            if "a was taken over by another run" in caplog.text:
                break
    assert "a was taken over by another run" in caplog.text


def test_lease_of_a_system_without_process_times_is_taken_over_when_stale(store: str) -> None:
    uri = storage.join(store, "a")
    entry = _lease_entry(pid=_dead_pid(), started="", renewed_at=time.time() - LEASE_S * 1.1)
    storage.write_bytes(storage.join(uri, LEASE), entry)
    _assert_taken_over(uri)


def test_lease_is_renewed_while_held(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.04)
    uri = storage.join(store, "a")
    with Lease(uri, "mine"):
        first = json.loads(storage.read_text(storage.join(uri, LEASE)))["renewed_at"]
        _wait_for(lambda: json.loads(storage.read_text(storage.join(uri, LEASE)))["renewed_at"] > first)


def test_lease_that_was_taken_over_is_neither_renewed_nor_removed(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.04)
    uri = storage.join(store, "a")
    entry = storage.join(uri, LEASE)
    with Lease(uri, "stopped for long"):
        for _ in range(20):  # again where a renewal was just under way
            storage.write_bytes(entry, _lease_entry())
            time.sleep(0.1)
            if json.loads(storage.read_text(entry))["holder"] == "other":
                break
    assert json.loads(storage.read_text(entry))["holder"] == "other"


class _NetworkError(Exception):
    """As botocore's: no OSError."""


@pytest.mark.parametrize("broken", ["read_text", "write_bytes"])
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ConnectionError("reset by peer"), _NetworkError("no answer")]
)
def test_lease_that_cannot_be_renewed_for_a_moment_goes_on(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, broken: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(leases, "LEASE_S", 0.04)
    uri = storage.join(store, "a")
    with Lease(uri, "mine"):
        before = getattr(storage, broken)
        monkeypatch.setattr(storage, broken, fail)
        _wait_for(lambda: "cannot be renewed" in caplog.text)
        monkeypatch.setattr(storage, broken, before)
        first = json.loads(storage.read_text(storage.join(uri, LEASE)))["renewed_at"]
        _wait_for(lambda: json.loads(storage.read_text(storage.join(uri, LEASE)))["renewed_at"] > first)


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _take(uri: str, start: Barrier, finish: Barrier, number: int) -> None:
    start.wait()
    try:
        with Lease(uri, str(number)):
            Path(f"{uri}.held-{number}").touch()
            finish.wait()
    except BusyError:
        Path(f"{uri}.busy-{number}").touch()
        finish.wait()


@pytest.mark.parametrize("left_behind", [False, True], ids=["free", "dead holder"])
def test_lease_of_many_takers_at_once_goes_to_exactly_one(tmp_path: Path, left_behind: bool) -> None:
    context = multiprocessing.get_context("fork")
    for trial in range(5):
        uri = str(tmp_path / f"a{trial}")
        if left_behind:
            storage.write_bytes(f"{uri}/{LEASE}", _lease_entry(pid=_dead_pid(), started="123"))
        start, finish = context.Barrier(4), context.Barrier(4)
        takers = [context.Process(target=_take, args=(uri, start, finish, number)) for number in range(4)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(30)
        assert [taker.exitcode for taker in takers] == [0] * 4
        assert len(list(tmp_path.glob(f"a{trial}.held-*"))) == 1
        assert len(list(tmp_path.glob(f"a{trial}.busy-*"))) == 3
