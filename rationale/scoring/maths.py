"""Numbers in mathematical notation: their value, when two are the same answer, and which one a response ends on."""

from __future__ import annotations

import ast
import math
import operator
import re
import unicodedata
from collections.abc import Sequence

from rationale.schema import LETTERS
from rationale.scoring.answers import behind_answer_cues, extract_choice, sentences
from rationale.scoring.dress import boxed, plain_text

_REACH, _LONGEST = 600, 200  # characters at either end where a statement is looked for; of what may be a value
_SMALL = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
)
_TENS = ["", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: i for i, word in enumerate(_SMALL)} | {"hundred": 100, "one-hundred": 100}
_WORDS |= {f"{_TENS[i]}-{_SMALL[j]}".removesuffix("-zero"): 10 * i + j for i in range(2, 10) for j in range(10)}
_WORD = rf"(?:(?:a )?(?:{'|'.join(word.replace('-', '[- ]') for word in sorted(_WORDS, key=len, reverse=True))}))\b"
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")


def _fraction(found: re.Match) -> str:
    """The fraction that one character writes ("½"), with the whole number before it as a sum."""
    parts = unicodedata.normalize("NFKC", found[2]).replace("\N{FRACTION SLASH}", "/")
    return f"({found[1]}+{parts})" if found[1] else parts


_SPELLINGS = [
    (re.compile(r"(?![0-9])\d"), lambda found: str(unicodedata.decimal(found[0]))),
    (re.compile(r"(\d*)\s*([¼-¾⅐-⅞])"), _fraction),
    (re.compile(r"(?<=[\d)])[⁻⁺]?[⁰¹²³⁴-⁹]+"), lambda found: f"^{{{found[0].translate(_RAISED)}}}"),
    (re.compile(r"(?<=\d)(?:[, ]|\{,\}|\\,)(?=\d{3}(?![\d/]))"), ""),
    (re.compile(r"(?<=\d)\s*x\s*(?=10\b)"), "*"),
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


def value(text: str) -> float | None:
    """The number that `text` writes, or None: decimals, fractions, roots, powers and pi, in LaTeX or plain.

    A leading "x =" and a trailing unit, degree or per cent sign say nothing about the value (MathVision's
    `find_math_answer` strips them too); "2\\frac{1}{2}" is two and a half; "5 million" and "5 or 6" have no value here.
    """
    if len(text) > _LONGEST:
        return None
    text = text.lower()
    text = str(_WORDS.get(text.strip(" .").removeprefix("a ").replace(" ", "-"), text))
    for pattern, plain in _SPELLINGS:
        text = pattern.sub(plain, text)
    text = _NAMED.sub("", text.strip().rstrip(".,;: "))
    for written in (text, _UNIT.sub("", text)):
        try:
            found = _calculated(written)
        except (ValueError, SyntaxError, ArithmeticError, MemoryError, RecursionError):
            continue
        if isinstance(found, float) and math.isfinite(found):
            return found
    return None


def _calculated(text: str) -> float:
    """The value of an arithmetic expression; ValueError, SyntaxError or ArithmeticError where it is none."""
    for _ in range(_LONGEST):
        before = text
        for pattern, plain in _GROUPS:
            text = pattern.sub(plain, text)
        if text == before:
            break
    text = _LEADING_ZEROS.sub("", _ADJACENT.sub("*", text.replace("^", "**")).strip())
    if not _EXPRESSION.fullmatch(text):
        raise ValueError(text)
    return _number(ast.parse(text, mode="eval").body)


def _number(node: ast.expr) -> float:
    match node:
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](_number(node.left), _number(node.right))
        case ast.UnaryOp(op=ast.USub()):
            return -_number(node.operand)
        case ast.UnaryOp(op=ast.UAdd()):
            return _number(node.operand)
        case ast.Constant():
            return float(node.value)
        case ast.Name():
            return math.pi
    raise ValueError(ast.dump(node))


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
# The innermost first: what is left without braces is written as in Python.
_GROUPS = [
    (re.compile(r"\\frac\s*\{([^{}]+)\}\s*\{([^{}]+)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\s*\[([^][{}]+)\]\s*\{([^{}]+)\}"), r"((\2)**(1/(\1)))"),
    (re.compile(r"\\sqrt\s*(?:\{([^{}]+)\}|\(([^(){}]+)\))"), r"((\1\2)**(1/2))"),
    (re.compile(r"(^\s*|[-+*/^(\d]\s*)\{([^{}]+)\}"), r"\1(\2)"),
]
_ADJACENT = re.compile(r"(?<=[\d)i])\s*(?=\(|pi)|(?<=\))\s*(?=[\d.])")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
_EXPRESSION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\*\*|[-+*/() ]|pi)+")


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


