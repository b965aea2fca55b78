"""Lets a torchvision be imported beside the CPU build of torch that vLLM's CPU build needs, in tests alone.

No build of it goes with that torch: it lacks two compiled operators, which no model here calls. With them declared,
torchvision imports, and with it vLLM's own classes of the families that ask for it.
"""

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

_MISSING = ("nms", "qnms")
_declared: list[Any] = []  # for as long as the process lives


class _DeclareOperators(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> None:
        """Finds nothing; declares the operators before torchvision is looked for."""
        if name == "torchvision" and not _declared:
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            _declared.append(library)
            for operator in _MISSING:
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


sys.meta_path.insert(0, _DeclareOperators())
