"""An SFT step of mixture 4 (a direct and a CoT answer about one image) against TRL's SFTTrainer.

    python experiments/speed/sft_vs_trl.py --json experiments/speed/sft_vs_trl.json       (extra: bench)

A step is one image with both styles: two examples. Ours runs through the same Lightning module as stage sft, with
shared prefixes and in plain rows.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

from common import OPTIM, bench, fit_ours, fit_trl, heading, in_order, table, trl_rows, trl_settings
from shapes import Shape, prompt, response, save_images

from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.vlm import load
from rationale.training.sft import SFTModule, sft_data


def examples(work: Path, shape: Shape, count: int) -> list[Example]:
    """A direct answer of two words and a rationale about each image, with the prompt of each style."""
    found = []
    for i, path in enumerate(save_images(shape, work, count)):
        question = prompt(i).split("\n")[0]
        short = f"{question}\nAnswer the question with a short answer"
        found.append(Example(f"q{i}", (path,), short, response(f"{i}/direct", 2, 2)))
        found.append(Example(f"q{i}", (path,), prompt(i), response(f"{i}/cot")))
    return found


def trl(work: Path, shape: Shape, steps: int, device: str, dtype: str) -> dict[str, Any]:
    """TRL's SFTTrainer, loss on the completions, two examples a step."""
    from transformers import AutoProcessor
    from trl import SFTConfig, SFTTrainer

    data = trl_rows(
        [
            {"images": [str(e.images[0])], "prompt": ("user", e.prompt), "completion": ("assistant", e.response)}
            for e in examples(work, shape, steps + 1)
        ]
    )
    trainer = SFTTrainer(
        str(work / "model"), args=SFTConfig(**trl_settings(work, 2, device, dtype)), train_dataset=data,
        processing_class=AutoProcessor.from_pretrained(work / "model"),
    )  # fmt: skip
    seconds, logged = fit_trl(trainer, "loss")
    return {"seconds": seconds, "loss": [float(r["loss"]) for r in logged]}


def ours(work: Path, shape: Shape, steps: int, device: str, dtype: str, layout: str) -> dict[str, Any]:
    """Our module on one image a step."""
    vlm = load(str(work / "model"), device=device)
    encoder = Encoder(vlm.processor, layout=layout)
    data = sft_data(encoder, examples(work, shape, steps + 1), partial(in_order, micro_batch=1), group_by="image")
    times = fit_ours(SFTModule(vlm, OPTIM, data.plan.num_steps), data, device, dtype)
    return {"seconds": times.seconds(), "loss": [row["train/loss"] for row in times.logged]}


SIDES = {"TRL": trl, "rows": partial(ours, layout="rows"), "tree": partial(ours, layout="tree")}


def show(found: dict[str, Any]) -> str:
    """One table for each shape; times are medians."""
    parts = []
    for name, sides in found["shapes"].items():
        trl, rows = sides["TRL"], []
        for side in SIDES:
            own = sides[side]
            seconds = statistics.median(own["seconds"])
            gap = max(abs(a - b) for a, b in zip(own["loss"], trl["loss"], strict=True))
            rows.append([
                side, f"{seconds:.2f}", f"{statistics.median(trl['seconds']) / seconds:.2f}", f"{own['peak_gb']:.2f}",
                f"{own['peak_gb'] / trl['peak_gb']:.2f}", f"{gap:.1e}",
            ])  # fmt: skip
        header = ["side", "seconds a step", "times faster", "peak GB", "of TRL's", "loss differs by"]
        parts.append(heading(name, sides) + table(header, rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    bench(__file__, __doc__, SIDES, show, placed=True)
