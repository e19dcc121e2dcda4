"""What the stages of the method would hold and how long they would take, on paper: no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rationale.artifacts import InputPath, UserError, write_json
from rationale.planning import inference
from rationale.planning.memory import TRAINERS
from rationale.planning.sizes import sizes
from rationale.planning.table import Hardware, Training, plan
from rationale.planning.text import markdown
from rationale.settings import typed


@typed
def run(
    title: str,
    path: InputPath,
    trainings: list[Training],
    trainers: list[Literal[TRAINERS]],
    inferences: list[inference.Inference],
    distillation: inference.Distillation,
    hardware: Hardware,
    precision: str,
    quantization: dict[str, Any] | None,
    out: Path,
) -> dict:
    """Write `plan.md` and `plan.json`, and print the first: a row for each training, layout, reference and trainer, one
    for each stage that runs the model without training it, what a served teacher costs, and hours by number of devices.

    `path` is a folder or hub id of which only `config.json` is read.
    """
    if quantization is not None:
        raise UserError("stage=plan does not know what 4-bit weights take; set model/quantization=null")
    rows = list(plan(path, trainings, trainers, hardware, precision))
    model = sizes(path)
    others = [inference.outcome(model, stage, hardware) for stage in inferences]
    found = {
        "trainings": rows, "inferences": others, "distillation": distillation.outcome(),
        "hours": inference.by_devices(rows, others, hardware.counts),
    }  # fmt: skip
    text = markdown(title, model, found, hardware)
    (out / "plan.md").write_text(text, encoding="utf-8")
    write_json(out / "plan.json", found)
    print(text)
    return {"rows": len(rows) + len(others), "fit": sum(row["fits"] for row in rows + others)}
