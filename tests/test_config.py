"""Reading a configuration: strict, with the field and the remedy in every message, and back again."""

from dataclasses import fields, is_dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from stic_ray import config, recipes
from stic_ray.config import (
    Benchmark,
    ColorJitter,
    Config,
    Downsize,
    DpoLoss,
    Evaluation,
    ExactDuplicates,
    FullFinetune,
    ImageFolder,
    Images,
    LlavaImages,
    LlavaJson,
    Lora,
    Model,
    NearDuplicates,
    Negatives,
    ParquetImages,
    Pool,
    Prompts,
    Sampling,
    SavedDataset,
    SftLoss,
    Training,
    WebDataset,
    parse_config,
    read_yaml,
    to_tree,
)

_MINIMAL = """
name: mine
seed: 3
model: {path: /models/base, dtype: float32}
unlabeled: {type: ImageFolder, uri: /photos}
instructions: {type: LlavaJson, uri: /sft.json, images: /sft}
prompts:
  detailed: [Describe it in detail.]
  simple: [Describe it., Say what it is.]
  misleading: [Invent things.]
  infused: "{description} {question}"
negatives:
  kinds:
    - {type: MisleadingPrompt}
    - type: CorruptedImage
      corruptions:
        - {type: Downsize, short_side_px: 20}
        - {type: ColorJitter, brightness: 0.5, hue: 0.3}
sampling: {temperature: 0.2, max_new_tokens: 64}
stage1:
  loss: {type: DpoLoss, beta: 0.1, alpha: 1e-3, reduction: sum}
  weights: {type: Lora, rank: 8, lora_alpha: 16}
  lr: 1e-7
  epochs: 1
  global_batch: 8
stage1_control: null
stage2: &stage2
  loss: {type: SftLoss}
  weights: {type: FullFinetune}
  lr: 2e-5
  epochs: 1
  global_batch: 8
stage2_control: *stage2
"""


def _tree() -> dict[str, Any]:
    return read_yaml(_MINIMAL, "test")


def _parse(*overrides: str) -> Config:
    return parse_config(_tree(), list(overrides))


def _corrupted(corruption: str) -> str:
    return f"negatives.kinds=[{{type: CorruptedImage, corruptions: [{corruption}]}}]"


def _message(*overrides: str) -> str:
    with pytest.raises(ValueError) as caught:
        _parse(*overrides)
    return str(caught.value)


def test_parse_config_minimal_gives_values_and_variant_types() -> None:
    parsed = _parse()
    assert parsed.model == Model(path="/models/base", dtype="float32")
    corruptions = (Downsize(short_side_px=20), ColorJitter(brightness=0.5, hue=0.3))
    assert parsed.negatives.kinds == (config.MisleadingPrompt(), config.CorruptedImage(corruptions=corruptions))
    assert parsed.stage1 is not None and parsed.stage2 is not None and parsed.unlabeled is not None
    assert parsed.stage1.loss == DpoLoss(beta=0.1, alpha=0.001, reduction="sum")
    assert parsed.stage1.weights == Lora(rank=8, lora_alpha=16)
    assert parsed.stage2.weights == FullFinetune()
    assert parsed.stage1_control is None and parsed.evaluation is None
    assert parsed.unlabeled.sample is None


def test_parse_config_yaml_exponent_without_point_is_a_number() -> None:
    assert read_yaml("x: 1e-3", "test") == {"x": "1e-3"}  # YAML 1.1 reads a text: why the case exists
    stage1 = _parse("stage1.loss.alpha=1e-3", "stage1.lr=2E5").stage1
    assert stage1 is not None
    assert (stage1.loss, stage1.lr) == (DpoLoss(beta=0.1, alpha=0.001, reduction="sum"), 200000.0)


