"""Every shipped recipe is a valid configuration."""

import pytest

from stic_ray import recipes
from stic_ray.config import parse_config, read_yaml, to_tree

PLACES = [
    "model.path=/models/llava",
    "unlabeled.uri=/images",
    "instructions.uri=/samples.json",
    "instructions.images=/images",
]


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_loads_and_round_trips(name: str) -> None:
    tree = recipes.expand(read_yaml(recipes.read(name), name))
    config = parse_config(tree, PLACES)
    assert parse_config(to_tree(config), []) == config


def test_paper_recipe_without_places_says_which_settings_are_missing() -> None:
    tree = recipes.expand(read_yaml(recipes.read("llava-1.5-7b"), "llava-1.5-7b"))
    with pytest.raises(
        ValueError, match=r"model\.path, unlabeled\.uri, instructions\.uri and instr.* are missing: set"
    ):
        parse_config(tree, [])


def test_paper_recipe_has_the_published_settings() -> None:
    config = parse_config(recipes.expand(read_yaml(recipes.read("llava-1.5-7b"), "")), PLACES)
    assert config.stage1 is not None
    assert to_tree(config.stage1.loss) == {"type": "DpoLoss", "beta": 0.1, "alpha": 1 / 1024, "reduction": "sum"}
    assert (config.stage1.lr, config.stage1.projector_lr, config.stage1.global_batch) == (1e-7, 2e-5, 8)
    assert [type(kind).__name__ for kind in config.negatives.kinds] == ["MisleadingPrompt", "CorruptedImage"]
    assert {kind.weight for kind in config.negatives.kinds} == {1.0}
    assert (len(config.prompts.misleading), len(config.prompts.simple)) == (8, 8)


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="embedded"):
        recipes.read("nothing")
