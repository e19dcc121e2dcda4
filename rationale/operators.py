"""torchvision beside a build of torch that its compiled part was not made for: its Python part imports all the same."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OPERATORS = ("nms", "qnms")  # those that torchvision names while it is imported
_defined: list[Any] = []  # what is defined goes with the object that defined it


class BeforeTorchvision:
    """An importer that finds nothing; the first import of torchvision, by whichever library, comes by it."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            define_operators()


def define_operators() -> None:
    """Give torchvision's operators their names where its own library does not load.

    Its wheel from the package index is made for CUDA's torch and beside a CPU build does not import, and with it
    neither do Lightning and transformers. Processors of images use no operator of its own.
    """
    import torch

    try:
        for library in Path(find_spec("torchvision").origin).parent.glob("_C*.so"):
            torch.ops.load_library(library)
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _defined.append(library)


def install() -> None:
    """Have `define_operators` called before torchvision is imported, and only then: torch takes seconds to import."""
    if "torchvision" not in sys.modules and find_spec("torchvision"):
        sys.meta_path.insert(0, BeforeTorchvision())
