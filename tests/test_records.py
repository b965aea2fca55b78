"""Records and Arrow: the same rows back, one schema each, ids for ever."""

from dataclasses import fields
from typing import Any

import pyarrow as pa
import pytest

from stic_ray.records import (
    Ask,
    Gain,
    ImageRef,
    Pair,
    Prediction,
    Question,
    Reject,
    Response,
    Sample,
    Score,
    Selected,
    Short,
    Single,
    Turn,
    Verdict,
    from_table,
    make_id,
    make_seed,
    reason_kind,
    schema,
    to_table,
)

_TURNS = [Turn(role="user", text="what ?"), Turn(role="assistant", text="a dög")]
_VALUES: dict[Any, Any] = {
    str: "tëxt",
    int: 2**62,
    float: -1.25e-300,
    list[Turn]: _TURNS,
    list[str]: ["", "tëxt"],
    list[float]: [-1.25e-300, 0.5],
    list[Short]: [2**31 - 1, -1],
    list[Single]: [-0.25, 2.0**-100],
    list[bool]: [True, False],
}


def _row(record: type) -> Any:
    return record(**{entry.name: _VALUES[entry.type] for entry in fields(record)})


@pytest.mark.parametrize(
    "record", [ImageRef, Response, Pair, Sample, Score, Gain, Selected, Question, Prediction, Ask, Verdict, Reject]
)
def test_to_table_from_table_gives_the_same_rows(record: type) -> None:
    rows = [_row(record), _row(record)]
    table = to_table(rows, record)
    assert from_table(table, record) == rows
    assert table.schema == schema(record)
    assert table.schema.names == [entry.name for entry in fields(record)]
    assert not any(field.nullable for field in table.schema)


@pytest.mark.parametrize("record", [ImageRef, Sample, Reject])
def test_to_table_without_rows_keeps_the_schema(record: type) -> None:
    table = to_table([], record)
    assert (table.num_rows, table.schema) == (0, schema(record))
    assert from_table(table, record) == []


def test_schema_of_a_sample_holds_turns_as_a_list_of_structs() -> None:
    turn = pa.struct([pa.field("role", pa.string(), nullable=False), pa.field("text", pa.string(), nullable=False)])
    assert schema(Sample).field("turns").type == pa.list_(turn)
    assert schema(Score).field("token_ids").type == pa.list_(pa.int32())
    assert schema(Score).field("logp").type == pa.list_(pa.float32())
    assert schema(Selected).field("used").type == pa.list_(pa.bool_())
    assert schema(Selected).field("mean_gain").type == pa.float64()
    assert schema(Response).field("seed").type == pa.int64()


@pytest.mark.parametrize("names", [["id", "stage"], ["id", "stage", "reason", "more"], ["stage", "id", "reason"], []])
def test_from_table_other_columns_are_refused_by_name(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"Reject: the table has columns \[.*\], not \['id', 'stage', 'reason'\]"):
        from_table(pa.table({name: ["x"] for name in names}), Reject)


def test_make_id_is_what_it_was_in_the_first_release() -> None:
    assert make_id("image", "a/b.png") == "2d60b5d3dfcf2ffeb1cd9efd9129ab2f"
    assert make_id("pair", 1, "ü") == "f95d1ed5d8d97819f07710dcb2a344e8"


def test_make_seed_is_what_it_was_in_the_first_release() -> None:
    assert make_seed(0, "x", "preferred") == 7903056824186062014


def test_make_id_depends_on_every_part_and_on_where_it_ends() -> None:
    parts: list[tuple[object, ...]] = [("a", "b"), ("ab",), ("ab", ""), ("", "ab"), ("b", "a"), ("a", "b", ""), ()]
    assert len({make_id(*each) for each in parts}) == len(parts)
    assert make_id(1) == make_id("1")


def test_make_seed_fits_a_signed_64_bit_column_and_spreads() -> None:
    seeds = [make_seed(0, number) for number in range(2000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    assert 0.45 < sum(seed >= 2**62 for seed in seeds) / len(seeds) < 0.55


def test_reason_kind_leaves_out_file_and_line_alone() -> None:
    for place in ("x.jsonl line 3", "a b/x: y.json line 17 (record 2)", "x.parquet row 9"):
        assert reason_kind(f"{place}: an answer: line 4: is empty") == "an answer: line 4: is empty"
    for reason in ("an answer is empty", "line 3", "damaged table: row 3 of x", "the row holds 2 images: no"):
        assert reason_kind(reason) == reason
