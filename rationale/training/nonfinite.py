"""What a training keeps of a batch whose loss or gradient is not finite, so that stage replay can run it again."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch

from rationale.artifacts import write_json
from rationale.models.batch import Example
from rationale.models.families import base_of, has_adapter
from rationale.models.prefix import shares
from rationale.models.vlm import VLM
from rationale.training.strategy import whole_weights

FOLDER = "nonfinite"  # in the working folder of the artifact, beside the states
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a micro-batch is made of, rows in its order; `stored` are the log-probs of each that the loss reads: under
    the reference, or of GRPO under the weights that sampled. `advantages` are GRPO's."""

    examples: list[Example]
    layout: str
    max_response_tokens: int | None
    stored: list[list[float]] | None = None
    advantages: list[float] | None = None

    def to_json(self) -> dict[str, Any]:
        examples = [asdict(e) | {"images": [os.path.abspath(i) for i in e.images]} for e in self.examples]
        return asdict(self) | {"examples": examples}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Recipe:
        examples = [Example(**e | {"images": tuple(map(Path, e["images"]))}) for e in told["examples"]]
        return cls(**told | {"examples": examples})


def stop(vlm: VLM, module: pl.LightningModule, what: str, step: int, found: Sequence[dict[str, Any]]) -> NoReturn:
    """Keep the micro-batches `found` (number, process, loss, recipe) with the weights that met them, and raise.

    Every process must call it, with the same arguments: under ZeRO-3 each holds a piece of the weights, and none may
    end before the first has written them, for whoever started the processes ends the others then.
    """
    trainer = module.trainer
    folder = Path(trainer.default_root_dir) / FOLDER
    if getattr(trainer.strategy, "zero_stage_3", False):
        trainer.model.empty_partition_cache()  # pieces that were on their way for the backward pass
    weights, spoiled = whole_weights(trainer, module), []
    if trainer.is_global_zero:
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model = vlm.model
        named = (weights or model.state_dict()).items()
        spoiled = [name for name, value in named if not torch.isfinite(value).all()]
        if not (spoiled and has_adapter(model)):  # peft merges no adapter that holds a NaN
            vlm.save(partial / "model", weights)
        dtype, attention = base_of(model).dtype, base_of(model).config.get_text_config()._attn_implementation
        write_json(partial / "batch.json", {
            "what": what, "step": step, "precision": str(trainer.precision), "dtype": str(dtype).split(".")[-1],
            "attention": "sdpa" if shares(model) else attention, "source": vlm.source, "spoiled": spoiled,
            "objective": module.objective_config(),
            "micro_batches": [f | {"recipe": f["recipe"].to_json()} for f in found],
        })  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    trainer.strategy.barrier()
    raise FloatingPointError(_message(what, step, found, folder, spoiled))


def _message(what: str, step: int, found: Sequence[dict[str, Any]], folder: Path, spoiled: list[str]) -> str:
    ids = list(dict.fromkeys(e.question_id for f in found for e in f["recipe"].examples))
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    bad = [f for f in found if not math.isfinite(float(f["loss"]))] or found
    where = ", ".join(f"micro-batch {f['number']} of process {f['process']}" for f in bad[:SHOWN])
    value = f"loss is {bad[0]['loss']}" if what == "loss" else f"{what} is not finite"
    before = f" {len(spoiled)} weights were not finite before, first {spoiled[0]}." if spoiled else ""
    return (
        f"{value} at step {step} ({where}; {len(ids)} question{'s' * (len(ids) > 1)}: {', '.join(ids[:SHOWN])}{more})."
        f"{before} The batch and the weights that met it are kept; look for the cause with\n"
        f"  rationale stage=replay replay.batch={folder}\n"
        "The same command meets the same batch: mend or take out the row, lower the learning rate, or set "
        "trainer.precision=32-true"
    )
