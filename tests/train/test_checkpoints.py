"""Checkpoints: what is loaded is what was saved, whole or not at all, by however many workers."""

import json
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from stic_ray.train.checkpoints import (
    Header,
    Writer,
    find_best,
    find_newest,
    load,
    start_moments,
    sweep,
    write_metrics,
)

_METRICS = '{"step": 1, "loss": 0.5}\n'


class _Layers(nn.Module):
    """Two layers, the second of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 5), nn.Linear(5, 2, bias=False)
        self.two.weight.requires_grad_(False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.two(self.one(values))
        return found


def _module(seed: int) -> _Layers:
    torch.manual_seed(seed)
    return _Layers()


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.1)
    start_moments(module, optimizer)
    return optimizer


def _step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    module(torch.arange(6.0).view(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _writer(home: Path, *, token: str = "a", keep: int = 2) -> Writer:
    return Writer(str(home), rank=0, world=1, token=token, keep=keep)


def _save(home: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, **settings: Any) -> None:
    writer = _writer(home, **settings)
    writer.save(Header(step=step, metrics=_METRICS * step), module, optimizer)
    writer.close()


def _found(home: Path) -> list[str]:
    return sorted(path.name for path in home.iterdir())


def test_training_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    module = _module(0)
    optimizer = _optimizer(module)
    for _ in range(3):
        _step(module, optimizer)
    _save(tmp_path, 3, module, optimizer)
    for _ in range(2):
        _step(module, optimizer)
    other = _module(1)
    with torch.no_grad():
        other.two.weight.copy_(module.two.weight)  # frozen: no checkpoint has it
    again = _optimizer(other)
    found = find_newest(str(tmp_path))
    assert found is not None and (found.step, found.num_shards) == (3, 1)
    assert load(found, other, again) == [{"step": 1, "loss": 0.5}] * 3
    for _ in range(2):
        _step(other, again)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def test_save_takes_a_copy_while_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    write = Writer._write

    def late(self: Writer, *arguments: Any) -> None:
        release.wait()
        write(self, *arguments)

    monkeypatch.setattr(Writer, "_write", late)
    module = _module(0)
    optimizer = _optimizer(module)
    before = module.one.weight.detach().clone()
    writer = _writer(tmp_path)
    writer.save(Header(step=1, metrics=_METRICS), module, optimizer)
    _step(module, optimizer)
    assert find_newest(str(tmp_path)) is None
    release.set()
    writer.close()
    other = _module(1)
    found = find_newest(str(tmp_path))
    assert found is not None
    load(found, other, _optimizer(other))
    assert torch.equal(other.one.weight, before) and not torch.equal(module.one.weight, before)


def test_writer_keeps_the_newest_and_sweep_removes_what_has_no_record(tmp_path: Path) -> None:
    module = _module(0)
    optimizer = _optimizer(module)
    writer = _writer(tmp_path, keep=2)
    for step in (1, 2, 3):
        writer.save(Header(step=step, metrics=_METRICS), module, optimizer)
    writer.close()
    assert _found(tmp_path) == ["step-00000002-a", "step-00000003-a"]
    shutil.copytree(tmp_path / "step-00000003-a", tmp_path / "step-00000004-b")
    (tmp_path / "step-00000004-b" / "checkpoint.json").unlink()
    found = find_newest(str(tmp_path))
    assert found is not None and found.step == 3
    sweep(str(tmp_path))
    assert _found(tmp_path) == ["step-00000002-a", "step-00000003-a"]
    sweep(str(tmp_path / "none"))


def test_writer_keeps_the_best_beside_the_newest(tmp_path: Path) -> None:
    module = _module(0)
    optimizer = _optimizer(module)
    writer = _writer(tmp_path, keep=1)
    for step, score in ((1, 0.5), (2, 0.25), (3, 0.75), (4, 0.25), (5, None)):
        writer.save(Header(step=step, metrics=_METRICS, score=score), module, optimizer)
    writer.close()
    assert _found(tmp_path) == ["step-00000002-a", "step-00000005-a"]
    best, newest = find_best(str(tmp_path)), find_newest(str(tmp_path))
    assert best is not None and newest is not None and (best.step, newest.step) == (2, 5)


_DAMAGED = {  # file of a checkpoint, and what becomes of its bytes; None removes it
    "shard": ("shard-0.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "no shard": ("shard-0.safetensors", None),
    "cut shard record": ("shard-0.json", lambda data: data[:-3]),
    "empty shard record": ("shard-0.json", lambda data: b"{}"),
    "places": ("shard-0.json", lambda data: data.replace(b'"start": 0', b'"start": 1')),
    "cut record": ("checkpoint.json", lambda data: data[:-3]),
    "empty record": ("checkpoint.json", lambda data: b"{}"),
    "record is null": ("checkpoint.json", lambda data: b"null"),
    "no metrics": ("metrics.jsonl", None),
    "empty metrics": ("metrics.jsonl", lambda data: b""),
    "a line of metrics": ("metrics.jsonl", lambda data: data[: len(data) // 2]),
    "cut metrics": ("metrics.jsonl", lambda data: data[:-3]),
}


@pytest.mark.parametrize("damage", list(_DAMAGED))
def test_damaged_checkpoint_is_never_loaded_and_swept(tmp_path: Path, damage: str) -> None:
    module = _module(0)
    optimizer = _optimizer(module)
    for step in (1, 2):
        _save(tmp_path, step, module, optimizer)
    name, change = _DAMAGED[damage]
    file = tmp_path / "step-00000002-a" / name
    if change is None:
        file.unlink()
    else:
        before = file.read_bytes()
        file.write_bytes(change(before))
        assert file.read_bytes() != before
    found = find_newest(str(tmp_path))
    assert found is not None and found.step == 1
    sweep(str(tmp_path))
    assert _found(tmp_path) == ["step-00000001-a"]


def test_sweep_after_damage_of_the_best_goes_back_before_it(tmp_path: Path) -> None:
    module = _module(0)
    optimizer = _optimizer(module)
    writer = _writer(tmp_path, keep=4)
    losses = [None, 0.25, 0.5, None]
    for step in (1, 2, 3, 4):
        lines = [{"step": 1.0} | ({} if loss is None else {"validation_loss": loss}) for loss in losses[:step]]
        writer.save(Header(step=step, metrics=write_metrics(lines), score=losses[step - 1]), module, optimizer)
    writer.close()
    sweep(str(tmp_path))
    assert len(_found(tmp_path)) == 4
    (tmp_path / "step-00000002-a" / "shard-0.safetensors").write_bytes(b"damaged")
    sweep(str(tmp_path))
    assert _found(tmp_path) == ["step-00000001-a"]


def test_metrics_that_are_not_finite_are_valid_json_and_read_back(tmp_path: Path) -> None:
    module = _module(0)
    optimizer = _optimizer(module)
    writer = _writer(tmp_path)
    text = write_metrics([{"loss": math.nan, "step": 1.0}])
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "step": 1.0}
    writer.save(Header(step=1, metrics=text), module, optimizer)
    writer.close()
    found = find_newest(str(tmp_path))
    assert found is not None
    (line,) = load(found, module, optimizer)
    assert math.isnan(line["loss"]) and line["step"] == 1.0


def test_checkpoint_of_other_weights_is_refused(tmp_path: Path) -> None:
    module = _module(0)
    _save(tmp_path, 1, module, _optimizer(module))
    other = nn.Sequential(nn.Linear(3, 5, bias=False))
    found = find_newest(str(tmp_path))
    assert found is not None
    with pytest.raises(ValueError, match=r"is of other weights: .*0\.weight"):
        load(found, other, _optimizer(other))


def test_failure_to_write_is_raised_where_training_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module(0)
    writer = _writer(tmp_path)

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("stic_ray.train.checkpoints.storage.copy_file", full)
    writer.save(Header(step=1, metrics=_METRICS), module, _optimizer(module))
    with pytest.raises(OSError, match="no space left"):
        writer.wait()
    assert find_newest(str(tmp_path)) is None


# More workers, or fewer


def _sharded(rank: int, world: int, meeting: str, home: str, then: str) -> None:
    """With "save" two steps and a checkpoint; else a checkpoint loaded, and what each worker has gathered in a file."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    module = _module(0 if then == "save" else 1)
    fully_shard(module, mesh=init_device_mesh("cpu", (world,)))
    optimizer = _optimizer(module)
    if then == "save":
        for _ in range(2):
            _step(module, optimizer)
        writer = Writer(home, rank=rank, world=world, token="w", keep=2)
        writer.save(Header(step=2, metrics=_METRICS), module, optimizer)
        writer.close()
    else:
        found = find_newest(home)
        assert found is not None
        load(found, module, optimizer)
        whole = _whole(module, optimizer)
        if rank == 0:
            torch.save(whole, then)
    dist.barrier()
    dist.destroy_process_group()


