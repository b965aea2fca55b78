"""The audit is silent on a sound run and names every kind of damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from stic_ray import artifacts, audit, storage, trials
from stic_ray.artifacts import RECORD, Plan
from stic_ray.records import ImageRef, Pair, Reject, Response, make_id
from stic_ray.trials import Trial

_IDS = sorted(make_id("image", number) for number in range(6))


def _row(record: type, **values: Any) -> Any:
    types = {str: "", "str": "", int: 0, "int": 0, float: 0.0}
    return record(**{**{name: types[kind] for name, kind in record.__annotations__.items()}, **values})


def _response(image_id: str, role: str) -> Response:
    row: Response = _row(
        Response, id=make_id("response", image_id, role), item_id=image_id, image_id=image_id, role=role
    )
    return row


def _pair(image_id: str) -> Pair:
    row: Pair = _row(Pair, id=make_id("pair", image_id), item_id=image_id, image_id=image_id, chosen="a" * 50)
    return row


def _plan(stage: str, parents: dict[str, str]) -> Plan:
    identity = {"negatives": {"per_positive": 1}} if stage == "responses" else {}
    return Plan(stage=stage, code_version=1, identity=identity, parents=parents, kind="x")


def _commit(store: str, stage: str, parents: dict[str, str], figures: dict[str, Any] | None = None) -> str:
    plan = _plan(stage, parents)
    artifacts.commit(store, plan, figures or {})
    return plan.fingerprint


def _uri(store: str, stage: str, parents: dict[str, str]) -> str:
    return storage.join(store, _plan(stage, parents).name)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Six images: the last one failed in generation, the one before gave two equal answers; and a model."""
    store = str(tmp_path / "store")
    images = _uri(store, "images", {})
    artifacts.write_rows(images, [_row(ImageRef, id=key) for key in _IDS], ImageRef, [])
    parents = {"images": _commit(store, "images", {}, {"inputs": len(_IDS)}), "model": "base-0"}
    responses = _uri(store, "responses", parents)
    for part in (_IDS[:3], _IDS[3:5]):
        rows = [_response(key, role) for key in part for role in ("preferred", "dispreferred")]
        artifacts.write_rows(responses, rows, Response, [])
    artifacts.write_rows(responses, [], Response, [Reject(id=_IDS[5], stage="responses", reason="bad")])
    of_pairs = {"responses": _commit(store, "responses", parents)}
    pairs = _uri(store, "pairs", of_pairs)
    for part in (_IDS[:2], _IDS[2:4]):
        artifacts.write_rows(pairs, [_pair(key) for key in part], Pair, [])
    artifacts.write_rows(pairs, [], Pair, [Reject(id=_IDS[4], stage="pairs", reason="same")])
    of_model = {"pairs": _commit(store, "pairs", of_pairs), "model": "base-0"}
    model = _uri(store, "stage1", of_model)
    storage.write_bytes(f"{model}/merged/model.safetensors", b"weights")
    _commit(store, "stage1", of_model, {"manifest": artifacts.manifest(model, ["merged"])})
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    uris = {"images": images, "responses": responses, "pairs": pairs, "stage1": model}
    (folder / "artifacts.json").write_text(json.dumps(uris))
    return folder


def _place(run: Path, role: str) -> Path:
    return Path(json.loads((run / "artifacts.json").read_text())[role])


def _files(run: Path, role: str, kind: str = "data") -> list[Path]:
    return sorted((_place(run, role) / kind).glob("*.parquet"))


