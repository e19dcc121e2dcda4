"""The training rows of a stage: which questions, with which targets (paper, Figure 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import field, replace
from pathlib import Path
from random import Random
from typing import Literal

from rationale.artifacts import UserError
from rationale.models.batch import Example
from rationale.models.response import prompted
from rationale.schema import Question, Rationale, Response
from rationale.scoring.judge import is_correct
from rationale.settings import Count, Limit, Style, settings

Amount = Literal["all", "format", "none"]  # of the rows: all, a few of each data set, or none


@settings
class Rejection:
    """Of each question up to `per_question` right responses, to imitate; of `datasets`, or of all."""

    per_question: Count
    datasets: list[str] | None = None


@settings
class Mixture:
    """Rows of SFT: how much of `cot` and `direct`, where `format` is `format_per_dataset` rows; data sets taken in
    `full` all the same, by the same words (Table F.1); how many rows of pre-training (the paper's 2k); rejection
    sampling fine-tuning."""

    cot: Amount
    direct: Amount
    format_per_dataset: Limit
    full: dict[Style, list[str]] = field(default_factory=dict)
    pretrain: Limit = 0
    rft: Rejection | None = None


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


def example_of(question: Question, root: Path, style: Style = "direct", response: str | None = None) -> Example:
    """A row to imitate: the prompt of a style, and a response or else the bare answer. A question of kind open has a
    description for an answer, or is of pre-training, and may be text alone."""
    return replace(prompted(question, root, style), response=question.answer if response is None else response)


def drawn(
    rows: list[Question], amount: Amount, full: list[str], name: str, format_per_dataset: int, seed: int
) -> list[Question]:
    """All rows of the data sets `full`, and `amount` of the others; `name` is the setting in a message."""
    present = {q.dataset for q in rows}
    if unknown := sorted(set(full) - present):
        raise UserError(
            f"mixture.full.{name}: no row with a kept rationale is of {unknown}; there are {sorted(present)}"
        )
    few = {q.question_id for q in format_rows(rows, format_per_dataset, seed)}
    return [q for q in rows if q.dataset in full or amount == "all" or (amount == "format" and q.question_id in few)]


def sft_examples(
    questions: Iterable[Question],
    rationales: dict[str, Rationale],
    root: Path,
    mixture: Mixture,
    seed: int,
) -> list[Example]:
    """CoT and direct rows of a mixture.

    Direct rows come from the questions whose rationale was kept, so both kinds cover the same questions, as in the
    paper (193k and 193k). Format only is (format, format); direct (format, all); CoT (all, format); both (all, all).
    """
    kept = [q for q in questions if q.kind != "open" and q.question_id in rationales]
    if not kept:
        raise UserError("no training question has a kept rationale; look at the counts of stage=distill")
    by_cot, by_direct = (
        drawn(kept, amount, mixture.full.get(name, []), name, mixture.format_per_dataset, seed)
        for name, amount in (("cot", mixture.cot), ("direct", mixture.direct))
    )
    cot = [example_of(q, root, "cot", rationales[q.question_id].text) for q in by_cot]
    return cot + [example_of(q, root) for q in by_direct]


def rft_examples(
    responses: dict[str, list[Response]],
    questions: dict[str, Question],
    root: Path,
    rft: Rejection,
    seed: int,
) -> list[Example]:
    """Right responses as rows to imitate (the paper's STaR of appendix E and RFT of appendix I, with three a question).

    A response counts once however often it was sampled, and only if it ended by itself. The draw depends on (seed,
    question_id) alone.
    """
    examples = []
    for question_id, sampled in responses.items():
        question = questions[question_id]
        if rft.datasets is not None and question.dataset not in rft.datasets:
            continue
        right = {
            (r.style, r.text): r for r in sampled if r.predicted is not None and is_correct(r.score) and r.finished
        }
        chosen = sorted(right.values(), key=lambda r: r.sample_id)
        Random(f"{seed}/rft/{question_id}").shuffle(chosen)
        examples += [
            replace(example_of(question, root, r.style, r.text), token_ids=tuple(r.token_ids))
            for r in chosen[: rft.per_question]
        ]
    if not examples:
        raise UserError("mixture.rft: no right response to imitate; look at the responses' scores, or at rft.datasets")
    return examples
