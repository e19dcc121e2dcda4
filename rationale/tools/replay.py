"""The batch that stopped a training, run again: which row, which module, and would float32 have held it?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from rationale.artifacts import InputPath, UserError
from rationale.models.vlm import VLM, load
from rationale.stages.inputs import need
from rationale.tools.replayed import Found, replayed
from rationale.training.nonfinite import Recipe

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}  # Lightning's names


def run(batch: InputPath | None, out: Path, device: str = "auto") -> dict:
    """Write `rows.jsonl`, a row for each response in each precision, and `replay.md`, which is printed.

    `batch` is a folder as training.nonfinite writes it. Its weights are run as they are, in the precision of the
    training and in float32; nothing is trained. Adapters are merged, and 4-bit weights are no longer in 4 bits.
    """
    if batch is None:
        raise UserError("replay.batch: give the folder `nonfinite` that the stopped training named")
    told = json.loads(need(batch, "batch.json").read_text(encoding="utf-8"))
    model = Path(batch) / "model"
    if not model.exists():
        raise UserError(
            f"{batch}: no weights there: {len(told['spoiled'])} of the adapter's were not finite already, first "
            f"{told['spoiled'][0]}; go on from an earlier state or start again with a lower learning rate"
        )
    recipes = [Recipe.from_json(micro["recipe"]) for micro in told["micro_batches"]]
    found: dict[str, list[Found]] = {}
    for name, dtype, autocast in passes(told):
        vlm, reference = read(model, dtype, told, device), None
        if told["objective"].get("reference", "scored") != "scored":
            reference = read(told["source"], dtype, told, device)
        found[name] = []
        for recipe in recipes:
            found[name].append(replayed(vlm, reference, recipe, told["objective"], autocast))
            vlm.model.zero_grad()
    rows = [
        {"precision": name, "micro_batch": micro["number"], "process": micro["process"], **row}
        for name, batches in found.items()
        for micro, one in zip(told["micro_batches"], batches, strict=True)
        for row in one.rows
    ]
    lines = (json.dumps({k: readable(v) for k, v in row.items()}, ensure_ascii=False) + "\n" for row in rows)
    (out / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    text = markdown(told, found)
    (out / "replay.md").write_text(text, encoding="utf-8")
    print(text, flush=True)
    return {"responses": len(rows) // len(found), **{f"not_finite/{n}": sum(map(bad, f)) for n, f in found.items()}}


def passes(told: dict[str, Any]) -> list[tuple[str, str, torch.dtype | None]]:
    """Name, dtype of the weights and of autocast: the training's own, and float32 where that is another."""
    own = (told["precision"], told["dtype"], AUTOCAST.get(told["precision"]))
    return [own] if own[1:] == ("float32", None) else [own, ("float32", "float32", None)]


def read(path: str | Path, dtype: str, told: dict[str, Any], device: str) -> VLM:
    vlm = load(str(path), dtype=dtype, attention=told["attention"], device=device)
    vlm.model.eval()
    return vlm


def bad(found: Found) -> int:
    return sum(not row["finite"] or not math.isfinite(row["loss"]) for row in found.rows)


def readable(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def markdown(told: dict[str, Any], found: dict[str, list[Found]]) -> str:
    """A line for each response, its numbers in each precision side by side; then what failed first in each."""
    head = ["micro-batch", "question", "tokens"]
    head += [f"{what}, {precision}" for precision in found for what in ("lowest log-prob", "loss")]
    lines = [
        [str(micro["number"]), row["question_id"], str(row["tokens"])]
        + [f"{value:.4g}" for b in found.values() for value in (b[i].rows[j]["lowest"], b[i].rows[j]["loss"])]
        for i, micro in enumerate(told["micro_batches"])
        for j, row in enumerate(next(iter(found.values()))[i].rows)
    ]
    said = [f"Stopped at step {told['step']}: {told['what']} not finite.", ""]
    if told["spoiled"]:
        said += [f"{len(told['spoiled'])} weights were not finite already, first `{told['spoiled'][0]}`.", ""]
    if told["objective"].get("class", "Objective") != "Objective":
        said += [f"The loss is that of Objective, not of {told['objective']['class']}.", ""]
    table = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *lines)]
    return "\n".join([*said, *table, "", *(f"- {n}: {summary(told, batches)}" for n, batches in found.items()), ""])


def summary(told: dict[str, Any], batches: list[Found]) -> str:
    """What failed first in one precision."""
    parts = []
    for micro, one in zip(told["micro_batches"], batches, strict=True):
        where = f"micro-batch {micro['number']}"
        if one.first:
            parts.append(f"{where}: first not finite `{one.first}`")
        if one.first_gradient:
            parts.append(f"{where}: {one.num_gradients} gradients not finite, first `{one.first_gradient}`")
    return "; ".join(parts) or "all finite, outputs and gradients"
