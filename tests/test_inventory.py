"""What stands in a store: nothing that a run needs goes, and a forgotten image leaves no row."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from stic_ray import artifacts, inventory, storage
from stic_ray.artifacts import Plan
from stic_ray.audit import audit_run
from stic_ray.inventory import Traces
from stic_ray.leases import LEASE, Lease
from stic_ray.records import ImageRef, Pair, Reject, Response, Score, make_id
from stic_ray.sources import image_id

_KEYS = ("a.jpg", "b.jpg", "c.jpg", "bad.jpg")


def _made(store: str, plan: Plan, rows: list[Any], rejects: list[Reject], num_inputs: int) -> str:
    uri = storage.join(store, plan.name)
    record = type(rows[0])
    for row in rows[::2], rows[1::2]:
        artifacts.write_rows(uri, row, record, [])
    artifacts.write_rows(uri, [], record, rejects)
    artifacts.commit(store, plan, {"inputs": num_inputs, "seconds": 1.0})
    return uri


def _blank(record: type, **values: Any) -> Any:
    kinds = {"str": "", "int": 0, "float": 0.0}
    names = {name: kinds.get(getattr(kind, "__name__", str(kind)), []) for name, kind in record.__annotations__.items()}
    return record(**{**names, **values})


def _store(home: Path, root: str) -> dict[str, str]:
    """A run of four stages and a model on three good images and a bad one; the third image's answers are equal."""
    store, runs = f"{root}/store", f"{root}/runs"
    good = [image_id(key) for key in _KEYS[:3]]
    plans = {
        "images": Plan(stage="images", code_version=1, identity={"home": str(home)}, kind="ImageRef"),
    }
    for stage, parent, kind in (
        ("responses", "images", "Response"),
        ("pairs", "responses", "Pair"),
        ("pair_scores", "pairs", "Score"),
        ("stage1", "pair_scores", "model"),
    ):
        parents = {parent: plans[parent].fingerprint}
        identity = {"negatives": {"per_positive": 1}} if stage == "responses" else {}
        plans[stage] = Plan(stage=stage, code_version=1, identity=identity, parents=parents, kind=kind)
    refs = [_blank(ImageRef, id=image_id(key), key=key, uri=f"/photos/{key}") for key in _KEYS[:3]]
    bad = [Reject(id=image_id("bad.jpg"), stage="images", reason="the file is empty")]
    answers = [
        _blank(Response, id=make_id(ref.id, role), item_id=ref.id, image_id=ref.id, image_uri=ref.uri, role=role)
        for ref in refs
        for role in ("preferred", "dispreferred")
    ]
    pairs = [
        _blank(Pair, id=make_id("pair", ref.id), item_id=ref.id, image_id=ref.id, image_uri=ref.uri) for ref in refs[:2]
    ]
    scores = [
        _blank(Score, id=make_id("score", pair.id, role), item_id=pair.id, image_id=pair.image_id, role=role)
        for pair in pairs
        for role in ("chosen", "rejected")
    ]
    equal = [Reject(id=good[2], stage="pairs", reason="both answers are the same")]
    found = {
        "images": _made(store, plans["images"], refs, bad, 4),
        "responses": _made(store, plans["responses"], answers, [], 3),
        "pairs": _made(store, plans["pairs"], pairs, equal, 3),
        "pair_scores": _made(store, plans["pair_scores"], scores, [], 2),
    }
    storage.write_bytes(f"{store}/{plans['stage1'].name}/merged/model.bin", b"w")
    found["stage1"] = artifacts.commit(store, plans["stage1"], {"steps": 1}).uri
    storage.write_bytes(f"{runs}/first/artifacts.json", json.dumps(found).encode())
    return found


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3_bucket"))


def _ids(uri: str) -> set[str]:
    return {
        value
        for file in [*artifacts.data_files(uri), *artifacts.reject_files(uri)]
        for row in artifacts.read_file(file).to_pylist()
        for value in row.values()
        if isinstance(value, str)
    }


def _forget(store: str, key: str) -> Traces:
    traces = inventory.trace(store, image_id(key))
    inventory.forget(store, traces)
    return traces