def _asked(setting: str) -> str:
    return f"evaluation={{test: {{a: {{type: MmBench, questions: /q, {setting}}}}}}}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sed=1", ["unknown setting sed", "did you mean seed?"]),
        ("stage1.loss.alhpa=1", ["unknown setting stage1.loss.alhpa", "did you mean alpha?", "reduction"]),
        ("stage1.weights.rnak=4", ["unknown setting stage1.weights.rnak", "did you mean rank?"]),
        ("execution.pool.max_sise=2", ["unknown setting execution.pool.max_sise", "did you mean max_size?"]),
        ("modle.path=x", ["unknown setting modle", "did you mean model?"]),
        ("zzzzzz=1", ["unknown setting zzzzzz (known here: name, seed"]),
        (
            "stage1.loss.type=DpoLos",
            ["stage1.loss.type is 'DpoLos'", "DpoLoss, ", "did you mean DpoLoss?"],
        ),
        (
            "stage1.loss={type: [SftLoss]}",
            ["stage1.loss.type is ['SftLoss']", "must be one of DpoLoss, "],
        ),
        ("stage1.loss=DpoLoss", ["stage1.loss.type is 'DpoLoss'", "must be one of DpoLoss, "]),
    ],
)
def test_parse_config_unknown_names_the_field_and_the_nearest(override: str, expected: list[str]) -> None:
    message = _message(override)
    assert [part for part in expected if part not in message] == [], message


def test_parse_config_unknown_far_from_everything_suggests_nothing() -> None:
    assert "did you mean" not in _message("zzzzzz=1")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=abc", "seed is 'abc': it must be a whole number"),
        ("seed=1.5", "seed is 1.5: it must be a whole number"),
        ("seed=true", "seed is True: it must be a whole number"),
        ("name=7", "name is 7: it must be a text"),
        ("model=7", "model is 7: it must be a mapping of settings (path, dtype, version)"),
        ("model.dtype=float8", "model.dtype is 'float8': it must be one of float32, bfloat16"),
        ("model.dtype=float16", "model.dtype is 'float16': it must be one of float32, bfloat16"),
        ("stage1.lr=fast", "stage1.lr is 'fast': it must be a finite number"),
        ("stage1.lr=true", "stage1.lr is True: it must be a finite number"),
        ("stage1.lr=.nan", "stage1.lr is nan: it must be a finite number"),
        ("stage1.lr=inf", "stage1.lr is 'inf': it must be a finite number"),
        ("prompts.simple=one", "prompts.simple is 'one': it must be a list"),
        ("prompts.simple=[a, 2]", "prompts.simple[1] is 2: it must be a text"),
        ("unlabeled.sample=many", "unlabeled.sample is 'many': it must be a whole number"),
        ("stage1=3", "stage1 is 3: it must be a mapping"),
    ],
)
def test_parse_config_wrong_type_names_field_value_and_remedy(override: str, expected: str) -> None:
    assert expected in _message(override)


