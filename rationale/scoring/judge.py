"""The scorers by name, and the one `judge` that every stage calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from rationale.schema import Question
from rationale.scoring import mathvista, rules
from rationale.scoring.answers import extract_answer, extract_choice
from rationale.scoring.dress import normal, undressed
from rationale.scoring.maths import canonical_value, final_value, letter_or_value, math_accuracy
from rationale.scoring.mmmu import mmmu_open


class Verdict(NamedTuple):
    """What a response answered (the letter for multiple choice) and its score in [0, 1]; None scores 0."""

    predicted: str | None
    score: float


@dataclass(frozen=True, slots=True)
class Scorer:
    """One benchmark's rule, of a question and a text.

    `read` is what of an extracted answer is judged (a letter, a value, the text), None where that cannot be told;
    `score` its score in [0, 1]; `key` what two answers that count as one in a vote have in common. `annotated`: the
    answers are those of ten annotators, of whom one may have written nothing.
    """

    score: Callable[[Question, str], float]
    read: Callable[[Question, str], str | None] = lambda question, answer: answer
    key: Callable[[Question, str], str] = lambda question, predicted: plain_key(predicted)
    annotated: bool = False


def _on_golds(rule: Callable[[str, Sequence[str]], float], **more: bool) -> Scorer:
    """Of a rule on the answer and the accepted answers alone."""
    return Scorer(lambda question, answer: rule(answer, question.answers), **more)


def _math(question: Question, answer: str) -> float:
    if question.choices:
        return rules.multiple_choice(question, letter_or_value(answer, question.choices) or "")
    return math_accuracy(answer, question.answers)


_NUMBER = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(%?)", re.ASCII)


def plain_key(predicted: str) -> str:
    """Lower case with single spaces, numbers by value: "12.0" is "12", "1,000" is "1000"; "50%" is neither "50" nor
    "0.5"."""
    text = " ".join(predicted.lower().split())
    number = _NUMBER.fullmatch(text)
    if number is None or not (number[2] or number[3]):
        return text
    sign, whole, fraction, percent = number.groups(default="")
    value = whole.replace(",", "").lstrip("0") or "0"
    if fraction := fraction.rstrip("0"):
        value += "." + fraction
    return ("-" if sign == "-" and value != "0" else "") + value + percent


def _letter_or(key: Callable[[str], str]) -> Callable[[Question, str], str]:
    """The letter of a question with choices; of others the `key`."""
    return lambda question, predicted: predicted.strip().upper() if question.choices else key(predicted)


SCORERS = {
    "exact": _on_golds(rules.exact_match),
    "relaxed_accuracy": _on_golds(rules.relaxed_accuracy),
    "anls": _on_golds(rules.anls),
    "vqa_accuracy": _on_golds(rules.vqa_accuracy, annotated=True),
    "aokvqa_direct": _on_golds(rules.aokvqa_direct, annotated=True),
    "mmmu": _on_golds(mmmu_open),
    "ocrbench": Scorer(rules.ocrbench),
    "multiple_choice": Scorer(
        rules.multiple_choice, lambda question, answer: extract_choice(answer, question.choices), _letter_or(str.upper)
    ),
    "math": Scorer(
        _math,
        lambda question, answer: letter_or_value(answer, question.choices) if question.choices else final_value(answer),
        _letter_or(canonical_value),
    ),
    "mathvista": Scorer(mathvista.mathvista, mathvista.read, _letter_or(plain_key)),
}


# Ten annotators repeat each other, and samples of one question are judged by the same golds.
@lru_cache(maxsize=1 << 12)
def _bare(gold: str) -> str:
    return undressed(normal(gold))


def judge(question: Question, text: str, style: str) -> Verdict:
    """Answer and score of a response; the same call filters rationales, labels pairs and evaluates both styles.

    One rule for all four, so a gain between two stages or two styles is never a change of scorer. A response whose
    answer cannot be read is Verdict(None, 0.0): no guess is made for it. The scorer is given the answer without its
    dress, which no official scorer would take off, and the annotations in the same form.
    """
    scorer = SCORERS.get(question.scorer)
    if scorer is None:
        raise ValueError(f"{question.question_id}: no scorer {question.scorer!r}; known: {sorted(SCORERS)}")
    if not question.answers:
        raise ValueError(f"{question.question_id}: no accepted answer to judge by; re-run stage=prepare")
    answer = extract_answer(text, style)
    predicted = None if answer is None else scorer.read(question, answer)
    if predicted is None:
        return Verdict(None, 0.0)
    try:
        if not question.choices:
            question = replace(question, answers=[_bare(gold) for gold in question.answers])
        return Verdict(predicted, scorer.score(question, predicted))
    except ValueError as error:
        raise ValueError(f"{question.question_id}: {error}") from error


def is_correct(score: float) -> bool:
    """Right or wrong from a graded score, for pairs and votes: at least 0.5, where ANLS has its own threshold.

    For the VQA rule that is two annotators of ten (0.6) or more.
    """
    return score >= 0.5


def canonical(question: Question, predicted: str | None) -> str | None:
    """The key under which two predictions are one answer in a vote; None (unparsed) stays None."""
    return None if predicted is None else SCORERS[question.scorer].key(question, predicted)
