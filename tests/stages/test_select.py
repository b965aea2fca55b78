"""Selection: thresholds by stratum over all files, token masks, pairs filtered, weighted, masked; counted rejects."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stic_ray import artifacts, recipes
from stic_ray.artifacts import Artifact
from stic_ray.config import (
    AllTokens,
    Config,
    GainedPairs,
    MaskedPairs,
    PhraseTokens,
    RandomSelection,
    Selection,
    ThresholdTokens,
    VigSelection,
    WeightedPairs,
    parse_config,
    read_yaml,
)
from stic_ray.records import Gain, Selected, Turn, make_id
from stic_ray.stages import select
from stic_ray.stages.score import CHOSEN, PAIRS, REJECTED, SAMPLES

_ANSWER = "red circle , blue dot ."
_PIECES = [(0, 3), (4, 10), (11, 12), (13, 17), (18, 21), (22, 23), (23, 23)]  # as a tokenizer by words has them


def _gain(item: str, gains: list[float], *, role: str = "answer", image: bool = True, **values: str) -> Gain:
    turns = [Turn(role="user", text="what ?"), Turn(role="assistant", text=_ANSWER)]
    size = len(gains)
    return Gain(
        id=make_id("gain", item, role),
        item_id=make_id(item),
        role=role,
        image_id=make_id("image", item),
        image_uri="a.png" if image else "",
        category=values.get("category", ""),
        first_word=values.get("first_word", "red"),
        turns=turns,
        token_ids=list(range(size)),
        answers=[0] * size,
        starts=[start for start, _ in _PIECES][:size],
        stops=[stop for _, stop in _PIECES][:size],
        logp=gains,
        blind_logp=[0.0] * size,
        gains=gains,
        mean_gain=float(np.mean(gains)) if gains else 0.0,
    )


def _config(store: Path) -> Config:
    return parse_config(read_yaml(recipes.read("embedded"), "embedded"), [f"store={store}"])


def _run(
    store: Path, rows: list[Gain], chosen: Selection, kind: str = SAMPLES
) -> tuple[dict[tuple[str, str], Selected], dict[str, str]]:
    """Selected rows by item and role, and reasons by item."""
    config = _config(store)
    parent = str(store / f"gains-{len(rows)}")
    items = sorted({row.item_id for row in rows})
    for part in (set(items[::2]), set(items[1::2])):  # an item's rows stand in one file
        artifacts.write_rows(parent, [row for row in rows if row.item_id in part], Gain, [])
    gains = Artifact(uri=parent, record={"fingerprint": "f"})
    like = None
    if isinstance(chosen, RandomSelection):
        like = select.run(config, gains, chosen.like, None, select.plan(kind, gains, chosen.like))
    made = select.run(config, gains, chosen, like, select.plan(kind, gains, chosen, like, config.seed))
    found = {(row.item_id, row.role): row for row in artifacts.read(made.uri, Selected)}
    return found, {row.id: row.reason for row in artifacts.read_rejects(made.uri)}


pytestmark = pytest.mark.usefixtures("ray_local")


def test_top_share_of_each_stratum_stays_and_text_only_samples_too(tmp_path: Path) -> None:
    rows = [_gain(f"a{n}", [n + 0.0], category="a") for n in range(10)]
    rows += [_gain(f"b{n}", [n + 100.0], category="b") for n in range(10)]
    rows += [_gain(f"c{n}", [-5.0 + n], category=f"c{n}") for n in range(4)]  # each too small for one of its own
    rows += [_gain("text", [], image=False)]
    chosen = VigSelection(keep_share=0.3, tokens=AllTokens(), strata=("category",), min_stratum=5)
    found, reasons = _run(tmp_path, rows, chosen)
    kept = {*(f"a{n}" for n in (7, 8, 9)), *(f"b{n}" for n in (7, 8, 9)), "c2", "c3", "text"}
    assert {item for item, _ in found} == {make_id(name) for name in kept}
    assert set(reasons.values()) == {select.BELOW} and len(reasons) == len(rows) - len(kept)
    strata = {found[make_id(name), "answer"].stratum for name in kept}
    assert strata == {"a", "b", select.MERGED, ""}
    assert all(row.used == [] and row.weight == 1.0 for row in found.values())


def test_without_strata_the_threshold_is_one(tmp_path: Path) -> None:
    rows = [_gain(f"s{n}", [float(n)]) for n in range(10)]
    found, _ = _run(tmp_path, rows, VigSelection(keep_share=0.7, tokens=AllTokens()))
    assert {item for item, _ in found} == {make_id(f"s{n}") for n in range(3, 10)}


def test_tokens_by_the_samples_threshold_or_a_constant_or_by_phrase(tmp_path: Path) -> None:
    gains = [[2.0, 0.1, 0.0, -1.0, -1.0, 0.0, 0.0], [0.0] * 7]
    rows = [_gain(f"s{n}", values) for n, values in enumerate(gains)]
    tau = float(np.mean(gains[0]))
    key = (make_id("s0"), "answer")
    for rule, expected in (
        (ThresholdTokens(), [value >= tau for value in gains[0]]),
        (ThresholdTokens(min_gain=0.05), [True, True, False, False, False, False, False]),
        (PhraseTokens(min_gain=0.05), [True, True, False, False, False, True, True]),
        (PhraseTokens(min_gain=0.5), [True, False, False, False, False, True, True]),
        (PhraseTokens(min_gain=-5.0), [True] * 7),
    ):
        found, _ = _run(
            tmp_path / type(rule).__name__ / str(rule.min_gain), rows, VigSelection(keep_share=0.5, tokens=rule)
        )
        assert found[key].used == expected
        assert found[key].token_ids == list(range(7)) and found[key].num_used == sum(expected)


def test_sample_of_which_no_token_is_used_is_a_reject(tmp_path: Path) -> None:
    rows = [_gain("s0", [0.9] * 7), _gain("s1", [2.0] + [0.9] * 6)]
    found, reasons = _run(tmp_path, rows, VigSelection(keep_share=1.0, tokens=ThresholdTokens(min_gain=1.0)))
    assert {item for item, _ in found} == {make_id("s1")}
    assert reasons == {make_id("s0"): select.UNUSED}


def test_all_bytes_of_a_character_are_used_or_none(tmp_path: Path) -> None:
    row = _gain("s", [2.0, -1.0, 0.0, -1.0])
    turns = [row.turns[0], Turn(role="assistant", text="鳯猫")]
    row = replace(row, turns=turns, starts=[0, 0, 1, 2], stops=[1, 1, 2, 2])
    found, _ = _run(tmp_path, [row], VigSelection(keep_share=1.0, tokens=PhraseTokens(min_gain=0.5)))
    assert found[make_id("s"), "answer"].used == [True, True, False, True]


def test_category_of_the_name_of_small_strata_has_a_threshold_of_its_own(tmp_path: Path) -> None:
    rows = [_gain(f"a{n}", [n + 0.0], category=select.MERGED) for n in range(10)]
    rows += [_gain(f"c{n}", [-5.0], category=f"c{n}") for n in range(3)]
    chosen = VigSelection(keep_share=0.3, tokens=AllTokens(), strata=("category",), min_stratum=5)
    found, _ = _run(tmp_path, rows, chosen)
    assert {item for item, _ in found} == {make_id(name) for name in ("a7", "a8", "a9", "c0", "c1", "c2")}


def test_few_samples_without_strata_are_no_small_stratum(tmp_path: Path) -> None:
    rows = [_gain(f"s{n}", [float(n)]) for n in range(4)]
    found, _ = _run(tmp_path, rows, VigSelection(keep_share=0.5, tokens=AllTokens()))
    assert {row.stratum for row in found.values()} == {""} and len(found) == 2


def test_random_selection_has_as_many_tokens_in_whole_samples(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [_gain(f"s{n}", rng.normal(size=7).tolist()) for n in range(200)]
    rows += [_gain("text", [], image=False)]
    like = VigSelection(keep_share=0.5, tokens=PhraseTokens(min_gain=0.0))
    found, _ = _run(tmp_path / "like", rows, like)
    drawn, reasons = _run(tmp_path / "random", rows, RandomSelection(like=like))
    wanted, got = (sum(row.num_used for row in part.values()) for part in (found, drawn))
    assert wanted <= got < wanted + 7
    assert all(row.used == [] for row in drawn.values()) and (make_id("text"), "answer") in drawn
    assert set(reasons.values()) == {select.NOT_DRAWN}
    assert drawn.keys() - found.keys()


def _pairs() -> list[Gain]:
    rng = np.random.default_rng(1)
    return [_gain(f"p{n}", rng.normal(size=7).tolist(), role=role) for n in range(20) for role in (CHOSEN, REJECTED)]


def test_gained_pairs_are_those_whose_chosen_answer_needs_the_image(tmp_path: Path) -> None:
    rows = _pairs()
    found, reasons = _run(tmp_path, rows, GainedPairs(keep_share=0.25), PAIRS)
    order = sorted((row for row in rows if row.role == CHOSEN), key=lambda row: -row.mean_gain)
    assert {item for item, _ in found} == {row.item_id for row in order[:5]} and len(found) == 10
    assert len(reasons) == 15


def test_weighted_pairs_weigh_their_difference_and_one_in_the_mean(tmp_path: Path) -> None:
    rows = _pairs()
    found, _ = _run(tmp_path, rows, WeightedPairs(temperature=0.5), PAIRS)
    means = {(row.item_id, row.role): row.mean_gain for row in rows}
    items = {row.item_id for row in rows}
    raw = {i: 1 / (1 + math.exp(-(means[i, CHOSEN] - means[i, REJECTED]) / 0.5)) for i in items}
    average = sum(raw.values()) / len(raw)
    for (item, _), row in found.items():
        assert row.weight == pytest.approx(raw[item] / average, rel=1e-9)


def test_weights_that_are_all_zero_are_refused(tmp_path: Path) -> None:
    rows = [_gain("p", [gain] * 7, role=role) for role, gain in ((CHOSEN, 0.0), (REJECTED, 9.0))]
    with pytest.raises(Exception, match=r"stage1\.selection\.temperature is 0\.005: .*raise it"):
        _run(tmp_path, rows, WeightedPairs(temperature=0.005), PAIRS)


def test_masked_pairs_keep_the_words_that_need_the_image_in_both_answers(tmp_path: Path) -> None:
    rows = _pairs()
    found, _ = _run(tmp_path, rows, MaskedPairs(min_gain=0.5), PAIRS)
    assert len(found) == len(rows)
    for row in rows:
        used = found[row.item_id, row.role].used
        assert used[-2:] == [True, True]
        assert used[0] is (row.gains[0] >= 0.5) and used[4] is (row.gains[4] >= 0.5)
