"""MathVista's answer extraction by a language model, reported beside our rule (lupantech/MathVista, evaluation/)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rationale.artifacts import InputPath, UserError, write_json
from rationale.endpoints.chat import CHARACTERS_A_TOKEN
from rationale.endpoints.client import Endpoint
from rationale.journal import Journal
from rationale.prompts import EXTRACTED, extractor_text
from rationale.replies import Reply, answered, store
from rationale.schema import EvalRow, Question, RowError, iter_jsonl, write_jsonl
from rationale.scoring.answers import extract_answer
from rationale.scoring.judge import SCORERS
from rationale.settings import Count, typed
from rationale.stages.inputs import check_known, need, questions_by_id

STATUSES = ("quick", "extracted", "malformed", "refused", "failed")
AGAIN = ("malformed", "refused", "failed")  # what retry_failed asks again


@dataclass(frozen=True, slots=True)
class Extraction:
    """One prediction read twice: `predicted` and `score` by our rule, as evaluated, `extracted` and `extracted_score`
    by the extractor. Without an extraction (None, or "" of an empty response) the second score is 0: no guess."""

    question_id: str
    style: str
    predicted: str | None
    score: float
    extracted: str | None
    extracted_score: float
    status: str  # quick (taken as it stands) | extracted | malformed | refused | failed
    reason: str = ""  # why there is no extraction


class Extractor(Endpoint):
    """A language model that is asked for the answer in a response."""

    def body(self, text: str) -> dict[str, Any]:
        content = [{"type": "text", "text": text}]
        return {"model": self.model_name, "messages": [{"role": "user", "content": content}], **self.options}

    def replies(self, texts: dict[str, str]) -> Iterator[Reply]:
        """One reply to each named text, as they arrive; nothing to ask needs no key."""
        if not texts:
            return
        self.budget.expected_input = sum(map(len, texts.values())) / len(texts) / CHARACTERS_A_TOKEN
        requests = [(name, partial(self.body, text)) for name, text in texts.items()]
        for _, replies in self.stream(requests):
            yield replies[0]


def quick(question: Question, response: str) -> str | None:
    """The response where MathVista's `extract_answer` asks no model: it is empty, the text of a choice, or a number of
    the question's own type. A lone letter is asked about, there as here."""
    if not response or response in question.choices:
        return response
    number = {"integer": int, "float": float}.get(question.meta.get("answer_type"))
    try:
        return None if number is None else str(number(response))
    except ValueError:
        return None


def scored(question: Question, extracted: str) -> float:
    """The question's own rule, for `mathvista` with the official normalisation."""
    try:
        return SCORERS[question.scorer].score(question, extracted)
    except ValueError as error:
        raise RowError(f"{question.question_id}: {error}") from error


def read(question: Question, row: EvalRow, found: str | Reply) -> Extraction:
    """The row with its second reading: from the quick answer, or from the reply."""

    def ended(status: str, extracted: str | None = None, score: float = 0.0, reason: str = "") -> Extraction:
        return Extraction(row.question_id, row.style, row.predicted, row.score, extracted, score, status, reason)

    if isinstance(found, str):
        return ended("quick", found, scored(question, found)) if found else ended("quick", "", reason="empty response")
    if found.status != "answered":
        return ended(found.status, reason=found.reason)
    if not found.finished:
        return ended("malformed", reason=f"cut at the token limit: {found.text[:200]!r}")
    extracted = found.text.strip().removeprefix(EXTRACTED).strip()
    if not extracted:
        return ended("malformed", reason="no text")
    return ended("extracted", extracted, scored(question, extracted))


@typed
def run(
    questions: InputPath,
    evaluation: InputPath,
    extractor: Extractor,
    scorers: list[Literal[tuple(SCORERS)]],
    after_marker: bool,
    chunk: Count,
    out: Path,
    retry_failed: bool = False,
) -> dict:
    """Read every evaluated response to a question of `scorers` once more; `rows.jsonl` keeps the evaluation's order.

    `after_marker` hands on what stands behind "### Answer:" where that is there, as the paper does before evaluation
    (section 4.2), else the whole response, as MathVista does. `replies.jsonl` is what was stored as it arrived, named
    "style/question_id"; a cut run asks for what is missing there, with `retry_failed` also for what gave no extraction.
    Tables go on reporting the rule; `summary.json` has both.
    """
    asked = questions_by_id(questions)
    path = need(evaluation, "rows.jsonl")
    rows, others = rows_of(path, asked, scorers)
    settled, texts = {}, {}
    for name, row in rows.items():
        question = asked[row.question_id]
        scored(question, "0")  # an annotation that its own rule cannot use is met before anything is asked
        response = (after_marker and extract_answer(row.text, "direct")) or row.text.strip()
        if (answer := quick(question, response)) is not None:
            settled[name] = answer
        else:
            texts[name] = extractor_text(question, response)
    journal = Journal(out / "replies.jsonl", Reply, chunk)

    def again(reply: Reply) -> bool:
        row = rows[reply.question_id]
        return retry_failed and read(asked[row.question_id], row, reply).status in AGAIN

    done = answered(journal, extractor.budget, again)
    missing = {name: text for name, text in texts.items() if name not in done}
    store(extractor.replies(missing), journal, extractor.budget, "extract", len(texts), len(texts) - len(missing))
    if texts:
        journal.sort(texts)
    cells: dict[str, list[Extraction]] = defaultdict(list)

    def second_readings() -> Iterator[Extraction]:
        for name, row in rows.items():
            found = read(asked[row.question_id], row, settled[name] if name in settled else journal[name])
            cells[f"{row.style}/{row.dataset}"].append(found)
            yield found

    write_jsonl(out / "rows.jsonl", second_readings())
    summary = {cell: summed(found) for cell, found in sorted(cells.items())}
    write_json(out / "summary.json", {"model": extractor.model_name, "other_scorers": others, "cells": summary})
    shown = {f"{cell} {by}": round(100 * summary[cell][by], 1) for cell in summary for by in ("rule", "extractor")}
    total = Counter()
    for found in summary.values():
        total.update({name: found[name] for name in ("differ", "unparsed", "asked", *STATUSES)})
    return {"rows": len(rows), **shown, **total, "other_scorers": others, **extractor.budget.counts()}


def rows_of(path: Path, asked: dict[str, Question], scorers: list[str]) -> tuple[dict[str, EvalRow], int]:
    """Rows to read by "style/question_id", and how many are of other scorers."""
    found: dict[str, EvalRow] = {}
    others = 0
    for row in iter_jsonl(path, EvalRow):
        check_known(path, {row.question_id}, asked)
        name = f"{row.style}/{row.question_id}"
        if name in found:
            raise RowError(f"{path}: {row.question_id!r} occurs twice in style {row.style!r}; re-run stage=evaluate")
        if asked[row.question_id].scorer in scorers:
            found[name] = row
        else:
            others += 1
    if not found:
        raise UserError(f"{path}: none of {others} rows has a scorer of extractor.scorers={scorers}")
    return found, others


def summed(rows: list[Extraction]) -> dict[str, float]:
    """Both accuracies over all rows, and the counts that tell how far the second can be trusted."""
    statuses = Counter(r.status for r in rows)
    return {
        "rule": sum(r.score for r in rows) / len(rows),
        "extractor": sum(r.extracted_score for r in rows) / len(rows),
        "differ": sum(r.score != r.extracted_score for r in rows),
        "unparsed": sum(r.predicted is None for r in rows),  # by the rule
        "asked": len(rows) - statuses["quick"],
        **{name: statuses[name] for name in STATUSES},
        "questions": len(rows),
    }
