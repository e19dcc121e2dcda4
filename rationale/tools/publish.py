"""A checkpoint as a folder to hand on: weights, processor, and a card with its data, recipe, scores and commit."""

from __future__ import annotations

import json
from pathlib import Path

from rationale.artifacts import InputPath, UserError
from rationale.hashes import CARD, fingerprint, read_manifest
from rationale.reporting.card import model_card
from rationale.reporting.load import folders
from rationale.sources.rowfiles import link


def run(model: InputPath, evals: InputPath, out: Path) -> dict:
    """The files of `model`, linked where the disk allows, and `README.md`.

    Of the evaluations that the pattern `evals` matches, those count whose input was these very weights.
    """
    folder = Path(model)
    made = read_manifest(folder.parent)
    if made is None:
        raise UserError(
            f"{model}: its parent folder has no manifest, so nothing says how it was made; run stage=sft or dpo"
        )
    own = fingerprint(folder)
    of_these = [p for p in folders(evals) if own in (read_manifest(p) or {"inputs": {}})["inputs"].values()]
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != CARD]
    for file in files:
        link(file, out / file.relative_to(folder))
    evaluations = [json.loads((path / "summary.json").read_text(encoding="utf-8")) for path in of_these]
    text = model_card(made["stage"], made["arguments"], made["counts"], made, evaluations)
    (out / CARD).write_text(text, encoding="utf-8")
    return {"files": len(files), "evaluations": len(evaluations)}
