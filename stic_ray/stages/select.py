"""Selection: which samples or pairs, and which of their tokens, a training uses, by visual information gain.

A threshold needs every row's gain: 20 bytes each on one worker, never in the driver. The rest is done file by file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
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
UNUSED = "none of its tokens reaches min_gain"
_BETWEEN = ", "
_Array = np.ndarray[Any, Any]


def plan(kind: str, gains: Artifact, chosen: Selection, like: Artifact | None = None, seed: int = 0) -> Plan:
    """The artifact of what is selected of `gains`, of PAIRS or SAMPLES; a random one is of `like`'s size."""
    identity: dict[str, Any] = {"selection": to_tree(chosen)}
    parents = {"gains": gains.fingerprint}
    if like is not None:
        identity["seed"] = seed
        parents["like"] = like.fingerprint
    return Plan(
        stage=f"{kind}_selection", code_version=CODE_VERSION, identity=identity, parents=parents, kind=Selected.__name__
    )


def run(config: Config, gains: Artifact, chosen: Selection, like: Artifact | None, plan: Plan) -> Artifact:
    """Make the artifact: one unit an item, one row a gain; what is not selected is a reject."""
    files = artifacts.data_files(gains.uri)
    like_files = artifacts.data_files(like.uri) if like is not None else []
    rule = on_worker(config.execution, make_rule, files, chosen, like_files, config.seed)
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

    `tau` is each stratum's threshold (`name_stratum`); `merged` are the strata that are too small for one of their own:
    theirs is that of None.
    `last_draw` is the largest that is still taken at random, `mean_weight` that of all pairs.
    """

    tau: Mapping[str | None, float] = field(default_factory=dict)
    merged: frozenset[str] = frozenset()
    last_draw: float = 0.0
    mean_weight: float = 1.0


MERGED = "(small strata)"


def make_rule(files: Sequence[str], chosen: Selection, like_files: Sequence[str], seed: int) -> Rule:
    """The rule that a selection amounts to on these files of gains; `like_files` are of what a random one is like.

    Raises:
        ValueError: there is nothing to select from, or a gain is not finite.
    """
    if isinstance(chosen, MaskedPairs):
        return Rule()
    if isinstance(chosen, WeightedPairs):
        chosen_P, rejected_P = _gains_of_pairs(files)
        with np.errstate(over="ignore"):
            mean = float(_weights(chosen_P - rejected_P, chosen.temperature).mean()) if len(chosen_P) else 0.0
        if not mean > 0:
            raise ValueError(
                f"stage1.selection.temperature is {chosen.temperature:g}: at it every pair's weight is 0: raise it"
            )
        return Rule(mean_weight=mean)
    if isinstance(chosen, GainedPairs):
        return Rule(tau={"": selection.threshold(_gains_of_pairs(files)[0], chosen.keep_share)})
    if isinstance(chosen, RandomSelection):
        return Rule(last_draw=_last_draw(files, like_files, seed))
    gains_N, codes_N, names = _gains_of_samples(files, chosen)
    if not len(gains_N):  # all are text only, and stay
        return Rule()
    counts_S = np.bincount(codes_N, minlength=len(names))
    minimum = chosen.min_stratum if chosen.strata else 0
    small_S = counts_S < minimum
    codes_N = selection.merge_small(counts_S, minimum)[codes_N]
    tau = selection.thresholds(gains_N, codes_N, chosen.keep_share).tolist()
    large = [name for name, is_small in zip(names, small_S, strict=True) if not is_small]
    return Rule(
        tau=dict(zip([*large, None][: len(tau)], tau, strict=True)),
        merged=frozenset(name for name, is_small in zip(names, small_S, strict=True) if is_small),
    )


def name_stratum(strata: Sequence[str], values: Mapping[str, str]) -> str:
    """A stratum's name: its values of the columns that make strata; "" where there are none."""
    return _BETWEEN.join(values[name] for name in strata)


def _draw(seed: int, key: str) -> float:
    return make_seed(seed, key, "random selection") / 2**63


def _weights(difference: Any, temperature: float) -> Any:
    """sigmoid(difference / temperature)."""
    return 1 / (1 + np.exp(-np.asarray(difference) / temperature))


