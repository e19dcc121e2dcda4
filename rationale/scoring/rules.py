"""Scoring rules of the benchmarks on short answers: text against accepted texts, each with its source."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from rationale.schema import LETTERS, Question
from rationale.scoring.answers import extract_choice
from rationale.scoring.dress import plain_text
from rationale.scoring.evalai import evalai_text


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


def anls(answer: str, golds: Sequence[str]) -> float:
    """Average Normalized Levenshtein Similarity of one answer (arXiv 1907.00490, Eq. 1): 1 - NL where NL < 0.5, else 0.

    As the official script (rrc.cvc.uab.es) and lmms-eval 0.7.3 have it: the distance is between lower-case texts with
    single spaces, the length is that of the longer raw text, a similarity of exactly 0.5 stands. Best over
    golds.
    """
    return max(_similarity(answer, gold) for gold in golds)


def _similarity(answer: str, gold: str) -> float:
    a, b = " ".join(answer.lower().split()), " ".join(gold.lower().split())
    if a == b:
        return 1.0
    length = max(len(answer.upper()), len(gold.upper()))
    similarity = 1 - Levenshtein.distance(a, b) / length
    return similarity if similarity >= 0.5 else 0.0


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


def multiple_choice(question: Question, answer: str) -> float:
    """1 if the option that `answer` names (letter or text) reads as the gold.

    A-OKVQA compares the choice's string (allenai/aokvqa `eval_predictions.py`), AI2D and ScienceQA the letter
    (VLMEvalKit); they differ only where two choices read the same, and then either is right.
    """
    choices, gold = question.choices, question.answers[0]
    if gold not in choices:
        raise ValueError(f"answer {gold!r} is none of {choices}; re-run stage=prepare")
    letter = extract_choice(answer, choices)
    return float(letter is not None and choices[LETTERS.index(letter)] == gold)


def aokvqa_direct(answer: str, golds: Sequence[str]) -> float:
    """A-OKVQA direct answers (allenai/aokvqa `eval_predictions.py`): min(1, matches / 3) over ten, no normalisation."""
    return min(1.0, sum(answer == gold for gold in golds) / 3)


def ocrbench(question: Question, answer: str) -> float:
    """OCRBench (Yuliang-Liu/MultimodalOCR, OCRBench/example.py): 1 if the answer contains a gold.

    Lower case, line breaks as spaces; for formulas (its data set HME100k) the case stands and no space counts.
    VLMEvalKit has the same two rules.
    """
    if "dataset_name" not in question.meta:
        raise ValueError("meta['dataset_name'] is missing, which tells formulas from text; re-run stage=prepare")
    formula = question.meta["dataset_name"] == "HME100k"
    text = _ocr_text(answer, formula)
    return float(any(_ocr_text(gold, formula) in text for gold in question.answers))


def _ocr_text(text: str, formula: bool) -> str:
    text = text.strip().replace("\n", " ")
    return text.replace(" ", "") if formula else text.lower()
