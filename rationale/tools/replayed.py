"""One micro-batch run forward and backward without a step, and where it stops being finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.vlm import VLM
from rationale.objectives.dpo import PairLogps
from rationale.objectives.logprobs import sequence_logps
from rationale.objectives.sft import sft_loss
from rationale.training.dpo import Objective
from rationale.training.nonfinite import Recipe


@dataclass(slots=True)
class Found:
    """Of a micro-batch: a dict for each row; the first of inputs, modules and log-probs that is not finite; and of the
    gradients the first on the way back, and how many."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    first: str | None = None
    first_gradient: str | None = None
    num_gradients: int = 0


def replayed(
    vlm: VLM, reference: VLM | None, recipe: Recipe, objective: dict[str, Any], autocast: torch.dtype | None
) -> Found:
    """Loss and log-probs of each row, in evaluation mode: dropout is not replayed.

    `objective` is what the module told of itself. `reference` is the starting model, or None where the loss takes none
    or stored log-probs.
    """
    device = vlm.model.device
    batch = Encoder(vlm.processor, recipe.max_response_tokens, recipe.layout).batch(recipe.examples).to(device)
    inputs = [f"input {name}" for name, value in batch.inputs.items() if not finite(value)]
    found = Found(first=inputs[0] if inputs else None)
    mask = batch.mask
    with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None), watched(vlm.model, found):
        logps = response_logps(vlm.model, batch)
        if objective["stage"] == "sft":
            losses, loss = -sequence_logps(logps, mask, average=True), sft_loss(logps, mask)
        else:
            stored = torch.zeros_like(logps)
            if recipe.stored is not None:
                for row, values in enumerate(recipe.stored):
                    stored[row, : len(values)] = torch.tensor(values, device=device)
            elif reference is not None:
                with torch.no_grad():
                    stored = response_logps(reference.model, batch)
            losses, loss = preference(logps, stored, mask, objective)
        if found.first is None and not finite(logps):
            found.first = "the log-probs"
        loss.backward()
    for example, row, kept, value in zip(recipe.examples, logps.detach(), mask, losses.tolist(), strict=True):
        own = row[kept]
        found.rows.append({
            "question_id": example.question_id, "tokens": len(own), "lowest": own.min().item() if len(own) else 0.0,
            "finite": finite(own), "loss": value,
        })  # fmt: skip
    return found


def preference(logps: Tensor, stored: Tensor, mask: Tensor, told: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The loss of each pair, once for its chosen and once for its rejected row, and what is trained on."""
    names = ("beta", "loss_type", "label_smoothing", "sft_weight", "length_normalised")
    objective = Objective(**{name: told[name] for name in names})
    policy, reference = (
        PairLogps(*sequence_logps(values, mask, average=objective.length_normalised).chunk(2))
        for values in (logps, stored)
    )
    losses, half = objective(policy, reference).loss, len(logps) // 2
    sft = sft_loss(logps[:half], mask[:half]) if objective.sft_weight else 0.0
    return losses.detach().repeat(2), losses.mean() + objective.sft_weight * sft


@contextmanager
def watched(model: nn.Module, found: Found) -> Iterator[None]:
    """Note the first module whose output, and the first parameter whose gradient, is not finite."""

    def after(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if found.first is None and not all(map(finite, tensors(output))):
                found.first = name

        return hook

    def backward(name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if not finite(parameter.grad):
                found.first_gradient = found.first_gradient or name
                found.num_gradients += 1

        return hook

    hooks = [module.register_forward_hook(after(name)) for name, module in model.named_modules() if name]
    hooks += [p.register_post_accumulate_grad_hook(backward(n)) for n, p in model.named_parameters() if p.requires_grad]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tensors(output: Any) -> Iterator[Tensor]:
    """Those in a module's output, however it is wrapped."""
    if torch.is_tensor(output):
        yield output
    elif isinstance(output, (tuple, list, dict)):
        for value in output.values() if isinstance(output, dict) else output:
            yield from tensors(value)


def finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())