def _gains_of_samples(files: Sequence[str], chosen: VigSelection) -> tuple[_Array, _Array, list[str]]:
    """Of the samples that have an image: gains [N] and codes of strata [N]; the strata's names [S]."""
    gains, codes = [np.empty(0)], [np.empty(0, dtype=np.int32)]
    numbers: dict[str, int] = {}
    for file in files:
        table = artifacts.read_file(file, ["image_uri", "mean_gain", *chosen.strata])
        table = table.filter(pc.not_equal(table.column("image_uri"), ""))
        gains.append(table.column("mean_gain").to_numpy())
        parts = [table.column(name) for name in chosen.strata] or [_no_names(table.num_rows)]
        encoded = pc.binary_join_element_wise(*parts, _BETWEEN).combine_chunks().dictionary_encode()
        names = [numbers.setdefault(name, len(numbers)) for name in encoded.dictionary.to_pylist()]
        codes.append(np.array(names, dtype=np.int32)[encoded.indices.to_numpy()])
    return np.concatenate(gains), np.concatenate(codes), list(numbers)


def _no_names(number: int) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat("", number)])


def _last_draw(files: Sequence[str], like_files: Sequence[str], seed: int) -> float:
    """The draw up to which samples with an image have as many tokens as are used of those in `like_files`."""
    wanted = 0
    for file in like_files:
        wanted += pc.sum(artifacts.read_file(file, ["num_used"]).column("num_used")).as_py() or 0
    draws, sizes = [np.empty(0)], [np.empty(0, dtype=np.int64)]
    for file in files:
        table = artifacts.read_file(file, ["item_id", "image_uri", "token_ids"])
        table = table.filter(pc.not_equal(table.column("image_uri"), ""))
        draws.append(np.array([_draw(seed, key) for key in table.column("item_id").to_pylist()]))
        sizes.append(pc.list_value_length(table.column("token_ids")).to_numpy())
    draws_N, sizes_N = np.concatenate(draws), np.concatenate(sizes)
    order = np.argsort(draws_N)
    place = int(np.searchsorted(np.cumsum(sizes_N[order]), wanted))
    return float(draws_N[order[min(place, len(order) - 1)]]) if len(order) else 0.0


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
    assert isinstance(self.chosen, VigSelection)
    if not gain.image_uri:
        return [_selected(gain, used=[])], ""
    name = name_stratum(self.chosen.strata, vars(gain))
    merged = name in rule.merged
    tau = rule.tau[None if merged else name]
    if gain.mean_gain < tau:
        return [], BELOW
    used = use_tokens(gain, self.chosen.tokens, tau)
    if used and not any(used):
        return [], UNUSED
    return [replace(_selected(gain, used=used), stratum=MERGED if merged else name)], ""


def _select_random(self: Select, gains: list[Gain], rule: Rule) -> _Done:
    (gain,) = gains
    taken = not gain.image_uri or _draw(self.seed, gain.item_id) <= rule.last_draw
    return ([_selected(gain, used=[])], "") if taken else ([], NOT_DRAWN)


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
    return [_selected(gain, used=_use_phrases(gain, min_gain)) for gain in gains], ""


_DO: dict[type, Callable[[Select, list[Gain], Rule], _Done]] = {
    VigSelection: _select_sample,
    RandomSelection: _select_random,
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
        num_used=sum(used) if used else len(gain.token_ids),
        token_ids=gain.token_ids if used else [],
        used=used,
    )


def use_tokens(gain: Gain, rule: TokenRule, tau: float) -> list[bool]:
    """Which of a gain's tokens a rule trains, [] for all; `tau` is the threshold of its stratum."""
    if isinstance(rule, AllTokens):
        return []
    min_gain = tau if rule.min_gain is None else rule.min_gain
    if isinstance(rule, ThresholdTokens):
        return selection.keep_above(gain.gains, min_gain)
    return _use_phrases(gain, min_gain)


def _use_phrases(gain: Gain, min_gain: float) -> list[bool]:
    answers = [turn.text.strip() for turn in gain.turns if turn.role == "assistant"]
    used: list[bool] = []
    for number, answer in enumerate(answers):
        mine = [t for t, of in enumerate(gain.answers) if of == number]
        spoken = [t for t in mine if gain.starts[t] < len(answer)]
        # From where the token before ended: many tokenizers leave the space between out of both.
        texts = selection.same_texts(spoken, gain.starts, gain.stops)
        begins = [0, *(gain.stops[one[0]] for one in texts)]
        pieces = [
            answer[min(begin, gain.starts[one[0]]) : gain.stops[one[0]]]
            for begin, one in zip(begins, texts, strict=False)
        ]
        best = [max(gain.gains[t] for t in one) for one in texts]
        kept = selection.keep_phrases(pieces, best, min_gain)
        used += [keep for keep, one in zip(kept, texts, strict=True) for _ in one]
        used += [True] * (len(mine) - len(spoken))
    return used