def _whole(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            found[name] = _full(parameter)
            found |= {
                f"{name}/{moment}": _full(optimizer.state[parameter][moment]) for moment in ("exp_avg", "exp_avg_sq")
            }
            found[f"{name}/step"] = optimizer.state[parameter]["step"]
    return found


def _full(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().clone()


def _spawn(world: int, home: Path, then: str) -> None:
    meeting = home.with_name(f"meeting-{Path(then).name}")  # a file: a free port may be taken before it is used
    mp.spawn(_sharded, args=(world, str(meeting), str(home), then), nprocs=world)


@pytest.mark.slow
@pytest.mark.parametrize(("wrote", "reads"), [(2, 2), (2, 3), (2, 1), (1, 2)])
def test_checkpoint_is_read_by_another_number_of_workers(tmp_path: Path, wrote: int, reads: int) -> None:
    """Five rows over two, three and one workers, one of which may hold none of some weight."""
    home = tmp_path / "checkpoints"
    _spawn(wrote, home, "save")
    record = json.loads((home / "step-00000002-w" / "checkpoint.json").read_text())
    assert record["num_shards"] == wrote
    _spawn(reads, home, str(tmp_path / "whole.pt"))
    found = torch.load(tmp_path / "whole.pt", weights_only=True)
    module = _module(0)
    optimizer = _optimizer(module)
    for _ in range(2):
        _step(module, optimizer)
    expected = _whole(module, optimizer)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7)
