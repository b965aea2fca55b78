"""The report and the closing table, with ground truth and without."""

import re
from dataclasses import replace
from html import unescape
from typing import Any

import pytest

from stic_ray.report.markdown import (
    Comparison,
    DescribedImage,
    Report,
    StageLine,
    TrainingLine,
    escape,
    render_report,
    render_table,
)

STAGES = (
    StageLine(
        name="generate",
        fingerprint="0123456789abcdef",
        made="384 rows",
        num_rejects=3,
        rejects_by_reason={"image does not decode": 2, "empty | answer": 1},
        seconds=12.34,
        reused=False,
    ),
    StageLine(
        name="pair",
        fingerprint="fedcba9876543210",
        made="380 rows",
        num_rejects=0,
        rejects_by_reason={},
        seconds=0.5,
        reused=True,
    ),
)
HOSTILE = (
    "<script>alert(1)</script> | **bold** [x](javascript:y) `code` ![i](http://z)\n\n# title\n<img src=x> &lt; www.a.b"
)


def block(chair_i: float) -> dict[str, Any]:
    pope = {"accuracy": 90.0, "precision": 91.0, "recall": 92.0, "f1": 91.5, "yes_ratio": 50.5}
    return {
        "describe_simple": {"chair_i": chair_i, "chair_s": 2 * chair_i, "recall": 63.0, "mean_length": 11.2},
        "describe_detailed": {"chair_i": 20.0, "chair_s": 40.0, "recall": 75.0, "mean_length": 12.2},
        "pope": {"random": pope, "popular": pope, "adversarial": pope},
        "questions": {"accuracy": 80.0, "color": 95.0, "where": 65.0},
        "questions_dar": {"accuracy": 82.0, "color": 96.0, "where": 68.0},
    }


_TITLES = {
    "describe_simple/chair_i": ("CHAIR_i", True),
    "describe_simple/recall": ("recall", False),
    "pope/adversarial/accuracy": ("adversarial accuracy", False),
    "questions/accuracy": ("accuracy", False),
    "questions_dar/accuracy": ("accuracy", False),
}
FIGURES = {name: {"title": title, "less_is_better": less} for name, (title, less) in _TITLES.items()}


def measured() -> dict[str, Any]:
    models = {"base": 34.1, "stage1": 20.2, "stage1_control": 22.0, "stage2": 21.0, "stage2_control": 21.5}
    bounds = {"base": {"describe_simple": {"chair_i": [32.0, 36.0]}}}
    split = {name: block(value) for name, value in models.items()}
    dev = {"base": block(33.3), "intervals": {}, "figures": FIGURES}
    return {**split, "intervals": bounds, "figures": FIGURES, "dev": dev}


def make_report(summary: dict[str, Any], **parts: Any) -> Report:
    command = "python jobs/stic_pipeline.py name=first"
    return Report(name="first", command=command, summary=summary, stages=STAGES, **parts)


COMPARISONS = (
    Comparison(model="stage1", against="base", figures={"describe_simple/chair_i": (-13.9, -15.7, -12.1)}),
    Comparison(model="stage1", against="stage1_control", figures={"describe_simple/chair_i": (-1.8, -2.9, 0.2)}),
)


def rows_of(text: str) -> dict[str, list[str]]:
    tables = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0]: cells[1:] for cells in reversed(tables)}


def test_report_headline_says_change_interval_and_control() -> None:
    headline = unescape(render_report(make_report(measured(), comparisons=COMPARISONS)).splitlines()[2])
    assert headline == (
        "**Stage 1 lowered describe_simple: CHAIR_i ↓ (34.1 before, 20.2 after; difference -13.9, 95% interval -15.7 "
        "to -12.1); its control (SFT on the preferred descriptions only) has 22.0; stage 1 minus control -1.8, 95% "
        "interval -2.9 to +0.2, which includes 0.**"
    )


