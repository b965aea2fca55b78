"""Questions about a scene with the answers that its ground truth gives."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from stic_ray.world.captions import NUMBERS
from stic_ray.world.scenes import COLORS, COMPANION, POSITIONS, SHAPES, TYPICAL_COLOR, Scene, SceneObject


@dataclass(frozen=True)
class Question:
    """A question, its one-word answer and its type."""

    text: str
    answer: str
    category: str


POPE_STRATEGIES = ("random", "popular", "adversarial")
_NUM_POPULAR = 2
_RELATION_ATTEMPTS = 10
_COUNTED_PRESENT_SHARE = 0.55


def ask(scene: Scene, category: str, rng: random.Random) -> Question | None:
    """A question of a type about the scene; None where the scene allows none."""
    asked = _ASK[category](scene, rng)
    return asked and Question(asked[0], asked[1], category)


def ask_existence(scene: Scene, strategy: str, wanted: str, rng: random.Random) -> Question:
    """POPE's question about a shape: a present one (`wanted` "yes") or one absent by the strategy ("no").

    Strategies: any absent shape; one of the two most frequent absent ones; the companion of a present one.
    """
    present = sorted({item.shape for item in scene})
    if wanted == "yes":
        shape = rng.choice(present)
    else:
        absent = [shape for shape in SHAPES if shape not in present]
        if strategy == "popular":
            absent = absent[:_NUM_POPULAR]
        elif strategy == "adversarial":
            absent = [COMPANION[shape] for shape in present if COMPANION[shape] in absent] or absent[:1]
        shape = rng.choice(absent)
    return Question(f"is there a {shape} ?", wanted, "existence")


_Asked = tuple[str, str] | None


def _ask_any_existence(scene: Scene, rng: random.Random) -> _Asked:
    # Half of the negatives are random ones, as in the other half popular and adversarial share.
    strategy = rng.choice(("random", *POPE_STRATEGIES))
    question = ask_existence(scene, strategy, rng.choice(("yes", "no")), rng)
    return question.text, question.answer


def _ask_pair(scene: Scene, rng: random.Random) -> _Asked:
    if rng.random() < 0.5:
        return f"is there a {rng.choice(scene).name} ?", "yes"
    return f"is there a {_absent_name(scene, rng)} ?", "no"


def _absent_name(scene: Scene, rng: random.Random) -> str:
    """A colour and shape that the scene has not; most share one of the two with a present object."""
    present = {item.name for item in scene}
    while True:
        item = rng.choice(scene)
        kind = rng.random()
        shape = item.shape if kind < 0.35 or 0.6 <= kind < 0.8 else rng.choice(SHAPES)
        if 0.35 <= kind < 0.6:
            color = item.color
        elif 0.6 <= kind < 0.8:
            color = rng.choice(scene).color
        else:
            color = TYPICAL_COLOR[shape] if rng.random() < 0.5 else rng.choice(COLORS)
        if f"{color} {shape}" not in present:
            return f"{color} {shape}"


def _ask_color(scene: Scene, rng: random.Random) -> _Asked:
    shapes = [item.shape for item in scene]
    single = [item for item in scene if shapes.count(item.shape) == 1]
    if not single:
        return None
    item = rng.choice(single)
    return f"what color is the {item.shape} ?", item.color


def _ask_shape(scene: Scene, rng: random.Random) -> _Asked:
    colors = [item.color for item in scene]
    single = [item for item in scene if colors.count(item.color) == 1]
    if not single:
        return None
    item = rng.choice(single)
    return f"what shape is the {item.color} object ?", item.shape


def _ask_where(scene: Scene, rng: random.Random) -> _Asked:
    item = rng.choice(scene)
    return f"where is the {item.name} ?", POSITIONS[item.cell]


def _ask_count(scene: Scene, rng: random.Random) -> _Asked:
    return "how many objects are there ?", NUMBERS[len(scene)]


def _ask_color_count(scene: Scene, rng: random.Random) -> _Asked:
    colors = [item.color for item in scene]
    color = rng.choice(colors if rng.random() < _COUNTED_PRESENT_SHARE else COLORS)
    return f"how many {color} objects are there ?", NUMBERS[colors.count(color)]


def _ask_shape_count(scene: Scene, rng: random.Random) -> _Asked:
    shapes = [item.shape for item in scene]
    shape = rng.choice(shapes if rng.random() < _COUNTED_PRESENT_SHARE else SHAPES)
    return f"how many {shape} are there ?", NUMBERS[shapes.count(shape)]


def _ask_relation(scene: Scene, rng: random.Random) -> _Asked:
    if len(scene) < 2:
        return None
    for _ in range(_RELATION_ATTEMPTS):
        first, second = rng.sample(scene, 2)
        words, key = rng.choice(_RELATIONS)
        if key(first) != key(second):
            return f"is the {first.name} {words} the {second.name} ?", "yes" if key(first) < key(second) else "no"
    return None


def _column(item: SceneObject) -> int:
    return item.column


def _row(item: SceneObject) -> int:
    return item.row


_RELATIONS: tuple[tuple[str, Callable[[SceneObject], int]], ...] = (("left of", _column), ("above", _row))


def _ask_both(scene: Scene, rng: random.Random) -> _Asked:
    if len(scene) < 2:
        return None
    first, second = (item.name for item in rng.sample(scene, 2))
    if rng.random() < 0.5:
        return f"is there a {first} and a {second} ?", "yes"
    names = [first, _absent_name(scene, rng)]
    rng.shuffle(names)
    return f"is there a {names[0]} and a {names[1]} ?", "no"


def _ask_same(scene: Scene, rng: random.Random) -> _Asked:
    if len(scene) < 2:
        return None
    kind = rng.choice(("color", "shape"))
    values = [item.color if kind == "color" else item.shape for item in scene]
    return f"are there two objects of the same {kind} ?", "yes" if len(set(values)) < len(values) else "no"


_ASK: dict[str, Callable[[Scene, random.Random], _Asked]] = {
    "existence": _ask_any_existence,
    "pair": _ask_pair,
    "color": _ask_color,
    "shape": _ask_shape,
    "where": _ask_where,
    "count": _ask_count,
    "color_count": _ask_color_count,
    "shape_count": _ask_shape_count,
    "relation": _ask_relation,
    "both": _ask_both,
    "same": _ask_same,
}

ONE_OBJECT = ("pair", "color", "shape", "where")
MANY_OBJECTS = ("count", "color_count", "shape_count", "relation", "both", "same")
CATEGORIES = (*ONE_OBJECT, *MANY_OBJECTS)
