"""The report on gains: its figures against plain computations, and a page that is safe, whole and always the same."""

import json
import random
import re
import statistics
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from stic_ray import artifacts, recipes, storage, vig_report
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import parse_config, read_yaml, to_tree
from stic_ray.records import Gain, Pair, Sample, Selected, Turn, make_id, to_table
from stic_ray.report import gain_blocks, svg
from stic_ray.report.gains import (
    END,
    SELECTED_COLUMNS,
    SEPARATOR,
    WORD,
    GainTally,
    SelectionTally,
    TokenHistogram,
    WordTally,
    units,
)
from stic_ray.report.thumbnails import Thumbnails

HOSTILE = "<script>alert(1)</script> \"'><img src=http://x.y onerror=z> &lt; ]]> --> \u202e </style>"


def _gain(item: str, answers: Sequence[Sequence[str]], *, role: str = "answer", **values: Any) -> Gain:
    """A conversation whose answers are these tokens, one after the other, and an end token each."""
    rng = random.Random(item + role)
    turns, of, starts, stops = [], [], [], []
    for number, tokens in enumerate(answers):
        text = "".join(tokens)
        turns += [Turn(role="user", text=values.get("question", "what ?")), Turn(role="assistant", text=text)]
        place = 0
        for token in [*tokens, ""]:
            of.append(number)
            starts.append(place)
            place += len(token)
            stops.append(place - len(token) + len(token.rstrip(" ")))  # as tokenizers that count no spaces
    has_image = bool(values.get("image", "a.png"))
    size = len(of) if has_image else 0
    gains = [float(np.float32(rng.gauss(0.5, 2))) for _ in range(size)]
    return Gain(
        id=make_id("gain", item, role),
        item_id=make_id(item),
        role=role,
        image_id=make_id("image", item) if has_image else "",
        image_uri=values.get("image", "a.png"),
        category=values.get("category", ""),
        first_word=values.get("first_word", "".join(answers[0]).split()[0]),
        turns=turns,
        token_ids=list(range(size)),
        answers=of[:size],
        starts=starts[:size],
        stops=stops[:size],
        logp=[-1.0] * size,
        blind_logp=[-1.0 - gain for gain in gains],
        gains=gains,
        mean_gain=statistics.fmean(gains) if gains else 0.0,
    )


def _some_gains(number: int) -> list[Gain]:
    rng = random.Random(0)
    words = ["red ", "a ", "the ", "circle ", "2 ", ", ", "dog ", "."]
    return [
        _gain(
            f"{index}",
            [[rng.choice(words) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 3))],
            category=rng.choice(["vqa", "captions", ""]),
            first_word=rng.choice(["yes", "no", "red"]),
            image="" if index % 7 == 3 else "a.png",
        )
        for index in range(number)
    ]


def _category(gain: Gain) -> str:
    return gain.category


# Figures


