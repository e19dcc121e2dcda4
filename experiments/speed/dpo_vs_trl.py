"""A DPO step against TRL's: time, peak memory of the process, loss and log-probs.

    python experiments/speed/dpo_vs_trl.py --json experiments/speed/dpo_vs_trl.json       (extra: bench)

TRL runs as its users run it: DPOTrainer, one pair a step, its fused head on, a frozen reference. Ours runs through
the same Lightning module as stage dpo, in five ways: frozen reference, stored reference log-probs, three pairs of a
question in a row, and plain rows with either reference, which have our tiled head and no shared prefix.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import OPTIM, PRECISIONS, bench, fit_ours, fit_trl, heading, in_order, table, trl_rows, trl_settings
from shapes import Shape, responses, save_images

from rationale.models.encode import Encoder
from rationale.models.logps import computing, response_logps
from rationale.models.vlm import load
from rationale.objectives.dpo import Objective
from rationale.training.dpo import DPOModule, dpo_data

BETA = 0.1


def trl(work: Path, shape: Shape, steps: int, device: str, dtype: str) -> dict[str, Any]:
    """TRL's DPOTrainer on one pair of each question."""
    from transformers import AutoProcessor
    from trl import DPOConfig, DPOTrainer

    data = trl_rows(
        [
            {"images": [str(a.images[0])], "prompt": ("user", a.prompt), "chosen": ("assistant", a.response),
             "rejected": ("assistant", b.response)}
            for a, b in responses(save_images(shape, work, steps + 1), 2)
        ]
    )  # fmt: skip
    trainer = DPOTrainer(
        str(work / "model"), args=DPOConfig(beta=BETA, **trl_settings(work, 1, device, dtype)), train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(work / "model"),
    )  # fmt: skip
    seconds, logged = fit_trl(trainer, "logps/chosen")
    return {
        "seconds": seconds, "pairs": 1, "loss": [float(r["loss"]) for r in logged],
        "chosen": [float(r["logps/chosen"]) for r in logged], "rejected": [float(r["logps/rejected"]) for r in logged],
    }  # fmt: skip


def ours(
    work: Path, shape: Shape, steps: int, device: str, dtype: str, reference: str, layout: str, pairs: int
) -> dict[str, Any]:
    """Our module on `pairs` pairs of each question."""
    vlm = load(str(work / "model"), device=device)
    encoder = Encoder(vlm.processor, layout=layout)
    rows = responses(save_images(shape, work, steps + 1), 2 * pairs)
    examples = [(row[2 * k], row[2 * k + 1]) for row in rows for k in range(pairs)]
    stored = None
    if reference == "scored":  # what stage score does beforehand, once for all epochs and settings
        stored = []
        with torch.inference_mode(), computing(PRECISIONS[dtype], vlm.model.device):
            for pair in examples:
                batch = encoder.batch(pair).to(vlm.model.device)
                logps, lengths = response_logps(vlm.model, batch), batch.mask.sum(1).tolist()
                stored.append(tuple(row[:n].tolist() for row, n in zip(logps, lengths, strict=True)))
    order = partial(in_order, micro_batch=1)
    data = dpo_data(encoder, examples, order, stored, "question" if pairs > 1 else "pair")
    times = fit_ours(DPOModule(vlm, Objective(beta=BETA), reference, OPTIM, data.plan.num_steps), data, device, dtype)
    logged = {key: [row[name] for row in times.logged] for key, name in
              (("loss", "train/loss"), ("chosen", "logps/chosen"), ("rejected", "logps/rejected"))}  # fmt: skip
    return {"seconds": times.seconds(), "pairs": pairs, **logged}


SIDES = {
    "TRL": trl,
    "rows, frozen": partial(ours, reference="frozen", layout="rows", pairs=1),
    "rows, stored": partial(ours, reference="scored", layout="rows", pairs=1),
    "tree, frozen": partial(ours, reference="frozen", layout="tree", pairs=1),
    "tree, stored": partial(ours, reference="scored", layout="tree", pairs=1),
    "tree, stored, 3 pairs": partial(ours, reference="scored", layout="tree", pairs=3),
}


def show(found: dict[str, Any]) -> str:
    """One table for each shape; times are medians, ratios those of the time for a pair."""
    parts = []
    for name, sides in found["shapes"].items():
        trl, rows = sides["TRL"], []
        for side in SIDES:
            own = sides[side]
            per_pair = statistics.median(own["seconds"]) / own["pairs"]
            gaps = {}
            for key in ("loss", "chosen", "rejected"):
                both = list(zip(own[key], trl[key], strict=True))
                gaps[key] = max(abs(a - b) for a, b in both) if own["pairs"] == 1 else None
            rows.append([
                side, f"{per_pair:.2f}", f"{statistics.median(trl['seconds']) / per_pair:.2f}",
                f"{own['peak_gb']:.2f}", f"{own['peak_gb'] / trl['peak_gb']:.2f}",
                *(("-", "-") if gaps["loss"] is None
                  else (f"{gaps['loss']:.1e}", f"{max(gaps['chosen'], gaps['rejected']):.1e}")),
            ])  # fmt: skip
        header = ["side", "seconds a pair", "times faster", "peak GB", "of TRL's", "loss differs by", "log-probs by"]
        parts.append(heading(name, sides) + table(header, rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    bench(__file__, __doc__, SIDES, show, placed=True)