# The atomic group keeps "1.5 million" from giving "1"; what is part of something else ("5!", "1.234.567", "10:30",
# "2^3") is no number.
_TEN = r"\s*(?:[×x*]|\\times|\\cdot)\s*10\s*(?:\^\s*\{?\s*[-+]?\d+(?:\s*\})?|[⁻⁺]?[⁰¹²³⁴-⁹]+)"
_FIGURES = rf"(?:\d{{1,3}}(?:[ ,]\d{{3}})+(?!\d)|\d+)(?:\.\d+)?(?:e[-+]?\d+|{_TEN}|/\d+|\s?[¼-¾⅐-⅞])?"
_NUMBER = re.compile(
    rf"(?<![\w.^/:])-?(?>{_FIGURES}|[¼-¾⅐-⅞])(?!\w*\d|\.\d|[/:,]\d|\s*[!^]|\s*(?:{_MULTIPLIERS})\b)", re.ASCII | re.I
)
_COUNT = rf"(?:{_NUMBER.pattern}|\b(?<!-){_WORD}(?!-|\s+(?:{_MULTIPLIERS})))"
_THERE_ARE = re.compile(
    rf"\bthere (?:are|is|were|was|will be|would be)\s+(?:\w+\s+){{0,2}}?({_COUNT})(?!.*(?:,|\band)\s+{_COUNT})", re.I
)
_TELLS = re.compile(
    r"(?:\b(?:is|are|was|were|be|equals|equal to|total of|count|counted|see|has|have|about|approximately|around|"
    r"roughly)|[=≈:])\s*[$€£]?\s*"
    rf"({_COUNT})(?:(?!\b{_WORD})[^\d.=,]){{0,40}}(?:$|,?\s*(?:as|because|since|which)\b)",
    re.I,
)
_SENTENCE_END = re.compile(r"\n|(?<=[^\d\s])\.\s|(?<=\d)\.(?:\s|$)")
_EMPHASIS = re.compile(r"\*\*|[`\"]")


def final_value(text: str) -> str | None:
    """The answer that a response ends on, as written; None where it cannot be told.

    In this order: the last \\boxed{}; the whole text where it is a value; what follows the last "answer is"; the last
    line alone; the right side of the last equation; the number that the last sentence with one states, or the first
    sentence; the whole text of one or two words. Several numbers and no sign which is meant are no answer.
    """
    if (box := boxed(text)) is not None:
        return box[0] or None
    text = _EMPHASIS.sub("", text).strip()
    if value(text) is not None:
        return text
    for rest in behind_answer_cues(text):
        piece = _SENTENCE_END.split(rest.lstrip(), maxsplit=1)[0].strip(" *")
        if (found := _stated(piece)) is not None:
            return found
    ends = [s.rstrip(".") for s in sentences(text[-_REACH:])]
    if ends and value(ends[-1]) is not None:
        return ends[-1]
    if ends and "=" in ends[-1] and value(ends[-1].rsplit("=", 1)[1]) is not None:
        return ends[-1].rsplit("=", 1)[1].strip()
    last = next((sentence for sentence in reversed(ends) if re.search(_COUNT, sentence, re.I)), "")
    for sentence in (last, *(s.rstrip(".") for s in sentences(text[:_REACH])[:1])):
        if (found := _number_in(sentence)) is not None:
            return found
    return _stated(text)


def _number_in(sentence: str) -> str | None:
    """The number that a sentence states: "there are 3 of them", "... is 3 cm", or the only one in it."""
    if (stated := _THERE_ARE.search(sentence) or _TELLS.search(sentence)) is not None:
        return stated[1]
    return _only_number(sentence)


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
