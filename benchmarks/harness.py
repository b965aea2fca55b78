"""What every benchmark shares: bars, and one results file with the machine, the versions and the commit in it.

A benchmark is a script `benchmarks/NAME.py` that ends with `sys.exit(write_results("NAME", figures, bars))`.
"""

import json
import math
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"

_PACKAGES = ("torch", "ray", "transformers", "peft", "pyarrow")


@dataclass(frozen=True)
class Bar:
    """A figure and the limit it must keep: at least `limit` ("min") or at most ("max"). A NaN keeps none."""

    name: str
    value: float
    limit: float
    direction: Literal["min", "max"]

    @property
    def met(self) -> bool:
        return self.value >= self.limit if self.direction == "min" else self.value <= self.limit


def lacks_gpu(name: str) -> bool:
    """Whether torch finds no GPU, for a benchmark that was asked to run on one: it skips, and this says so."""
    import torch

    if torch.cuda.is_available():
        return False
    print(f"{name} --gpu: skipped: it needs a GPU that torch can use")
    return True


def write_results(name: str, figures: Mapping[str, Any], bars: Sequence[Bar], *, directory: Path = RESULTS) -> int:
    """Write `directory/NAME.json`, print its figures and bars, and return the exit code: 1 when a bar is missed."""
    results = {
        "name": name,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "commit": describe_commit(),
        "command": " ".join(["python", *(_without_folders(argument) for argument in sys.argv)]),
        "figures": figures,
        "bars": [{**asdict(bar), "met": bar.met} for bar in bars],
    }
    text = json.dumps(_without_non_finite(results), indent=2, ensure_ascii=False, allow_nan=False)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.json").write_text(_without_machine_paths(text) + "\n", encoding="utf-8")
    print(render_table(name, figures, bars))
    return 0 if all(bar.met for bar in bars) else 1


def render_table(name: str, figures: Mapping[str, Any], bars: Sequence[Bar]) -> str:
    """The figures that are single values, then the bars, as aligned lines."""
    singles = {key: value for key, value in figures.items() if isinstance(value, int | float | str)}
    width = max(map(len, [*singles, *(bar.name for bar in bars)]), default=0)
    lines = [f"== {name}"]
    lines += [f"  {key:<{width}}  {_render(value)}" for key, value in singles.items()]
    for bar in bars:
        sign, verdict = (">=" if bar.direction == "min" else "<="), ("met" if bar.met else "MISSED")
        lines.append(f"  {bar.name:<{width}}  {_render(bar.value)} {sign} {_render(bar.limit)}  {verdict}")
    return "\n".join(lines)


def describe_machine() -> dict[str, Any]:
    """The CPU's model, the GPU that torch finds, the cores this process may use, and the memory in bytes."""
    import torch

    return {
        "cpu": _cpu_model(),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def describe_versions() -> dict[str, str]:
    """The versions of Python and of the packages that figures depend on."""
    return {"python": platform.python_version(), **{package: metadata.version(package) for package in _PACKAGES}}


def describe_commit() -> str:
    """The commit of the checkout, with "-dirty" when anything but results differs; "unknown" outside a checkout."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit}-dirty" if _git("status", "--porcelain", "--", ".", ":!benchmarks/results") else commit


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return found.group(1) if found else platform.machine()


def _render(value: float | str) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _without_non_finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return value


def _without_folders(argument: str) -> str:
    """A folder outside of the checkout by its last name alone: another machine has another one."""
    path = Path(argument)
    return f".../{path.name}" if path.is_absolute() and not path.is_relative_to(ROOT) else shlex.quote(argument)


def _without_machine_paths(text: str) -> str:
    """Results are committed: the checkout becomes ".", its parent "..", the home "~"."""
    for path, short in ((ROOT, "."), (ROOT.parent, ".."), (Path.home(), "~")):
        if path != Path(path.anchor):
            text = re.sub(re.escape(str(path)) + r"(?![\w.-])", short, text)
    return text
