"""Selection: which samples or pairs, and which of their tokens, a training uses, by visual information gain.

A threshold needs every row's gain: 20 bytes each on one worker, never in the driver. The rest is done file by file.
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow.compute as pc
import ray

from stic_ray import artifacts, selection
from stic_ray.artifacts import Artifact, Plan
from stic_ray.config import (
    AllTokens,
    Config,
    GainedPairs,
    MaskedPairs,
    RandomSelection,
    Selection,
    ThresholdTokens,
    TokenRule,
    VigSelection,
    WeightedPairs,
    to_tree,
)
from stic_ray.flow import Inputs, Outcome, TaskWork, Unit, on_worker, run_stage
from stic_ray.records import Gain, Selected, make_id, make_seed, read_turns
from stic_ray.stages.score import CHOSEN, by_item

CODE_VERSION = 1
BELOW = "its gain is below the threshold"
NOT_DRAWN = "not drawn"
_COLUMNS = ["id", "item_id", "role", "image_uri", "category", "first_word", "mean_gain"]
_Array = np.ndarray[Any, Any]


def plan(config: Config, kind: str, gains: Artifact, chosen: Selection) -> Plan:
    """The artifact of what is selected of `gains`, of PAIRS or SAMPLES."""
    identity = {"selection": to_tree(chosen)}
    if isinstance(chosen, RandomSelection):
        identity["seed"] = config.seed
    parents = {"gains": gains.fingerprint}
    return Plan(
        stage=f"{kind}_selection", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Selected.__name__
    )


def run(config: Config, gains: Artifact, chosen: Selection, plan: Plan) -> Artifact:
    """Make the artifact: one unit an item, one row a gain; what is not selected is a reject."""
    rule = on_worker(config.execution, make_rule, artifacts.data_files(gains.uri), chosen, config.seed)
    return run_stage(
        store=config.store,
        plan=plan,
        work=TaskWork(record=Selected, input_column="item_id", do=Select(chosen=chosen, rule=rule, seed=config.seed)),
        inputs=Inputs(parent=gains, column="item_id", read=by_item),
        execution=replace(config.execution, max_reject_rate=1.0),  # not to be selected is no fault of the input
    )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What only all rows together decide.

    By stratum (`name_stratum`): tau, and for a random selection the draw below which a sample is taken. `merged` are
    the strata that are too small for one of their own. `mean_weight` is that of all pairs.
    """

    tau: Mapping[str, float] = field(default_factory=dict)
    draw: Mapping[str, float] = field(default_factory=dict)
    merged: frozenset[str] = frozenset()
    mean_weight: float = 1.0


MERGED = "(small strata)"


def make_rule(files: Sequence[str], chosen: Selection, seed: int) -> Rule:
    """The rule that a selection amounts to on these files of gains.

    Raises:
        ValueError: there is nothing to select from, or a gain is not finite.
    """
    if isinstance(chosen, MaskedPairs):
        return Rule()
    if isinstance(chosen, WeightedPairs):
        chosen_N, rejected_N = _gains_of_pairs(files)
        return Rule(mean_weight=float(_weights(chosen_N - rejected_N, chosen.temperature).mean()))
    if isinstance(chosen, GainedPairs):
        return Rule(tau={"": selection.threshold(_gains_of_pairs(files)[0], chosen.keep_share)})
    like = chosen.like if isinstance(chosen, RandomSelection) else chosen
    gains_N, codes_N, names, ids_N = _gains_of_samples(files, like)
    if not len(gains_N):  # all are text only, and stay
        return Rule()
    counts_S = np.bincount(codes_N, minlength=len(names))
    merged_S = selection.merge_small(counts_S, like.min_stratum)
    kept = sorted(set(merged_S.tolist()))
    large = {
        int(code): name
        for name, code, count in zip(names, merged_S, counts_S, strict=True)
        if count >= like.min_stratum
    }
    codes_N = np.searchsorted(kept, merged_S[codes_N]).astype(np.int32)
    tau = selection.thresholds(gains_N, codes_N, like.keep_share)
    titles = [large.get(code, MERGED) for code in kept]
    draw: dict[str, float] = {}
    if isinstance(chosen, RandomSelection):
        draws_N = np.array([_draw(seed, key) for key in ids_N])
        # As many as reach tau, which ties make more than the share.
        num_kept = np.bincount(codes_N, weights=gains_N >= tau[codes_N], minlength=len(kept)).astype(int)
        draw = {titles[code]: float(np.sort(draws_N[codes_N == code])[num - 1]) for code, num in enumerate(num_kept)}
    return Rule(
        tau=dict(zip(titles, tau.tolist(), strict=True)),
        draw=draw,
        merged=frozenset(name for name, count in zip(names, counts_S, strict=True) if count < like.min_stratum),
    )


