"""Configurations from YAML and dotted overrides, strictly, and back to plain data."""

import difflib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from stic_ray.config.data import Duplicates, ImageSource, Instructions
from stic_ray.config.evaluation import Benchmark, Judge
from stic_ray.config.execution import EngineSettings, Tracker
from stic_ray.config.losses import PlainLoss, WeightedLosses
from stic_ray.config.negatives import ColorJitter, Downsize, Negative
from stic_ray.config.sweep import Domain, Scheduler, Search
from stic_ray.config.training import FullFinetune, Lora, Reference, Schedule, Selection, TokenRule
from stic_ray.config.views import Blind
from stic_ray.config.whole import Config

_MAX_INT = 2**62
# What others call a setting, where it is not nearly written so.
_ALSO_CALLED = {
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "batch_size": "global_batch",
    "max_steps": "steps",
    "lora_r": "rank",
    "r": "rank",
}


class _MissingError(ValueError):
    """Settings without a default that nobody gave."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        settable = [name for name in names if "[" not in name]
        given = " ".join(f"{name}=VALUE" for name in settable)
        how = f"in the configuration or as {given}" if len(settable) == len(names) else "in its entry of the list"
        one = len(names) == 1
        which = f"{names[0]} is" if one else f"{', '.join(names[:-1])} and {names[-1]} are"
        them = "it" if one else "them"
        super().__init__(f"{which} missing: set {them} {how}")


def parse_config(tree: Mapping[str, Any], overrides: list[str]) -> Config:
    """A configuration from a parsed YAML tree and overrides like `stage1.loss.alpha=1e-3`.

    Raises:
        ValueError: an unknown key (with the nearest known one), a wrong type, a missing key or a value that
            cannot be; the message names the dotted field and the remedy.
    """
    merged = _deep_copy(tree)
    for override in sorted(overrides, key=lambda text: not text.partition("=")[0].endswith(".type")):
        _apply(merged, override)  # another type first: it takes what is set of the one before away
    for stage in ("stage1", "stage2"):  # one that is left out leaves out its control
        if merged.get(stage, stage) is None:
            merged[f"{stage}_control"] = None
    config: Config = _build(Config, merged, "")
    return config


Settings = TypeVar("Settings")


def parse_settings(kind: type[Settings], tree: Mapping[str, Any], origin: str) -> Settings:
    """Settings of another kind than a run's, read as strictly.

    Raises:
        ValueError: as `parse_config`, with where they come from.
    """
    try:
        found: Settings = _build(kind, tree, "")
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None
    return found


def read_yaml(text: str, origin: str) -> dict[str, Any]:
    """The mapping that a YAML text holds.

    Raises:
        ValueError: not YAML, or not a mapping at the top.
    """
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        raise ValueError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    try:
        json.dumps(tree, default=str)
    except (ValueError, RecursionError):
        raise ValueError(f"{origin}: an alias (*name) stands inside of what it names: write it out") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{origin}: the top level must be a mapping of settings, not {type(tree).__name__}")
    return tree


def to_tree(value: Any) -> Any:
    """A configuration leaf as plain JSON data, variants with their `type`; the inverse of reading it."""
    if is_dataclass(value) and not isinstance(value, type):
        tree = {f.name: to_tree(getattr(value, f.name)) for f in fields(value)}
        return {"type": type(value).__name__, **tree} if type(value) in _VARIANTS else tree
    if isinstance(value, tuple):
        return [to_tree(item) for item in value]
    if isinstance(value, Mapping):
        return {name: to_tree(item) for name, item in value.items()}
    return value


def flatten(tree: Mapping[str, Any], parent: str = "") -> dict[str, Any]:
    """A tree's values by dotted path."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        found |= (
            flatten(value, f"{parent}{name}.") if isinstance(value, Mapping) and value else {f"{parent}{name}": value}
        )
    return found


_VARIANTS = {
    *get_args(ImageSource),
    *get_args(Duplicates),
    *get_args(Instructions),
    *get_args(EngineSettings),
    *get_args(Tracker),
    *get_args(Benchmark),
    *get_args(Judge),
    Downsize,
    ColorJitter,
    *get_args(PlainLoss),
    WeightedLosses,
    Lora,
    FullFinetune,
    *get_args(Schedule),
    *get_args(Reference),
    *get_args(Blind),
    *get_args(Negative),
    *get_args(TokenRule),
    *get_args(Selection),
    *get_args(Domain),
    *get_args(Search),
    *get_args(Scheduler),
}


