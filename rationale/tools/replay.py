"""The batch that stopped a training, run again: which row, which module, and would float32 have held it?"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from rationale.artifacts import InputPath, UserError
from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.vlm import VLM, load
from rationale.objectives.dpo import Objective
from rationale.objectives.grpo import GRPOObjective
from rationale.objectives.logprobs import sequence_logps
from rationale.objectives.sft import sft_loss
from rationale.stages.inputs import need
from rationale.training.dpo import PairBatch, compared, padded_logps
from rationale.training.nonfinite import Recipe

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # Lightning's names


@dataclass(slots=True)
class Found:
    """Of a micro-batch: a dict for each row; the first of inputs, modules and log-probs that is not finite; and of the
    gradients the first on the way back, and how many."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    first: str | None = None
    first_gradient: str | None = None
    num_gradients: int = 0


def run(batch: InputPath | None, out: Path, device: str = "auto") -> dict:
    """Write `rows.jsonl`, a row for each response in each precision, and `replay.md`, which is printed.

    `batch` is a folder as training.nonfinite writes it. Its weights are run as they are, in the precision of the
    training and in float32; nothing is trained. Adapters are merged, and 4-bit weights are no longer in 4 bits.
    """
    if batch is None:
        raise UserError("replay.batch: give the folder `nonfinite` that the stopped training named")
    kept = json.loads(need(batch, "batch.json").read_text(encoding="utf-8"))
    model = Path(batch) / "model"
    if not model.exists():
        raise UserError(
            f"{batch}: no weights there: {len(kept['spoiled'])} of the adapter's were not finite already, first "
            f"{kept['spoiled'][0]}; go on from an earlier state or start again with a lower learning rate"
        )
    recipes = [Recipe.from_json(micro["recipe"]) for micro in kept["micro_batches"]]
    found: dict[str, list[Found]] = {}
    for name, dtype, autocast in passes(kept):
        read = partial(load, dtype=dtype, attention=kept["attention"], device=device)
        compares = kept["objective"].get("reference") in ("frozen", "adapter_off")
        vlm, start = read(str(model)), read(kept["source"]) if compares else None
        found[name] = [replayed(vlm, start, recipe, kept["objective"], autocast) for recipe in recipes]
    rows = [
        {"precision": name, "micro_batch": micro["number"], "process": micro["process"], **row}
        for name, batches in found.items()
        for micro, one in zip(kept["micro_batches"], batches, strict=True)
        for row in one.rows
    ]
    lines = (json.dumps({k: readable(v) for k, v in row.items()}, ensure_ascii=False) + "\n" for row in rows)
    (out / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    text = markdown(kept, found)
    (out / "replay.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    return {"responses": len(rows) // len(found), **{f"not_finite/{n}": sum(map(bad, f)) for n, f in found.items()}}


def passes(kept: dict[str, Any]) -> list[tuple[str, str, torch.dtype | None]]:
    """Name, dtype of the weights and of autocast: the training's own, and float32 where that is another."""
    own = (kept["precision"], kept["dtype"], AUTOCAST.get(kept["precision"]))
    return [own] if own[1:] == ("float32", None) else [own, ("float32", "float32", None)]


def replayed(
    vlm: VLM, start: VLM | None, recipe: Recipe, config: dict[str, Any], autocast: torch.dtype | None
) -> Found:
    """Loss and log-probs of each row by the module's own loss, in evaluation mode: dropout is not replayed.

    `config` is the module's `objective_config`; `start`, in evaluation mode too, is the network that its reference was.
    """
    model = vlm.model.eval()
    rows = Encoder(vlm.processor, recipe.max_response_tokens, recipe.layout).batch(recipe.examples).to(model.device)
    inputs = [f"input {name}" for name, value in rows.inputs.items() if not finite(value)]
    found = Found(first=inputs[0] if inputs else None)
    model.zero_grad()
    with torch.autocast(model.device.type, dtype=autocast, enabled=autocast is not None), watched(model, found):
        logps = response_logps(model, rows)
        stored = None if recipe.stored is None else padded_logps(recipe.stored, rows.mask, recipe.examples)
        reference = None
        if start is not None:
            with torch.no_grad():
                reference = response_logps(start.model.eval(), rows)
        if config["stage"] == "sft":
            losses = -sequence_logps(logps, rows.mask, average=True)
            loss = sft_loss(logps, rows.mask, reduction=config["reduction"])
        elif config["stage"] == "grpo":
            surrogate = GRPOObjective(**config["objective"])
            advantages = torch.tensor(recipe.advantages, device=model.device)
            before = logps.detach() if stored is None else stored
            losses = sequence_logps(surrogate(logps, before, advantages, reference).loss, rows.mask, average=True)
            loss, losses = losses.mean(), losses.detach()
        else:
            half, reference = len(logps) // 2, reference if stored is None else stored
            objective = objective_of(dict(config["objective"]))
            step = PairBatch(rows, half, rows.mask[:half].sum().item())
            loss, terms, *_ = compared(objective, step, logps, reference)
            losses = terms.loss.detach().repeat(2)  # of a pair: once for its chosen, once for its rejected row
        if found.first is None and not finite(logps):
            found.first = "the log-probs"
        loss.backward()
    for example, row, mask, value in zip(recipe.examples, logps.detach(), rows.mask, losses.tolist(), strict=True):
        own = row[mask]
        found.rows.append({
            "question_id": example.question_id, "tokens": len(own), "lowest": own.min().item() if len(own) else 0.0,
            "finite": finite(own), "loss": value,
        })  # fmt: skip
    return found


def objective_of(given: dict[str, Any]) -> Objective:
    """The objective that a module wrote down; a name that a folder of someone else's brings is called if it is one."""
    kind = resolve_name(name := given.pop("class"))
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise UserError(f"batch.json: objective class={name} is no Objective; take a folder that a training wrote")
    return kind(**given)


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


def bad(found: Found) -> int:
    return sum(not row["finite"] or not math.isfinite(row["loss"]) for row in found.rows)


def readable(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def markdown(kept: dict[str, Any], found: dict[str, list[Found]]) -> str:
    """A line for each response, its numbers in each precision side by side; then what failed first in each."""
    head = ["micro-batch", "question", "tokens"]
    head += [f"{what}, {precision}" for precision in found for what in ("lowest log-prob", "loss")]
    lines = [
        [str(micro["number"]), row["question_id"], str(row["tokens"])]
        + [f"{value:.4g}" for b in found.values() for value in (b[i].rows[j]["lowest"], b[i].rows[j]["loss"])]
        for i, micro in enumerate(kept["micro_batches"])
        for j, row in enumerate(next(iter(found.values()))[i].rows)
    ]
    opening = [f"Stopped at step {kept['step']}: {kept['what']} not finite.", ""]
    if kept["spoiled"]:
        opening += [f"{len(kept['spoiled'])} weights were not finite already, first `{kept['spoiled'][0]}`.", ""]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]
    return "\n".join([*opening, *table, "", *(f"- {n}: {summary(kept, batches)}" for n, batches in found.items()), ""])


def summary(kept: dict[str, Any], batches: list[Found]) -> str:
    """What failed first in one precision."""
    parts = []
    for micro, one in zip(kept["micro_batches"], batches, strict=True):
        where = f"micro-batch {micro['number']}"
        if one.first:
            parts.append(f"{where}: first not finite `{one.first}`")
        if one.first_gradient:
            parts.append(f"{where}: {one.num_gradients} gradients not finite, first `{one.first_gradient}`")
    return "; ".join(parts) or "all finite, outputs and gradients"
