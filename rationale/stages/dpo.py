"""Preference training from the SFT model against a frozen reference (paper, sections 3.3 and 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError
from rationale.data.batch import Example
from rationale.data.encode import Encoder
from rationale.data.response import response_example
from rationale.models.vlm import VLM, freeze
from rationale.prompts import prompt_text
from rationale.schema import Pair, ResponseLogps, RowError, iter_jsonl
from rationale.stages.inputs import check_known, need, questions_by_id
from rationale.training.datamodule import Plan
from rationale.training.dpo_module import DPOModule, Objective, dpo_data
from rationale.training.fit import fit
from rationale.training.optim import Optim


def run(
    questions: str,
    pairs: str,
    reference_logps: str | None,
    model: Callable[..., VLM],
    objective: Objective,
    reference: str,
    truncate: dict[str, Any],
    optim: Optim,
    order: Callable[..., Plan],
    layout: str,
    bundle: str,
    frozen_parts: Iterable[str],
    trainer: Callable[..., Any],
    logger: Callable[..., list],
    save_every: int,
    out: Path,
) -> dict:
    """Train the policy on pairs and save a plain transformers folder in `model/`.

    `reference` is frozen, adapter_off or scored; scored reads `reference_logps`, which stage score made.
    """
    found = questions_by_id(questions)
    path = need(pairs, "pairs.jsonl")
    rows = list(iter_jsonl(path, Pair))
    check_known(path, {p.question_id for p in rows}, found)

    def example(pair: Pair, text: str, finished: bool) -> Example:
        question = found[pair.question_id]
        image = Path(questions) / question.image
        return response_example(pair.question_id, image, prompt_text(question, pair.style), text, finished, truncate)

    examples = [(example(p, p.chosen, p.chosen_finished), example(p, p.rejected, p.rejected_finished)) for p in rows]
    stored = stored_logps(reference_logps, rows) if reference == "scored" else None
    vlm = model()
    freeze(vlm.model, frozen_parts)
    data = dpo_data(Encoder(vlm.processor, truncate["tokens"], layout), examples, order, stored, bundle)
    module = DPOModule(vlm, objective, reference, optim, data.plan.num_steps)
    counts = fit(module, data, trainer, logger, optim, out, save_every)
    vlm.save(out / "model")
    return {"pairs": len(rows), **counts}


def stored_logps(folder: str | None, pairs: list[Pair]) -> list[tuple[list[float], list[float]]]:
    """Per-token reference log-probs of the chosen and the rejected response of each pair."""
    if folder is None:
        raise UserError("dpo.reference=scored needs dpo.reference_logps: run stage=score on the pairs first")
    found = {(r.question_id, r.style, r.text): r.logps for r in iter_jsonl(need(folder, "rows.jsonl"), ResponseLogps)}
    sides = [[(p.question_id, p.style, text) for text in (p.chosen, p.rejected)] for p in pairs]
    absent = [key for both in sides for key in both if key not in found]
    if absent:
        raise RowError(
            f"{folder}: no log-probs of {len(absent)} responses, first {absent[0][0]!r}; run stage=score again"
        )
    return [(found[chosen], found[rejected]) for chosen, rejected in sides]
