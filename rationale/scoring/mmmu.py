"""MMMU's rule for its open questions (MMMU-Benchmark/MMMU, eval/eval_utils.py: parse_open_response, eval_open).

Its multiple choice goes by `multiple_choice` here: the official parser draws a letter at random where it finds none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = [
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    # Of a row of digits only the first begins a number, or a long row would take the square of its length.
    re.compile(r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+"),
    re.compile(r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++\b)(?![eE][+-]?\d+)(?![,\d])"),
]


def mmmu_open(answer: str, golds: Sequence[str]) -> float:
    """1 if a number in the telling parts of the answer is a gold's to two decimals, or such a part contains a gold.

    The telling part of a line is what follows the last "is", "so", "answer", ... (in the last line "=" too); where no
    line has one, it is the whole answer. A gold of one letter counts only beside a space.
    """
    found = {form for part in _telling(answer) for text in (part, *_numbers(part)) for form in _forms(text)}
    accepted = {form for gold in golds for form in _forms(gold)}
    if any(isinstance(form, float) and form in accepted for form in found):
        return 1.0
    texts = [form for form in accepted if isinstance(form, str)]
    return float(any(isinstance(form, str) and any(text in form for text in texts) for form in found))


def _telling(answer: str) -> list[str]:
    # The official pattern splits at ". " before a capital as well, but the text is lower case by then.
    answer = answer.strip().strip(".").lower()
    *lines, last = answer.split("\n")
    parts = [_shortest_tail(line, _INDICATORS) for line in lines] + [_shortest_tail(last, (*_INDICATORS, "="))]
    return [part for part in parts if part and part not in (":", ",", ".", "!", "?", ";", "'")] or [answer]


def _shortest_tail(line: str, indicators: Sequence[str]) -> str:
    shortest = ""
    for indicator in indicators:
        if indicator in line:
            tail = line.rsplit(indicator, 1)[1].strip()
            if not shortest or len(tail) < len(shortest):
                shortest = tail
    return shortest


def _numbers(text: str) -> list[str]:
    return [number for pattern in _NUMBERS for number in pattern.findall(text)]


def _forms(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]