def test_figures_equal_plain_computations() -> None:
    """Tolerance 1e-9 relative; quantiles of conversations as numpy has them, of tokens within half a bin."""
    gains = _some_gains(200)
    tally = GainTally(_category)
    for start in range(0, 200, 17):
        tally.add(gains[start : start + 17])
    figures = tally.figures()
    seen = [gain for gain in gains if gain.image_uri]
    tokens = [value for gain in seen for value in gain.gains]
    assert figures["conversations"] == len(seen) and figures["text_only"] == len(gains) - len(seen)
    assert figures["answers"] == sum(len(gain.turns) // 2 for gain in seen)
    assert figures["tokens"] == len(tokens)
    assert figures["perplexity"] == pytest.approx(np.e)
    assert figures["blind_perplexity"] == pytest.approx(np.exp(1 + statistics.fmean(tokens)))
    _assert_spread(figures["gain"], [gain.mean_gain for gain in seen])
    for key, name in (("by_group", "category"), ("by_first_word", "first_word")):
        assert {row["name"] for row in figures[key]} == {getattr(gain, name) for gain in seen}
        for row in figures[key]:
            _assert_spread(row, [gain.mean_gain for gain in seen if getattr(gain, name) == row["name"]])
    assert figures["token_gain"]["mean"] == pytest.approx(statistics.fmean(tokens))
    assert figures["token_gain"]["above_zero"] == sum(value > 0 for value in tokens) / len(tokens)
    assert figures["token_gain"]["median"] == pytest.approx(statistics.median(tokens), abs=0.05)
    json.dumps(figures, allow_nan=False)


def _assert_spread(figures: dict[str, Any], values: list[float]) -> None:
    assert figures["conversations"] == len(values)
    assert figures["mean"] == pytest.approx(statistics.fmean(values))
    assert figures["median"] == pytest.approx(statistics.median(values))
    assert figures["p10"] == pytest.approx(np.quantile(values, 0.1))
    assert figures["above_zero"] == pytest.approx(sum(value > 0 for value in values) / len(values))


def test_histograms_count_everything_and_have_a_cut_at_zero() -> None:
    gains = _some_gains(200)
    tally = GainTally(_category)
    tally.add(gains)
    for key, total in (("gain", "conversations"), ("token_gain", "tokens")):
        found = tally.figures()[key]["histogram"]
        assert sum(found["counts"]) == tally.figures()[total]
        assert len(found["edges"]) == len(found["counts"]) + 1
        assert min(abs(edge) for edge in found["edges"]) < 1e-9


def test_token_quantiles_are_within_half_a_bin_and_outliers_in_the_outer_bins() -> None:
    values = np.random.default_rng(0).normal(1, 3, 10_000)
    found = TokenHistogram()
    found.add([*values, -1000.0, 1000.0])
    for share in (0.1, 0.5, 0.9):
        assert found.quantile(share) == pytest.approx(np.quantile(values, share), abs=0.03)
    assert sum(found.figures()["histogram"]["counts"]) == 10_002


def test_token_histogram_counts_each_once_also_far_out() -> None:
    found = TokenHistogram()
    found.add([*[-30.0] * 20, *np.linspace(0, 5, 980)])
    figures = found.figures()["histogram"]
    assert sum(figures["counts"]) == 1000 and figures["counts"][0] == 20
    assert len(figures["edges"]) == len(figures["counts"]) + 1


def test_character_cut_into_bytes_is_one_unit() -> None:
    gain = _gain("s", [["鳯", "猫", "."]])
    cut = replace(
        gain,
        **{name: [getattr(gain, name)[0]] * 2 + getattr(gain, name) for name in ("starts", "stops", "answers", "logp")},
        gains=[0.5, 0.25, 0.125, 1.0, 2.0, 3.0],
        token_ids=list(range(6)),
    )
    assert [(unit.text, unit.places) for unit in units(cut)] == [("鳯", [0, 1, 2]), ("猫", [3]), (".", [4]), ("", [5])]


def test_gain_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        TokenHistogram().add([0.0, float("nan")])


def test_units_are_words_separators_and_ends_where_tokens_count_no_spaces() -> None:
    gain = _gain("x", [["Red ", "cir", "cle", ", ", "2", "4 ", "dogs."], ["no"]])
    found = [(unit.kind, unit.text, unit.places) for unit in units(gain)]
    assert found == [
        (WORD, "red", [0]),
        (WORD, "circle", [1, 2]),
        (SEPARATOR, ",", [3]),
        (WORD, "24", [4, 5]),
        (WORD, "dogs", [6]),
        (END, "", [7]),
        (WORD, "no", [8]),
        (END, "", [9]),
    ]


def test_words_by_class_are_all_tokens_and_all_gain() -> None:
    gains = [gain for gain in _some_gains(100) if gain.image_uri]
    words = WordTally()
    for gain in gains:
        words.add(gain)
    classes = {row["name"]: row for row in words.by_class()}
    total = sum(sum(gain.gains) for gain in gains)
    assert sum(row["tokens"] for row in classes.values()) == sum(len(gain.gains) for gain in gains)
    assert sum(row["mean"] * row["count"] for row in classes.values()) == pytest.approx(total)
    assert sum(row["share_of_gain"] for row in classes.values()) == pytest.approx(1)
    ends = [gain.gains[t] for gain in gains for t in range(len(gain.gains)) if gain.starts[t] == gain.stops[t]]
    assert classes["ends of answers"]["count"] == len(ends)
    assert classes["ends of answers"]["mean"] == pytest.approx(statistics.fmean(ends))
    assert classes["numbers (words with a digit)"]["count"] == sum(
        turn.text.count("2") for gain in gains for turn in gain.turns if turn.role == "assistant"
    )


def test_extreme_words_are_by_mean_gain_and_none_is_rare_or_twice() -> None:
    gains = [_gain(f"{index}", [[f"w{chr(97 + index % 7)} "]]) for index in range(70)]
    gains.append(_gain("rare", [["rare"]]))
    words = WordTally()
    for gain in gains:
        words.add(gain)
    plain = {
        f"w{letter}": statistics.fmean(g.gains[0] for g in gains if g.turns[1].text.strip() == f"w{letter}")
        for letter in "abcdefg"
    }
    most, least = words.extremes(min_count=5, limit=20)
    ranked = sorted(plain, key=lambda word: -plain[word])
    assert [row["word"] for row in most] == ranked[:4]
    assert [row["word"] for row in least] == ranked[4:][::-1]
    assert {row["word"]: row["mean"] for row in most + least} == pytest.approx(plain)


def test_words_that_are_forgotten_stay_in_the_sums() -> None:
    gains = [_gain(f"{index}", [["often ", f"w{chr(97 + index % 26)}{chr(97 + index // 26)}"]]) for index in range(200)]
    all_words, few_words = WordTally(), WordTally(max_words=20)
    for gain in gains:
        all_words.add(gain)
        few_words.add(gain)
    assert few_words.num_words() <= 20 < all_words.num_words()
    assert few_words.num_forgotten > 0 == all_words.num_forgotten
    for key in ("count", "tokens"):
        assert sum(row[key] for row in few_words.by_class()) == sum(row[key] for row in all_words.by_class())
    assert few_words.extremes(min_count=200, limit=1)[0][0]["count"] == 200


def _selected(item: str, mean_gain: float, **values: Any) -> Selected:
    return Selected(
        id=make_id("selected", item, values.get("role", "answer")),
        item_id=make_id(item),
        role=values.get("role", "answer"),
        image_id=values.get("image_id", "an image"),
        stratum=values.get("stratum", ""),
        mean_gain=mean_gain,
        weight=1.0,
        num_used=3,
        token_ids=[],
        used=[],
    )


def test_thresholds_are_the_least_kept_gain_of_each_stratum_without_text_only_samples() -> None:
    rows = [_selected(f"{n}", 0.5 + n, stratum="yes") for n in range(3)]
    rows += [_selected(f"no {n}", 0.25 - n, stratum="no") for n in range(2)]
    rows.append(_selected("text", -9.0, image_id=""))
    tally = SelectionTally("VigSelection")
    for row in rows:
        tally.add(to_table([row], Selected).select(SELECTED_COLUMNS))
    figures = tally.figures()
    assert {row["stratum"]: row["threshold"] for row in figures["thresholds"]} == {"yes": 0.5, "no": -0.75}
    assert (figures["conversations"], figures["tokens"]) == (5, 15)


def test_threshold_of_pairs_is_that_of_chosen_answers_and_weights_have_none() -> None:
    rows = [_selected("a", 1.0, role="chosen"), _selected("a", -4.0, role="rejected")]
    for kind, expected in (("GainedPairs", [1.0]), ("WeightedPairs", [])):
        tally = SelectionTally(kind)
        tally.add(to_table(rows, Selected).select(SELECTED_COLUMNS))
        assert [row["threshold"] for row in tally.figures()["thresholds"]] == expected


# A run's folder


def _commit(store: Path, stage: str, rows: list[Any], identity: dict[str, Any], parents: dict[str, str]) -> Artifact:
    kind = type(rows[0])
    plan = Plan(stage=stage, code_version=1, identity=identity, parents=parents, kind=kind.__name__)
    artifacts.write_rows(storage.join(str(store), plan.name), rows, kind, [])
    return artifacts.commit(str(store), plan, {})


def _write_run(folder: Path, made: dict[str, Artifact], model: str = "embedded://models/base") -> Path:
    run = folder / "runs" / "mine"
    run.mkdir(parents=True)
    settings = [f"store={folder / 'store'}", f"model.path={model}", "name=mine"]
    config = parse_config(read_yaml(recipes.read("embedded"), "embedded"), settings)
    (run / "config.yaml").write_text(f"# a command\n{yaml.safe_dump(to_tree(config))}")
    (run / "artifacts.json").write_text(json.dumps({role: artifact.uri for role, artifact in made.items()}))
    return run


@pytest.fixture
def image(tmp_path: Path) -> str:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.fixture
def run(tmp_path: Path, image: str) -> Path:
    """Gains of samples, half of them selected; the first is hostile in every text, the second one's image is gone."""
    hostile = [HOSTILE[:20], HOSTILE[20:]]
    gains = [_gain("0", [hostile], category=HOSTILE, question=HOSTILE, first_word=HOSTILE, image=image)]
    gains.append(_gain("1", [["gone"]], image=f"{image}{HOSTILE}"))
    gains += [_gain(f"{n}", [["a ", "dog "], ["no"]], category="vqa", image=image) for n in range(2, 30)]
    made = _commit(tmp_path / "store", "sample_gains", gains, {}, {})
    kept = [_selected(f"{n}", gains[n].mean_gain, stratum=HOSTILE) for n in range(0, 30, 2)]
    identity = {"selection": {"type": "VigSelection"}}
    selection = _commit(tmp_path / "store", "sample_selection", kept, identity, {"gains": made.fingerprint})
    return _write_run(tmp_path, {"samples_gains": made, "stage2_selection_of_samples": selection})


class _Page(HTMLParser):
    """What a browser makes of a page: tags with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def _written(run: Path) -> tuple[str, dict[str, Any]]:
    figures: dict[str, Any] = json.loads((run / "vig.json").read_text())
    return (run / "vig.html").read_text(), figures


def test_main_writes_the_same_page_and_figures_twice(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vig_report.main([str(run)]) == 0
    page, figures = _written(run)
    assert figures["gains"]["samples"]["conversations"] == 30
    assert figures["gains"]["samples"]["selections"]["stage2_selection_of_samples"]["conversations"] == 15
    assert figures["models"] is None
    assert capsys.readouterr().out.splitlines() == [f"{run}/vig.html", f"{run}/vig.json"]
    other = run.parent / "other"
    assert vig_report.main([str(run), "--out", str(other)]) == 0
    assert _written(other) == (page, figures)


def test_page_shows_hostile_text_as_text(run: Path) -> None:
    assert vig_report.main([str(run), "--samples", "60"]) == 0
    page = _Page(_written(run)[0])
    allowed = {"class", "tabindex", "title", "dir", "src", "alt", "role", "lang", "charset", "name", "content"}
    drawn = {"viewbox", "aria-label", "x", "y", "x1", "x2", "y1", "y2", "width", "height", "points", "cx", "cy", "r"}
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form", "a")
        assert attributes.keys() <= allowed | drawn | {"http-equiv"}, (tag, attributes)
    text = "".join(page.texts)
    assert HOSTILE.replace("\u202e", "\ufffd") in text  # a question, written as it is
    assert "\u202e" not in _written(run)[0]


def test_page_needs_nothing_else(run: Path) -> None:
    assert vig_report.main([str(run)]) == 0
    page, _ = _written(run)
    parsed = _Page(page)
    sources = [attributes["src"] for _, attributes in parsed.tags if "src" in attributes]
    assert sources and all(source and source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not [attributes for _, attributes in parsed.tags if "href" in attributes]
    styles = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in styles and "@import" not in styles
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None and policy.startswith("default-src 'none'")
    assert "prefers-color-scheme:dark" in styles and 'name="viewport"' in page
    for chart in re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL):
        ElementTree.fromstring(chart)


def test_page_says_why_an_image_is_missing(run: Path) -> None:
    assert vig_report.main([str(run), "--samples", "60"]) == 0
    page, _ = _written(run)
    assert page.count("the image file is missing") == 1
    assert page.count("<article>") == 30


def test_conversation_has_its_trained_tokens_and_its_whole_answer() -> None:
    gain = _gain("x", [["a ", "dog"]])
    selected = _selected("x", 0.0)
    for used, expected in (([], [True] * 3), ([False, True, True], [False, True, True])):
        row = Selected(**{**vars(selected), "used": used})
        turns = gain_blocks.show("drawn", gain, {(gain.item_id, "answer"): row}, "", Thumbnails()).turns
        assert [token.is_trained for token in turns[1].tokens] == expected
        assert "".join(token.text for token in turns[1].tokens) == "a dog"
    left_out = gain_blocks.show("drawn", gain, {}, "", Thumbnails())
    assert left_out.state == "not selected" and not any(token.is_trained for token in left_out.turns[1].tokens)


def test_examples_are_the_same_in_any_order_and_a_pair_stays_together() -> None:
    gains = [_gain(f"{n}", [["a ", "dog"]], role=role) for n in range(50) for role in ("chosen", "rejected")]
    found = []
    for seed in (0, 1):
        random.Random(seed).shuffle(gains)
        examples = gain_blocks.Examples(12)
        examples.add(gains)
        found.append(examples.rows())
    assert found[0] == found[1] and len(found[0]) <= 12
    ranked = sorted(gains, key=lambda gain: -gain.mean_gain)
    assert [gain for why, gain in found[0] if why == "highest gains"] == ranked[:3]
    shown = {(gain.item_id, gain.role) for _, gain in found[0]}
    drawn = {gain.item_id for why, gain in found[0] if why == "drawn"}
    assert drawn and shown >= {(item, role) for item in drawn for role in ("chosen", "rejected")}


def test_page_shows_the_selection_that_the_run_is_about(run: Path, tmp_path: Path) -> None:
    made = {role: artifacts.load(uri) for role, uri in json.loads((run / "artifacts.json").read_text()).items()}
    selection = made["stage2_selection_of_samples"]
    beside = {f"stage2_{name}": selection for name in ("selection_of_samples_like", "control_selection_of_samples")}
    whole = _write_run(tmp_path / "whole", {**beside, **made})
    assert vig_report.main([str(whole)]) == 0
    page, figures = _written(whole)
    assert next(iter(figures["gains"]["samples"]["selections"])) == "stage2_selection_of_samples"
    assert "the tokens that stage2&#95;selection&#95;of&#95;samples trains" in page


def test_pairs_are_grouped_by_role_and_negative(tmp_path: Path, image: str) -> None:
    gains = [
        _gain(f"{n}", [["a ", "dog"]], role=role, category="noised_image", image=image)
        for n in range(5)
        for role in ("chosen", "rejected")
    ]
    run = _write_run(tmp_path, {"pairs_gains": _commit(tmp_path / "store", "pair_gains", gains, {}, {})})
    assert vig_report.main([str(run)]) == 0
    groups = _written(run)[1]["gains"]["pairs"]["by_group"]
    assert [row["name"] for row in groups] == ["chosen (noised_image)", "rejected (noised_image)"]


def test_main_without_gains_is_one_line(tmp_path: Path, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [_sample("0", image)]
    run = _write_run(tmp_path, {"samples": _commit(tmp_path / "store", "samples", samples, {}, {})})
    assert vig_report.main([str(run)]) == 2
    assert "has no gains: set vig" in capsys.readouterr().err
    assert vig_report.main([str(run / "none")]) == 2
    assert "holds no artifacts.json" in capsys.readouterr().err


def test_main_models_of_a_run_that_trained_none_are_skipped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vig_report.main([str(run), "--models"]) == 0
    assert "--models was skipped: the run trained no model" in capsys.readouterr().out
    assert "Skipped: the run trained no model" in _written(run)[0]


def _sample(item: str, image: str, *texts: str) -> Sample:
    talk = texts or ("is there a dog ?", "yes" if int(item) % 2 else "no")
    turns = [Turn(role=("user", "assistant")[index % 2], text=text) for index, text in enumerate(talk)]
    return Sample(
        id=make_id(item), image_id=make_id("image", item), image_uri=image, category="", description="", turns=turns
    )


def test_main_models_measures_base_and_trained(run: Path, tiny_llava: Path, tmp_path: Path, image: str) -> None:
    store = tmp_path / "store"
    pair = {name: "" for name in Pair.__annotations__ if name not in ("chosen_seed", "rejected_seed")}
    texts = {"prompt": "what ?", "chosen": "a dog", "rejected": "a cat", "negative": "noised_image"}
    pairs = [
        Pair(**{**pair, **texts, "id": make_id("p", n), "image_uri": image}, chosen_seed=0, rejected_seed=0)
        for n in range(4)
    ]
    trained = Plan(stage="stage1", code_version=1, identity={}, kind="model")
    storage.upload_directory(str(tiny_llava), str(store / trained.name / "merged"))
    made = {role: artifacts.load(uri) for role, uri in json.loads((run / "artifacts.json").read_text()).items()}
    made["samples"] = _commit(store, "samples", [_sample(f"{n}", image) for n in range(6)], {}, {})
    made["annotated_pairs"] = _commit(store, "pairs", pairs, {}, {})
    made["stage1"] = artifacts.commit(str(store), trained, {"steps": 1})
    whole = _write_run(tmp_path / "whole", made, str(tiny_llava))
    assert vig_report.main([str(whole), "--models", "--probe", "3"]) == 0
    page, figures = _written(whole)
    models = figures["models"]
    assert models["attention"]["conversations"] == models["misleading"]["questions"] == models["noise"]["pairs"] == 3
    for part in ("attention", "misleading", "noise"):
        assert list(models[part]["models"]) == ["base", "stage1"]
        assert models[part]["models"]["base"] == models[part]["models"]["stage1"]  # the very same weights
    assert "Attention to the image by layer" in page and "Misleading text in the question" in page
    assert vig_report.main([str(whole), "--models", "--probe", "3"]) == 0
    assert _written(whole) == (page, figures)
    del made["samples"], made["samples_gains"], made["stage2_selection_of_samples"]
    alone = _write_run(tmp_path / "alone", made, str(tiny_llava))
    assert vig_report.main([str(alone), "--models", "--probe", "3"]) == 0
    models = _written(alone)[1]["models"]
    assert models["attention"]["conversations"] == 3  # of the pairs
    assert models["misleading"]["skipped"].startswith("no question with a one-word answer")


# Charts


@pytest.mark.parametrize(
    "chart",
    [
        svg.histogram("n", [0.0, 1.0], [5], [svg.Mark(value=3.0, label=HOSTILE)]),
        svg.bars(HOSTILE, [svg.Bar(name=HOSTILE, value=-0.0, note=HOSTILE)]),
        svg.dots("d", [svg.Dot(name=HOSTILE, value=1.0, low=1.0, high=1.0, kind=HOSTILE)]),
        svg.bars("zero", [svg.Bar(name="x", value=0.0, note="")]),
        svg.ranges("r", [svg.Range(name=HOSTILE, num=1, p10=-3, p25=-3, median=-3, p75=-3, p90=-3)]),
        svg.lines("l", ["1"], [svg.Series(name=HOSTILE, values=[0.5], color=0)], "x").partition("<p class")[0],
    ],
)
def test_charts_of_any_values_are_well_formed_and_within_bounds(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    _, _, width, height = map(float, str(root.get("viewBox")).split())
    for element in root.iter():
        for name, most in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height), ("y2", height)):
            assert 0 <= float(element.get(name, "0")) <= most


def test_line_chart_puts_values_where_they_belong() -> None:
    chart = svg.lines("l", ["0", "1"], [svg.Series(name="a", values=[0.0, 1.0], color=0)], "x").partition("<p class")[0]
    low, high = [(float(c.get("cx", "")), float(c.get("cy", ""))) for c in ElementTree.fromstring(chart).iter("circle")]
    assert low[0] < high[0] and low[1] > high[1]
