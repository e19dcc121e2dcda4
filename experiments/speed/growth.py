"""How the cost of scoring and of a training step grows with prompt length, responses a prompt and model width.

    python experiments/speed/growth.py --json experiments/speed/growth.json

Forward and backward over one prompt's responses, shared prefix against plain rows. One thing is varied at a time; the
slope is that of a straight line through log(time) over log(size), so 1 is linear.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from common import bench, median_seconds, table
from shapes import Shape, response, responses, save_images, save_model

from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.vlm import load

# The words of the prompt beside an image of two tiles (some 1,200 tokens), responses, width of the language model.
START = {"words": 0, "responses": 4, "width": 256}
AXES = {"words": (0, 600, 1400, 2600), "responses": (2, 4, 8, 16), "width": (128, 256, 512, 1024)}


def measure(work: Path, shape: Shape, steps: int, layout: str) -> dict[str, Any]:
    """Seconds and tokens of the prompt at every point of every axis."""
    found: dict[str, Any] = {}
    base = replace(shape, image=336, layers=4)
    images = save_images(base, work, 1)
    for axis, points in AXES.items():
        for point in points:
            at = {**START, axis: point}
            folder = work / f"width_{at['width']}"
            if not folder.exists():
                save_model(replace(base, width=at["width"]), folder)
            vlm = load(str(folder))
            (texts,) = responses(images, at["responses"])
            longer = response("prompt", at["words"], at["words"]) if at["words"] else ""
            texts = [replace(e, prompt=f"{longer}{e.prompt}") for e in texts]
            batch = Encoder(vlm.processor, layout=layout).batch(texts)
            seconds = median_seconds(lambda v=vlm, b=batch: response_logps(v.model, b).sum().backward(), steps)
            tokens = int((Encoder(vlm.processor).prompts(texts[:1])["attention_mask"]).sum())
            size = tokens if axis == "words" else point
            found.setdefault(axis, []).append([size, seconds])
    return found


SIDES = {"rows": partial(measure, layout="rows"), "tree": partial(measure, layout="tree")}
LABELS = {"words": "tokens of the prompt", "responses": "responses a prompt", "width": "width of the language model"}


def slope(points: list[list[float]]) -> float:
    """Of the least-squares line through the logarithms."""
    x, y = ([math.log(p[i]) for p in points] for i in (0, 1))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def show(found: dict[str, Any]) -> str:
    """One table for all axes."""
    parts = []
    for sides in found["shapes"].values():
        rows = []
        for axis, label in LABELS.items():
            for side in SIDES:
                points = sides[side][axis]
                shown = ", ".join(f"{size}: {seconds:.2f} s" for size, seconds in points)
                rows.append([label, side, shown, f"{slope(points):.2f}"])
        parts.append(table(["varied", "layout", "seconds", "slope"], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    bench(__file__, __doc__, SIDES, show, shapes=["body-heavy"])
