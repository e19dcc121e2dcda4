"""Our records as rows for another project. What its form has no key for goes into the row's `record`.

A row carries the question's text, its choices and the response; `record` carries the rest (accepted answers, scorer,
split, meta, how the response was judged). So nothing stands in two places, and a row that was edited still means what
it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from rationale.prompts import PLACE, places_in, prompt_text
from rationale.schema import Pair, Question, Rationale
from rationale.sources.exchange import MARK, ROW_FORMS, Row, Wrap

_SPELLED = re.compile(rf"{MARK}|{PLACE.pattern}")


def without_marks(text: str, num_images: int = 0) -> tuple[str, list[int]]:
    """The text with every `<image>` spelled `(image)`, and where: a loader counts the marks and wants one an image. Of
    several images, every `<image 2>` too that shows none."""
    shown, places = {mark.start() for mark in places_in(text, num_images).values()}, []

    def spelled(mark: re.Match) -> str:
        if mark.start() in shown or (mark[0] != MARK and num_images < 2):
            return mark[0]
        places.append(mark.start())
        return f"({mark[0][1:-1]})"  # as long as the mark, so that places stay the same

    return _SPELLED.sub(spelled, text), places


def with_marks(text: str, places: list[int]) -> str:
    """Undoes `without_marks`."""
    for place in places:
        end = text.index(")", place)
        text = f"{text[:place]}<{text[place + 1 : end]}>{text[end + 1 :]}"
    return text


def order_of(named: Sequence[int], num_images: int) -> list[int]:
    """The numbers of a question's images in the order in which its prompt shows them."""
    return [*(number for number in range(num_images) if number not in named), *named]


def wrap_of(form: str, question: Question, key: str, unnamed: int) -> Wrap:
    """What stands before and after a prompt for the images that it does not name."""
    came = origin(question, key) if question.meta.get("source", {}).get("form") == form else {}
    before, after = ROW_FORMS[form].wrap
    return tuple(came.get("wrap", (before * unnamed, after * unnamed))) if question.images else ("", "")


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
    spelled, marks, num = {}, {}, len(question.images)
    for name, text in {"prompt": asked(question, style, key), "response": response, "rejected": rejected}.items():
        spelled[name], places = (None, []) if text is None else without_marks(text, num if name == "prompt" else 0)
        marks |= {name: places} if places else {}
    named = list(places_in(spelled["prompt"], num))
    order, unnamed = order_of(named, num), num - len(named)
    if named:
        spelled["prompt"] = placed(PLACE.sub(MARK, spelled["prompt"]), range(unnamed, num))
    record = None
    if more is not None:
        fields = fields_of(question, "question", "images")
        told = {"question": fields, "style": style, **more, "marks": marks, **({"named": named} if named else {})}
        record = json.dumps(told, ensure_ascii=False)
    wrap = wrap_of(form, question, key, unnamed)
    rest = came.get("rest", {"id": f"{question.question_id}-{key}"} if form == "llava" else {})
    return Row(images=[question.images[i] for i in order], wrap=wrap, rest=rest, record=record, **spelled)


def placed(marked: str, numbers: Iterable[int]) -> str:
    """The text with `<image 2>` for each mark, by the images' numbers from 0."""
    first, *others = marked.split(MARK)
    return first + "".join(f"<image {number + 1}>{text}" for number, text in zip(numbers, others, strict=True))


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