def test_forget_leaves_no_row_of_the_image_and_every_other_row(root: str, tmp_path: Path) -> None:
    found = _store(tmp_path, root)
    before = {role: _ids(uri) for role, uri in found.items()}
    forgotten = _forget(f"{root}/store", "a.jpg")
    gone = {image_id("a.jpg"), "/photos/a.jpg", "a.jpg", make_id("pair", image_id("a.jpg"))}
    gone |= {make_id(image_id("a.jpg"), role) for role in ("preferred", "dispreferred")}
    gone |= {make_id("score", make_id("pair", image_id("a.jpg")), role) for role in ("chosen", "rejected")}
    for role, uri in found.items():
        assert _ids(uri) == before[role] - gone, role
    rows = {name.rpartition("-")[0]: num_rows for name, num_rows in forgotten.num_rows.items()}
    assert rows == {"images": 1, "responses": 2, "pairs": 1, "pair_scores": 2}
    assert [name.rpartition("-")[0] for name in forgotten.models] == ["stage1"]
    assert audit_run(f"{root}/runs/first").faults == []
    with pytest.raises(ValueError, match=r"no artifact in .* holds a row of image"):
        _forget(f"{root}/store", "a.jpg")


@pytest.mark.slow
def test_forget_reaches_what_a_run_would_go_on_with(root: str, tmp_path: Path) -> None:
    _store(tmp_path, root)
    started = f"{root}/store/pairs-00000000000000aa"
    pairs = [_blank(Pair, id=make_id("pair", key), image_id=image_id(key)) for key in _KEYS[:2]]
    artifacts.write_rows(started, pairs, Pair, [Reject(id=image_id("bad.jpg"), stage="pairs", reason="no answer")])
    _forget(f"{root}/store", "a.jpg")
    assert [row.id for row in artifacts.read(started, Pair)] == [pairs[1].id]
    _forget(f"{root}/store", "bad.jpg")
    assert artifacts.read_rejects(started) == []


def test_forget_says_what_it_would_remove_and_removes_it_when_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _store(tmp_path, str(tmp_path))
    command = ["forget", f"{tmp_path}/store", "--key", "a.jpg"]
    assert inventory.main(command) == 0
    told = capsys.readouterr().out
    assert "image /photos/a.jpg\n" in told and "1 rows" in told and told.endswith("--yes removes these rows\n")
    assert image_id("a.jpg") in _ids(found["images"])
    assert inventory.main([*command, "--yes"]) == 0
    assert image_id("a.jpg") not in _ids(found["images"])


@pytest.mark.slow
def test_forget_with_models_removes_what_was_trained_and_made_with_it(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _store(tmp_path, root)
    store = f"{root}/store"
    model = artifacts.load(found["stage1"]).fingerprint
    refs = [_blank(ImageRef, id="other")]
    said = Plan(stage="predictions", code_version=1, identity={}, parents={"model": model}, kind="rows")
    found["said"] = _made(store, said, refs, [], 1)
    found["other"] = _made(store, Plan(stage="listing", code_version=1, identity={}, kind="rows"), refs, [], 1)
    command = ["forget", store, "--key", "a.jpg"]
    assert inventory.main(command) == 0
    assert "--models removes the models too" in capsys.readouterr().out
    assert inventory.main([*command, "--models", "--yes"]) == 0
    told = capsys.readouterr().out
    assert f"{said.name}: made with such a model" in told and "a model trained with it" in told
    gone = {role for role, uri in found.items() if not storage.exists(uri)}
    assert gone == {"stage1", "said"}


def test_forget_of_an_unknown_key_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _store(tmp_path, str(tmp_path))
    assert inventory.main(["forget", f"{tmp_path}/store", "--key", "none.jpg"]) == 2
    assert "key 'none.jpg'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("key", ["c.jpg", "bad.jpg"])
def test_forget_reaches_rejects_too(root: str, tmp_path: Path, key: str) -> None:
    found = _store(tmp_path, root)
    _forget(f"{root}/store", key)
    assert all(image_id(key) not in _ids(uri) for uri in found.values())
    assert audit_run(f"{root}/runs/first").faults == []


@pytest.mark.parametrize("function", ["write_bytes", "remove"])
@pytest.mark.parametrize("after", range(7))
def test_forget_that_was_cut_off_is_finished_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, function: str
) -> None:
    found = _store(tmp_path, str(tmp_path))
    before = {role: _ids(uri) for role, uri in found.items()}
    real = getattr(storage, function)
    done: list[str] = []

    def stop(uri: str, *rest: bytes) -> None:  # of every artifact a record is written, what is left, the old removed
        if len(done) == after and not uri.endswith(LEASE):  # a dead process's lease is nobody's
            raise KeyboardInterrupt
        done.append(uri)
        real(uri, *rest)

    monkeypatch.setattr(storage, function, stop)
    with suppress(KeyboardInterrupt):
        _forget(f"{tmp_path}/store", "a.jpg")
    monkeypatch.undo()
    with suppress(ValueError):  # it was done
        _forget(f"{tmp_path}/store", "a.jpg")
    assert audit_run(f"{tmp_path}/runs/first").faults == []
    assert [role for role, uri in found.items() if image_id("a.jpg") in _ids(uri)] == []
    assert [len(before[role] - _ids(uri)) for role, uri in found.items()] == [3, 4, 3, 4, 0]
    assert audit_run(f"{tmp_path}/runs/first").faults == []


