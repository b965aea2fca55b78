"""Every shipped recipe is a valid configuration."""

import pytest

from stic_ray import recipes
from stic_ray.config import (
    ErrorInjection,
    NoisedImage,
    ThresholdTokens,
    VigSelection,
    parse_config,
    read_yaml,
    to_tree,
)

_PLACES = {
    "unlabeled": ["unlabeled.uri=/images"],
    "instructions": ["instructions.uri=/samples.json", "instructions.images=/images"],
    "annotated": ["annotated.data.uri=/annotations.json", "annotated.data.images=/images"],
}
PLACES = [
    "model.path=/models/llava",
    "unlabeled.uri=/images",
    "instructions.uri=/samples.json",
    "instructions.images=/images",
]


def test_settings_on_a_recipe_keep_its_type_unless_they_say_another() -> None:
    own = {"extends": "embedded", "unlabeled": {"sample": 7}, "stage1": {"weights": {"type": "FullFinetune"}}}
    tree = recipes.expand(own)
    assert (tree["unlabeled"]["type"], tree["unlabeled"]["sample"]) == ("ImageFolder", 7)
    assert tree["stage1"]["weights"] == {"type": "FullFinetune"}


@pytest.mark.parametrize("name", recipes.names())
def test_recipe_loads_and_round_trips(name: str) -> None:
    tree = recipes.expand(read_yaml(recipes.read(name), name))
    own = [] if name.startswith("embedded") else ["model.path=/models/llava"]
    for part, places in _PLACES.items():
        own += places if tree.get(part) and not name.startswith("embedded") else []
    config = parse_config(tree, own)
    assert parse_config(to_tree(config), []) == config
    assert config.name == name


def test_a_recipe_on_top_of_another_keeps_what_it_does_not_name_and_replaces_what_is_of_another_type() -> None:
    below, vig, bpo = (
        recipes.expand(read_yaml(recipes.read(name), name))
        for name in ("llava-1.5-7b", "vig-llava-1.5-7b", "bpo-llava-1.5-7b")
    )
    assert vig["model"] == below["model"] and vig["execution"] == below["execution"]
    assert vig["stage2"]["weights"] == {"type": "FullFinetune"}
    assert vig["prompts"]["simple"] == below["prompts"]["simple"] and vig["prompts"]["infused"] == ""
    assert bpo["stage1"]["warmup_ratio"] == below["stage1"]["warmup_ratio"]


def test_the_papers_recipes_of_vig_and_bpo_have_the_published_settings() -> None:
    tree = recipes.expand(read_yaml(recipes.read("vig-llava-1.5-7b"), ""))
    config = parse_config(tree, ["model.path=/m", *_PLACES["instructions"]])
    assert config.stage1 is None and config.stage2 is not None
    assert config.stage2.selection == VigSelection(keep_share=0.7, tokens=ThresholdTokens())
    tree = recipes.expand(read_yaml(recipes.read("bpo-llava-1.5-7b"), ""))
    config = parse_config(tree, ["model.path=/m", *_PLACES["annotated"]])
    assert config.stage1 is not None and config.annotated is not None
    assert (config.stage1.lr, config.stage1.epochs) == (2e-6, 2)
    noised, injected = config.annotated.negatives.kinds
    assert noised == NoisedImage(step=900) and isinstance(injected, ErrorInjection)
    assert (injected.sampling.temperature, injected.sampling.top_p) == (0.8, 0.95)


def test_paper_recipe_without_places_says_which_settings_are_missing() -> None:
    tree = recipes.expand(read_yaml(recipes.read("llava-1.5-7b"), "llava-1.5-7b"))
    with pytest.raises(
        ValueError, match=r"model\.path, unlabeled\.uri, instructions\.uri and instr.* are missing: set"
    ):
        parse_config(tree, [])


def test_paper_recipe_has_the_published_settings() -> None:
    config = parse_config(recipes.expand(read_yaml(recipes.read("llava-1.5-7b"), "")), PLACES)
    assert config.stage1 is not None
    assert to_tree(config.stage1.loss) == {
        "type": "DpoLoss",
        "beta": 0.1,
        "alpha": 1 / 1024,
        "reduction": "sum",
        "label_smoothing": 0.0,
    }
    assert (config.stage1.lr, config.stage1.projector_lr, config.stage1.global_batch) == (1e-7, 2e-5, 8)
    assert [type(kind).__name__ for kind in config.negatives.kinds] == ["MisleadingPrompt", "CorruptedImage"]
    assert {kind.weight for kind in config.negatives.kinds} == {1.0}
    assert (len(config.prompts.misleading), len(config.prompts.simple)) == (8, 8)


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="embedded"):
        recipes.read("nothing")
