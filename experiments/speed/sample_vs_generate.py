"""32 responses to one question: one prefill and a repeated cache against transformers' generate.

python experiments/speed/sample_vs_generate.py --json experiments/speed/sample_vs_generate.json
"""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import bench, heading, median_seconds, table
from shapes import Shape, responses, save_images

from rationale.models.device import moved
from rationale.models.encode import Encoder
from rationale.models.generate import decode
from rationale.models.prefill import prefill
from rationale.models.vlm import load

SAMPLES, NEW_TOKENS = 32, 100


def sample(work: Path, shape: Shape, steps: int, device: str, dtype: str, ours: bool) -> dict[str, Any]:
    """A digest of every sample's tokens under one seed, at temperature 1 and without cuts of the distribution."""
    vlm = load(str(work / "model"), dtype=dtype, device=device)
    model = vlm.model.eval()
    ((example,),) = responses(save_images(shape, work, 1), 1)
    found: list[str] = []

    @torch.inference_mode()
    def work_through(length: int) -> None:
        inputs = moved(Encoder(vlm.processor).prompts([example]), model.device)
        torch.manual_seed(0)
        if ours:
            limits = torch.tensor([length])
            tokens = decode(model, prefill(model, inputs), limits, 1.0, 1.0, SAMPLES)
        else:
            whole = model.generate(
                **inputs, do_sample=True, num_return_sequences=SAMPLES, max_new_tokens=length, temperature=1.0,
                top_p=1.0, top_k=0,
            )  # fmt: skip
            tokens = whole[:, inputs["input_ids"].shape[1] :]
        found[:] = [digest(until_end(row, vlm.tokenizer.eos_token_id)) for row in tokens.tolist()]

    seconds = median_seconds(lambda: work_through(NEW_TOKENS), steps, lambda: work_through(2))
    return {"seconds": seconds, "tokens": found}


def until_end(row: list[int], end: int) -> list[int]:
    """What comes before the end token and the filling after it."""
    return row[: row.index(end)] if end in row else row


def digest(tokens: list[int]) -> str:
    """The same for the same tokens."""
    return hashlib.sha256(str(tokens).encode()).hexdigest()[:16]


SIDES = {"generate": partial(sample, ours=False), "ours": partial(sample, ours=True)}


def show(found: dict[str, Any]) -> str:
    """One table for each shape."""
    parts = []
    for name, sides in found["shapes"].items():
        generate, ours = sides["generate"], sides["ours"]
        same = sum(a == b for a, b in zip(generate["tokens"], ours["tokens"], strict=True))
        rows = [[
            f"{generate['seconds']:.1f}", f"{ours['seconds']:.1f}", f"{generate['seconds'] / ours['seconds']:.1f}",
            f"{generate['peak_gb']:.2f}", f"{ours['peak_gb']:.2f}", f"{same} of {len(ours['tokens'])}",
        ]]  # fmt: skip
        header = ["generate, seconds", "ours, seconds", "times faster", "generate, peak GB", "ours, peak GB",
                  "responses with the same tokens"]  # fmt: skip
        parts.append(heading(name, sides) + table(header, rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    bench(__file__, __doc__, SIDES, show, steps=1, placed=True)  # of minutes each on a CPU