def test_parse_config_number_too_big_for_a_float_is_refused() -> None:
    assert "stage1.lr" in _message(f"stage1.lr=1{'0' * 400}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("unlabeled.sample=0", "unlabeled.sample is 0"),
        ("unlabeled.shard=3/3", "unlabeled.shard is '3/3': it must be a part of a number of parts"),
        ("unlabeled.shard=half", "unlabeled.shard is 'half'"),
        ("unlabeled.type=Folder", "unlabeled.type is 'Folder': it must be one of ImageFolder, ParquetImages"),
        ("instructions.sample=-1", "instructions.sample is -1"),
        ("prompts.detailed=[]", "prompts.detailed is ()"),
        ("prompts.simple=['']", "prompts.simple is ('',)"),
        ("unlabeled.shard=٣/٤", "unlabeled.shard is '٣/٤'"),
        ("prompts.infused='{question}'", "{description} once"),
        ("prompts.infused='{question} {question} {description}'", "{question} once"),
        ("negatives.kinds=[]", "negatives.kinds is ()"),
        ("negatives.per_positive=0", "negatives.per_positive is 0"),
        ("negatives.kinds=[{type: MisleadingPrompt, weight: 0}]", "negatives.kinds[0].weight is 0"),
        ("negatives.kinds=[{type: NoisedImage, step: 1000}]", "negatives.kinds[0].step is 1000"),
        ("negatives.kinds=[{type: CorruptedImage, corruptions: []}]", "negatives.kinds[0].corruptions is ()"),
        (_corrupted("{type: Downsize, short_side_px: 0}"), "negatives.kinds[0].corruptions[0].short_side_px is 0"),
        (_corrupted("{type: ColorJitter, brightness: 2, hue: 0}"), "corruptions[0].brightness is 2"),
        (_corrupted("{type: ColorJitter, brightness: 0, hue: 0.6}"), "corruptions[0].hue is"),
        (
            "negatives.kinds=[{type: ErrorInjection, sampling: {temperature: 1, max_new_tokens: 9}}]",
            "prompts.rewrite_description is '': it must be set, since ErrorInjection needs it",
        ),
        ("prompts.rewrite_answer='{answer}'", "{question} once"),
        ("instructions={uri: x, images: y}", "instructions.type is None: it must be one of LlavaJson, TrlMessages"),
        ("instructions={type: TrlMessages, uri: x, sample: 0}", "instructions.sample is 0"),
        ("imported={uri: x}", "imported.format is missing: set it"),
        ("imported={uri: x, format: llama}", "imported.format is 'llama': it must be one of trl, llama_factory"),
        ("unlabeled=null", "stage1 is 'set': it must be null, or unlabeled, annotated or imported set"),
        ("instructions=null", "instructions is None: it must be set, since stage2 needs it"),
        ("stage1.steps=0", "stage1.steps is 0"),
        ("contrast={cutoff: 0}", "contrast.cutoff is 0"),
        ("rounds=0", "rounds is 0: it must be a positive number"),
        ("stage2.selection={type: VigSelection, keep_share: 0.7, tokens: {type: AllTokens}}", "vig is None"),
        ("stage2.selection={type: GainedPairs, keep_share: 0.7}", "stage2.selection.type is 'GainedPairs'"),
        ("stage1.selection={type: WeightedPairs, temperature: 0}", "stage1.selection.temperature is 0"),
        ("vig={blind: {type: Blur, radius: 0}}", "vig.blind.radius is 0"),
        ("vig={blind: {type: ConstantImage, level: 256}}", "vig.blind.level is 256"),
        ("sampling.temperature=-1", "sampling.temperature is -1"),
        ("sampling.top_p=0", "sampling.top_p is 0"),
        ("sampling.max_new_tokens=0", "sampling.max_new_tokens is 0"),
        ("stage1.loss.beta=0", "stage1.loss.beta is 0"),
        ("stage1.loss.alpha=-1", "stage1.loss.alpha is -1"),
        ("stage1.weights.rank=0", "stage1.weights.rank is 0"),
        ("stage1.weights.lora_alpha=0", "stage1.weights.lora_alpha is 0"),
        ("stage1.lr=0", "stage1.lr is 0"),
        ("stage1.projector_lr=-1", "stage1.projector_lr is -1"),
        ("stage1.weight_decay=-1", "stage1.weight_decay is -1"),
        ("stage1.warmup_ratio=1", "stage1.warmup_ratio is 1"),
        ("stage1.loss={type: SftLoss}", "stage1.loss.type is 'SftLoss': it must be a loss of pairs"),
        ("stage2.loss={type: DpoLoss, beta: 1, alpha: 0, reduction: sum}", "type: SftLoss"),
        ("execution.min_train_workers=2", "min_train_workers is 2: it must be null, or between 1 and num_train_work"),
        ("execution.row_tokens=0", "execution.row_tokens is 0"),
        ("execution.keep_checkpoints=0", "execution.keep_checkpoints is 0"),
        ("stage1.max_skipped=-1", "stage1.max_skipped is -1"),
        ("stage1.loss.label_smoothing=0.5", "stage1.loss.label_smoothing is 0.5: it must be at least 0 and below 0.5"),
        ("stage1.weights.lora_dropout=1", "stage1.weights.lora_dropout is 1.0"),
        ("stage1.weights={type: FullFinetune, frozen: ['']}", "stage1.weights.frozen is ''"),
        ("stage1.loss={type: MdpoLoss, beta: 1, blind: {type: Crop, area: 1}}", "stage1.loss.blind.area is 1"),
        (
            "stage1.loss={type: WeightedLosses, terms: [{weight: 1, loss: {type: SftLoss}}]}",
            "stage1.loss.terms is 'SftLoss': it must be losses of different types, one of them of pairs",
        ),
        ("stage1.weights.quantize=true", "stage1.reference.type is 'ScoredReference': it must be AdapterOff"),
        (
            "stage2.weights={type: Lora, rank: 1, lora_alpha: 1, quantize: true}",
            "stage2.weights.quantize is True: it must be false, or execution.train_gpus",
        ),
        ("hub={repo: mine}", "hub.repo is 'mine': it must be like owner/name"),
        ("execution.batch_size=0", "execution.batch_size is 0"),
        ("execution.max_reject_rate=2", "execution.max_reject_rate is 2"),
        ("execution.gpu_hour_price=-1", "execution.gpu_hour_price is -1"),
        (
            "execution.pool={min_size: 3, max_size: 2}",
            "execution.pool.min_size is 3: it must be at least 1 and at most",
        ),
        ("execution.pool.min_size=0", "execution.pool.min_size is 0: it must be at least 1 and at most max_size (1)"),
        ("execution.pool.num_cpus=-1", "execution.pool.num_cpus is -1.0: it must be 0 or more"),
        ("execution.pool.num_gpus=-1", "execution.pool.num_gpus is -1.0: it must be 0 or more"),
        ("execution.task_cpus=0", "execution.task_cpus is 0.0: it must be above 0"),
        ("execution.train_cpus=0", "execution.train_cpus is 0.0: it must be above 0"),
        ("execution.train_gpus=-1", "execution.train_gpus is -1.0: it must be 0 or more"),
        ("execution.max_train_failures=-1", "execution.max_train_failures is -1: it must be 0 or more"),
        ("instructions.images=''", "instructions.images is '': it must be the folder"),
        ("stage1.learning_rate=1", "unknown setting stage1.learning_rate: did you mean lr?"),
        ("hub={repo: a/b c}", "hub.repo is 'a/b c': it must be like owner/name, of letters"),
        ("evaluation={test: {}}", "evaluation.test is {}: it must be at least one benchmark by name"),
        ("evaluation={test: [1]}", "evaluation.test is [1]: it must be a mapping of names to settings"),
        ("evaluation={test: {a: {type: Popee}}}", "evaluation.test.a.type is 'Popee': it must be one of Pope, Chair"),
        ("evaluation={test: {a: {type: Chair, images: /i}}}", "evaluation.test.a.objects is missing"),
        ("evaluation={test: {a: {type: Pope, images: /i, questions: {}}}}", "evaluation.test.a.questions is {}"),
        ("evaluation={test: {a_dar: {type: MmBench, questions: /q}}}", "evaluation.test is 'a_dar': it must be"),
        ("evaluation={test: {a/b: {type: MmBench, questions: /q}}}", "evaluation.test is 'a/b': it must be"),
        (
            f"{_asked('limit: 1')[:-1]}, judge: {{type: Endpoint, url: 'https://u:planted@h/v1', model: m}}}}",
            "evaluation.judge.url is '(hidden)': it must be an address",
        ),
        (_asked("modes: []"), "evaluation.test.a.modes is (): it must be direct, describe_first or both"),
        (_asked("modes: [direct, direct]"), "it must be a list that names each once"),
        (_asked("limit: 0"), "evaluation.test.a.limit is 0: it must be above 0, or null"),
        (
            f"{_asked('limit: 1')[:-1]}, judge: {{type: Endpoint, url: localhost, model: m}}}}",
            "evaluation.judge.url is 'localhost'",
        ),
        ("name=a/b", "name is 'a/b'"),
        ("name=..", "name is '..'"),
        ("name=.", "name is '.'"),
        ("name=''", "name is ''"),
    ],
)
def test_parse_config_impossible_value_is_refused_by_its_dotted_name(override: str, expected: str) -> None:
    assert expected in _message(override)


