"""An accelerator that is none: importing this gives torch a device `second` whose tensors are kept on the CPU.

It is what `torch.accelerator` finds, in every thread. Its operators compute what the CPU's compute, so values and
gradients are real, and one that is given a tensor of each device raises, as CUDA's would. What it cannot show: kernels,
precision, speed, memory, several devices. A process that imported it has to end by `os._exit`: autograd keeps a thread
for the device that never ends.

It stands on `torch.utils.backend_registration`, whose part for devices in Python is experimental (torch 2.13).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

import torch
from pytorch_lightning.accelerators import Accelerator, AcceleratorRegistry
from pytorch_lightning.strategies import SingleDeviceStrategy, StrategyRegistry
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

from rationale.models.towers import Shapes

NAME = "second"
STRATEGY = f"single_{NAME}"  # of a training there, for Lightning
PASSES: Counter[str] = Counter()  # forward passes so far, by the model's class and the device that it was on
MOVES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)  # from one device to the other


class Mirrored(torch.Tensor):
    """A tensor of the device; `data_here` is where its numbers are."""

    data_here: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> Mirrored:
        with torch.inference_mode(False):  # a view of a parameter cannot be made of one that is made within
            made = torch.Tensor._make_wrapper_subclass(
                cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=torch.device(NAME, 0)
            )
        made.data_here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(operator, *args, **(kwargs or {}))

    def __repr__(self) -> str:
        return f"{NAME}: {self.data_here!r}"

    def tolist(self) -> Any:
        return self.data_here.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.data_here.__reduce_ex__(protocol)


def compute(operator: Any, *args: Any, **kwargs: Any) -> Any:
    """An operator that was given a tensor of the device, or is to make one there."""
    given = tree_leaves((args, kwargs))
    ours = [leaf for leaf in given if isinstance(leaf, Mirrored)]
    others = [
        leaf for leaf in given if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Mirrored) and leaf.dim()
    ]
    if ours and others and operator not in MOVES:
        raise RuntimeError(f"{operator} was given tensors of {NAME} and of the CPU")
    here, named = tree_map_only(Mirrored, lambda tensor: tensor.data_here, (args, kwargs))
    here, named = tree_map_only(torch.device, lambda device: torch.device("cpu"), (here, named))
    found = operator(*here, **named)
    if any(leaf.type == "cpu" for leaf in given if isinstance(leaf, torch.device)):
        return found
    if any(tensor.shape != tensor.data_here.shape for tensor in ours):
        raise NotImplementedError(f"{operator} gives a tensor of {NAME} another shape: register it below")
    return return_and_correct_aliasing(operator, args, kwargs, tree_map_only(torch.Tensor, Mirrored, found))


class Module(backend_registration._DummyBackendModule):
    """`torch.second`: random numbers are the CPU's."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class Known(Accelerator):
    """What Lightning has to know of it."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def teardown(self) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    parse_devices = staticmethod(int)
    is_available = staticmethod(lambda: True)
    auto_device_count = staticmethod(lambda: 1)
    name = staticmethod(lambda: NAME)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        return [torch.device(NAME, index) for index in range(devices)]


def counted(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """A forward pass, which is counted where it computes anything."""
    if not any(isinstance(mode, Shapes) for mode in torch.overrides._get_current_function_mode_stack()):
        PASSES[f"{type(model).__name__} on {model.device.type}"] += 1
    return called(model, *args, **kwargs)


called, PreTrainedModel.__call__ = PreTrainedModel.__call__, counted
backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
ANY, ATEN = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")  # hold as long as they are kept
ANY.fallback(compute, "PrivateUse1")  # of what makes a tensor and is given none
aten = torch.ops.aten
for whole in (  # what would be cut into operators that give a tensor another shape; and by what torch.tensor fills one
    aten.arange.default, aten.arange.start, aten.arange.start_step, aten.eye.default, aten.eye.m,
    aten.copy_.default, aten._local_scalar_dense.default,
):  # fmt: skip
    ATEN.impl(whole, partial(compute, whole), "PrivateUse1")
AcceleratorRegistry.register(NAME, Known)
StrategyRegistry.register(STRATEGY, SingleDeviceStrategy, device=f"{NAME}:0")
torch.accelerator.synchronize = lambda *_: None  # one in Python cannot be waited for
torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter that moves is the same one, tied or not
