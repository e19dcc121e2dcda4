"""The training rows of a stage: which questions, with which targets (paper, Figure 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from random import Random

from rationale.artifacts import UserError
from rationale.data.batch import Example
from rationale.prompts import prompt_text
from rationale.schema import Question, Rationale

AMOUNTS = ("all", "format", "none")


def format_rows(questions: list[Question], per_dataset: int, seed: int) -> list[Question]:
    """`per_dataset` questions of every data set (the paper: 50 of each of nine), drawn by (seed, data set)."""
    grouped: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        grouped[question.dataset].append(question)
    chosen = []
    for name, rows in sorted(grouped.items()):
        ordered = sorted(rows, key=lambda q: q.question_id)
        chosen += Random(f"{seed}/{name}").sample(ordered, min(per_dataset, len(ordered)))
    return chosen


def direct_example(question: Question, root: Path) -> Example:
    """Direct prompt, bare answer."""
    return Example(question.question_id, root / question.image, prompt_text(question, "direct"), question.answer)


def cot_example(question: Question, rationale: Rationale, root: Path) -> Example:
    """CoT prompt, the rationale as kept by the filter; it ends in the answer line."""
    return Example(question.question_id, root / question.image, prompt_text(question, "cot"), rationale.text)


def open_example(question: Question, root: Path) -> Example:
    """A row of kind open as it stands: a description, or a pre-training question, which may be text alone."""
    image = root / question.image if question.image else None
    return Example(question.question_id, image, prompt_text(question, "direct"), question.answer)


def sft_examples(
    questions: Iterable[Question],
    rationales: dict[str, Rationale],
    root: Path,
    cot: str,
    direct: str,
    format_per_dataset: int,
    seed: int,
) -> list[Example]:
    """Rows of one mixture. `cot` and `direct` say how much of each: all, format (a few rows a data set) or none.

    Direct rows come from the questions whose rationale was kept, so both kinds cover the same questions, as in the
    paper (193k and 193k). Format only is (format, format); direct (format, all); CoT (all, format); both (all, all).
    """
    for name, amount in (("cot", cot), ("direct", direct)):
        if amount not in AMOUNTS:
            raise UserError(f"mixture.{name}: {amount!r} is none of {list(AMOUNTS)}")
    kept = [q for q in questions if q.kind != "open" and q.question_id in rationales]
    if not kept:
        raise UserError("no training question has a kept rationale; look at the counts of stage=distill")
    pools = {"all": kept, "format": format_rows(kept, format_per_dataset, seed), "none": []}
    examples = [cot_example(q, rationales[q.question_id], root) for q in pools[cot]]
    return examples + [direct_example(q, root) for q in pools[direct]]