def _deep_copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _deep_copy(value) if isinstance(value, Mapping) else value for key, value in tree.items()}


def _apply(tree: dict[str, Any], override: str) -> None:
    path, separator, text = override.partition("=")
    if not separator or not path:
        raise ValueError(f"override {override!r}: write it as dotted.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise ValueError(f"{path}: the value {text!r} is not valid YAML; quote it") from None
    *parents, leaf = path.split(".")
    for depth, name in enumerate(parents):
        child = tree.setdefault(name, {})
        if child is None:
            child = tree[name] = {}
        if not isinstance(child, dict):
            raise ValueError(f"{path}: {'.'.join(parents[: depth + 1])} holds {child!r} and has no keys of its own")
        tree = child
    if leaf == "type" and tree.get("type", value) != value:
        tree.clear()  # the settings of another type, which this one may not have, or mean something else by
    tree[leaf] = value


def _build(kind: Any, value: Any, path: str) -> Any:
    if kind is Any:
        return value
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _build_union(get_args(kind), value, path)
    if origin is Literal:
        options = get_args(kind)
        if value not in options:
            raise ValueError(f"{path} is {value!r}: it must be one of {', '.join(options)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path} is {value!r}: it must be a list")
        item = get_args(kind)[0]
        return tuple(_build(item, entry, f"{path}[{index}]") for index, entry in enumerate(value))
    if origin is Mapping:
        return _build_mapping(get_args(kind)[1], value, path)
    if is_dataclass(kind):
        return _build_dataclass(kind, value, path)
    return _build_scalar(kind, value, path)


def _build_mapping(item: Any, value: Any, path: str) -> dict[str, Any]:
    """Entries by names of the user's own; null leaves one out."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{path} is {value!r}: it must be a mapping of names to settings")
    return {name: _build(item, entry, f"{path}.{name}") for name, entry in value.items() if entry is not None}


def _build_union(options: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    concrete = [option for option in options if option is not type(None)]
    if len(concrete) == 1:
        return _build(concrete[0], value, path)
    by_name = {option.__name__: option for option in concrete}
    if not isinstance(value, Mapping) or value.get("type") not in list(by_name):
        given = value.get("type") if isinstance(value, Mapping) else value
        hint = _nearest(str(given), list(by_name))
        raise ValueError(f"{path}.type is {given!r}: it must be one of {', '.join(by_name)}{hint}")
    return _build(by_name[value["type"]], {k: v for k, v in value.items() if k != "type"}, path)


def _build_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{path} is {value!r}: it must be a mapping of settings ({', '.join(_names(kind))})")
    hints = get_type_hints(kind)
    if kind in _VARIANTS and value.get("type") == kind.__name__:
        value = {k: v for k, v in value.items() if k != "type"}
    for key in value:
        if key not in hints:
            where = f"{path}.{key}" if path else str(key)
            known = ", ".join(_names(kind)) or "none"
            raise ValueError(f"unknown setting {where}{_nearest(str(key), _names(kind))} (known here: {known})")
    arguments = {}
    missing: list[str] = []
    for entry in fields(kind):
        where = f"{path}.{entry.name}" if path else entry.name
        if entry.name in value:
            try:
                arguments[entry.name] = _build(hints[entry.name], value[entry.name], where)
            except _MissingError as error:
                missing += error.names
        elif entry.default is MISSING and entry.default_factory is MISSING:
            missing.append(where)
    if missing:
        raise _MissingError(missing)
    try:
        return kind(**arguments)
    except ValueError as error:
        raise ValueError(f"{path}.{error}" if path else str(error)) from None


def _build_scalar(kind: Any, value: Any, path: str) -> Any:
    if kind is float:
        number = _as_float(value)
        if number is None:
            raise ValueError(f"{path} is {value!r}: it must be a finite number")
        return number
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        names = {int: "a whole number", str: "a text", bool: "true or false"}
        raise ValueError(f"{path} is {'empty' if value is None else repr(value)}: it must be {names[kind]}")
    if kind is int and abs(value) > _MAX_INT:
        raise ValueError(f"{path} is {value}: it must be a number of at most {_MAX_INT}")
    return value


def _as_float(value: Any) -> float | None:
    """YAML 1.1 reads 1e-3 as a text; whoever writes it means the number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _names(kind: Any) -> list[str]:
    return [entry.name for entry in fields(kind)]


def _nearest(name: str, known: list[str]) -> str:
    if _ALSO_CALLED.get(name) in known:
        return f": did you mean {_ALSO_CALLED[name]}?"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f": did you mean {close[0]}?" if close else ""