def test_parse_config_missing_setting_says_how_to_set_it() -> None:
    tree = _tree()
    del tree["stage1"]["loss"]["beta"]
    with pytest.raises(ValueError, match=r"stage1\.loss\.beta is missing: .*stage1\.loss\.beta=VALUE"):
        parse_config(tree, [])


def test_parse_config_overrides_apply_in_order_and_leave_the_tree_alone() -> None:
    tree = _tree()
    parsed = parse_config(tree, ["seed=4", "seed=5", "execution.pool.max_size=2", "store=s3://b/a=c"])
    assert (parsed.seed, parsed.execution.pool.max_size, parsed.store) == (5, 2, "s3://b/a=c")
    assert tree == _tree()


def test_parse_config_override_of_a_shared_yaml_anchor_changes_one_place_only() -> None:
    parsed = _parse("stage2.lr=1.0", "stage2.weights={type: Lora, rank: 2, lora_alpha: 4}")
    assert parsed.stage2 is not None and parsed.stage2_control is not None
    assert (parsed.stage2.lr, parsed.stage2_control.lr) == (1.0, 2e-5)
    assert parsed.stage2_control.weights == FullFinetune()


def test_parse_config_override_of_a_type_takes_the_settings_of_the_other_one_away() -> None:
    parsed = _parse("stage1.loss.gamma=0.5", "stage1.loss.beta=2.0", "stage1.loss.type=SimpoLoss")
    assert parsed.stage1 is not None and parsed.stage1.loss == config.SimpoLoss(beta=2.0, gamma=0.5)
    assert "stage1.loss.beta and stage1.loss.gamma are missing" in _message("stage1.loss.type=SimpoLoss")
    assert _parse("stage1.loss.type=DpoLoss") == _parse()


