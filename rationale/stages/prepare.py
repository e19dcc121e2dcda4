"""Questions and images from a task, checked row by row: the one place where outside data comes in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from rationale.data.images import content_name
from rationale.data.tasks import Sourced
from rationale.metrics.scoring import SCORERS
from rationale.schema import LETTERS, Question, RowError, write_jsonl

KINDS = ("short", "choice", "open")


def check(question: Question) -> None:
    """Raise RowError where a row cannot be asked, taught or scored."""
    where = question.question_id or "(no question_id)"
    if not question.question_id or not question.question.strip():
        raise RowError(f"{where}: empty question or question_id; complete the row or remove it")
    if not question.answers or any(not answer.strip() for answer in question.answers):
        raise RowError(f"{where}: empty answer in {question.answers!r}; annotate the row or remove it")
    if question.kind not in KINDS:
        raise RowError(f"{where}: kind {question.kind!r} is none of {list(KINDS)}")
    if question.scorer not in SCORERS:
        raise RowError(f"{where}: scorer {question.scorer!r} is none of {sorted(SCORERS)}")
    if question.kind == "choice":
        if question.answers[0] not in question.choices:
            raise RowError(
                f"{where}: answer {question.answers[0]!r} is none of {question.choices}; mend the row's choices"
            )
        if len(set(question.choices)) != len(question.choices):
            raise RowError(f"{where}: choices repeat: {question.choices}; each choice must differ")
        if len(question.choices) > len(LETTERS):
            raise RowError(f"{where}: {len(question.choices)} choices, more than letters; remove the row")


def run(task: Iterable[Sourced], out: Path) -> dict:
    """Write `questions.jsonl` and `images/`; the first bad row stops the stage and is named."""
    images = out / "images"
    images.mkdir(exist_ok=True)
    seen: set[str] = set()
    counts: Counter[str] = Counter()

    def checked() -> Iterable[Question]:
        for question, data, suffix in tqdm(task, desc="prepare", unit="row", mininterval=2):
            check(question)
            if question.question_id in seen:
                raise RowError(f"{question.question_id}: this question_id occurs twice; ids must differ")
            seen.add(question.question_id)
            if data is not None:
                path = images / content_name(data, suffix)
                if not path.exists():
                    partial = path.with_suffix(".partial")
                    partial.write_bytes(data)
                    os.replace(partial, path)
                question = replace(question, image=f"images/{path.name}")
            elif question.kind != "open":
                raise RowError(f"{question.question_id}: a question of kind {question.kind} without an image; add one")
            counts[f"{question.dataset}/{question.split}"] += 1
            yield question

    total = write_jsonl(out / "questions.jsonl", checked())
    if not total:
        raise RowError("the task yielded no question; check its split, limit and folder")
    return {"questions": total, "by_split": dict(sorted(counts.items()))}