def name_stratum(strata: Sequence[str], values: Mapping[str, str]) -> str:
    """A stratum's name: its values of the columns that make strata; "" where there are none."""
    return ", ".join(values[name] for name in strata)


def _draw(seed: int, key: str) -> float:
    return make_seed(seed, key, "random selection") / 2**63


def _weights(difference: Any, temperature: float) -> Any:
    """sigmoid(difference / temperature)."""
    return 1 / (1 + np.exp(-np.asarray(difference) / temperature))


def _gains_of_samples(files: Sequence[str], like: VigSelection) -> tuple[_Array, _Array, list[str], list[str]]:
    """Of the samples that have an image: gains [N], codes of strata [N], the strata's names [S], the samples' ids."""
    columns = [name for name in _COLUMNS if name in ("image_uri", "mean_gain", "item_id", *like.strata)]
    gains, codes, ids = [], [], list[str]()
    numbers: dict[str, int] = {}
    for file in files:
        table = artifacts.read_file(file, columns)
        table = table.filter(pc.not_equal(table.column("image_uri"), ""))
        gains.append(table.column("mean_gain").to_numpy())
        parts = [table.column(name) for name in like.strata]
        if parts:
            encoded = pc.binary_join_element_wise(*parts, ", ").combine_chunks().dictionary_encode()
            names = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
            codes.append(np.array(names, dtype=np.int32)[encoded.indices.to_numpy()])
        else:
            numbers.setdefault("", 0)
            codes.append(np.zeros(table.num_rows, dtype=np.int32))
        ids += table.column("item_id").to_pylist()
    return np.concatenate([np.empty(0), *gains]), np.concatenate([np.empty(0, np.int32), *codes]), list(numbers), ids


def _gains_of_pairs(files: Sequence[str]) -> tuple[_Array, _Array]:
    """Gains of the chosen and of the rejected answers, [P] each, in the same order."""
    chosen, rejected = [np.empty(0)], [np.empty(0)]
    for file in files:
        table = artifacts.read_file(file, ["item_id", "role", "mean_gain"]).sort_by("item_id")
        is_chosen = pc.equal(table.column("role"), CHOSEN)
        chosen.append(table.filter(is_chosen).column("mean_gain").to_numpy())
        rejected.append(table.filter(pc.invert(is_chosen)).column("mean_gain").to_numpy())
    return np.concatenate(chosen), np.concatenate(rejected)


@dataclass(frozen=True, kw_only=True)
class Select:
    """CPU work of a unit: an item's rows, or why it is not selected. `rule` is a reference to a `Rule`."""

    chosen: Selection
    rule: Any
    seed: int

    def __call__(self, unit: Unit) -> Outcome:
        """The rows of an item, or a reject."""
        gains = [Gain(**read_turns(tree)) for tree in json.loads(unit.payload)]
        rows, reason = _DO[type(self.chosen)](self, gains, _fetch(self.rule))
        return Outcome(id=unit.id, rows=rows, reason=reason)


@cache  # by worker
def _fetch(rule: Any) -> Rule:
    found: Rule = ray.get(rule)
    return found


_Done = tuple[list[Selected], str]