def test_parse_config_missing_setting_of_a_lists_entry_is_said_to_be_there() -> None:
    message = _message("execution.trackers=[{type: Mlflow}]")
    assert message == "execution.trackers[0].uri is missing: set it in its entry of the list"


def test_parse_config_override_opens_a_null_section() -> None:
    parsed = _parse("evaluation=null", "evaluation.test.a={type: MmBench, questions: /q}", "evaluation.resamples=5")
    assert parsed.evaluation == Evaluation(test={"a": config.MmBench(questions="/q")}, resamples=5)


def test_parse_config_null_leaves_one_benchmark_out() -> None:
    two = "evaluation={test: {a: {type: MmBench, questions: /q}, b: {type: MultipleChoice, questions: /c}}}"
    parsed = _parse(two, "evaluation.test.a=null")
    assert parsed.evaluation is not None and list(parsed.evaluation.test) == ["b"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "override 'seed': write it as dotted.key=value"),
        ("=1", "override '=1': write it as dotted.key=value"),
        ("seed=[1", "seed: the value '[1' is not valid YAML"),
        ("seed=2020-99-99", "seed: the value '2020-99-99' is not valid YAML"),
        ("seed.deep=1", "seed.deep: seed holds 3 and has no keys of its own"),
        ("negatives.kinds.0=1", "negatives.kinds holds"),
    ],
)
def test_parse_config_bad_override_says_how_to_write_it(override: str, expected: str) -> None:
    assert expected in _message(override)


@pytest.mark.parametrize("text", ["- a", "just text", "", "a: [", "a: 2020-99-99"])
def test_read_yaml_other_than_a_mapping_is_one_clear_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^my\.yaml: [^\n]+$"):
        read_yaml(text, "my.yaml")


