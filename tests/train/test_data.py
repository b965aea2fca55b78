"""What a worker reads, and that its order is a function of seed and step alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray.cloudpickle
from PIL import Image

from stic_ray import artifacts, vlm
from stic_ray.config import FullFinetune, SftLoss, Training
from stic_ray.images import encode
from stic_ray.records import Pair, Reference, Sample, Turn, make_id
from stic_ray.train.data import (
    Item,
    batch_indices,
    num_steps,
    read_items,
    references_of,
    sequences_by_role,
)
from stic_ray.train.job import ChosenData, Job, PairData, SampleData, train_worker


def _pair(number: int, image_uri: str = "") -> Pair:
    values: dict[str, Any] = dict.fromkeys(Pair.__annotations__, "")
    values |= {"id": make_id("pair", number), "image_uri": image_uri, "chosen_seed": 0, "rejected_seed": 0}
    values |= {"prompt": f"prompt {number}", "chosen": f"chosen {number}", "rejected": f"rejected {number}"}
    return Pair(**values)


def _reference(pair: Pair, number: int) -> Reference:
    return Reference(
        id=pair.id, chosen_logp=-number, rejected_logp=-10.0 - number, num_chosen_tokens=1, num_rejected_tokens=1
    )


@pytest.fixture
def pair_data(tmp_path: Path) -> PairData:
    """Five pairs in two files; the third has no reference."""
    pairs = [_pair(number) for number in range(5)]
    references = [_reference(pair, number) for number, pair in enumerate(pairs) if number != 2]
    artifacts.write_rows(str(tmp_path / "p"), pairs[3:], Pair, [])
    artifacts.write_rows(str(tmp_path / "p"), pairs[:3], Pair, [])
    artifacts.write_rows(str(tmp_path / "r"), references[::-1], Reference, [])
    return PairData(pairs=str(tmp_path / "p"), references=str(tmp_path / "r"))


def _talk(item: Item) -> list[list[tuple[str, str]]]:
    return [[(turn.role, turn.text) for turn in turns] for turns in item.conversations]


def test_read_items_of_pairs_have_both_answers_and_their_own_reference(pair_data: PairData) -> None:
    items = read_items(pair_data)
    assert [item.id for item in items] == sorted(_pair(number).id for number in (0, 1, 3, 4))
    by_id = {item.id: item for item in items}
    for number in (0, 1, 3, 4):
        item = by_id[_pair(number).id]
        assert _talk(item) == [
            [("user", f"prompt {number}"), ("assistant", f"chosen {number}")],
            [("user", f"prompt {number}"), ("assistant", f"rejected {number}")],
        ]
        assert item.reference == (-number, -10.0 - number)


def test_read_items_of_the_control_are_the_same_pairs_in_the_same_order_without_what_is_rejected(
    pair_data: PairData,
) -> None:
    chosen = read_items(ChosenData(pairs=pair_data.pairs, references=pair_data.references))
    pairs = read_items(pair_data)
    assert [item.id for item in chosen] == [item.id for item in pairs]
    assert [_talk(item) for item in chosen] == [_talk(item)[:1] for item in pairs]
    assert {item.reference for item in chosen} == {None}


def test_read_items_of_samples_are_infused_only_with_a_template(tmp_path: Path) -> None:
    turns = [Turn(role="user", text="q"), Turn(role="assistant", text="a")]
    samples = [
        Sample(id=make_id("s", n), image_id="i", image_uri="u", description=d, turns=turns)
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
    item = Item(id="i", image_uri=str(tmp_path / "a.png"), conversations=(turns, turns), reference=None)
    expected = vlm.encode_example(processor, turns, Image.fromarray(pixels))
    for example in item.encode(processor):
        assert (example.input_ids, example.trained) == (expected.input_ids, expected.trained)
        assert example.image_inputs["pixel_values"].equal(expected.image_inputs["pixel_values"])
    (text_only,) = Item(id="i", image_uri="", conversations=(turns,), reference=None).encode(processor)
    assert text_only.image_inputs == {}


@pytest.mark.parametrize(
    ("num_items", "epochs", "global_batch", "steps"), [(10, 1, 5, 2), (11, 1, 5, 3), (11, 2, 5, 5), (3, 1, 8, 1)]
)
def test_num_steps_sees_every_item_in_every_epoch(num_items: int, epochs: int, global_batch: int, steps: int) -> None:
    assert num_steps(num_items, epochs=epochs, global_batch=global_batch) == steps


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


def test_references_of_items_without_one_are_refused_by_id() -> None:
    fine = Item(id="a", image_uri="", conversations=(), reference=(-1.0, -2.0))
    assert references_of([fine, fine]).tolist() == [[-1.0, -2.0]] * 2
    with pytest.raises(ValueError, match=r"pairs without reference: .*'b'"):
        references_of([fine, Item(id="b", image_uri="", conversations=(), reference=None)])


def test_sequences_by_role_puts_all_chosen_before_all_rejected() -> None:
    one, two, three, four = (vlm.Example(input_ids=[n], trained=[True], image_inputs={}) for n in range(4))
    assert sequences_by_role([[one, two], [three, four]]) == [one, three, two, four]


@pytest.mark.parametrize(
    "data",
    [PairData(pairs="p", references="r"), ChosenData(pairs="p", references="r"), SampleData(samples="s", infused="x")],
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
        micro_batch=1,
        checkpoint_every=1,
        num_threads=1,
    )
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(job)) == job
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(train_worker)) is train_worker
