"""LoRA adapters by URI: where one lies on this machine, and which one it is."""

from stic_ray import storage


def locate(uri: str) -> tuple[str, str]:
    """A local directory with an adapter's files, and a version that changes whenever one of them does.

    Engines keep adapters by that version: one that is trained again at the same place is another adapter.

    Raises:
        ValueError: there is no adapter.
    """
    try:
        path, version = storage.local_copy(uri), storage.model_version(uri)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"adapter {uri}: there is no such directory") from None
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not storage.exists(storage.join(path, name)):
            raise ValueError(f"adapter {uri} holds no {name}: give a directory as peft saves one")
    return path, version