_BENCHMARKS: list[Benchmark] = [
    config.Pope(questions={"random": "r"}, images="i", modes=("describe_first",), instruction="x", limit=3),
    config.Chair(objects="o", images="i", captions="c", synonyms="s", prompt="p"),
    config.ObjectHal(questions="q", objects="o", images="i"),
    config.ShortAnswers(questions="q", images="i", modes=("direct", "describe_first")),
    config.Amber(questions="q", annotations="a", relations="r", safe_words="s", images="i"),
    config.MmHal(questions="q", images="i"),
    config.ScienceQa(questions="q", images="i", split="val"),
    config.TextVqa(questions="q", images="i"),
    config.ChartQa(questions={"human": "h"}, images="i"),
    config.DocVqa(questions="q", images="i"),
    config.MmBench(questions="q", circular=False),
    config.MmVet(questions="q", images="i"),
    config.LlavaBench(questions="q", answers="a", context="c", images="i"),
    config.MathVista(questions="q", images="i"),
    config.CvBench(questions={"2D": "q"}),
    config.MultipleChoice(questions="q"),
]
_LEAVES: list[Any] = [
    config.Hub(repo="owner/name", private=False),
    Model(path="p", dtype="bfloat16", version="v"),
    ImageFolder(uri="u", sample=3, version="v"),
    ImageFolder(uri="u", shard="1/3", limit=2),
    ExactDuplicates(),
    NearDuplicates(max_distance=3),
    ParquetImages(uri="u", column="c"),
    WebDataset(uri="u"),
    SavedDataset(uri="u", column="c"),
    LlavaImages(uri="u", images="i"),
    LlavaJson(uri="u", images="i", sample=3, version="v", category="c"),
    config.TrlMessages(uri="u", images="i", sample=3, version="v", category="c"),
    config.ImportedPairs(uri="u", format="bpo", images="i", version="v"),
    Prompts(detailed=("a",), simple=("b", "c"), misleading=("d",), infused="{description}{question}"),
    Downsize(short_side_px=7),
    ColorJitter(brightness=0.25, hue=0.4, min_hue=0.125),
    Negatives(kinds=(config.MisleadingPrompt(weight=0.5), config.OtherImage()), per_positive=3),
    config.MisleadingPrompt(weight=0.25),
    config.CorruptedImage(corruptions=(ColorJitter(brightness=1.0, hue=0.5), Downsize(short_side_px=1))),
    config.NoisedImage(step=3),
    config.ErrorInjection(sampling=Sampling(temperature=0.5, max_new_tokens=3), description_words=4),
    config.OtherImage(weight=2.0),
    config.Annotated(
        data=LlavaJson(uri="u", images="i"),
        negatives=Negatives(kinds=(config.NoisedImage(),)),
        sampling=Sampling(temperature=0.5, max_new_tokens=3),
    ),
    Sampling(temperature=0.5, max_new_tokens=3, top_p=0.5),
    config.Contrast(step=3, strength=0.5, cutoff=0.25),
    DpoLoss(beta=0.5, alpha=0.0, reduction="token_mean", label_smoothing=0.1),
    config.LengthNormalisedDpoLoss(beta=0.5),
    config.RobustDpoLoss(beta=0.5, label_smoothing=0.1),
    config.IpoLoss(beta=0.5),
    config.HingeLoss(beta=0.5),
    config.SimpoLoss(beta=0.5, gamma=0.25),
    config.OrpoLoss(weight=0.5),
    config.MdpoLoss(beta=0.5, blind=config.Crop(area=0.2), anchor=0.1),
    config.Crop(area=0.5),
    SftLoss(),
    config.LossTerm(weight=0.5, loss=SftLoss()),
    config.WeightedLosses(
        terms=(
            config.LossTerm(weight=1.0, loss=config.HingeLoss(beta=1.0)),
            config.LossTerm(weight=2.0, loss=SftLoss()),
        )
    ),
    Lora(rank=2, lora_alpha=3, lora_dropout=0.1, use_rslora=True, use_dora=True, quantize=True),
    FullFinetune(frozen=("embed_tokens",)),
    config.Wandb(project="p"),
    config.Mlflow(uri="u", experiment="e"),
    config.Cosine(),
    config.Linear(),
    config.ScoredReference(),
    config.AdapterOff(),
    config.Validation(share=0.25, every=3),
    Training(
        loss=SftLoss(),
        weights=FullFinetune(),
        lr=0.1,
        epochs=2,
        global_batch=3,
        projector_lr=0.2,
        warmup_ratio=0.3,
        weight_decay=0.4,
        max_grad_norm=0.5,
        max_length=6,
        steps=7,
        selection=config.WeightedPairs(temperature=2.0),
    ),
    *_BENCHMARKS,
    config.Endpoint(url="http://h/v1", model="m", key_variable="K", max_concurrent=2, input_price=0.5),
    config.OwnModel(path="a", max_new_tokens=2),
    Evaluation(
        test={str(number): each for number, each in enumerate(_BENCHMARKS)},
        dev={"a": _BENCHMARKS[0]},
        resamples=2,
        max_new_tokens=3,
        judge=config.OwnModel(path="a"),
        max_judge_failures=0.5,
    ),
    Evaluation(test={"a": _BENCHMARKS[0]}),
    config.Auto(),
    config.Transformers(),
    config.Vllm(),
    config.Vllm(
        tensor_parallel=2,
        max_model_len=3,
        max_concurrent=4,
        concurrent_batches=2,
        gpu_memory_share=0.5,
        cpu_cache_gib=0.5,
        max_lora_rank=8,
        eager=True,
    ),
    config.Vig(blind=config.Blur(radius=0.2), scorer=config.Model(path="p", dtype="float32", version="v")),
    config.Vig(blind=config.ConstantImage(level=3)),
    config.Blur(radius=0.5),
    config.ConstantImage(level=0),
    config.NoImage(),
    config.AllTokens(),
    config.ThresholdTokens(min_gain=0.5),
    config.ThresholdTokens(),
    config.PhraseTokens(min_gain=-0.5),
    config.VigSelection(keep_share=0.7, tokens=config.AllTokens(), strata=("category", "first_word"), min_stratum=3),
    config.RandomSelection(like=config.VigSelection(keep_share=0.5, tokens=config.PhraseTokens())),
    config.GainedPairs(keep_share=0.5),
    config.WeightedPairs(temperature=0.5),
    config.MaskedPairs(min_gain=0.25),
    Pool(min_size=2, max_size=3, num_cpus=0.5, num_gpus=0.25),
    config.Choice(values=("a", None, 1, 2.5, True)),
    config.Uniform(low=0.5, high=1.0),
    config.LogUniform(low=0.5, high=1.0),
    config.Objective(figure="a/b", mode="max"),
    config.RandomSearch(),
    config.GridSearch(),
    config.OptunaSearch(),
    config.Asha(reduction_factor=3),
    config.Pbt(segments=3, quantile=0.5, resample=0.0),
    config.Sweep(
        space={"stage1.lr": config.LogUniform(low=0.5, high=1.0)},
        objectives=(config.Objective(figure="a/b", mode="min"),),
        scheduler=config.Pbt(),
        trials=3,
        seed=4,
    ),
    config.Sweep(
        space={"seed": config.Choice(values=(1, 2))}, search=config.GridSearch(), scheduler=None, max_concurrent=2
    ),
    config.Execution(pool=Pool(max_size=2), task_cpus=0.1, train_gpus=1.0, max_reject_rate=0.0, gpu_hour_price=2.5),
]