def test_report_headline_interval_over_zero_claims_no_change() -> None:
    comparisons = (Comparison(model="stage1", against="base", figures={"describe_simple/chair_i": (-1.0, -3.0, 1.0)}),)
    headline = unescape(render_report(make_report(measured(), comparisons=comparisons)).splitlines()[2])
    assert headline.startswith("**Stage 1 did not clearly change describe_simple: CHAIR_i")


def test_report_headline_without_control_says_so() -> None:
    summary = {"base": block(34.0), "stage1": block(20.0), "intervals": {}, "figures": FIGURES}
    assert "No control was trained beside it" in render_report(make_report(summary)).splitlines()[2]


def test_report_headline_falls_back_to_what_was_measured() -> None:
    accuracies = {"base": {"questions": {"accuracy": 70.0}}, "stage2": {"questions": {"accuracy": 72.0}}}
    summary = {**accuracies, "figures": FIGURES}
    headline = unescape(render_report(make_report(summary)).splitlines()[2])
    assert headline.startswith("**Stage 2 raised questions: accuracy (70.0 before, 72.0 after)")


def test_report_table_has_all_models_and_intervals() -> None:
    text = unescape(render_report(make_report(measured(), comparisons=COMPARISONS)))
    header = "|  | base | stage 1 | control of stage 1 | stage 2 | control of stage 2 |"
    assert header in text
    rows = rows_of(text)
    assert rows["describe_simple: CHAIR_i ↓"] == ["34.1 [32.0, 36.0]", "20.2", "22.0", "21.0", "21.5"]
    assert rows["questions, described first: accuracy"] == ["82.0"] * 5
    assert rows["questions, where"] == ["65.0"] * 5
    assert "## Dev split" in text
    assert "| describe_simple: CHAIR_i ↓ | 33.3 |" in text
    assert "| describe_simple: CHAIR_i ↓ | -13.9 [-15.7, -12.1] \\* | -1.8 [-2.9, +0.2] |" in text


def test_report_says_counts_rejects_lineage_training_groups_and_command() -> None:
    training = (TrainingLine(stage="stage1", first={"stage1/loss": 0.9, "accuracy": 0.5}, last={"stage1/loss": 0.25}),)
    training = (replace(training[0], exported={"step": 30.0, "validation_loss": 0.75}),)
    groups = {"base": {"questions": {"many objects": {"accuracy": 71.0}}}, "stage2": {"questions": {}}}
    report = make_report(measured(), training=training, groups=groups, artifacts={"adapter": "runs/first/adapter"})
    text = render_report(report)
    rows = rows_of(text)
    assert "| generate | 384 rows | 3 | 12.3 | made |" in text
    assert "| pair | 380 rows | 0 | 0.5 | reused |" in text
    assert "| generate | image does not decode | 2 |" in text
    assert "| generate | empty &#124; answer | 1 |" in text
    assert "| generate | 0123456789abcdef |" in text
    assert rows["stage1"] == ["0.9 to 0.25", "-", "-", "0.75, step 30 kept"]
    assert rows["questions&#58; many objects"] == ["71.0", "-"]
    assert rows["adapter"] == ["runs/first/adapter"]
    assert "```\npython jobs/stic_pipeline.py name=first\n```" in text


def test_report_without_ground_truth_still_stands() -> None:
    samples = (
        DescribedImage(
            image="photos/a.jpg", prompt="Describe.", objects=(), descriptions={"base": "a dog", "stage1": "one dog"}
        ),
    )
    text = render_report(make_report({"base": {}, "stage1": {}, "intervals": {}}, samples=samples))
    assert "**This run has no ground truth to be measured on.** Its 2 stages rejected or left out 3 inputs;" in text
    assert "## Test split" not in text
    assert "## Differences" not in text
    assert "| base | a dog |\n| stage 1 | one dog |" in text
    assert "| generate | 384 rows | 3 |" in text
    assert render_report(make_report({})).startswith("# first\n\n**This run has no ground truth")


