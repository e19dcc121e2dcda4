"""What SFT and DPO would hold and how long they would take, on paper: no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rationale.artifacts import InputPath, UserError, write_json
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
    hardware: Hardware,
    precision: str,
    gradient_checkpointing: bool,
    quantization: dict[str, Any] | None,
    out: Path,
) -> dict:
    """Write `plan.md` and `plan.json`, a row for each training, layout, reference and trainer, and print the first.

    `path` is a folder or hub id of which only `config.json` is read.
    """
    if quantization is not None:
        raise UserError("stage=plan does not know what 4-bit weights take; set model/quantization=null")
    rows = list(plan(path, trainings, trainers, hardware, precision, gradient_checkpointing))
    text = markdown(title, sizes(path), rows, hardware)
    (out / "plan.md").write_text(text, encoding="utf-8")
    write_json(out / "plan.json", rows)
    print(text)
    return {"rows": len(rows), "fit": sum(row["fits"] for row in rows)}
