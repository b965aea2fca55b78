"""CHAIR's word rules against cases worked by hand."""

import pickle
from pathlib import Path

import pytest

from stic_ray.evaluate.coco_objects import coco_vocabulary
from stic_ray.evaluate.objects import Vocabulary, make_vocabulary, singulars

SMALL = make_vocabulary([["dog", "puppy"], ["hot dog"], ["bat"], ["bat box"], ["ski lift", "lift"]])


@pytest.fixture(scope="module")
def coco() -> Vocabulary:
    return coco_vocabulary()


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        # Names of two words are one object.
        ("A hot dog beside a dog.", ["hot dog", "dog"]),
        ("Hot dogs and dogs", ["hot dog", "dog"]),
        ("It is hot. Dogs sleep.", ["dog"]),
        ("hot, dog", ["dog"]),
        ("a fire hydrant by a stop sign", ["fire hydrant", "stop sign"]),
        ("Two wine glasses, one wine glass", ["wine glass", "wine glass"]),
        ("His cell phone, her mobile phones", ["cell phone", "cell phone"]),
        ("teddy bears and a bear", ["teddy bear", "bear"]),
        ("a stop light over parking meters", ["traffic light", "parking meter"]),
        ("a baseball bat, a tennis racket, a hair drier", ["baseball bat", "tennis racket", "hair drier"]),
        ("a potted plant on a dining table", ["potted plant", "dining table"]),
        ("a laptop computer in a suit case", ["laptop", "suitcase"]),
        ("A motor cycle under an air plane", ["motorcycle", "airplane"]),
        # A baby or an adult before an animal is that animal, before anything else a person.
        ("a baby elephant", ["elephant"]),
        ("adult giraffes with a baby giraffe", ["giraffe", "giraffe"]),
        ("an adult bird feeds baby birds", ["bird", "bird"]),
        ("baby animals, a baby animal, an adult cub", []),
        ("a baby and a dog", ["person", "dog"]),
        ("a baby, dog", ["person", "dog"]),
        ("a baby holds a toothbrush", ["person", "toothbrush"]),
        # Passengers of a name are no persons.
        ("a passenger train", ["train"]),
        ("passenger jets", ["airplane"]),
        ("a passenger in a train", ["person", "train"]),
        ("train tracks, a train track", []),
        ("a train on train tracks", ["train"]),
        ("He slides into home plate", []),
        ("a bow tie or ties", ["tie", "tie"]),
        # Seats of a toilet are no chairs, anywhere in the text.
        ("a toilet seat", ["toilet"]),
        ("the seat of the toilet", ["toilet"]),
        ("a toilet seat on a seat", ["toilet"]),
        ("Seats stand apart. Toilets too. A chair.", ["toilet", "chair"]),
        ("a urinal and a seat", ["toilet", "chair"]),
        ("a seat", ["chair"]),
        # Synonyms and plurals.
        ("A man, two women and three children with policemen", ["person"] * 4),
        ("people", ["person"]),
        ("puppies, kittens and ponies", ["dog", "cat", "horse"]),
        ("three buses, vases, knives, couches and geese", ["bus", "vase", "knife", "couch", "bird"]),
        ("He skis on one ski with scissors", ["skis", "skis", "scissors"]),
        ("sheep, sandwiches, calves", ["sheep", "sandwich", "cow"]),
        ("canes, panes, vanes: horses' manes, cares and capes", ["horse"]),
        ("a doghouse, a busy busman", []),
        # What stands around and between words.
        ("DOG! (Cat); *bus*: 'oven' \u201ckite\u201d", ["dog", "cat", "bus", "oven", "kite"]),
        ("the dog's bone, dogs\u2019 bones, the cat\u2019s", ["dog", "dog", "cat"]),
        ("men's shoes", ["person"]),
        ("three o'clock on the clock", ["clock"]),
        ("a hot-dog, teddy-bears, a stop-sign", ["hot dog", "teddy bear", "stop sign"]),
        ("a man-made dog-friendly bear-shaped cake", ["cake"]),
        ("a dog - a big one - and a cat--asleep", ["dog", "cat"]),
        ("a couch/sofa\nwith a _book_", ["couch", "couch", "book"]),
        ("", []),
        (" . - ' ", []),
    ],
)
def test_mentions_of_coco_objects_follow_the_word_rules(coco: Vocabulary, text: str, mentions: list[str]) -> None:
    assert coco.mentions(text) == mentions


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("a baby dog, a baby cat", ["dog"]),
        ("a passenger train on a train track, a seat, a toilet seat", []),
        ("a bat box, bat boxes, bats, a bat by a box", ["bat box", "bat box", "bat", "bat"]),
        ("ski lifts", ["ski lift"]),
    ],
)
def test_mentions_of_a_small_vocabulary_know_only_its_objects(text: str, mentions: list[str]) -> None:
    assert SMALL.mentions(text) == mentions


