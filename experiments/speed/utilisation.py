"""Useful FLOPs of our DPO step over what this machine's matrix products reach.

    python experiments/speed/utilisation.py --json experiments/speed/utilisation.json

Useful is what one pass over the tokens that differ needs: three forward passes' worth for the policy (one forward,
two backward) and one for a frozen reference. What the head computes again in backward does not count as useful, nor
do normalisation, softmax, the optimizer and the processor.
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import bench, heading, median_seconds, table
from dpo_vs_trl import ours
from shapes import Shape, responses, save_images

from rationale.models.encode import Encoder
from rationale.models.vlm import load

SIZE = 2048  # of the square matrices whose product is taken for the peak


def peak(work: Path, shape: Shape, steps: int) -> dict[str, Any]:
    """FLOPs a second of a product of two square float32 matrices."""
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    return {"flops": 2 * SIZE**3 / median_seconds(lambda: a @ b, 20)}


def step(work: Path, shape: Shape, steps: int, reference: str, pairs: int) -> dict[str, Any]:
    """A step's useful FLOPs and its time."""
    encoder = Encoder(load(str(work / "model")).processor, layout="tree")
    (texts,) = responses(save_images(shape, work, 1), 2 * pairs)
    batch = encoder.batch(texts)
    tiles, branches = batch.inputs["pixel_values"].shape[1], batch.mask.sum(1).tolist()
    forward = shape.flops(tiles, batch.width, branches)
    passes = 4 if reference == "frozen" else 3
    measured = ours(work, shape, steps, reference, "tree", pairs)
    return {"flops": passes * forward, "prefix": batch.width, "branches": branches, **measured}


SIDES = {
    "peak": peak,
    "frozen": partial(step, reference="frozen", pairs=1),
    "stored": partial(step, reference="scored", pairs=1),
    "stored, 3 pairs": partial(step, reference="scored", pairs=3),
}


def show(found: dict[str, Any]) -> str:
    """One table for each shape."""
    parts = []
    for name, sides in found["shapes"].items():
        rows = []
        for side in list(SIDES)[1:]:
            seconds, flops = statistics.median(sides[side]["seconds"]), sides[side]["flops"]
            rate = flops / seconds
            rows.append([side, f"{flops / 1e12:.2f}", f"{seconds:.2f}", f"{rate / 1e9:.0f}",
                         f"{sides['peak']['flops'] / 1e9:.0f}", f"{rate / sides['peak']['flops']:.2f}"])  # fmt: skip
        header = ["reference", "useful TFLOPs a step", "seconds", "GFLOPs a second", "peak", "utilisation"]
        parts.append(heading(name, sides) + table(header, rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    bench(__file__, __doc__, SIDES, show)
