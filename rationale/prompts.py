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


# What the teacher is asked (paper, appendix B.1, Figures B.1 and B.2, in our words): the image, the question and the
# reference answer are given, one prompt serves every data set.
TEACHER_SYSTEM = (
    "You are given an image, a question about it and a reference answer. Write down the chain of thought that leads "
    "you to an answer of your own, with the details of the image that each step rests on."
)


def teacher_text(question: Question) -> str:
    """The teacher's user turn; of a multiple-choice question the reference is the letter with its text."""
    choice = question.kind == "choice"
    reference = f"{question.answer}. {question.answers[0]}" if choice else question.answer
    return "\n".join(
        [
            "# Objective",
            "Explain step by step how the image leads to the answer to the question.",
            "",
            "# Question",
            question_text(question),
            "",
            "# Reference answer",
            reference,
            "",
            "# Requirements",
            "1. Do not begin with an answer: begin with what is seen in the image and how it bears on the question.",
            "2. Do not mention the reference answer, nor that you agree with it: the solution is your own.",
            f"3. End with a line of its own: {ANSWER_MARKER}<your answer{', its letter alone' if choice else ''}>",
        ]
    )
