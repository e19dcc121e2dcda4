"""Official scoring rules of the benchmarks, and the one `judge` that every stage calls."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from rationale.metrics.answers import extract_answer, extract_choice, plain_text
from rationale.schema import LETTERS, Question


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a response answered (the letter for multiple choice) and its score in [0, 1]; None scores 0."""

    predicted: str | None
    score: float


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 if equal to a gold after lower case, single spaces and one trailing full stop; "12" is not "12.0"."""
    return float(plain_text(answer) in {plain_text(gold) for gold in golds})


def relaxed_accuracy(answer: str, golds: Sequence[str]) -> float:
    """ChartQA (arXiv 2203.10244, section 5.1): "We consider an answer to be correct if it is within 5% of the gold
    answer. For non-numeric answers, we still need an exact match to consider an answer to be correct."

    As google-research/pix2struct `relaxed_correctness` and VLMEvalKit have it: 5 % itself is within; "x%" is x / 100;
    a gold of zero and all else is compared as lower-case text. Best over golds.
    """
    return float(any(_relaxed(answer, gold) for gold in golds))


def _relaxed(answer: str, gold: str) -> bool:
    value, target = _to_float(answer), _to_float(gold)
    if value is not None and target:
        return abs(value - target) / abs(target) <= 0.05
    return answer.lower() == gold.lower()


def _to_float(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(answer: str, golds: Sequence[str], threshold: float = 0.5) -> float:
    """Average Normalized Levenshtein Similarity of one answer (arXiv 1907.00490, Eq. 1): 1 - NL where NL < tau, else 0.

    As the official script (rrc.cvc.uab.es) and lmms-eval 0.7.3 have it: the distance is between lower-case texts with
    single spaces, the length is that of the longer raw text, a similarity of exactly `threshold` stands. Best over
    golds.
    """
    return max(_similarity(answer, gold, threshold) for gold in golds)


def _similarity(answer: str, gold: str, threshold: float) -> float:
    a, b = " ".join(answer.lower().split()), " ".join(gold.lower().split())
    if a == b:
        return 1.0
    length = max(len(answer.upper()), len(gold.upper()))
    # The distance is at least the difference in length, so a sentence against a word needs no table.
    if 1 - abs(len(a) - len(b)) / length < threshold:
        return 0.0
    similarity = 1 - _levenshtein(a, b) / length
    return similarity if similarity >= threshold else 0.0


def _levenshtein(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, left = row[0], i
        row[0] = i
        for j, y in enumerate(b, start=1):
            above = row[j]
            if x != y:
                diagonal = 1 + (diagonal if diagonal < above else above)
                diagonal = min(diagonal, left + 1)
            row[j] = left = diagonal
            diagonal = above
    return row[-1]


# facebookresearch/mmf `EvalAIAnswerProcessor`: a word that lacks one apostrophe of these gets it back. Entries that
# cannot occur in its lower-case text are left out.
_CONTRACTED = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "'ow's'at",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
_CONTRACTIONS = {w[:i] + w[i + 1 :]: w for w in _CONTRACTED for i, c in enumerate(w) if c == "'"}
_CONTRACTIONS["somebody'd"] = "somebodyd"
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_WORDS)}
_ARTICLES = frozenset(("a", "an", "the"))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_FULL_STOP = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=1 << 16)
def evalai_text(text: str) -> str:
    """The text as the VQA evaluation compares it (facebookresearch/mmf `EvalAIAnswerProcessor`, same in lmms-eval).

    Lower case; "'s" a word of its own; commas and question marks gone; other punctuation gone where it touches a
    space, else a space; full stops gone unless a digit follows; "two" is "2", "none" is "0"; no articles ("A." is "").
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    kept = text
    for mark in _PUNCTUATION:
        if mark in text:
            kept = kept.replace(mark, "" if mark + " " in text or " " + mark in text else " ")
    # 32: mmf passes the flag re.UNICODE in the place of the count.
    words = (_DIGITS.get(word, word) for word in _FULL_STOP.sub("", kept, count=32).split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, golds: Sequence[str]) -> float:
    """TextVQA, VQA v2: min(1, matches / 3), "averaged over all 10 choose 9 sets of human annotators" (visualqa.org).

    With k of 10 annotators agreeing: .3, .6, .9, then 1. A single gold leaves no other annotator and would always
    score 0; it then scores 1 on a match.
    """
    wanted = evalai_text(answer)
    num = len(golds)
    k = sum(evalai_text(gold) == wanted for gold in golds)
    if num == 1:
        return float(k)
    return (k * min(3, k - 1) + (num - k) * min(3, k)) / (3 * num)


