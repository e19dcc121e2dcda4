"""Prompt text (paper, section 3.2 and Figure D.1): the suffixes are an interface of the released rows."""

from __future__ import annotations

from rationale.schema import LETTERS, Question

ANSWER_MARKER = "### Answer: "

SUFFIXES = {
    ("direct", "short"): "Answer the question with a short answer",
    ("direct", "choice"): "Answer with the option's letter from the given choices directly",
    ("cot", "short"): "Generate a reason first and then output a short answer",
    ("cot", "choice"): "Generate a reason first and then output a letter answer",
}


def question_text(question: Question) -> str:
    """The question with its lettered choices, one a line."""
    lines = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices)]
    return "\n".join([question.question, *lines])


def prompt_text(question: Question, style: str) -> str:
    """What the user turn says: question, choices, and on a new line the suffix of `style` ("direct" or "cot").

    A question of kind "open" (descriptions, alignment rows) has no suffix in either style.
    """
    if question.kind == "open":
        return question_text(question)
    try:
        suffix = SUFFIXES[style, question.kind]
    except KeyError:
        raise ValueError(
            f"{question.question_id}: no prompt for style {style!r} and kind {question.kind!r}; known: {list(SUFFIXES)}"
        ) from None
    return f"{question_text(question)}\n{suffix}"


def with_answer(reasoning: str, answer: str) -> str:
    """A rationale as trained on: the reasoning, then the marker and the answer on a line of their own."""
    return f"{reasoning.rstrip()}\n{ANSWER_MARKER}{answer}"