@pytest.mark.parametrize("leaf", _LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_to_tree_every_dataclass_reads_back_equal(leaf: Any) -> None:
    assert config.reading._build(type(leaf), to_tree(leaf), "x") == leaf


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"weights": FullFinetune()}, "without adapters there is nothing to switch off"),
        ({"projector_lr": 1.0}, "a projector that trains stays changed when adapters are off"),
        (
            {"loss": config.MdpoLoss(beta=1.0, blind=config.NoImage())},
            "only scores know the chosen answers without their image",
        ),
    ],
)
def test_training_refuses_adapters_off_as_the_reference_where_they_are_not(
    settings: dict[str, Any], reason: str
) -> None:
    training = Training(
        loss=DpoLoss(beta=0.1, alpha=0.0, reduction="sum"),
        weights=Lora(rank=2, lora_alpha=4),
        lr=0.1,
        epochs=1,
        global_batch=1,
        reference=config.AdapterOff(),
    )
    with pytest.raises(ValueError, match=f"reference.type is 'AdapterOff': .*{reason}"):
        replace(training, **settings)


def test_to_tree_round_trip_covers_every_dataclass_of_the_package() -> None:
    modules = [module for module in vars(config).values() if isinstance(module, ModuleType)]
    found = [kind for module in modules for kind in vars(module).values()]
    kinds = {kind for kind in found if isinstance(kind, type) and is_dataclass(kind)}
    parents = {Images, config.negatives._Weighted, config.evaluation._Asked}
    assert kinds - {type(leaf) for leaf in _LEAVES} == {Config} | parents