def _select_sample(self: Select, gains: list[Gain], rule: Rule) -> _Done:
    """VIG, section 3.2 and 3.3: S_p = {i : VIG_i >= tau_p}, and the token rule inside of it."""
    (gain,) = gains
    if not gain.image_uri:
        return [_selected(gain, used=[])], ""
    is_random = isinstance(self.chosen, RandomSelection)
    like = self.chosen.like if isinstance(self.chosen, RandomSelection) else self.chosen
    assert isinstance(like, VigSelection)
    name = name_stratum(like.strata, vars(gain))
    stratum = MERGED if name in rule.merged else name
    if is_random:
        if _draw(self.seed, gain.item_id) > rule.draw[stratum]:
            return [], NOT_DRAWN
    elif gain.mean_gain < rule.tau[stratum]:
        return [], BELOW
    dealt = random.Random(make_seed(self.seed, gain.item_id, "dealt gains")) if is_random else None
    used = use_tokens(gain, like.tokens, rule.tau[stratum], dealt)
    return [replace(_selected(gain, used=used), stratum=stratum)], ""


def _select_gained(self: Select, gains: list[Gain], rule: Rule) -> _Done:
    chosen = next(gain for gain in gains if gain.role == CHOSEN)
    if chosen.mean_gain < rule.tau[""]:
        return [], BELOW
    return [_selected(gain, used=[]) for gain in gains], ""


def _select_weighted(self: Select, gains: list[Gain], rule: Rule) -> _Done:
    assert isinstance(self.chosen, WeightedPairs)
    means = {gain.role == CHOSEN: gain.mean_gain for gain in gains}
    weight = float(_weights(means[True] - means[False], self.chosen.temperature)) / rule.mean_weight
    return [replace(_selected(gain, used=[]), weight=weight) for gain in gains], ""


def _select_masked(self: Select, gains: list[Gain], rule: Rule) -> _Done:
    assert isinstance(self.chosen, MaskedPairs)
    min_gain = self.chosen.min_gain
    return [_selected(gain, used=_use_phrases(gain, min_gain, None)) for gain in gains], ""


_DO: dict[type, Callable[[Select, list[Gain], Rule], _Done]] = {
    VigSelection: _select_sample,
    RandomSelection: _select_sample,
    GainedPairs: _select_gained,
    WeightedPairs: _select_weighted,
    MaskedPairs: _select_masked,
}


def _selected(gain: Gain, *, used: list[bool]) -> Selected:
    return Selected(
        id=make_id("selected", gain.id),
        item_id=gain.item_id,
        role=gain.role,
        image_id=gain.image_id,
        stratum="",
        mean_gain=gain.mean_gain,
        weight=1.0,
        token_ids=gain.token_ids if used else [],
        used=used,
    )


def use_tokens(gain: Gain, rule: TokenRule, tau: float, dealt: random.Random | None) -> list[bool]:
    """Which of a gain's tokens a rule trains, [] for all; `tau` is the threshold of its stratum."""
    if isinstance(rule, AllTokens):
        return []
    min_gain = tau if rule.min_gain is None else rule.min_gain
    if isinstance(rule, ThresholdTokens):
        return selection.keep_above(gain.gains, min_gain, dealt)
    return _use_phrases(gain, min_gain, dealt)


def _use_phrases(gain: Gain, min_gain: float, dealt: random.Random | None) -> list[bool]:
    answers = [turn.text.strip() for turn in gain.turns if turn.role == "assistant"]
    used: list[bool] = []
    for number, answer in enumerate(answers):
        mine = [t for t, of in enumerate(gain.answers) if of == number]
        spoken = [t for t in mine if gain.starts[t] < len(answer)]
        pieces = [answer[gain.starts[t] : gain.stops[t]] for t in spoken]
        used += selection.keep_phrases(pieces, [gain.gains[t] for t in spoken], min_gain, dealt)
        used += [True] * (len(mine) - len(spoken))
    return used
