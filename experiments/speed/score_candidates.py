"""Log-probs of 32 and 64 candidates to one question: shared prefix against row by row, same weights and head.

python experiments/speed/score_candidates.py --json experiments/speed/score_candidates.json
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from common import bench, heading, median_seconds, table
from shapes import Shape, responses, save_images

from rationale.models.batch import Example
from rationale.models.encode import Encoder, in_chunks
from rationale.models.prefill import candidate_logps
from rationale.models.vlm import load

ROWS_AT_A_TIME = 4  # of plain rows; as many as 24 GB hold make them no faster


def score(work: Path, shape: Shape, steps: int, layout: str, candidates: int) -> dict[str, Any]:
    """As stage score does it: encode, forward, without gradient. `rows` takes the candidates in chunks."""
    vlm = load(str(work / "model"))
    vlm.model.eval()
    encoder = Encoder(vlm.processor, layout=layout)
    (texts,) = responses(save_images(shape, work, 1), candidates)
    chunks = [texts] if layout == "tree" else in_chunks(texts, ROWS_AT_A_TIME)
    found: list[float] = []

    def work_through(parts: list[list[Example]]) -> None:
        found[:] = [sum(logps) for part in parts for logps in candidate_logps(vlm.model, encoder, part)]

    seconds = median_seconds(lambda: work_through(chunks), steps, lambda: work_through(chunks[:1]))
    return {"seconds": seconds, "logps": found}


COUNTS = (32, 64)
SIDES = {f"{layout} {count}": partial(score, layout=layout, candidates=count)
         for count in COUNTS for layout in ("rows", "tree")}  # fmt: skip


def show(found: dict[str, Any]) -> str:
    """One table for each shape."""
    parts = []
    for name, sides in found["shapes"].items():
        lines = []
        for count in COUNTS:
            rows, tree = (sides[f"{layout} {count}"] for layout in ("rows", "tree"))
            gap = max(abs(a - b) for a, b in zip(rows["logps"], tree["logps"], strict=True))
            lines.append([
                count, f"{rows['seconds']:.1f}", f"{tree['seconds']:.1f}", f"{rows['seconds'] / tree['seconds']:.1f}",
                f"{rows['peak_gb']:.2f}", f"{tree['peak_gb']:.2f}", f"{gap:.1e}",
            ])  # fmt: skip
        header = ["candidates", "rows, seconds", "tree, seconds", "times faster", "rows, peak GB", "tree, peak GB",
                  "log-probs differ by"]  # fmt: skip
        parts.append(heading(name, sides) + table(header, lines))
    return "\n\n".join(parts)


if __name__ == "__main__":
    bench(__file__, __doc__, SIDES, show, steps=1)  # of minutes each