def test_prune_refuses_references_that_cannot_be_and_runs_that_know_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _store(tmp_path, str(tmp_path))
    (tmp_path / "elsewhere" / "mine").mkdir(parents=True)
    command = ["prune", f"{tmp_path}/store", "--yes", "--runs"]
    assert inventory.main([*command, f"{tmp_path}/elsewhere"]) == 2
    assert "no run in --runs" in capsys.readouterr().err
    (tmp_path / "runs" / "first" / "artifacts.json").write_text('{"pairs": 5}')
    assert inventory.main([*command, f"{tmp_path}/runs"]) == 2
    assert "artifacts.json is damaged" in capsys.readouterr().err


def test_prune_removes_what_no_run_refers_to_and_nothing_else(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _store(tmp_path, root)
    store = f"{root}/store"
    plan = Plan(stage="images", code_version=9, identity={}, kind="ImageRef")
    unneeded = _made(store, plan, [_blank(ImageRef, id="x")], [], 1)
    artifacts.write_rows(f"{store}/pairs-00000000000000aa", [_blank(Pair, id="x")], Pair, [])
    arguments = ["prune", store, "--runs", f"{root}/runs"]
    assert inventory.main(arguments) == 0
    assert "1 artifacts that no run in" in capsys.readouterr().out
    assert storage.exists(unneeded)
    assert inventory.main([*arguments, "--yes"]) == 0
    assert not storage.exists(unneeded)
    assert storage.exists(f"{store}/pairs-00000000000000aa") and all(storage.exists(uri) for uri in found.values())
    assert inventory.main([*arguments, "--yes", "--unfinished"]) == 0
    assert not storage.exists(f"{store}/pairs-00000000000000aa")
    assert audit_run(f"{root}/runs/first").faults == []


def test_prune_leaves_what_a_broken_run_refers_to_and_what_is_no_artifact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _store(tmp_path, str(tmp_path))
    (tmp_path / "runs" / "first" / "artifacts.json").rename(tmp_path / "runs" / "first" / "underway.json")
    photos = tmp_path / "store" / "my_photos"
    photos.mkdir()
    command = ["prune", f"{tmp_path}/store", "--yes", "--unfinished"]
    assert inventory.main([*command, "--runs", f"{tmp_path}/elsewhere"]) == 2
    assert "elsewhere does not exist: give the folder of the runs" in capsys.readouterr().err
    assert inventory.main([*command, "--runs", f"{tmp_path}/runs"]) == 0
    assert photos.is_dir() and all(storage.exists(uri) for uri in found.values())


def test_list_names_every_artifact_with_size_and_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _store(tmp_path, str(tmp_path))
    assert inventory.main(["list", f"{tmp_path}/store", "--runs", f"{tmp_path}/runs"]) == 0
    *lines, total = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {uri.rpartition("/")[2] for uri in found.values()}
    assert all(line.endswith("first") for line in lines)
    assert total.startswith("5 artifacts, ") and total.endswith(" kB")


@pytest.mark.parametrize("action", [["prune", "--yes"], ["forget", "--key", "a.jpg", "--yes"]])
def test_nothing_is_removed_while_a_run_works_in_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], action: list[str]
) -> None:
    found = _store(tmp_path, str(tmp_path))
    before = {role: _ids(uri) for role, uri in found.items()}
    command = [action[0], f"{tmp_path}/store", *action[1:], "--runs", f"{tmp_path}/runs"]
    with Lease(f"{tmp_path}/store/pairs-00000000000000bb", "other"):
        assert inventory.main(command) == 2
    assert "pairs-00000000000000bb is being made by run 'other'" in capsys.readouterr().err
    assert {role: _ids(uri) for role, uri in found.items()} == before


def test_missing_store_and_damaged_run_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inventory.main(["list", f"{tmp_path}/none"]) == 2
    assert "none does not exist" in capsys.readouterr().err
    _store(tmp_path, str(tmp_path))
    (tmp_path / "runs" / "first" / "artifacts.json").write_text("{")
    assert inventory.main(["prune", f"{tmp_path}/store", "--runs", f"{tmp_path}/runs", "--yes"]) == 2
    assert "artifacts.json is damaged" in capsys.readouterr().err
