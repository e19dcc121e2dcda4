"""Which device a stage runs its model on: decided here, for all of them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import cache

import torch
from torch import Tensor

from rationale.artifacts import UserError, main_process
from rationale.provenance import USED


def device_of(asked: str) -> torch.device:
    """The device that a setting means: `auto` is the machine's accelerator (CUDA, ROCm, XPU, MPS), or the CPU where
    there is none. Of several of a kind each process of a machine has its own."""
    accelerator = _accelerator()
    try:
        device = (accelerator or torch.device("cpu")) if asked == "auto" else torch.device(asked)
    except RuntimeError as error:
        raise UserError(f"device={asked}: torch knows no such device; take auto or cpu") from error
    if device.index is not None:  # trainings would not follow
        raise UserError(f"device={asked}: give its kind alone; which one it is, CUDA_VISIBLE_DEVICES and its like say")
    if device.type == "cpu":
        return device
    if accelerator is None or accelerator.type != device.type:
        raise UserError(f"device={asked}: this machine's accelerator is {accelerator or 'none'}; take auto or cpu")
    number = torch.accelerator.device_count()
    local = next((os.environ[name] for name in ("LOCAL_RANK", "SLURM_LOCALID") if os.environ.get(name)), "0")
    return torch.device(device.type, int(local) % number)


def use(device: torch.device) -> torch.device:
    """Make it the current one of its kind, and say so once."""
    if device.type != "cpu":
        torch.accelerator.set_device_index(device.index or 0)
    announce(device)
    return device


@cache
def announce(device: torch.device) -> None:
    """Print on which device models run, and keep it for the manifest."""
    USED["devices"].append("cpu" if device.type == "cpu" else str(device))
    if main_process():
        print(f"device: {name_of(device)}", flush=True)


def name_of(device: torch.device) -> str:
    """A device with the name of its hardware, where torch has one."""
    if device.type == "cpu":
        return "cpu"
    named = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(device) if named is None else f"{device} ({named(device)})"


def counts_memory(device: torch.device) -> bool:
    """Whether torch can say how much of a device's memory was held at most (of CUDA and XPU, not of MPS)."""
    return hasattr(torch.get_device_module(device), "max_memory_allocated")


def forked_rng(device: torch.device) -> AbstractContextManager:
    """Within it random numbers of the CPU and of this device can be seeded; afterwards theirs go on as before."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng([device.index or 0], device_type=device.type)


def rng_states() -> dict[str, Tensor]:
    """The states of the random numbers of the CPU and of the accelerator, by device type."""
    own = {} if (there := _accelerator()) is None else {there.type: torch.get_device_module(there).get_rng_state()}
    return {"cpu": torch.get_rng_state(), **own}


def set_rng_states(states: dict[str, Tensor]) -> None:
    """Go on from `rng_states`, as far as this machine has the same devices."""
    torch.set_rng_state(states["cpu"])
    if (there := _accelerator()) is not None and there.type in states:
        torch.get_device_module(there).set_rng_state(states[there.type])


def _accelerator() -> torch.device | None:
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def moved(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A model's inputs on its device; nothing waits for the copy but what reads them."""
    return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def pinned(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Inputs in memory that CUDA can copy from while it computes."""
    return {name: value.pin_memory() for name, value in inputs.items()} if device.type == "cuda" else inputs
