"""Questions and images from a task, checked row by row: the one place where outside data comes in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from rationale.images import store
from rationale.question_checks import Refusals, check
from rationale.schema import Question, RowError, Sourced, write_jsonl


class Contamination(Protocol):
    """What compares the questions that are trained on with those that are evaluated (sources/contamination.py)."""

    def evaluated(self) -> list[Any]:
        """What is compared with; read before anything is written."""

    def apply(self, out: Path, evaluated: list[Any]) -> tuple[dict[str, Any], list[Question]]:
        """Report in the folder `out` what both share; its counts, and the questions that it took out."""


def run(task: Iterable[Sourced], out: Path, contamination: Contamination | None = None) -> dict:
    """Write `questions.jsonl` and `images/`; bad rows stop the stage, which names up to 20 of them.

    `contamination` compares what is trained on with what is evaluated, and writes or takes out what they share.
    """
    evaluated = contamination.evaluated() if contamination else []
    images = out / "images"
    images.mkdir(exist_ok=True)
    refusals = Refusals()
    if hasattr(task, "refuse"):
        task.refuse = refusals.add
    seen: set[str] = set()
    counts: Counter[str] = Counter()

    def checked() -> Iterable[Question]:
        for question, files in tqdm(task, desc="prepare", unit="row", mininterval=2):
            try:
                check(question)
                if question.question_id in seen:
                    raise RowError(f"{question.question_id}: this question_id occurs twice; ids must differ")
                if not files and question.kind != "open":
                    raise RowError(
                        f"{question.question_id}: a question of kind {question.kind} without an image; add one"
                    )
            except RowError as error:
                refusals.add(error)
                continue
            seen.add(question.question_id)
            question = replace(question, images=[f"images/{store(*file, images)}" for file in files])
            counts[f"{question.dataset}/{question.split}"] += 1
            yield question
        refusals.stop()

    total = write_jsonl(out / "questions.jsonl", checked())
    if not total:
        raise RowError("the task yielded no question; check its split, limit and folder")
    made: dict[str, Any] = {"sources": task.counts} if hasattr(task, "counts") else {}  # what was read and left out
    if contamination:
        made["contamination"], dropped = contamination.apply(out, evaluated)
        counts -= Counter(f"{q.dataset}/{q.split}" for q in dropped)
        total -= len(dropped)
    return {"questions": total, "by_split": dict(sorted(counts.items())), **made}
