"""Numbers in mathematical notation: their value, when two are the same answer, and which one a response ends on."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence

from rationale.metrics.answers import extract_choice
from rationale.metrics.dress import boxed, plain_text
from rationale.schema import LETTERS

_LONGEST, _DEEPEST = 200, 20  # characters and brackets in brackets of what may be a value: bounds time and recursion
_SPELLINGS = [
    (re.compile(r"(?<=\d)(?:,|\{,\}|\\,)(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\left\b|\\right\b|\\displaystyle\b|\\[,;:!() ]|\\(?=[$%])|[$%~€£¥]|\{\}"), " "),
    (re.compile(r"\^\s*(?:\\circ\b|\{\s*\\circ\s*\})|\\degree\b|°|º"), " "),
    (re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|boxed)\s*(?=\{)"), ""),
    (re.compile(r"\\[dtc]frac\b"), r"\\frac"),
    (re.compile(r"\\(?:cdot|times|ast)\b|[×·∙⋅]"), "*"),
    (re.compile(r"\\div\b|÷"), "/"),
    (re.compile(r"\\pi\b|π"), " pi "),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"^\s*(\d+)\s*:\s*(\d+)\s*$"), r"\1/\2"),
    (re.compile(r"√\s*(\d+(?:\.\d+)?)"), r"\\sqrt{\1}"),
    (re.compile(r"√|(?<![\\a-z])sqrt\b"), r"\\sqrt"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    # Two and a half, not two times a half.
    (re.compile(r"(?<![\d.}])(\d+)\s*(\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\})"), r"(\1+\2)"),
    (re.compile(r"(?<![\d./])(\d+)\s+(\d+/\d+)(?![\d/])"), r"(\1+\2)"),
]
_NAMED = re.compile(r"^\s*[a-z\\][\w\\ {}()'∠△]{0,30}(?:=|≈|\\approx\b)(?=[^=]+$)")
_MULTIPLIERS = "hundred|thousand|million|billion|trillion|dozen"
_UNIT = re.compile(
    rf"(?<=[\d)}}\s])\{{?\s*(?!(?:{_MULTIPLIERS}|pi)\b)(?:(?:square|cubic)\s+)?(?:[a-z]{{2,}}|[ghlmps])\.?\s*\}}?"
    r"\s*(?:\^?\{?[23²³]\}?)?\s*\}?\s*$"
)
_TOKEN = re.compile(r"\s*(\d+\.?\d*|\.\d+|\\[a-z]+|pi\b|[-+*/^(){}\[\]])")


def value(text: str) -> float | None:
    """The number that `text` writes, or None: decimals, fractions, roots, powers and pi, in LaTeX or plain.

    A leading "x =" and a trailing unit, degree or per cent sign say nothing about the value (MathVision's
    `find_math_answer` strips them too); "2\\frac{1}{2}" is two and a half; "5 million" and "5 or 6" have no value here.
    """
    if len(text) > _LONGEST:
        return None
    text = text.lower()
    for pattern, plain in _SPELLINGS:
        text = pattern.sub(plain, text)
    text = _NAMED.sub("", text.strip().rstrip(".,;: "))
    for written in (text, _UNIT.sub("", text)):
        try:
            found = _Parser(written).whole()
        except (ValueError, ArithmeticError):
            continue
        if isinstance(found, float) and math.isfinite(found):
            return found
    return None


class _Parser:
    """Recursive descent over one expression; ValueError where it is none."""

    def __init__(self, text: str) -> None:
        self.tokens: list[str] = []
        place, text = 0, text.rstrip()
        while place < len(text):
            token = _TOKEN.match(text, place)
            if token is None:
                raise ValueError(text)
            self.tokens.append(token[1])
            place = token.end()
        self.next = self.depth = 0

    def whole(self) -> float:
        found = self.sum()
        if self.next < len(self.tokens):
            raise ValueError(self.tokens)
        return found

    def sum(self) -> float:
        total = self.product()
        while (sign := self.take("+", "-")) is not None:
            term = self.product()
            total = total + term if sign == "+" else total - term
        return total

    def product(self) -> float:
        total = self.signed()
        while self.next < len(self.tokens) and self.tokens[self.next] not in ("+", "-", ")", "}", "]"):
            sign = self.take("*", "/")
            if sign is None and self.tokens[self.next][0] in "0123456789.":
                raise ValueError(self.tokens)  # "5 6" is two numbers
            factor = self.signed() if sign else self.power()
            total = total / factor if sign == "/" else total * factor
        return total

    def signed(self) -> float:
        sign = self.take("+", "-")
        return -self.signed() if sign == "-" else self.signed() if sign else self.power()

    def power(self) -> float:
        base = self.atom()
        return base ** self.signed() if self.take("^") else base

    def atom(self) -> float:
        token = self.tokens[self.next] if self.next < len(self.tokens) else ""
        self.next += 1
        if token in ("(", "{"):
            return self.closed({"(": ")", "{": "}"}[token])
        if token == "\\frac":
            return self.group() / self.group()
        if token == "\\sqrt":
            root = self.closed("]") if self.take("[") else 2.0
            return self.group("(") ** (1 / root)
        return math.pi if token == "pi" else float(token)

    def group(self, *others: str) -> float:
        opening = self.take("{", *others)
        if opening is None:
            raise ValueError(self.tokens)
        return self.closed({"(": ")", "{": "}"}[opening])

    def closed(self, bracket: str) -> float:
        self.depth += 1
        found = self.sum() if self.depth < _DEEPEST else None
        if found is None or self.take(bracket) is None:
            raise ValueError(self.tokens)
        self.depth -= 1
        return found

    def take(self, *wanted: str) -> str | None:
        if self.next < len(self.tokens) and self.tokens[self.next] in wanted:
            self.next += 1
            return self.tokens[self.next - 1]
        return None


_DRESS = re.compile(r"[${}]|\\(?:text|mathrm|mathbf|textbf|mbox)\b|\\[,;: ]")
_TUPLE = re.compile(r"\s*+(?:\$\s*+)?(?:\\left\s*+)?[(\[](.*)[)\]]\s*+(?:\$\s*+)?", re.DOTALL)


def canonical_value(text: str) -> str:
    """One key for all ways to write an answer: its value to two decimals, else the text itself.

    Two decimals as in MathVision's `is_equal` (mathllm/MATH-V, evaluation/utils.py), which compares lower-case text,
    then the members of a tuple, then values, each rounded so.
    """
    members = _TUPLE.fullmatch(text)
    if members and 0 < members[1].count(",") < _LONGEST:
        return "(" + ",".join(canonical_value(member) for member in members[1].split(",")) + ")"
    number = value(text)
    if number is None:
        return plain_text(_DRESS.sub("", text)).replace(" ", "")
    return repr(round(number, 2) + 0.0)  # + 0.0: there is one zero


def math_accuracy(answer: str, golds: Sequence[str]) -> float:
    """1 if the answer is a gold, by `canonical_value`."""
    return float(canonical_value(answer) in {canonical_value(gold) for gold in golds})


_CUE = re.compile(
    r"(?i)\banswer\b\**(?:\s+(?:is|would be|should be|must be))?\s*(?:therefore|thus|equal to)?\s*[:=]?\s*"
)
_SENTENCE_END = re.compile(r"\n|(?<=[^\d\s])\.\s|(?<=\d)\.(?:\s|$)")
_SENTENCE_ENDS = re.compile(rf"(?={_SENTENCE_END.pattern})")
# The atomic group keeps "1.5 million" from giving "1".
_NUMBER = re.compile(
    rf"(?<![\w.])-?(?>(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?)(?!\w*\d)(?!\s*(?:{_MULTIPLIERS}))", re.ASCII | re.I
)


def final_value(text: str) -> str | None:
    """The answer that a response ends on, as written; None where it cannot be told.

    In this order: the last \\boxed{}; the whole text where it is a value; what follows the last "answer is"; the right
    side of the last equation; the only number; the whole text of one or two words. Several numbers and no sign which is
    meant are no answer.
    """
    if (box := boxed(text)) is not None:
        return box[0] or None
    text = text.strip()
    if value(text) is not None:
        return text
    for rest in _behind_cues(text):
        if (found := _stated(rest)) is not None:
            return found
    last = _SENTENCE_END.split(text.rstrip("."))[-1]
    if "=" in last and value(last.rsplit("=", 1)[1]) is not None:
        return last.rsplit("=", 1)[1].strip()
    return _stated(text)


def _behind_cues(text: str) -> Iterator[str]:
    """What follows each "answer is" up to the end of the sentence, the last first; of one sentence the last eight.

    Were there no end to them, a model that repeats itself would take the square of its length in time.
    """
    ends = [end.start() for end in _SENTENCE_ENDS.finditer(text)] + [len(text)]
    tried: Counter[int] = Counter()
    for cue in reversed(list(_CUE.finditer(text))):
        # Right behind a cue a full stop has no word before it, and ends nothing.
        end = ends[bisect_left(ends, min(cue.end() + 1, len(text)))]
        tried[end] += 1
        if tried[end] <= 8:
            yield text[cue.end() : end].strip(" *")


def _stated(text: str) -> str | None:
    if value(text) is not None:
        return text
    return _only_number(text) or (text if 1 <= len(text.split()) <= 2 else None)


def _only_number(text: str) -> str | None:
    found = set(_NUMBER.findall(text))
    return found.pop() if len(found) == 1 else None


def letter_or_value(text: str, choices: list[str]) -> str | None:
    """The letter named; failing that, that of the one choice with the answer's value ("0.5" for "$\\frac{1}{2}$")."""
    if (letter := extract_choice(text, choices)) is not None:
        return letter
    written = final_value(text)
    if written is None:
        return None
    same = [i for i, choice in enumerate(choices) if canonical_value(choice) == canonical_value(written)]
    return LETTERS[same[0]] if len(same) == 1 else None