def multiple_choice(answer: str, choices: Sequence[str], gold: str) -> float:
    """1 if the option that `answer` names (letter or text) reads `gold`.

    A-OKVQA compares the choice's string (allenai/aokvqa `eval_predictions.py`), AI2D and ScienceQA the letter
    (VLMEvalKit); they differ only where two choices read the same, and then either is right.
    """
    if gold not in choices:
        raise ValueError(f"answer {gold!r} is none of {list(choices)}; re-run stage=prepare")
    letter = extract_choice(answer, list(choices))
    return float(letter is not None and choices[LETTERS.index(letter)] == gold)


def aokvqa_direct(answer: str, golds: Sequence[str]) -> float:
    """A-OKVQA direct answers (allenai/aokvqa `eval_predictions.py`): min(1, matches / 3) over ten, no normalisation."""
    return min(1.0, sum(answer == gold for gold in golds) / 3)


SCORERS: dict[str, Callable[[Question, str], float]] = {
    "exact": lambda question, answer: exact_match(answer, question.answers),
    "relaxed_accuracy": lambda question, answer: relaxed_accuracy(answer, question.answers),
    "anls": lambda question, answer: anls(answer, question.answers),
    "vqa_accuracy": lambda question, answer: vqa_accuracy(answer, question.answers),
    "multiple_choice": lambda question, answer: multiple_choice(answer, question.choices, question.answers[0]),
    "aokvqa_direct": lambda question, answer: aokvqa_direct(answer, question.answers),
}


def judge(question: Question, text: str, style: str) -> Verdict:
    """Answer and score of a response; the same call filters rationales, labels pairs and evaluates both styles.

    One rule for all four, so a gain between two stages or two styles is never a change of scorer. A response whose
    answer cannot be read is Verdict(None, 0.0): no guess is made for it.
    """
    if question.scorer not in SCORERS:
        raise ValueError(f"{question.question_id}: no scorer {question.scorer!r}; known: {sorted(SCORERS)}")
    if not question.answers:
        raise ValueError(f"{question.question_id}: no accepted answer to judge by; re-run stage=prepare")
    predicted = extract_answer(text, style)
    if predicted is not None and question.scorer == "multiple_choice":
        predicted = extract_choice(predicted, question.choices)
    if predicted is None:
        return Verdict(None, 0.0)
    try:
        return Verdict(predicted, SCORERS[question.scorer](question, predicted))
    except ValueError as error:
        raise ValueError(f"{question.question_id}: {error}") from error


def is_correct(score: float) -> bool:
    """Right or wrong from a graded score, for pairs and votes: at least 0.5, where ANLS has its own threshold.

    For the VQA rule that is two annotators of ten (0.6) or more.
    """
    return score >= 0.5


_NUMBER = re.compile(r"([-+]?)(\d{1,3}(?:,\d{3})+|\d*)(?:\.(\d*))?(%?)", re.ASCII)


def canonical(question: Question, predicted: str | None) -> str | None:
    """The key under which two predictions are one answer in a vote; None (unparsed) stays None.

    Letters for multiple choice. Otherwise lower case with single spaces, numbers by value: "12.0" is "12", "1,000" is
    "1000"; "50%" is neither "50" nor "0.5".
    """
    if predicted is None:
        return None
    if question.scorer == "multiple_choice":
        return predicted.strip().upper()
    text = " ".join(predicted.lower().split())
    number = _NUMBER.fullmatch(text)
    if number is None or not (number[2] or number[3]):
        return text
    sign, whole, fraction, percent = number.groups(default="")
    value = whole.replace(",", "").lstrip("0") or "0"
    if fraction := fraction.rstrip("0"):
        value += "." + fraction
    return ("-" if sign == "-" and value != "0" else "") + value + percent
