"""What a checkpoint directory must hold, known from its small files alone: checked before anything heavy starts."""

import importlib.util
import json

from stic_ray import storage

_MAX_HEADER_BYTES = 100_000_000  # as the safetensors library has it
SUPPORTED = ("idefics3", "llava", "llava_next", "qwen2_5_vl", "smolvlm")  # model_type of the families that vlm/ knows
_CUT_INTO_TILES = ("idefics3", "llava_next", "qwen2_5_vl", "smolvlm")
_ANSWERS_WITH_VLLM_ALONE = ("qwen2_5_vl",)  # its positions have rows and columns, which our batches of prompts have not
# What vLLM serves here, and whether its own class of it imports torchvision.
_SERVED_BY_VLLM = {
    "Idefics3ForConditionalGeneration": False,
    "LlavaForConditionalGeneration": True,
    "LlavaNextForConditionalGeneration": True,
    "Qwen2_5_VLForConditionalGeneration": True,
    "SmolVLMForConditionalGeneration": True,
}


def check_checkpoint(uri: str) -> None:
    """Whether a directory holds a checkpoint that this project can train.

    Raises:
        ValueError: something is missing or not supported; the message says what and the remedy.
    """
    files = {uri.rpartition("/")[2]: uri for uri in storage.list_files(uri)}
    if "config.json" not in files:
        missing = "holds no config.json" if files or storage.is_directory(uri) else "does not exist"
        raise ValueError(
            f"model.path {uri} {missing}: give a checkpoint directory of transformers (a name on a model hub is not "
            "downloaded)"
        )
    family = _read(files["config.json"]).get("model_type")
    if family not in SUPPORTED:
        raise ValueError(f"model.path {uri} is of type {family!r}: supported are {', '.join(SUPPORTED)}")
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"model.path {uri} holds no *.safetensors: only safetensors weights are read, convert them")
    for name, file in files.items():
        if name.endswith(".safetensors") and not _is_whole(file):
            raise ValueError(f"model.path {uri}: {name} is cut off or damaged: copy it again")
    settings = [_read(files[n]) for n in ("processor_config.json", "tokenizer_config.json") if n in files]
    templates = ("chat_template.jinja", "chat_template.json")
    if not any(name in files for name in templates) and not any(entry.get("chat_template") for entry in settings):
        raise ValueError(f"model.path {uri} has no chat template: save one with its processor (chat_template.jinja)")


def other_tokens(uri: str, than: str) -> str:
    """What makes a checkpoint cut a conversation into other tokens than another one does, "" for nothing known."""
    files = [{path.rpartition("/")[2]: path for path in storage.list_files(place)} for place in (uri, than)]
    if len({_template(each) for each in files}) > 1:
        return "chat template"
    one, other = map(_tokenizer, files)
    return "" if one == other else "tokenizer"


def _template(files: dict[str, str]) -> str:
    if "chat_template.jinja" in files:
        return storage.read_text(files["chat_template.jinja"]).strip()
    names = ("chat_template.json", "processor_config.json", "tokenizer_config.json")
    held = [_read(files[name]).get("chat_template") for name in names if name in files]
    return str(next((template for template in held if template), "")).strip()


def _tokenizer(files: dict[str, str]) -> dict[str, object]:
    """What decides about tokens: not how batches are padded, which is written beside it."""
    if "tokenizer.json" not in files:
        return {}
    names = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
    tree = _read(files["tokenizer.json"])
    return {name: tree.get(name) for name in names}


def is_served_by_vllm(uri: str) -> bool:
    """Whether vLLM answers for a checkpoint as transformers does, by the architecture in its config.json.

    Raises:
        ValueError: there is no config.json, or it is damaged.
    """
    return _architecture(uri) in _SERVED_BY_VLLM


def answers_in_transformers(uri: str) -> bool:
    """Whether the transformers engine answers for a checkpoint; any other is trained and scored there all the same."""
    return _read(storage.join(uri, "config.json")).get("model_type") not in _ANSWERS_WITH_VLLM_ALONE


def cuts_into_tiles(uri: str) -> bool:
    """Whether a checkpoint's processor cuts an image into tiles."""
    return _read(storage.join(uri, "config.json")).get("model_type") in _CUT_INTO_TILES


def implementation_in_vllm(uri: str) -> str:
    """The `model_impl` that vLLM serves a checkpoint with: its own class, or transformers' where that cannot be.

    torchvision has no build that imports beside a CPU build of torch; where it is, it must be one that does.
    """
    needed = _SERVED_BY_VLLM[_architecture(uri)]
    return "transformers" if needed and importlib.util.find_spec("torchvision") is None else "vllm"


def _architecture(uri: str) -> str:
    try:
        architectures = _read(storage.join(uri, "config.json")).get("architectures")
    except FileNotFoundError:
        raise ValueError(
            f"model.path {uri} holds no config.json: give a checkpoint directory of transformers"
        ) from None
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""


def _is_whole(uri: str) -> bool:
    """Whether a safetensors file is as long as its header says: 8 bytes of length, JSON, tensors."""
    beginning, size = storage.read_beginning(uri, 8)
    length = int.from_bytes(beginning, "little")
    if len(beginning) < 8 or length > min(size, _MAX_HEADER_BYTES):
        return False
    try:
        header = json.loads(storage.read_beginning(uri, 8 + length)[0][8:])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        return False
    return 8 + length + max(ends, default=0) == size


def _read(uri: str) -> dict[str, object]:
    try:
        tree = json.loads(storage.read_text(uri))
    except ValueError:
        raise ValueError(f"{uri} is no JSON file: the checkpoint is damaged, copy it again") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{uri} holds no JSON object: the checkpoint is damaged, copy it again")
    return tree
