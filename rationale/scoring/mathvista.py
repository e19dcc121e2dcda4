"""MathVista's rule (lupantech/MathVista, evaluation/calculate_score.py), and a reading by rule before it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from rationale.schema import LETTERS, Question
from rationale.scoring.dress import boxed
from rationale.scoring.maths import final_value, letter_or_value, value

ANSWER_TYPES = ("integer", "float", "list", "text")
_LETTER = re.compile(r"\(([a-zA-Z])\)")
_LIST = re.compile(r"\[[^\[\]]*\]")


def normalize(extraction: str, choices: Sequence[str], answer_type: str, precision: float | None) -> str | None:
    """The extracted answer in the form of the annotation (`normalize_extracted_answer`); None fails.

    With choices: the text of the letter ("B", or the first "(b)"), else the choice nearest by edit distance, the first
    of equally near ones. "integer" is cut to one, "float" rounded to `precision` decimals; "list" and "text" stand.
    """
    if choices:
        marked = _LETTER.findall(extraction)
        letter = marked[0].upper() if marked else extraction.strip()
        if len(letter) == 1 and letter in LETTERS[: len(choices)]:
            return choices[LETTERS.index(letter)]
        return min(choices, key=lambda choice: Levenshtein.distance(letter, choice))
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), int(precision)))
    except (TypeError, ValueError, OverflowError):
        return None
    return extraction


def mathvista(question: Question, answer: str) -> float:
    """1 if the normalised answer is a gold, to the letter (`safe_equal`). Answer type and precision are in `meta` under
    the source's names.

    A gold goes through the same rounding, so that "0.50" with two decimals is met by "0.5"; the official code compares
    with the gold as it stands, which for that gold would fail every answer.
    """
    golds, choices = question.answers, question.choices
    answer_type, precision = question.meta.get("answer_type"), question.meta.get("precision")
    if choices and not set(golds) <= set(choices):
        raise ValueError(f"answer {golds[0]!r} is none of {choices}; re-run stage=prepare")
    accepted = golds if choices else [_normalized_gold(gold, answer_type, precision) for gold in golds]
    return float(normalize(answer, choices, answer_type, precision) in accepted)


def _normalized_gold(gold: str, answer_type: str, precision: float | None) -> str:
    if answer_type not in ANSWER_TYPES:
        raise ValueError(f"meta['answer_type'] is {answer_type!r}, none of {ANSWER_TYPES}; re-run stage=prepare")
    if answer_type == "float" and precision is None:
        raise ValueError("meta['precision'] is missing for a float answer; re-run stage=prepare")
    normalized = normalize(gold, [], answer_type, precision)
    if normalized is None:
        raise ValueError(f"answer {gold!r} is no {answer_type} (precision {precision!r}); re-run stage=prepare")
    return normalized


def read(question: Question, text: str) -> str | None:
    """The answer as MathVista's GPT-4 extractor would hand it on, read by rule; None where it cannot be told.

    With choices a letter: the one named, by letter, text or value, else that of the only nearest choice where more than
    half of the characters agree. The official rule takes the nearest however far it is, and "8/11" for "8/12": a guess.
    Numbers come by value, lists from their last brackets.
    """
    choices, answer_type = question.choices, question.meta.get("answer_type")
    if choices:
        return letter_or_value(text, choices) or _nearest(text, choices)
    if answer_type == "list":
        found = _LIST.findall(text)
        return "[" + ", ".join(part.strip() for part in found[-1][1:-1].split(",")) + "]" if found else None
    if answer_type in ("integer", "float"):
        number = value(final_value(text) or "")
        return None if number is None else f"{number:.12g}"
    return _unboxed(text) or None


def _nearest(text: str, choices: list[str]) -> str | None:
    text = _unboxed(text)
    if value(text) is not None:
        return None
    # The distance is at least the difference in length: a long text is near no choice.
    near = [(Levenshtein.distance(text, c), i) for i, c in enumerate(choices) if 2 * len(c) > len(text)]
    if not near:
        return None
    (distance, index), *others = sorted(near)
    agrees = 2 * distance < max(len(text), len(choices[index]))
    return LETTERS[index] if agrees and not (others and others[0][0] == distance) else None


def _unboxed(text: str) -> str:
    box = boxed(text)
    return box[0] if box else text.strip()