def test_report_model_text_shows_as_text() -> None:
    sample = DescribedImage(
        image="<b>.png", prompt=HOSTILE, objects=("<i>red</i> circle",), descriptions={"base": HOSTILE}
    )
    text = render_report(make_report({}, samples=(sample,)))
    assert not re.search(r"<(script|img|b|i)\b", text)
    row = next(line for line in text.splitlines() if line.startswith("| base |"))
    assert row.count("|") == 3
    assert not re.search(r"[*`\[\]<>!]", row)
    assert not any(line.startswith("# title") for line in text.splitlines())


def test_report_very_long_description_is_cut_and_says_by_how_much() -> None:
    sample = DescribedImage(image="a.png", prompt="Describe.", objects=(), descriptions={"base": "dog " * 1000})
    text = render_report(make_report({}, samples=(sample,)))
    assert "2800 more characters" in text
    assert len(text) < 3000


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a red circle, top.", "a red circle, top."),
        ("<b>&amp;", "&#60;b&#62;&#38;amp;"),
        ("a|b\nc", "a&#124;b c"),
        ("- item", "&#45; item"),
        ("https://x.y", "https&#58;//x.y"),
        ("www.x.y", "www&#46;x.y"),
        ("a\x1b[31m\u202eb", "a\ufffd&#91;31m\ufffdb"),
    ],
)
def test_escape_formatting_becomes_entities(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_report_command_with_backticks_stays_in_its_fence() -> None:
    report = Report(name="x", command="echo ```", summary={}, stages=())
    assert "````\necho ```\n````" in render_report(report)


def test_table_all_models_fits_100_columns_and_aligns() -> None:
    lines = render_table(measured()).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0].split("  ")[-1].strip() == "control of stage 2"
    assert lines[2].split() == ["describe_simple:", "CHAIR_i", "↓", "34.1", "20.2", "22.0", "21.0", "21.5"]
    assert {len(line) for line in lines[:7]} == {len(lines[0])}


def test_table_shows_three_figures_of_a_benchmark_and_says_what_was_not_counted() -> None:
    figures = {f"pope/{name}": {"title": name, "less_is_better": False} for name in "abcd"}
    summary = {
        "base": {"pope": dict.fromkeys("abcd", 1.0)},
        "figures": figures,
        "coverage": {"base": {"pope": {"asked": 9, "the image file is missing": 2}}},
    }
    lines = render_table(summary).splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["pope:"] * 3
    assert lines[-1] == "pope, base: 9 asked, not counted 2 the image file is missing"
    assert "- pope, base: 9 asked" in unescape(render_report(make_report(summary)))


def test_table_and_report_have_rounds_before_the_last_model_of_their_stage() -> None:
    models = ("base", "stage2", "stage1", "stage1_control", "stage1_round10", "stage1_round2", "stage1_control_round2")
    summary = {**{name: block(20.0) for name in models}, "intervals": {}, "figures": FIGURES}
    names = [name.strip() for name in render_table(summary).splitlines()[0].split("  ") if name]
    rounds = ["stage 1, round 2", "control of stage 1, round 2", "stage 1, round 10"]
    assert names == ["base", *rounds, "stage 1", "control of stage 1", "stage 2"]
    header = next(line for line in render_report(make_report(summary)).splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.strip("|").split("|")][1:] == names


def test_table_single_gaps_are_a_dash() -> None:
    summary = {"base": {"questions": {"accuracy": 70.0}}, "stage1": {"questions_dar": {"accuracy": 71.0}}}
    figures = {name: FIGURES[name] for name in ("questions/accuracy", "questions_dar/accuracy")}
    lines = render_table({**summary, "figures": figures}).splitlines()
    assert lines[2].split()[-2:] == ["70.0", "-"]
    assert lines[3].split()[-2:] == ["-", "71.0"]


def test_table_without_ground_truth_says_so() -> None:
    assert render_table({"base": {}, "intervals": {}}).startswith("Nothing is measured")
