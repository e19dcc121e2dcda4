"""3,192 published answers of six models to MathVision (mathllm/MATH-V), judged, against the source's own verdicts.

Where the two disagree the row is listed below with the reason. The source's `evaluate.py` takes the text behind the
last \\boxed{} or "the answer is", and `is_equal` compares it with the gold letter and with the gold option's text, as
lower-case text and then by value, with latex2sympy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from rationale.schema import LETTERS, Question
from rationale.scoring.judge import judge

ROOT = Path(os.environ.get("RATIONALE_REAL_DATA", "")) / "mathvision"
pytestmark = pytest.mark.skipif(
    not os.environ.get("RATIONALE_REAL_DATA") or not ROOT.is_dir(),
    reason="RATIONALE_REAL_DATA names no folder with mathvision; set it to judge its published predictions",
)

GEMINI, QWEN, INTERNLM = "Gemini-Pro-CoT", "Qwen-VL-Max-CoT", "InternLM-XComposer2-VL-CoT"
LLAVA, SPHINX = "LLaVA-v1.5-7B", "SPHINX-MoE"

# Right here, wrong there.
RIGHT_HERE = {
    # The answer is the gold option's value, and the option's text carries a unit, a degree sign or a word
    # ("$40 \mathrm{~cm}$", "$60^{\circ}$", "9 litres"), with which the source finds no answer equal. In 1558, 1679
    # and Qwen's 1762 the letter follows the box as well.
    "value of the gold option without its unit, or in another notation": [
        (GEMINI, 748), (GEMINI, 965), (QWEN, 319), (QWEN, 1113), (QWEN, 1168), (QWEN, 1343), (QWEN, 1512),
        (QWEN, 1546), (QWEN, 1619), (QWEN, 1651), (QWEN, 1653), (QWEN, 1762), (QWEN, 1763), (QWEN, 1956),
        (INTERNLM, 319), (INTERNLM, 1558), (INTERNLM, 1593), (INTERNLM, 1679), (INTERNLM, 1727), (INTERNLM, 1745),
        (INTERNLM, 1762),
    ],
    # "\frac{a^2}{2}" for "\frac{a^{2}}{2}", "\text{March}" for "$\text{March}$".
    "text of the gold option in other braces": [(QWEN, 1905), (INTERNLM, 2565)],
    # "(D) 100 cm", "The correct answer is (A) P and R.": the source makes one text of both ("d100cm", "apandr").
    "letter with its option's text": [
        (GEMINI, 1547), (GEMINI, 1564), (GEMINI, 1992), (QWEN, 390), (QWEN, 1222), (QWEN, 1355), (QWEN, 1729),
        (LLAVA, 761), (LLAVA, 873), (LLAVA, 1394), (LLAVA, 1569), (LLAVA, 1979),
    ],
    # "\textbf{A}" and "\boxed{(\text{B})}": the source reads "bfa" and "(b)".
    "letter in LaTeX dress": [(INTERNLM, 53), (INTERNLM, 2757)],
    # "A, A, A, A, A" names no other option.
    "the same letter again and again": [(SPHINX, 1203)],
    # "(D) 90 cm²" where D reads 45 cm², "(D) 21 p" where D reads 22 p: the letter is the answer, as in VLMEvalKit's
    # can_infer, which asks for the text only where there is no letter.
    "right letter with a text that is no option's": [(QWEN, 1735), (LLAVA, 1550)],
    # "there were $\frac{36}{30}\times 100 = 120$ votes cast all together": the source takes the words for the answer.
    "value at the end of an equation, with words behind it": [(QWEN, 2741)],
    # "\boxed{90} degrees. Option (C) is correct: 270": what is boxed is no option, and a letter is named behind it. The
    # source stops at the box.
    "right letter behind a box that holds no option": [(QWEN, 1627), (INTERNLM, 1284)],
}  # fmt: skip
# Wrong here, right there.
WRONG_HERE = {
    # Options A, B, C, E, "Impossible to determine", gold D = "E", response "(E)". As the prompt letters the options,
    # (E) is the fifth; the source accepts the gold's letter and its text alike.
    "an option's text is another option's letter": [(SPHINX, 742)],
}


def asked(row: dict) -> Question:
    """The source's row; its gold is a letter where there are choices, ours the text of the choice."""
    choices = row.get("choices") or []
    gold = choices[LETTERS.index(row["answer"])] if choices else row["answer"]
    kind = "choice" if choices else "short"
    return Question(row["id"], "mathvision", row["split"], [], row["question"], [gold], kind, "math", choices)


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def judged() -> list[tuple[tuple[str, int], bool, bool]]:
    """((model, number), right here, right there) of every prediction."""
    questions = {row["id"]: asked(row) for row in rows_of("data.jsonl")}
    return [
        (
            (row["model"], int(row["id"].removeprefix("mathvision-"))),
            judge(questions[row["id"]], row["response"], "direct").score == 1,
            row["correct"],
        )
        for row in rows_of("published_predictions.jsonl")
    ]


@pytest.mark.parametrize(("verdict", "num"), [(True, 356), (False, 2836)])
def test_agrees_with_97_percent_of_the_source_on_right_and_on_wrong_answers(judged, verdict, num):
    ours = [here for _, here, there in judged if there is verdict]
    assert len(ours) == num
    assert sum(here is verdict for here in ours) / num >= 0.97


@pytest.mark.parametrize(("here", "reasons"), [(True, RIGHT_HERE), (False, WRONG_HERE)])
def test_every_disagreement_is_listed_with_its_reason(judged, here, reasons):
    listed = [row for rows in reasons.values() for row in rows]
    assert sorted(listed) == sorted(row for row, ours, theirs in judged if ours is here and theirs is not here)
