"""report.html: safe, whole, small, always the same; and what it says."""

import base64
import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stic_ray import artifacts, sources
from stic_ray.artifacts import Plan
from stic_ray.config import parse_config, read_yaml
from stic_ray.recipes import read
from stic_ray.records import Pair, Reject, from_table, make_id
from stic_ray.report import command, costs, curves, flow
from stic_ray.report.collect import collect
from stic_ray.report.draws import draw_by_group, find_values
from stic_ray.report.folder import open_run
from stic_ray.report.gain_blocks import brief_block, whole_block
from stic_ray.report.html import as_json
from stic_ray.report.page import compare_words
from stic_ray.report.published import family_of, published_figures
from stic_ray.report.thumbnails import Thumbnails
from tests.report.report_run import HOSTILE, NUM_PAIRS, commit, pair, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    assert command.main([str(run), "--gpu-hour-price", "2.5"]) == 0
    return (run / "report.html").read_text()


class _Parsed(HTMLParser):
    """What a browser makes of a page: tags with their attributes, its text, and what its scripts are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts.append((self.tags[-1][1], data))
        else:
            self.texts.append(data)


# Safety


def test_page_shows_hostile_text_as_text(page: str) -> None:
    parsed = _Parsed(page)
    text = " ".join("".join(parsed.texts).split())
    assert " ".join(HOSTILE.split()) in text  # U+2028 is a space
    for tag, attributes in parsed.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#"))
    assert "\u2028" not in page


def test_page_policy_allows_its_own_two_scripts_and_nothing_else(page: str) -> None:
    parsed = _Parsed(page)
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:;")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    run_by_browsers = [text for attributes, text in parsed.scripts if attributes.get("type") != "application/json"]
    digests = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run_by_browsers}
    assert len(run_by_browsers) == 2 and digests == allowed
    assert "unsafe-eval" not in policy and "script-src 'unsafe" not in policy
    styles = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in styles and "@import" not in styles


def test_json_for_scripts_can_end_no_script_and_is_what_it_was() -> None:
    tree = {"</script><script>alert(1)</script>": "<!-- & \u2028 \u2029 ]]>", "n": [1, None]}
    text = as_json(tree)
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == tree
    with pytest.raises(ValueError, match="Out of range"):
        as_json({"x": float("nan")})


# What it says


def test_page_begins_with_the_headline_of_report_md_and_its_control(page: str) -> None:
    text = "".join(_Parsed(page).texts)
    assert "Stage 1 lowered describe: CHAIR_s" in text and "50.0 before, 30.0 after" in text
    assert "95% interval -25.0 to -15.0" in text
    assert "its control (SFT on the preferred descriptions only) has 40.0" in text


def test_page_counts_inputs_and_rejects_and_shows_some(run: Path, page: str) -> None:
    text = "".join(_Parsed(page).texts)
    assert f"{NUM_PAIRS} pairs" in text and "20 rejected" in text and "5 steps of 8" in text
    facts = collect(open_run(str(run)))
    (group,) = facts.rejects
    assert group.num == 20 and len(group.shown) == 4
    for shown in group.shown:
        assert shown.reason == HOSTILE and bool(shown.image) == (not shown.uri.endswith("broken.png"))


def test_rejects_of_rarer_reasons_are_counted(tmp_path: Path) -> None:
    rejects = [Reject(id=make_id("r", n), stage="pairs", reason=f"reason {min(n, 11)}") for n in range(20)]
    made = commit(tmp_path / "store", Plan(stage="pairs", code_version=1, identity={}, kind="Pair"), [], rejects)
    facts = collect(replace(open_run(str(write_run(tmp_path))), artifacts={"pairs": made}))
    assert [group.num for group in facts.rejects] == [9, *[1] * 7]
    assert "<b>4</b> more of pairs, for other reasons" in flow.flow(facts)


def test_page_shows_pairs_of_every_negative_and_why_an_image_is_missing(run: Path) -> None:
    groups = {group.negative: group for group in collect(open_run(str(run))).pairs}
    assert {name: group.num for name, group in groups.items()} == {
        "misleading_prompt": NUM_PAIRS - 2,
        "corrupted_image": 1,
        HOSTILE: 1,
    }
    assert len(groups["misleading_prompt"].shown) == 4
    (broken,) = groups["corrupted_image"].shown
    assert not broken.image and broken.missing.startswith("not an image")


def test_page_has_seeds_prompts_ids_and_the_command(run: Path, page: str) -> None:
    text = "".join(_Parsed(page).texts)
    shown = [each.pair for group in collect(open_run(str(run))).pairs for each in group.shown]
    for each in shown:
        assert each.id in text and str(each.rejected_seed) in text
    for artifact in open_run(str(run)).artifacts.values():
        assert artifact.fingerprint in text and artifact.uri in text
    assert f"python jobs/x.py 'a={HOSTILE[:60]}'" in text


def test_page_is_the_same_twice(run: Path, page: str) -> None:
    assert command.main([str(run), "--gpu-hour-price", "2.5"]) == 0
    assert (run / "report.html").read_text() == page


def test_page_of_stages_alone_says_what_there_is(tmp_path: Path) -> None:
    made = write_run(tmp_path)
    for name in ("summary.json", "metrics.jsonl"):
        (made / name).unlink()
    assert command.main([str(made)]) == 0
    text = "".join(_Parsed((made / "report.html").read_text()).texts)
    assert "This run has no ground truth" in text and "Before and after" not in text


def test_server_that_does_not_answer_is_asked_for_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fail(uri: str) -> bytes:
        asked.append(uri)
        raise ValueError("the server does not answer")

    monkeypatch.setattr(sources, "read_image", fail)
    images = Thumbnails()
    assert [images.take(f"s3://x/{n}.png", 10) for n in range(3)] == [("", "the server does not answer")] * 3
    assert asked == ["s3://x/0.png"]


def test_words_that_differ_are_marked_and_texts_escaped() -> None:
    chosen, rejected = compare_words("a red dog <b>", "a blue dog <b> runs")
    assert chosen == "a <mark>red</mark> dog &#60;b&#62;" or chosen == "a <mark>red</mark> dog &lt;b&gt;"
    assert rejected.startswith("a <mark>blue</mark> dog ") and rejected.endswith("<mark>runs</mark>")


def test_published_figures_need_the_family_and_the_benchmark() -> None:
    assert family_of("liuhaotian/llava-v1.5-7b") == family_of("llava-hf/llava-1.5-7b-hf") == "LLaVA-1.5-7B"
    assert family_of("llava-hf/llava-v1.6-mistral-7b-hf") == "LLaVA-v1.6-mistral-7b"
    assert family_of("embedded://models/base") == family_of("Qwen/Qwen2.5-VL-7B-Instruct") == ""
    (found,) = published_figures("LLaVA-1.5-7B", "Chair", "chair_s")
    assert (found.before, found.after) == (52.93, 47.00)
    assert published_figures("", "Chair", "chair_s") == () == published_figures("LLaVA-1.5-7B", "Chair", "chair_i")


def test_published_figures_stand_beside_ours_and_are_marked(tmp_path: Path) -> None:
    tasks = "evaluation.test={describe: {type: Chair, images: x, objects: y, synonyms: z, prompt: p}}"
    for model, expected in (("llava-hf/llava-1.5-7b-hf", True), ("other/model", False)):
        made = write_run(tmp_path / model, settings=[f"model.path={model}", tasks])
        assert command.main([str(made)]) == 0
        text = "".join(_Parsed((made / "report.html").read_text()).texts)
        assert ("52.93 to 47, published, other model/data" in text) == expected


def test_gpu_hours_are_those_of_stages_that_hold_gpus_and_cost_where_a_price_is(run: Path, page: str) -> None:
    assert "GPU hours" in page and "cost of these" in page
    tree = read_yaml(read("embedded"), "embedded")
    settings = ["execution.train_gpus=1", "execution.num_train_workers=4", "execution.pool.num_gpus=0.25"]
    execution = parse_config(tree, settings).execution
    record: dict[str, Any] = {"kind": "model", "stage": "stage1"}
    assert costs.gpus_of(record, execution) == 4
    assert costs.gpus_of({"kind": "Response", "stage": "responses", "new_tokens": 5}, execution) == 0.5  # two actors
    assert costs.gpus_of({"kind": "Score", "stage": "pair_tokens", "scored_tokens": 5}, execution) == 0
    assert costs.gpus_of({"kind": "Pair", "stage": "pairs"}, execution) == 0


def test_price_of_the_settings_is_taken_where_none_is_given(tmp_path: Path) -> None:
    made = write_run(tmp_path, settings=["execution.gpu_hour_price=4.75"])
    for arguments, price in (([], "4.75"), (["--gpu-hour-price", "2.5"], "2.5")):
        assert command.main([str(made), *arguments]) == 0
        texts = "".join(_Parsed((made / "report.html").read_text()).texts)
        assert f"price of a GPU hour{price}" in texts.replace("\n", "")


# Draws


def test_draw_counts_every_group_and_is_the_same_in_any_files(tmp_path: Path) -> None:
    rng = random.Random(0)
    pairs = [pair(n, "x.png", negative=rng.choice("aab")) for n in range(200)]
    found = []
    for version in (1, 2):
        rng.shuffle(pairs)
        made = commit(tmp_path, Plan(stage="pairs", code_version=version, identity={}, kind="Pair"), pairs)
        found.append(list(draw_by_group(artifacts.data_files(made.uri), "negative", 5, seed=0)))
    by_name = Counter(each.negative for each in pairs)
    assert [(group.name, group.num) for group in found[0]] == by_name.most_common()
    drawn = [[{row.id for row in from_table(group.rows, Pair)} for group in groups] for groups in found]
    assert drawn[0] == drawn[1] and all(len(ids) == 5 for ids in drawn[0])
    other = list(draw_by_group(artifacts.data_files(made.uri), "negative", 5, seed=1))
    assert {row.id for row in from_table(other[0].rows, Pair)} != drawn[0][0]
    wanted = [pairs[3].id, pairs[100].item_id, "none"]
    uris = find_values(artifacts.data_files(made.uri), ("id", "item_id"), "image_uri", wanted)
    assert uris == {pairs[3].id: "x.png", pairs[100].item_id: "x.png"}


def test_blocks_from_columns_are_those_from_rows(run: Path) -> None:
    folder = open_run(str(run))
    gains = folder.artifacts["pairs_gains"]
    brief, whole = (make(folder, "pairs_gains", gains, 6) for make in (brief_block, whole_block))
    for name in ("conversations", "tokens", "text_only", "gain", "token_gain", "color_nats", "selections"):
        assert brief.figures[name] == whole.figures[name], name
    assert brief.samples == whole.samples and len(brief.samples) >= 10


# Curves


def test_chart_of_a_long_training_has_few_points_that_are_means() -> None:
    steps = np.arange(1, 100_001, dtype=float)
    curve = curves.Curve(steps=steps, values=np.where(steps % 250 == 0, np.nan, steps))
    found = curves.chart([curves.Line(name="stage1", color="c1", dashed=False, curve=curve)])
    assert len(found["x"]) == 400 and found["x"][0] == 250 and found["x_name"] == "mean of 250 steps to"
    assert found["series"][0]["values"][0] == pytest.approx(np.mean(np.arange(1, 250)))


def test_curves_leave_out_what_is_not_finite_and_align_steps(run: Path) -> None:
    read_curves = curves.read_curves((run / "metrics.jsonl").read_text().splitlines())
    assert curves.by_training(read_curves) == [("stage1", "stage1_control")]
    line = curves.Line(name="x", color="c1", dashed=False, curve=read_curves["stage1"]["grad_norm"])
    longer = curves.Curve(steps=np.array([2.0, 7.0]), values=np.array([5.0, 6.0]))
    found = curves.chart([line, curves.Line(name="y", color="c1", dashed=True, curve=longer)])
    assert found["x"] == [1, 2, 3, 4, 5, 7]
    assert found["series"][0]["values"] == [1.0, None, 1.0, 1.0, 1.0, None]
    assert found["series"][1]["values"] == [None, 5.0, None, None, None, 6.0]


def test_control_of_a_round_stands_beside_it() -> None:
    curve = curves.Curve(steps=np.array([1.0]), values=np.array([1.0]))
    names = ("stage1_round1", "stage1_control_round1", "stage1", "stage1_control")
    found = curves.by_training({name: {"loss": curve} for name in names})
    assert found == [("stage1_round1", "stage1_control_round1"), ("stage1", "stage1_control")]


# The command


def test_several_runs_become_one_page_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / "a", "one"), write_run(tmp_path / "b", "<b>two<script>", ["seed=5"], chair_s=20.0)]
    assert command.main(list(map(str, runs))) == 0
    out = tmp_path / "a" / "runs" / "compare.html"
    assert capsys.readouterr().out == f"{out}\n"
    parsed = _Parsed(out.read_text())
    text = "".join(parsed.texts)
    assert "<b>two<script>" in text and len(parsed.scripts) == 3
    assert "30.0 [20.0, 60.0]" in text and "20.0 [20.0, 60.0]" in text
    assert "seed" in text
    charts = json.loads(parsed.scripts[0][1])
    assert [one["name"] for one in charts["stage1/loss"]["series"]] == ["one", "<b>two<script>"]


def test_main_says_what_is_wrong_in_a_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path / "none")]) == 2
    assert "holds no artifacts.json" in capsys.readouterr().err
    assert command.main([str(run), "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        command.main([str(run), "--gpu-hour-price", "-1"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", "[1]"),
        ("summary.json", '{"base": 3, "figures": 5}'),
        ("summary.json", '{"base": '),
        ("metrics.jsonl", "[1]"),
        ("metrics.jsonl", '{"step": 1e400, "stage1/loss": 1}'),
        ("metrics.jsonl", '{"step": "x", "stage1/loss": 1}'),
        ("config.yaml", "name: [1]"),
    ],
)
def test_damaged_file_of_a_run_is_named_in_a_line(
    name: str, text: str, several: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "one")
    (run / name).write_text(text)
    assert command.main([str(run), *([str(write_run(tmp_path / "two"))] if several else [])]) == 2
    told = capsys.readouterr().err
    assert str(run / name) in told and told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.parametrize("text", ["{}", "[]", '{"sets": []}', "x"])
def test_damaged_image_distribution_is_named_in_a_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "one")
    (run / "distribution.json").write_text(text)
    assert command.main([str(run)]) == 2
    assert f"{run / 'distribution.json'} is damaged" in capsys.readouterr().err


def test_artifact_without_its_data_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "one")
    (pairs,) = (tmp_path / "one" / "store").glob("pairs-*")
    for file in (pairs / "data").iterdir():
        file.unlink()
    assert command.main([str(run)]) == 2
    assert f"{pairs} holds no data" in capsys.readouterr().err
