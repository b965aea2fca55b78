"""The tiny LVLM: a word-level tokenizer, LLaVA's processor, and a `LlavaForConditionalGeneration` from nothing.

One vision patch is one cell of the image, so an image is nine tokens. Weights are rounded to float16 before they are
measured or saved: the files hold float16, the model computes in float32, and nothing changes in between.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from stic_ray.world.captions import (
    DETAILED,
    INFUSED,
    MISLEADING,
    NUMBERS,
    REWRITE_ANSWER,
    REWRITE_DESCRIPTION,
    SIMPLE,
)
from stic_ray.world.scenes import CELL_PX, COLORS, IMAGE_PX, NUM_CELLS, POSITIONS, SHAPES

PAD, BOS, EOS, UNK, IMAGE, USER, ASSISTANT = SPECIAL = (
    "<pad>",
    "<bos>",
    "<eos>",
    "<unk>",
    "<image>",
    "<user>",
    "<assistant>",
)
VOCABULARY_SIZE = 128
_NUM_HEADS = 4
_HEAD_DIM = 32
_EMBEDDING_STD = 0.25
_BRANCH_SCALE = 0.35
# The first layer's heads that look back start with this key bias in this many rotary pairs: one token away is
# e^-4.4 as strong as the token looked at.
_LOOK_BACK_BIAS = 6.0
_LOOK_BACK_PAIRS = 6
IMAGE_MEAN = (0.45, 0.45, 0.45)
IMAGE_STD = (0.27, 0.27, 0.27)
# The word that a patch without an object names while the vision tower learns.
NOTHING = "nothing"

_QUESTION_WORDS = (
    "is there a and two of the same what color shape object objects how many are where left above yes no ? . , :"
)

# An answer's words follow its mark after a space; `<eos>` ends it.
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<assistant>' if message['role'] == 'assistant' else '<user>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Every word's id: special tokens, the world's words, unused ones up to VOCABULARY_SIZE."""
    prompts = (*SIMPLE, *DETAILED, *MISLEADING, INFUSED, REWRITE_DESCRIPTION, REWRITE_ANSWER, _QUESTION_WORDS)
    words = {word for prompt in prompts for word in prompt.split() if not word.startswith("{")}
    words.update(SHAPES, COLORS, POSITIONS, NUMBERS, (NOTHING,))
    known = [*SPECIAL, *sorted(words)]
    known += [f"<unused{index}>" for index in range(VOCABULARY_SIZE - len(known))]
    return {word: index for index, word in enumerate(known)}


def build_processor() -> Any:
    """LLaVA's processor with the world's word-level tokenizer and chat template."""
    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"[.,?:]"), behavior="isolated")]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        additional_special_tokens=[IMAGE, USER, ASSISTANT],
        padding_side="left",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_PX},
        crop_size={"height": IMAGE_PX, "width": IMAGE_PX},
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=fast,
        patch_size=CELL_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=_CHAT_TEMPLATE,
    )


def build_config() -> Any:
    """The model's shape."""
    ids = vocabulary()
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=IMAGE_PX,
        patch_size=CELL_PX,
        projection_dim=96,
        initializer_range=0.06,
        initializer_factor=1.0,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=96,
        intermediate_size=288,
        num_hidden_layers=4,
        num_attention_heads=_NUM_HEADS,
        num_key_value_heads=_NUM_HEADS,
        head_dim=_HEAD_DIM,
        attention_bias=True,
        max_position_embeddings=512,
        rope_theta=1e4,
        initializer_range=0.07,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
        tie_word_embeddings=True,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ids[IMAGE],
        image_seq_length=NUM_CELLS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        pad_token_id=ids[PAD],
        bos_token_id=ids[BOS],
        eos_token_id=ids[EOS],
    )


def build_model(seed: int) -> Any:
    """An untrained model, a function of the seed."""
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(build_config())
    language = model.model.language_model
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        for layer in (projector.linear_1, projector.linear_2):
            layer.weight.normal_(std=layer.weight.shape[1] ** -0.5)
        language.embed_tokens.weight.normal_(std=_EMBEDDING_STD)
        for block in language.layers:
            block.self_attn.o_proj.weight.mul_(_BRANCH_SCALE)
            block.mlp.down_proj.weight.mul_(_BRANCH_SCALE)
        _look_back(language.layers[0].self_attn, language.rotary_emb.inv_freq)
    model.generation_config.eos_token_id = vocabulary()[EOS]
    model.generation_config.pad_token_id = vocabulary()[PAD]
    return model


def _look_back(attention: Any, frequencies: torch.Tensor) -> None:
    """Start all heads but the last as heads that look 1, 2, 3 tokens back.

    Reading needs a word's neighbours; heads that find them by chance cost most of the training otherwise. With a key
    bias (c, 0) and a query bias (c cos(s f), -c sin(s f)) in the rotary pair of frequency f, the score at distance d
    is the sum of c^2 cos((d - s) f): highest at distance s.
    """
    half = _HEAD_DIM // 2
    fastest = frequencies[:_LOOK_BACK_PAIRS]
    for head in range(_NUM_HEADS - 1):
        first, second = head * _HEAD_DIM, head * _HEAD_DIM + half
        angles = (head + 1) * fastest
        attention.k_proj.bias[first : first + _LOOK_BACK_PAIRS] = _LOOK_BACK_BIAS
        attention.q_proj.bias[first : first + _LOOK_BACK_PAIRS] = _LOOK_BACK_BIAS * angles.cos()
        attention.q_proj.bias[second : second + _LOOK_BACK_PAIRS] = -_LOOK_BACK_BIAS * angles.sin()


def round_weights(model: Any) -> None:
    """Round every weight to the nearest float16, in place."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.half())


def save(model: Any, directory: Path) -> None:
    """Write model and processor; the weights must be rounded."""
    model.save_pretrained(directory)
    build_processor().save_pretrained(directory)
    for file in directory.glob("*.safetensors"):
        halves = {
            name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_file(file).items()
        }
        save_file(halves, file, metadata={"format": "pt"})
        file.chmod(0o644)
