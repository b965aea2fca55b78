"""What tests share: local Ray, an S3 server, a random LLaVA that is not the embedded world's, real photos."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import servers

if TYPE_CHECKING:  # importing them takes seconds that most tests need not wait for
    from transformers import LlavaProcessor

    from stic_ray.config import Config

# As LLaVA-1.5's: the prompt for an answer ends with "ASSISTANT:", and an answer follows after a space.
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data", type=Path, default=None, metavar="DIR", help="a folder with photos/ and benchmarks/"
    )


@pytest.fixture(scope="session")
def embedded_sweep() -> "Config":
    """The embedded recipe of a sweep."""
    from stic_ray import recipes
    from stic_ray.config import parse_config, read_yaml

    return parse_config(recipes.expand(read_yaml(recipes.read("embedded-sweep"), "")), [])


@pytest.fixture(scope="session")
def real_data(pytestconfig: pytest.Config) -> Path:
    """The folder of real photos and benchmark files; its tests skip without it, except in CI, where they fail."""
    folder: Path | None = pytestconfig.getoption("--real-data")
    if folder is None:
        reason = "needs --real-data DIR, a folder with photos/ and benchmarks/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    if not folder.is_dir():
        pytest.fail(f"--real-data {folder}: no such folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """A Ray of this session's own: two CPUs, a small store, and files in a path short enough for unix sockets."""
    import ray

    folder = tempfile.mkdtemp(prefix="sr-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=200_000_000,
        include_dashboard=False,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an S3 server of this session's own, which this process's environment names from then on."""
    with servers.s3_server(tmp_path_factory.mktemp("s3") / "server.log") as address:
        yield address


@pytest.fixture
def s3_bucket(s3_server: str) -> str:
    """The URI of an empty bucket on a real S3 server over HTTP."""
    return servers.make_bucket()


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA directory with a tokenizer, an image size and a chat template of its own; an image is 4 tokens."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("tiny-llava") / "model"
    processor = _build_processor()
    tokenizer = processor.tokenizer
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=32),
        text_config=LlamaConfig(
            **sizes,
            head_dim=16,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _build_processor() -> "LlavaProcessor":
    from transformers import CLIPImageProcessor, LlavaProcessor

    from random_models import train_tokenizer

    return LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer=train_tokenizer(400, ["<image>"]),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=_CHAT_TEMPLATE,
    )
