import json
import math
from pathlib import Path

import pytest

from harness import ROOT, Bar, describe_commit, render_table, write_results


@pytest.mark.parametrize(
    ("value", "limit", "direction", "met"),
    [
        (2.0, 1.0, "min", True),
        (1.0, 1.0, "min", True),
        (0.9, 1.0, "min", False),
        (0.9, 1.0, "max", True),
        (1.0, 1.0, "max", True),
        (1.1, 1.0, "max", False),
        (math.nan, 1.0, "min", False),
        (math.nan, 1.0, "max", False),
    ],
)
def test_bar_met_follows_its_direction(value: float, limit: float, direction: str, met: bool) -> None:
    assert Bar("b", value, limit, "min" if direction == "min" else "max").met is met


def test_write_results_leaves_a_complete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks" / "speed.py"), "--steps", "3", "--out", "/data/x 1"])
    code = write_results(
        "speed", {"steps_per_s": 2.5, "raw": [1, 2]}, [Bar("speed-up", 2.5, 2.0, "min")], directory=tmp_path
    )
    results = json.loads((tmp_path / "speed.json").read_text())
    assert code == 0
    assert results["figures"] == {"steps_per_s": 2.5, "raw": [1, 2]}
    assert results["bars"] == [{"name": "speed-up", "value": 2.5, "limit": 2.0, "direction": "min", "met": True}]
    assert results["command"] == "python ./benchmarks/speed.py --steps 3 --out .../x 1"
    assert set(results["versions"]) == {"python", "torch", "ray", "transformers", "peft", "pyarrow"}
    assert results["machine"]["cores"] >= 1
    assert results["machine"]["memory_bytes"] > 2**20
    assert results["commit"] == describe_commit()


def test_write_results_with_one_missed_bar_returns_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bars = [Bar("kept", 3.0, 2.0, "min"), Bar("missed", 3.0, 2.0, "max")]
    assert write_results("x", {}, bars, directory=tmp_path) == 1
    assert [bar["met"] for bar in json.loads((tmp_path / "x.json").read_text())["bars"]] == [True, False]
    assert "MISSED" in capsys.readouterr().out


def test_write_results_with_no_number_stays_valid_json(tmp_path: Path) -> None:
    code = write_results("x", {"loss": [math.nan, 1.0]}, [Bar("loss", math.inf, 1.0, "max")], directory=tmp_path)
    text = (tmp_path / "x.json").read_text()
    results = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} in {text}"))
    assert code == 1
    assert results["figures"] == {"loss": [None, 1.0]}
    assert results["bars"][0]["value"] is None


def test_write_results_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    sibling = f"{ROOT}-other"
    figures = {"inside": str(ROOT / "runs"), "beside": str(ROOT.parent / "shared"), "sibling": sibling}
    write_results("x", figures, [], directory=tmp_path)
    written = json.loads((tmp_path / "x.json").read_text())["figures"]
    assert written == {"inside": "./runs", "beside": "../shared", "sibling": f"../{ROOT.name}-other"}


def test_render_table_aligns_single_values_and_leaves_out_lists() -> None:
    table = render_table("x", {"a": 1.0, "long_name": 12345.678, "raw": [1]}, [Bar("a", 1.0, 2.0, "max")])
    assert table.splitlines() == ["== x", "  a          1", "  long_name  1.235e+04", "  a          1 <= 2  met"]
