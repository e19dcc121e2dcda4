"""One process of several that train a small model for two steps and say what they hold; started from test_planning.py.

planned.py MODEL QUESTIONS OBJECTIVE STRATEGY PROCESSES OUT
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import pytorch_lightning as pl
import torch
from torch import Tensor

from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.vlm import load
from rationale.objectives.dpo import Objective
from rationale.prompts import prompt_text
from rationale.schema import Question, read_jsonl
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data
from rationale.training.strategy import zero


def tensors(node: object) -> Iterable[Tensor]:
    """All tensors in lists and dicts."""
    if torch.is_tensor(node):
        yield node
    elif isinstance(node, dict):
        yield from tensors(list(node.values()))
    elif isinstance(node, (list, tuple)):
        for each in node:
            yield from tensors(each)


class Count(pl.Callback):
    """Bytes of the distinct storages behind weights, gradients and optimizer: the most of them after any backward of
    the second step."""

    def __init__(self, out: Path):
        self.out, self.most = out, {}

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step != 1:
            return
        inner = trainer.strategy.optimizers[0]
        frozen = getattr(module, "frozen", None)
        policy, copy = list(module.policy.parameters()), list(frozen.parameters()) if frozen else []
        found = {
            "weights": [(p.data, getattr(p, "ds_tensor", None)) for p in policy],
            "reference": [(p.data, getattr(p, "ds_tensor", None)) for p in copy],
            "gradients": [
                [p.grad for p in policy], getattr(inner, "averaged_gradients", None),
                getattr(inner, "all_grad_tensors", None), getattr(inner, "grad_partitions_flat_buffer", None),
            ],
            "optimizer": [
                getattr(inner, "single_partition_of_fp32_groups", None),
                getattr(inner, "fp32_partitioned_groups_flat", None),
                [list(state.values()) for state in getattr(inner, "optimizer", inner).state.values()],
            ],
        }  # fmt: skip
        counted: set[int] = set()
        for part, node in found.items():
            storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(node)}
            held = sum(size for place, size in storages.items() if place not in counted)
            self.most[part] = max(held, self.most.get(part, 0))
            counted |= storages.keys()
        (self.out / f"held_{trainer.global_rank}.json").write_text(json.dumps(self.most), encoding="utf-8")


def main() -> None:
    path, where, objective, strategy, processes, out = sys.argv[1:]
    torch.manual_seed(0)
    vlm = load(path)
    asked = [q for q in read_jsonl(Path(where) / "questions.jsonl", Question) if q.split == "train"][:8]
    examples = [Example(q.question_id, q.files(Path(where)), prompt_text(q, "cot"), q.answer) for q in asked]
    encoder, optim = Encoder(vlm.processor, layout="tree"), Optim(lr=1e-3)
    order = partial(plan, micro_batch=1, accumulate=4, epochs=2, seed=0)
    if objective == "dpo":
        pairs = [(a, replace(a, response=b.response)) for a, b in zip(examples[:4], examples[4:], strict=True)]
        data = dpo_data(encoder, pairs, order)
        module = DPOModule(vlm, Objective(), "frozen", optim, data.plan.num_steps)
    else:
        data = sft_data(encoder, examples, order)
        module = SFTModule(vlm, optim, data.plan.num_steps)
    trainer = pl.Trainer(
        accelerator="cpu", devices=int(processes), max_epochs=1, callbacks=[Count(Path(out))], logger=False,
        strategy=zero(int(strategy[-1]), "cpu") if strategy.startswith("zero") else strategy,
        accumulate_grad_batches=data.accumulate(int(processes)), use_distributed_sampler=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)


if __name__ == "__main__":
    main()
