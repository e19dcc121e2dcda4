"""Supervised fine-tuning on a mixture of rationales and direct answers (paper, section 3.2 and Figure 4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from rationale.artifacts import InputPath, UserError
from rationale.models.checks import check_end, check_rows
from rationale.models.encode import Encoder
from rationale.models.prefix import layout_for
from rationale.models.vlm import VLM, freeze
from rationale.schema import Response
from rationale.settings import typed
from rationale.stages.inputs import grouped, kept_rationales, need, questions_by_id
from rationale.training.checks import check_cut
from rationale.training.fit import fit
from rationale.training.mixture import example_of, rft_examples, sft_examples
from rationale.training.plan import held_out
from rationale.training.settings import SFTSettings
from rationale.training.sft import SFTModule, sft_data


@typed
def run(
    questions: InputPath,
    rationales: InputPath,
    model: Callable[..., VLM],
    settings: SFTSettings,
    logger: Callable[..., list],
    seed: int,
    out: Path,
) -> dict:
    """Train on the mixture and save a plain transformers folder in `model/`.

    The mixture draws from the questions, from `pretrain_questions` and, to imitate, from `responses`. All inputs are
    checked before weights are read. The rows about a share of the images are held out.
    """
    mixture = settings.mixture
    by_id = questions_by_id(questions, split="train")
    kept = kept_rationales(rationales, questions_by_id(questions))
    examples = sft_examples(by_id.values(), kept, Path(questions), mixture, seed)
    counts = {"mixture": len(examples)}
    if mixture.rft:
        if settings.responses is None:
            raise UserError("sft.mixture.rft needs sft.responses: run stage=sample first")
        sampled = grouped(need(settings.responses, "rows.jsonl"), Response, by_id)
        imitated = rft_examples(sampled, by_id, Path(questions), mixture.rft, seed)
        examples += imitated
        counts["rft"] = len(imitated)
    if settings.pretrain_questions and mixture.pretrain:
        base = list(questions_by_id(settings.pretrain_questions).values())
        drawn = Random(f"{seed}/pretrain").sample(base, min(mixture.pretrain, len(base)))
        examples += [example_of(q, Path(settings.pretrain_questions)) for q in drawn]
        counts["pretrain"] = len(drawn)
    keys = [" ".join(image.name for image in e.images) or Path(e.prompt).name for e in examples]
    train, held = held_out(keys, settings.validation.fraction, seed)
    vlm = model()
    encoder = Encoder(vlm.processor, settings.max_response_tokens, layout_for(vlm.model, settings.layout))
    check_rows(vlm, encoder, examples)
    check_end(vlm, encoder)
    counts |= {"held_out": len(held), **check_cut(encoder, examples, settings.max_truncated, "sft")}
    freeze(vlm.model, settings.frozen_parts)
    rows, measured = ([examples[i] for i in side] for side in (train, held))
    data = sft_data(encoder, rows, settings.order(seed), settings.reduction, settings.group_by, measured)
    module = SFTModule(vlm, settings.optim, data.plan.num_steps, settings.reduction)
    return counts | fit(module, data, settings, logger, out)
