"""A base model from random weights: describing images first, then single readings (the part of Open-LLaVA-NeXT)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from random import Random

from rationale.artifacts import InputPath
from rationale.models.encode import Encoder
from rationale.models.vlm import VLM
from rationale.prompts import SUFFIXES
from rationale.schema import Question, Rationale, iter_jsonl
from rationale.settings import Count, Fraction, settings, typed
from rationale.stages.inputs import need, questions_by_id
from rationale.tools.small_llava import build_model, build_processor, train_tokenizer
from rationale.training.fit import fit
from rationale.training.mixture import example_of
from rationale.training.settings import Training
from rationale.training.sft import SFTModule, sft_data


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
    """Descriptions alone for the first `describe_share` of all descriptions, then everything else mixed. `keep` is the
    share of rows taken, by "<skill>/<data set>" (all where it is silent)."""

    describe_share: Fraction
    keep: dict[str, Fraction]


def ordered(questions: Iterable[Question], curriculum: Curriculum, seed: int) -> list[Question]:
    """The rows in the order of a curriculum.

    What is listed in text is easy to look up later: a model taught single readings from the start learns to tie a
    named colour to its bar last of all (experiments/LOG.md).
    """
    rng, keep = Random(f"{seed}/curriculum"), curriculum.keep
    rows = list(questions)
    rng.shuffle(rows)
    groups: dict[str, list[Question]] = defaultdict(list)
    for q in rows:
        groups[f"{q.meta['skill']}/{q.dataset}"].append(q)
    kept = {q.question_id for name, group in groups.items() for q in group[: round(keep.get(name, 1.0) * len(group))]}
    rows = [q for q in rows if q.question_id in kept]
    describe = [q for q in rows if q.meta["skill"] == "describe"]
    first = describe[: int(curriculum.describe_share * len(describe))]
    rest = describe[len(first) :] + [q for q in rows if q.meta["skill"] != "describe"]
    rng.shuffle(rest)
    return first + rest


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
    texts = [text for q in rows[:20000] for text in (q.question, q.answer)]
    texts += [r.text for r in iter_jsonl(need(tokenizer_texts, "rows.jsonl"), Rationale)]
    texts += [suffix for suffix in SUFFIXES.values() for _ in range(500)]
    sizes = asdict(architecture)
    processor = build_processor(train_tokenizer(texts, vocab_size), sizes.pop("image_size"), sizes.pop("patch_size"))
    return VLM(build_model(processor, **sizes, seed=seed), processor, "random weights")