def test_mentions_of_colour_shape_pairs_are_objects_and_no_special_pair_is_added() -> None:
    vocabulary = make_vocabulary([["red circle"], ["blue square"]])
    mentions = vocabulary.mentions("red circle top , blue square center , red square left , blue circle .")
    assert mentions == ["red circle", "blue square"]
    assert vocabulary.names == {"red circle": "red circle", "blue square": "blue square"}


def test_mentions_special_pair_that_a_line_has_stands_for_its_object() -> None:
    vocabulary = make_vocabulary([["train"], ["rails", "train track"], ["dog"], ["puppy", "baby dog"]])
    assert vocabulary.mentions("a train on train tracks, a baby dog") == ["train", "rails", "puppy"]


@pytest.mark.parametrize("word", ["glass", "dress", "dog", "as"])
def test_singulars_word_that_is_no_plural_gives_nothing(word: str) -> None:
    assert singulars(word) == ()


def test_vocabulary_without_names_finds_nothing() -> None:
    assert Vocabulary().mentions("a dog") == []
    assert Vocabulary().canonical("dog") is None


def test_vocabulary_pickles(coco: Vocabulary) -> None:
    assert pickle.loads(pickle.dumps(coco)) == coco


def test_canonical_synonym_maps_to_first_word_of_its_line(coco: Vocabulary) -> None:
    names = ("Woman", "puppies", "hot-dog", "unicorn", "train track", "baby cow", "")
    assert [coco.canonical(name) for name in names] == ["person", "dog", "hot dog", None, None, "cow", None]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([["cat"], [], ["dog", "cat"]], "line 3: the name 'cat' stands for 'cat' and for 'dog'"),
        ([["cat", "tom-cat"], ["Tom cat"]], "line 2: the name 'Tom cat' stands for 'cat' and for 'Tom cat'"),
        ([["cat", ""]], "line 1: the name '' has no word"),
        ([["cat"], ["-"]], "line 2: the name '-' has no word"),
    ],
)
def test_make_vocabulary_bad_line_is_named(lines: list[list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vocabulary(lines)


def test_coco_objects_have_the_official_names(real_data: Path, coco: Vocabulary) -> None:
    lines = (real_data / "benchmarks" / "chair_synonyms.txt").read_text().splitlines()
    official = [line.split(",")[0] for line in lines]
    assert len(official) == 80
    assert set(coco.names.values()) - {""} == set(official)
    assert [coco.canonical(name) for name in official] == official


def test_mentions_with_the_official_synonyms_read_real_captions(real_data: Path) -> None:
    lines = (real_data / "benchmarks" / "chair_synonyms.txt").read_text().splitlines()
    vocabulary = make_vocabulary([[name.strip() for name in line.split(",")] for line in lines])
    text = "Two men in bow ties hold wine glasses near a fire hydrant, stop lights and a baby zebra on train tracks."
    assert vocabulary.mentions(text) == ["person", "tie", "wine glass", "fire hydrant", "traffic light", "zebra"]