def test_to_tree_whole_config_reads_back_equal_and_is_json() -> None:
    parsed = replace(_parse(), evaluation=Evaluation(test={"a": _BENCHMARKS[0]}))
    tree = to_tree(parsed)
    assert parse_config(tree, []) == parsed
    assert sorted(tree) == sorted(entry.name for entry in fields(Config))
    assert tree["stage1"]["loss"]["type"] == "DpoLoss"
    assert tree["negatives"]["kinds"][1]["corruptions"][1] == {
        "type": "ColorJitter",
        "brightness": 0.5,
        "hue": 0.3,
        "min_hue": 0.0,
    }


_DPO = "{type: DpoLoss, beta: 0.1, alpha: 1.0, reduction: sum}"


def _before(loss: str, more: str = "") -> str:
    training = f"loss: {loss}, weights: {{type: FullFinetune}}, lr: 1e-3, epochs: 1, global_batch: 8"
    return f"stage1_before=[{{{training}{more}}}]"


def test_training_before_stage1_is_of_the_same_pairs() -> None:
    parsed = _parse(_before(_DPO))
    assert [training.lr for training in parsed.stage1_before] == [1e-3]
    assert parse_config(to_tree(parsed), []) == parsed
    longer = _message(_before(_DPO, ", max_length: 99"))
    assert longer.startswith("stage1_before.0.max_length is 99: it must be that of stage1")
    assert _message(_before("{type: SftLoss}")).startswith(
        "stage1_before.0.loss is 'SftLoss': it must be a loss of pairs"
    )
    assert _message(_before(_DPO), "stage1=null").startswith("stage1_before is 'set': it must be []")


def test_stage_that_is_left_out_leaves_out_its_control() -> None:
    parsed = _parse("stage2=null")
    assert parsed.stage2 is None and parsed.stage2_control is None


def test_yaml_that_holds_itself_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="an alias"):
        read_yaml("stage1: &a {b: *a}", "mine.yaml")


def test_strata_by_category_need_the_field_that_says_it() -> None:
    selection = "{type: VigSelection, keep_share: 0.5, tokens: {type: AllTokens}, strata: [category]}"
    given = ["vig={blind: {type: NoImage}}", f"stage2.selection={selection}", "stage2_control=null"]
    assert _message(*given).startswith("instructions.category is '': it must be the field")
    assert _parse(*given, "instructions.category=kind").stage2 is not None


def test_recipes_read_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"there is no recipe 'embeded': choose one of .*embedded"):
        recipes.read("embeded")


def test_control_of_pairs_has_no_weights() -> None:
    training = "{loss: {type: SftLoss}, weights: {type: FullFinetune}, lr: 1e-3, epochs: 1, global_batch: 8, SELECTION}"
    selection = "selection: {type: WeightedPairs, temperature: 1}"
    given = ("vig={blind: {type: NoImage}}", f"stage1_control={training.replace('SELECTION', selection)}")
    assert _message(*given).startswith("stage1_control.selection.type is 'WeightedPairs': it must be null, GainedPairs")


def test_contrast_needs_images_to_describe() -> None:
    assert _message("unlabeled=null", "stage1=null", "contrast={}").startswith(
        "contrast is 'set': it must be null, where"
    )


def test_rounds_need_a_first_stage() -> None:
    given = ("unlabeled=null", "stage1=null", "rounds=2")
    assert _message(*given).startswith("rounds is 2: it must be 1, where stage1 is null")


def test_imported_pairs_are_a_source_of_pairs() -> None:
    parsed = _parse("unlabeled=null", "imported={uri: /x.jsonl, format: trl}")
    assert parsed.imported == config.ImportedPairs(uri="/x.jsonl", format="trl")
