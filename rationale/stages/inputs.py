"""Reading what other stages wrote, with errors that name the row and the file."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TypeVar

from rationale.artifacts import UserError
from rationale.hashes import MANIFEST
from rationale.images import resolve
from rationale.schema import Question, Rationale, RowError, iter_jsonl, read_jsonl

T = TypeVar("T")


def need(folder: str, file: str) -> Path:
    """A file of an artifact; says which folder is missing or not whole."""
    path = Path(folder) / file
    if not path.is_file():
        state = "is not there" if not Path(folder).exists() else f"has no {file}"
        raise UserError(
            f"{folder} {state}; run the stage that makes it, or point its path at a finished artifact ({MANIFEST})"
        )
    return path


def questions_by_id(folder: str, split: str | None = None) -> dict[str, Question]:
    """Questions of an artifact in file order, one split or all; a repeated id is an error."""
    found: dict[str, Question] = {}
    path = need(folder, "questions.jsonl")
    for question in iter_jsonl(path, Question):
        if question.question_id in found:
            raise RowError(f"{path}: question_id {question.question_id!r} occurs twice")
        for image in question.images or [""] * (question.kind != "open"):
            resolve(Path(folder), image, f"{path}: {question.question_id}")
        found[question.question_id] = question
    found = {i: q for i, q in found.items() if split is None or q.split == split}
    if not found:
        raise RowError(f"{path}: no question of split {split!r}; check dataset and split")
    return found


def choose(questions: list[Question], limit: int | None, seed: int) -> list[Question]:
    """All questions, or `limit` of them drawn by seed, in a fixed order."""
    ordered = sorted(questions, key=lambda q: q.question_id)
    return ordered if limit is None or limit >= len(ordered) else Random(f"{seed}/choose").sample(ordered, limit)


def kept_rationales(folder: str, questions: dict[str, Question]) -> dict[str, Rationale]:
    """Kept rationales by question; one whose question is absent is an error, not a row less."""
    path = need(folder, "rows.jsonl")
    kept: dict[str, Rationale] = {}
    for row in iter_jsonl(path, Rationale):
        if row.status == "kept" and kept.setdefault(row.question_id, row) is not row:
            raise RowError(f"{path}: two kept rationales of {row.question_id!r}; keep one")
    check_known(path, kept, questions)
    return kept


def check_known(path: Path, ids: dict[str, T] | set[str], questions: dict[str, Question]) -> None:
    """Raise where a row's question is absent."""
    missing = [i for i in ids if i not in questions]
    if missing:
        raise RowError(
            f"{path}: {len(missing)} rows without their question, first {missing[0]!r}; use the questions they are of"
        )


def grouped(path: Path, kind: type[T], questions: dict[str, Question]) -> dict[str, list[T]]:
    """Rows of one kind by question_id, in file order."""
    found: dict[str, list[T]] = {}
    for row in read_jsonl(path, kind):
        found.setdefault(row.question_id, []).append(row)
    check_known(path, found, questions)
    return found
