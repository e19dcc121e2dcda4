"""Supervised fine-tuning on a mixture of rationales and direct answers (paper, section 3.2 and Figure 4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Literal

from rationale.artifacts import InputPath, UserError
from rationale.models.checks import check_end, check_rows
from rationale.models.encode import Encoder
from rationale.models.prefix import layout_for
from rationale.models.vlm import VLM, freeze
from rationale.objectives.sft import REDUCTIONS
from rationale.schema import Response
from rationale.settings import Count, Layout, Limit, Share, Validation, typed
from rationale.stages.inputs import grouped, kept_rationales, need, questions_by_id
from rationale.training.checks import check_cut
from rationale.training.fit import fit
from rationale.training.mixture import Mixture, open_example, rft_examples, sft_examples
from rationale.training.optim import Optim
from rationale.training.plan import Plan, held_out
from rationale.training.sft import SFTModule, sft_data


@typed
def run(
    questions: InputPath,
    rationales: InputPath,
    responses: InputPath | None,
    pretrain_questions: InputPath | None,
    model: Callable[..., VLM],
    mixture: Mixture,
    optim: Optim,
    order: Callable[..., Plan],
    layout: Layout,
    bundle: Literal["example", "image"],
    reduction: Literal[REDUCTIONS],
    max_response_tokens: Count | None,
    frozen_parts: list[str],
    trainer: Callable[..., Any],
    logger: Callable[..., list],
    workers: Limit,
    save_every: Count,
    keep_last: Count,
    validation: Validation,
    max_truncated: Share,
    seed: int,
    out: Path,
) -> dict:
    """Train on the mixture and save a plain transformers folder in `model/`.

    `mixture` draws from the questions, from `pretrain_questions` and, to imitate, from `responses`. All inputs are
    checked before weights are read. `validation` holds out the rows about a share of the images. `workers` processes
    build batches ahead.
    """
    found = questions_by_id(questions, split="train")
    kept = kept_rationales(rationales, questions_by_id(questions))
    examples = sft_examples(found.values(), kept, Path(questions), mixture, seed)
    counts = {"mixture": len(examples)}
    if mixture.rft:
        if responses is None:
            raise UserError("sft.mixture.rft needs sft.responses: run stage=sample first")
        sampled = grouped(need(responses, "rows.jsonl"), Response, found)
        imitated = rft_examples(sampled, found, Path(questions), mixture.rft, seed)
        examples += imitated
        counts["rft"] = len(imitated)
    if pretrain_questions and mixture.pretrain:
        base = list(questions_by_id(pretrain_questions).values())
        drawn = Random(f"{seed}/pretrain").sample(base, min(mixture.pretrain, len(base)))
        examples += [open_example(q, Path(pretrain_questions)) for q in drawn]
        counts["pretrain"] = len(drawn)
    train, held = held_out([Path(e.about).name for e in examples], validation.share, seed)
    vlm = model()
    encoder = Encoder(vlm.processor, max_response_tokens, layout_for(vlm.model, layout))
    check_rows(vlm, encoder, examples)
    check_end(vlm, encoder)
    counts |= {"held_out": len(held), **check_cut(encoder, examples, max_truncated, "sft")}
    freeze(vlm.model, frozen_parts)
    rows, measured = ([examples[i] for i in side] for side in (train, held))
    data = sft_data(encoder, rows, order, reduction, bundle, measured)
    data.workers = workers
    module = SFTModule(vlm, optim, data.plan.num_steps, reduction)
    return counts | fit(vlm, module, data, trainer, logger, optim, out, save_every, keep_last, validation.every)