def test_sound_run_has_no_faults(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.audit_run(str(run)).faults == []
    assert audit.main([str(run)]) == 0
    assert capsys.readouterr().out.startswith(f"{run}: 4 artifacts, ")


def test_artifacts_of_a_sweeps_trials_are_looked_at_once(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = run.parent / "sweep"
    home = Path(trials.folder(str(sweep), "a"))
    trials.write(str(sweep), Trial(id="a", number=0, schedule=({},), state="running"))
    trials.write(str(sweep), Trial(id="b", number=1, schedule=({},), state="failed"))
    references = json.loads((run / "artifacts.json").read_text())
    (home / "artifacts.json").write_text(json.dumps(references))
    (sweep / "artifacts.json").write_text(json.dumps({"images": references["images"]}))
    assert audit.main([str(sweep)]) == 0
    assert f": {len(references)} artifacts," in capsys.readouterr().out
    file = next(Path(references["responses"]).glob("**/*.parquet"))
    file.unlink()
    assert audit.main([str(sweep)]) == 1
    assert "trial a: responses: " in capsys.readouterr().out


def test_an_attempt_that_has_not_ended_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "artifacts.json").rename(run / "underway.json")
    assert audit.main([str(run)]) == 2
    assert "is not finished" in capsys.readouterr().err
    (run / "artifacts.json").write_bytes((run / "underway.json").read_bytes())
    assert audit.main([str(run)]) == 0
    later, verdict = capsys.readouterr().out.splitlines()
    assert later.startswith("A later attempt") and verdict.endswith(": nothing lost")


def _remove_row(run: Path) -> None:
    table = artifacts.read_file(str(_files(run, "pairs")[0]))
    _files(run, "pairs")[0].unlink()
    artifacts._write_table(str(_place(run, "pairs") / "data"), table.slice(1))


def _double_row(run: Path) -> None:
    table = artifacts.read_file(str(_files(run, "pairs")[0]))
    artifacts._write_table(str(_place(run, "pairs") / "data"), table.slice(0, 1))


def _truncate(run: Path) -> None:
    data = _files(run, "pairs")[0].read_bytes()
    _files(run, "pairs")[0].write_bytes(data[: len(data) // 2])


def _flip(run: Path) -> None:
    file = _files(run, "pairs")[0]
    chosen = pq.read_schema(file).names.index("chosen")
    column = pq.ParquetFile(file).metadata.row_group(0).column(chosen)
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(file.read_bytes())
    data[start + column.total_compressed_size - 1] ^= 1  # the last byte of the column's pages
    file.write_bytes(data)


def _move_reject_to_output(run: Path) -> None:
    artifacts.write_rows(str(_place(run, "pairs")), [_pair(_IDS[4])], Pair, [])


def _foreign_row(run: Path) -> None:
    artifacts.write_rows(str(_place(run, "pairs")), [_pair(make_id("image", "strange"))], Pair, [])


def _swap_row(run: Path) -> None:
    """The counts stay right: only the lineage tells."""
    _files(run, "pairs")[0].unlink()
    artifacts.write_rows(str(_place(run, "pairs")), [_pair(make_id("image", n)) for n in (97, 98)], Pair, [])


def _write_record(run: Path, role: str, **changes: Any) -> None:
    file = _place(run, role) / RECORD
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _lose_one_answer_of_two(run: Path) -> None:
    table = artifacts.read_file(str(_files(run, "responses")[0]))
    _files(run, "responses")[0].unlink()
    artifacts._write_table(str(_place(run, "responses") / "data"), table.slice(1))


def _change_model(run: Path) -> None:
    (_place(run, "stage1") / "merged" / "model.safetensors").write_bytes(b"weightz")


def _remove_model(run: Path) -> None:
    (_place(run, "stage1") / "merged" / "model.safetensors").unlink()


def _damage_record(run: Path) -> None:
    (_place(run, "pairs") / RECORD).write_text('{"stage": ')


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_remove_row, ["pairs: 3 rows, but the record says 4", "1 inputs are lost"]),
        (lambda run: _files(run, "pairs")[0].unlink(), ["pairs: 2 rows, but the record says 4", "2 inputs are lost"]),
        (_double_row, ["pairs: 1 ids stand twice", "5 rows, but the record says 4", "another number of rows"]),
        (_truncate, ["pairs: ", ".parquet cannot be read"]),
        (_flip, ["pairs: ", ".parquet cannot be read"]),
        (lambda run: (_place(run, "pairs") / RECORD).unlink(), ["pairs: ", "has no record.json"]),
        (_damage_record, ["pairs: ", "record.json is damaged"]),
        (
            lambda run: _files(run, "pairs", "rejects")[0].unlink(),
            ["pairs: 0 rejects, but the record says 1", f"1 inputs are lost, like {_IDS[4]}"],
        ),
        (
            lambda run: _files(run, "responses", "rejects")[0].unlink(),
            ["responses: 0 rejects, but the record says 1", f"1 inputs are lost, like {_IDS[5]}"],
        ),
        (_move_reject_to_output, [f"1 inputs are both output and reject, like {_IDS[4]}"]),
        (_foreign_row, ["1 rows come from no input"]),
        (_swap_row, ["2 inputs are lost", "2 rows come from no input"]),
        (
            lambda run: _write_record(run, "images", inputs=7),
            ["images: 7 inputs were read, but 6 came out"],
        ),
        (_lose_one_answer_of_two, ["responses: 9 rows, but the record says 10", "another number of rows"]),
        (_change_model, ["stage1: merged/model.safetensors is not what was written"]),
        (_remove_model, ["stage1: merged/model.safetensors is missing"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_damaged_run_is_named_and_gives_exit_1(
    run: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], expected: list[str]
) -> None:
    damage(run)
    assert audit.main([str(run)]) == 1
    out = capsys.readouterr().out
    assert [part for part in expected if part not in out] == [], out
    assert out.splitlines()[-1].endswith(" faults")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "holds no artifacts.json"),
        ("{", "artifacts.json is damaged"),
        ("[]", "artifacts.json is damaged"),
        ('{"images": 3}', "artifacts.json is damaged"),
    ],
)
def test_no_run_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "artifacts.json").write_text(content)
    assert audit.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and reason in line


def test_run_out_of_reach_is_one_line_and_exit_2(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: str) -> str:
        raise PermissionError("Forbidden")

    monkeypatch.setattr(storage, "read_text", refuse)
    assert audit.main([str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run} cannot be reached: Forbidden")


def test_file_in_place_of_a_run_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert audit.main([str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
