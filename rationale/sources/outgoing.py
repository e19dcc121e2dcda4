"""Our records as rows for another project. What its form has no key for goes into the row's `record`.

A row carries the question's text, its choices and the response; `record` carries the rest (accepted answers, scorer,
split, meta, how the response was judged). So nothing stands in two places, and a row that was edited still means what
it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from rationale.prompts import prompt_text
from rationale.schema import Pair, Question, Rationale
from rationale.sources.exchange import MARK, ROW_FORMS, Row

SPELLED = "(image)"  # as long as the mark, so that places stay the same


def without_marks(text: str) -> tuple[str, list[int]]:
    """The text with every `<image>` spelled `(image)`, and where: a loader counts the marks and wants one an image."""
    places = [match.start() for match in re.finditer(re.escape(MARK), text)]
    return text.replace(MARK, SPELLED), places


def with_marks(text: str, places: list[int]) -> str:
    """Undoes `without_marks`."""
    for place in places:
        text = text[:place] + MARK + text[place + len(MARK) :]
    return text


def origin(question: Question, key: str) -> dict[str, Any]:
    """What import kept of the row (`cot`, `direct` or `pair-<id>`) that a question came from; empty if it did not."""
    return question.meta.get("source", {}).get("rows", {}).get(key, {})


def asked(question: Question, style: str, key: str) -> str:
    """The user's turn, with the ending that the row had when it was imported (a full stop)."""
    return prompt_text(question, style) + origin(question, key).get("ending", "")


def _row(
    form: str, question: Question, key: str, style: str, response: str, rejected: str | None = None,
    more: dict[str, Any] | None = None,
) -> Row:  # fmt: skip
    """`more` is what `record` says beside the question, None for no record."""
    came = origin(question, key) if question.meta.get("source", {}).get("form") == form else {}
    spelled, marks = {}, {}
    for name, text in {"prompt": asked(question, style, key), "response": response, "rejected": rejected}.items():
        spelled[name], places = (None, []) if text is None else without_marks(text)
        marks |= {name: places} if places else {}
    record = None
    if more is not None:
        fields = fields_of(question, "question", "image")
        record = json.dumps({"question": fields, "style": style, **more, "marks": marks}, ensure_ascii=False)
    wrap = tuple(came.get("wrap", ROW_FORMS[form].wrap)) if question.image else ("", "")
    rest = came.get("rest", {"id": f"{question.question_id}-{key}"} if form == "llava" else {})
    return Row(image=question.image or None, wrap=wrap, rest=rest, record=record, **spelled)


def fields_of(record: Any, *without: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name not in without}


def cot_row(form: str, question: Question, rationale: Rationale, record: bool = True) -> Row:
    """The CoT prompt with a kept rationale."""
    more = {"rationale": fields_of(rationale, "question_id", "text")} if record else None
    return _row(form, question, "cot", "cot", rationale.text, more=more)


def direct_row(form: str, question: Question, unkept: Rationale | None, record: bool = True) -> Row:
    """The direct prompt (that of a question of kind open is the question) with the bare answer.

    A rationale that was not kept is nothing to train on: it travels in the record alone.
    """
    target = origin(question, "direct").get("target", question.answer)
    more = {"unkept": asdict(unkept) if unkept else None} if record else None
    return _row(form, question, "direct", "direct", target, more=more)


def pair_row(form: str, question: Question, pair: Pair, record: bool = True) -> Row:
    """A preference, whole: what truncation a loss applies is its own affair."""
    more = {"pair": fields_of(pair, "question_id", "style", "chosen", "rejected")} if record else None
    return _row(form, question, f"pair-{pair.pair_id}", pair.style, pair.chosen, pair.rejected, more)


def sft_rows(form: str, question: Question, found: Rationale | None, styles: list[str], record: bool) -> Iterator[Row]:
    """Rows of one question in the styles wanted: CoT where its rationale was kept, direct always."""
    kept = found is not None and found.status == "kept"
    if "cot" in styles and kept and question.kind != "open":
        yield cot_row(form, question, found, record)
    if "direct" in styles:
        yield direct_row(form, question, None if kept else found, record)


def text_of(question: Question, style: str, key: str, prompt: str) -> str | None:
    """The question's text in a prompt of it, None where the prompt does not end as it should."""
    tail = asked(replace(question, question=""), style, key)
    return prompt.removesuffix(tail) if prompt.endswith(tail) else None
