"""What a worker reads, and that its order is a function of seed and step alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.cloudpickle
from PIL import Image

from stic_ray import artifacts, vlm
from stic_ray.config import Execution, FullFinetune, SftLoss, Training
from stic_ray.images import encode
from stic_ray.records import Sample, Score, Selected, Turn, make_id
from stic_ray.train.data import Item, batch_indices, known, num_steps, read_items, split_items
from stic_ray.train.job import ChosenData, Job, PairData, SampleData, ScoredPairs, train_worker


def _score(number: int, role: str) -> Score:
    """Of two tokens: log-probabilities -n and -1 of the chosen, -n and -10 of the rejected answer."""
    item = make_id("pair", number)
    turns = [Turn(role="user", text=f"prompt {number}"), Turn(role="assistant", text=f"{role} {number}")]
    values: dict[str, Any] = dict.fromkeys(Score.__annotations__, "")
    values |= {"id": make_id("score", item, role), "item_id": item, "role": role, "turns": turns}
    logp = [-float(number), -1.0 if role == "chosen" else -10.0]
    return Score(**{**values, "token_ids": [1, 2], "answers": [0, 0], "starts": [0, 1], "stops": [1, 1], "logp": logp})


def _selected(number: int, role: str, *, used: list[bool], weight: float = 1.0) -> Selected:
    item = make_id("pair", number)
    values: dict[str, Any] = {"image_id": "", "stratum": "", "mean_gain": 0.0, "weight": weight, "num_used": sum(used)}
    token_ids = [1, 2] if used else []
    return Selected(id=make_id(item, role), item_id=item, role=role, token_ids=token_ids, used=used, **values)


_ROLES = ("chosen", "rejected")


@pytest.fixture
def part(tmp_path: Path) -> ScoredPairs:
    """Five pairs in two files."""
    scores = [_score(number, role) for number in range(5) for role in _ROLES]
    artifacts.write_rows(str(tmp_path / "s"), scores[6:], Score, [])
    artifacts.write_rows(str(tmp_path / "s"), scores[:6], Score, [])
    return ScoredPairs(scores=str(tmp_path / "s"))


def _references(items: list[Item]) -> list[list[float]]:
    """Summed, of the tokens that are used."""
    return [[float(each.reference().sum()) for each in item.known] for item in items]


def _talk(item: Item) -> list[list[tuple[str, str]]]:
    return [[(turn.role, turn.text) for turn in turns] for turns in item.conversations]


def test_read_items_of_pairs_have_both_answers_and_their_own_reference(part: ScoredPairs) -> None:
    items = read_items(PairData(parts=(part,)))
    assert [item.id for item in items] == sorted(make_id("pair", number) for number in range(5))
    by_id = {item.id: item for item in items}
    for number in range(5):
        item = by_id[make_id("pair", number)]
        assert _talk(item) == [[("user", f"prompt {number}"), ("assistant", f"{role} {number}")] for role in _ROLES]
        assert item.weight == 1.0
        assert _references([item]) == [[-number - 1.0, -number - 10.0]]


def test_read_items_of_pairs_that_nobody_scored_have_tokens_alone(tmp_path: Path) -> None:
    rows = [replace(_score(number, role), logp=[]) for number in range(2) for role in _ROLES]
    artifacts.write_rows(str(tmp_path / "t"), rows, Score, [])
    items = read_items(PairData(parts=(ScoredPairs(scores=str(tmp_path / "t")),)))
    assert [[list(each.token_ids) for each in item.known] for item in items] == [[[1, 2], [1, 2]]] * 2
    assert not any(len(each.logp) for item in items for each in item.known)


def test_read_items_of_pairs_are_the_selected_ones_with_their_weights_and_tokens(
    part: ScoredPairs, tmp_path: Path
) -> None:
    rows = [_selected(1, role, used=[], weight=0.5) for role in _ROLES]
    rows += [_selected(3, "chosen", used=[True, False]), _selected(3, "rejected", used=[False, True])]
    artifacts.write_rows(str(tmp_path / "c"), rows, Selected, [])
    items = {item.id: item for item in read_items(PairData(parts=(replace(part, selection=str(tmp_path / "c")),)))}
    assert items.keys() == {make_id("pair", 1), make_id("pair", 3)}
    weighted, masked = items[make_id("pair", 1)], items[make_id("pair", 3)]
    assert (weighted.weight, masked.weight) == (0.5, 1.0)
    assert _references([weighted, masked]) == [[-2.0, -11.0], [-3.0, -10.0]]


def test_read_items_of_pairs_refuse_a_mask_of_other_tokens(part: ScoredPairs, tmp_path: Path) -> None:
    rows = [_selected(1, "chosen", used=[True, False]), _selected(1, "rejected", used=[True, True])]
    rows[1] = replace(rows[1], token_ids=[1, 7])
    artifacts.write_rows(str(tmp_path / "c"), rows, Selected, [])
    masked = replace(part, selection=str(tmp_path / "c"))
    for data in (PairData(parts=(masked,)), ChosenData(parts=(masked,))):
        with pytest.raises(ValueError, match=r"has other tokens here than when it was scored.*vig\.scorer"):
            read_items(data)


def test_read_items_of_several_artifacts_of_pairs_stand_together(part: ScoredPairs, tmp_path: Path) -> None:
    artifacts.write_rows(str(tmp_path / "t"), [_score(9, role) for role in _ROLES], Score, [])
    items = read_items(PairData(parts=(part, ScoredPairs(scores=str(tmp_path / "t")))))
    assert len(items) == 6 and items[-1].id == make_id("pair", 9)


def test_read_items_take_a_pair_of_two_sources_once(part: ScoredPairs) -> None:
    once, twice = (read_items(PairData(parts=parts)) for parts in ((part,), (part, part)))
    assert [item.id for item in once] == [item.id for item in twice]


def test_read_items_of_the_control_are_the_same_pairs_in_the_same_order_without_what_is_rejected(
    part: ScoredPairs,
) -> None:
    chosen = read_items(ChosenData(parts=(part,)))
    pairs = read_items(PairData(parts=(part,)))
    assert [item.id for item in chosen] == [item.id for item in pairs]
    assert [_talk(item) for item in chosen] == [_talk(item)[:1] for item in pairs]
    assert {len(item.known) for item in chosen} == {1}


def test_read_items_of_samples_are_the_selected_ones_with_their_tokens(tmp_path: Path) -> None:
    turns = [Turn(role="user", text="q"), Turn(role="assistant", text="a")]
    samples = [
        Sample(id=make_id("pair", n), image_id="i", image_uri="", category="", description="", turns=turns)
        for n in range(3)
    ]
    artifacts.write_rows(str(tmp_path / "s"), samples, Sample, [])
    rows = [_selected(0, "answer", used=[True, False]), _selected(2, "answer", used=[])]
    artifacts.write_rows(str(tmp_path / "c"), rows, Selected, [])
    data = SampleData(samples=str(tmp_path / "s"), infused="", selection=str(tmp_path / "c"))
    assert {item.id: item.known[0].used.tolist() for item in read_items(data)} == {
        samples[0].id: [True, False],
        samples[2].id: [],
    }


def test_item_encode_trains_the_used_tokens_alone_and_refuses_other_tokens(tiny_llava: Path) -> None:
    processor = vlm.load_processor(str(tiny_llava))
    turns = [Turn(role="user", text="q"), Turn(role="assistant", text="a dog"), Turn(role="user", text="r")]
    turns.append(Turn(role="assistant", text="a cat"))
    whole = vlm.encode_example(processor, turns, None)
    used = [number % 3 == 0 for number in range(whole.num_trained)]
    of_tokens = known(whole.answer_ids, used=used)
    ((example,),) = Item(id="i", image_uri="", conversations=(turns,), known=(of_tokens,)).encode(processor)
    places = [place for place, trained in enumerate(whole.trained) if trained]
    assert [place for place, trained in enumerate(example.trained) if trained] == places[::3]
    other = known([*whole.answer_ids[:-1], 0], used=used)
    with pytest.raises(ValueError, match="has other tokens here than when it was scored"):
        Item(id="i", image_uri="", conversations=(turns,), known=(other,)).encode(processor)


def test_read_items_of_samples_are_infused_only_with_a_template(tmp_path: Path) -> None:
    turns = [Turn(role="user", text="q"), Turn(role="assistant", text="a")]
    samples = [
        Sample(id=make_id("s", n), image_id="i", image_uri="u", category="", description=d, turns=turns)
        for n, d in enumerate(("a dog", ""))
    ]
    artifacts.write_rows(str(tmp_path), samples, Sample, [])
    infused = {i.id: i for i in read_items(SampleData(samples=str(tmp_path), infused="{description}! {question}"))}
    plain = {i.id: i for i in read_items(SampleData(samples=str(tmp_path), infused=""))}
    assert infused.keys() == plain.keys() == {sample.id for sample in samples}
    assert _talk(infused[samples[0].id]) == [[("user", "a dog! q"), ("assistant", "a")]]
    assert _talk(infused[samples[1].id]) == [[("user", "q"), ("assistant", "a")]]
    assert {str(_talk(item)) for item in plain.values()} == {str([[("user", "q"), ("assistant", "a")]])}


def test_item_encode_reads_the_image_where_it_lies(tiny_llava: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode(Image.fromarray(pixels)))
    processor = vlm.load_processor(str(tiny_llava))
    turns = [Turn(role="user", text="q"), Turn(role="assistant", text="a")]
    item = Item(id="i", image_uri=str(tmp_path / "a.png"), conversations=(turns, turns), known=(known(), known()))
    expected = vlm.encode_example(processor, turns, Image.fromarray(pixels))
    (group,) = item.encode(processor)
    for example in group:
        assert (example.input_ids, example.trained) == (expected.input_ids, expected.trained)
        assert example.image_inputs["pixel_values"].equal(expected.image_inputs["pixel_values"])
    ((text_only,),) = Item(id="i", image_uri="", conversations=(turns,), known=(known(),)).encode(processor)
    assert text_only.image_inputs == {}


@pytest.mark.parametrize(
    ("num_items", "epochs", "global_batch", "steps"), [(10, 1, 5, 2), (11, 1, 5, 3), (11, 2, 5, 5), (3, 1, 8, 1)]
)
def test_num_steps_sees_every_item_in_every_epoch(num_items: int, epochs: int, global_batch: int, steps: int) -> None:
    assert num_steps(num_items, epochs=epochs, global_batch=global_batch) == steps


def test_split_items_holds_images_out_with_all_that_is_on_them() -> None:
    items = [Item(id=f"{n}", image_uri=f"image {n % 20}", conversations=(), known=()) for n in range(60)]
    trained, held_out = split_items(items, 0.25)
    images = [{item.image_uri for item in part} for part in (trained, held_out)]
    assert (len(images[0]), len(images[1]), images[0] & images[1]) == (15, 5, set())
    assert len(trained) + len(held_out) == 60
    again = split_items(items[::-1], 0.25)
    assert {item.id for item in again[1]} == {item.id for item in held_out}
    few = [len(part) for part in split_items(items[:2], 0.01)]
    assert few == [1, 1]


def test_batch_indices_every_epoch_is_another_permutation_of_all_items() -> None:
    stream = [i for step in range(14) for i in batch_indices(step, num_items=7, global_batch=4, seed=0)]
    epochs = [tuple(stream[start : start + 7]) for start in range(0, 56, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == len(epochs)


def test_batch_indices_are_a_function_of_seed_and_step_whatever_came_before() -> None:
    sizes = {"num_items": 23, "global_batch": 8}
    forward = [batch_indices(step, **sizes, seed=1) for step in range(6)]
    assert [batch_indices(step, **sizes, seed=1) for step in reversed(range(6))] == forward[::-1]
    assert [batch_indices(step, **sizes, seed=2) for step in range(6)] != forward


def test_batch_indices_batch_larger_than_the_data_takes_every_item_as_often() -> None:
    counts = Counter(batch_indices(0, num_items=3, global_batch=9, seed=0))
    assert counts == {0: 3, 1: 3, 2: 3}


@pytest.mark.parametrize(
    "data",
    [PairData(parts=(ScoredPairs(scores="s"),)), ChosenData(parts=()), SampleData(samples="s", infused="x")],
)
def test_job_and_the_function_that_gets_it_pickle(data: PairData | ChosenData | SampleData) -> None:
    training = Training(loss=SftLoss(), weights=FullFinetune(), lr=0.1, epochs=1, global_batch=2)
    job = Job(
        model_uri="m",
        dtype="float32",
        training=training,
        data=data,
        seed=0,
        output="o",
        execution=Execution(row_tokens=1),
    )
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(job)) == job
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(train_worker)) is train_worker
