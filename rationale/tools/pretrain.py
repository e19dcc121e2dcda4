"""A base model from random weights, by a curriculum: language first, then seeing (the part of Open-LLaVA-NeXT)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from random import Random

from rationale.artifacts import InputPath, UserError
from rationale.models.encode import Encoder
from rationale.models.vlm import VLM
from rationale.prompts import SUFFIXES
from rationale.schema import Question, Rationale, iter_jsonl
from rationale.settings import Count, settings, typed
from rationale.stages.inputs import need, questions_by_id
from rationale.tools.small_llava import build_model, build_processor, train_tokenizer
from rationale.training.fit import fit
from rationale.training.mixture import example_of
from rationale.training.settings import Training
from rationale.training.sft import SFTModule, sft_data

TOKENIZER_ROWS = 20000


@settings
class Architecture:
    """Sizes of a small LLaVA: pixels of an image's side and of a patch's; widths, layers and heads."""

    image_size: Count
    patch_size: Count
    vision_width: Count
    vision_layers: Count
    width: Count
    layers: Count
    heads: Count


@settings
class Curriculum:
    """`parts` are trained one after the other, each a mix of skills. Weights share the rows of a skill out among the
    parts that name it, so every row is trained on once."""

    parts: list[dict[str, float]]


def ordered(questions: Iterable[Question], curriculum: Curriculum, seed: int) -> list[Question]:
    """The rows in the order of a curriculum, shuffled within each part."""
    rng = Random(f"{seed}/curriculum")
    by_skill: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_skill[question.meta["skill"]].append(question)
    weights = {skill: [part.get(skill, 0.0) for part in curriculum.parts] for skill in by_skill}
    named = {skill for part in curriculum.parts for skill in part}
    if wrong := sorted(named ^ by_skill.keys()) or [
        s for s, given in weights.items() if min(given) < 0 or not any(given)
    ]:
        raise UserError(
            f"pretrain.curriculum: {wrong} must be skills of the rows with a weight in some part; the rows have "
            f"{sorted(by_skill)}"
        )
    parts: list[list[Question]] = [[] for _ in curriculum.parts]
    for skill, rows in sorted(by_skill.items()):
        rng.shuffle(rows)
        ends = [round(len(rows) * total / sum(weights[skill])) for total in accumulate(weights[skill], initial=0.0)]
        for part, (start, end) in zip(parts, pairwise(ends), strict=True):
            part += rows[start:end]
    for part in parts:
        rng.shuffle(part)
    return [question for part in parts for question in part]


@typed
def run(
    questions: InputPath,
    start: Callable[..., VLM] | None,
    tokenizer_texts: InputPath,
    architecture: Architecture,
    vocab_size: Count,
    curriculum: Curriculum,
    settings: Training,
    logger: Callable[..., list],
    seed: int,
    out: Path,
) -> dict:
    """Trained on rows of kind open, from `start` or, without one, from nothing: tokenizer, processor and weights.

    `tokenizer_texts` is a distill artifact: the tokenizer is made for rationales too, though no weight sees one.
    """
    rows = ordered(questions_by_id(questions).values(), curriculum, seed)
    vlm = start() if start else from_nothing(rows, tokenizer_texts, architecture, vocab_size, seed)
    examples = [example_of(q, Path(questions)) for q in rows]
    data = sft_data(Encoder(vlm.processor), examples, settings.order(seed))
    module = SFTModule(vlm, settings.optim, data.plan.num_steps)
    counts = fit(module, data, settings, logger, out)
    return {"examples": len(examples), **counts}


def from_nothing(
    rows: list[Question], tokenizer_texts: str, architecture: Architecture, vocab_size: int, seed: int
) -> VLM:
    """A tokenizer of what the rows and the rationales say, and random weights."""
    texts = [text for q in rows[:: max(1, len(rows) // TOKENIZER_ROWS)] for text in (q.question, q.answer)]
    texts += [r.text for r in iter_jsonl(need(tokenizer_texts, "rows.jsonl"), Rationale)]
    texts += [suffix for suffix in SUFFIXES.values() for _ in range(500)]
    sizes = asdict(architecture)
    processor = build_processor(train_tokenizer(texts, vocab_size), sizes.pop("image_size"), sizes.pop("patch_size"))
    return VLM(build_model(processor, **sizes, seed=seed), processor, "random weights")
