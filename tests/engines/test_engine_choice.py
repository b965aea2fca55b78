"""Which engine answers: what is asked for, what this machine has, what serves the model, what the pool gives."""

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from e2e_project import configuration

from stic_ray import engines
from stic_ray.config import Config, Contrast, Negatives, NoisedImage, Transformers, Vllm, parse_config


@pytest.fixture
def other_model(tmp_path: Path) -> Path:
    """One that vLLM does not serve."""
    (tmp_path / "config.json").write_text('{"architectures": ["OtherForConditionalGeneration"]}')
    return tmp_path


def _config(model: Path, engine: dict[str, Any], num_gpus: float = 0.0) -> Config:
    tree = configuration(model, Path("images"), Path("samples.json"))
    tree["engine"] = engine
    tree["execution"]["pool"]["num_gpus"] = num_gpus
    return parse_config(tree, [])


def _install(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    """Have vLLM found in a version, not found for ""."""

    def read(name: str) -> str:
        if not version:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("importlib.util.find_spec", lambda _: version or None)
    monkeypatch.setattr("importlib.metadata.version", read)


@pytest.mark.parametrize(
    ("version", "num_gpus", "expected"),
    [
        ("", 0, Transformers()),
        ("", 1, Transformers()),
        ("0.32.0+cpu", 0, Vllm()),
        ("0.32.0", 0, Transformers()),
        ("0.32.0", 1, Vllm()),
        ("0.32.0", 0.5, Vllm(gpu_memory_share=0.45)),
    ],
)
def test_auto_is_the_vllm_that_runs_in_the_pool(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch, version: str, num_gpus: float, expected: Transformers | Vllm
) -> None:
    _install(monkeypatch, version)
    assert engines.resolve_engine(_config(tiny_llava, {"type": "Auto"}, num_gpus)) == expected


def test_auto_is_transformers_for_a_model_that_vllm_does_not_serve(
    other_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, "0.32.0+cpu")
    assert engines.resolve_engine(_config(other_model, {"type": "Auto"})) == Transformers()
    with pytest.raises(ValueError, match=r"engine\.type is Vllm.* set engine\.type=Transformers"):
        engines.resolve_engine(_config(other_model, {"type": "Vllm"}))


@pytest.mark.parametrize(
    ("version", "tensor_parallel", "num_gpus", "fits"),
    [
        ("0.32.0", 1, 0, False),
        ("0.32.0", 2, 1, False),
        ("0.32.0", 2, 2, True),
        ("0.32.0+cpu", 1, 0, True),
        ("", 1, 0, True),  # installed on the nodes, may be
        ("", 2, 1, False),
    ],
)
def test_vllm_with_fewer_gpus_than_it_needs_is_one_line(
    tiny_llava: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    tensor_parallel: int,
    num_gpus: float,
    fits: bool,
) -> None:
    _install(monkeypatch, version)
    config = _config(tiny_llava, {"type": "Vllm", "tensor_parallel": tensor_parallel}, num_gpus)
    if fits:
        assert engines.resolve_engine(config) == Vllm(tensor_parallel=tensor_parallel)
    else:
        with pytest.raises(ValueError, match=rf"execution\.pool\.num_gpus is {num_gpus}: set it to {tensor_parallel}"):
            engines.resolve_engine(config)


def test_vllm_that_shares_a_gpu_takes_its_part_of_the_memory(tiny_llava: Path) -> None:
    with pytest.raises(ValueError, match=r"gpu_memory_share is 0\.9, execution\.pool\.num_gpus 0\.5.* little less"):
        engines.resolve_engine(_config(tiny_llava, {"type": "Vllm"}, 0.5))
    shared = {"type": "Vllm", "gpu_memory_share": 0.4}
    assert engines.resolve_engine(_config(tiny_llava, shared, 0.5)) == Vllm(gpu_memory_share=0.4)


def test_identity_is_which_engine_and_what_it_refuses(tiny_llava: Path) -> None:
    plain = {"type": "Vllm"}
    moved = {"type": "Vllm", "gpu_memory_share": 0.5, "max_concurrent": 8, "concurrent_batches": 2, "eager": True}
    identities = [engines.engine_identity(_config(tiny_llava, engine)) for engine in (plain, moved)]
    assert identities[0] == identities[1]
    shorter = engines.engine_identity(_config(tiny_llava, {"type": "Vllm", "max_model_len": 64}))
    transformers = engines.engine_identity(_config(tiny_llava, {"type": "Transformers"}))
    assert len({str(identity) for identity in (identities[0], shorter, transformers)}) == 3


def test_vllm_that_is_not_installed_is_one_line(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "")
    with pytest.raises(ValueError, match=r"engine\.type is Vllm, which is not installed here"):
        engines.start_engine(
            engines.EngineStart(settings=Vllm(), model_uri=str(tiny_llava), dtype="float32", batch_size=1)
        )


def test_vllm_that_only_the_workers_of_a_cluster_need_is_no_mistake(
    tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(monkeypatch, "")
    config = _config(tiny_llava, {"type": "Vllm"})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    engines.check_engine(config)
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ValueError, match=r"engine\.type is Vllm, which is not installed here"):
        engines.check_engine(config)


@pytest.mark.parametrize("family", ["llava", "llava_next", "idefics3"])
def test_noise_takes_vllm_only_where_images_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    names = {"llava": "Llava", "llava_next": "LlavaNext", "idefics3": "Idefics3"}
    architecture = f"{names[family]}ForConditionalGeneration"
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": family}))
    _install(monkeypatch, "0.32.0+cpu")
    config = replace(_config(tmp_path, {"type": "Auto"}), negatives=Negatives(kinds=(NoisedImage(),)))
    assert engines.resolve_engine(config) == (Vllm() if family == "llava" else Transformers())
    if family != "llava":
        with pytest.raises(ValueError, match=r"engine\.type is Vllm, which cannot add the noise of NoisedImage"):
            engines.resolve_engine(replace(config, engine=Vllm()))


def test_contrast_never_takes_vllm(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "0.32.0+cpu")
    config = replace(_config(tiny_llava, {"type": "Auto"}), contrast=Contrast())
    assert engines.resolve_engine(config) == Transformers()
    with pytest.raises(ValueError, match=r"engine\.type is Vllm, which cannot decode contrastively"):
        engines.resolve_engine(replace(config, engine=Vllm()))
