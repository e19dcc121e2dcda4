"""Prompt text (paper, section 3.2 and Figure D.1): the suffixes are an interface of the released rows."""

from __future__ import annotations

import re

from rationale.schema import LETTERS, Question

ANSWER_MARKER = "### Answer: "
PLACE = re.compile(r"<image (\d{1,3})>")

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


def places_in(text: str, num_images: int) -> dict[int, re.Match]:
    """Where a text shows which of several images, by their numbers from 0: where it first says `<image 2>` of the
    second. What it says of one image is text."""
    found: dict[int, re.Match] = {}
    for mark in PLACE.finditer(text) if num_images > 1 else ():
        if 0 < int(mark[1]) <= num_images:
            found.setdefault(int(mark[1]) - 1, mark)
    return found


def parts_of(prompt: str, num_images: int) -> list[str | int]:
    """What a user turn shows in order: texts, the last of which may be empty, and the numbers of its images, from 0.
    Images that the text does not name stand before it."""
    places, start = places_in(prompt, num_images), 0
    found: list[str | int] = [number for number in range(num_images) if number not in places]
    for number, mark in places.items():
        found += [*filter(None, [prompt[start : mark.start()]]), number]
        start = mark.end()
    return [*found, prompt[start:]]


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


# What an extractor is asked (lupantech/MathVista, evaluation/extract_answer.py and its prompt, in our words and with
# examples of our own): hint, question and response, then the answer alone.
EXTRACTED = "Extracted answer:"
EXTRACTOR_TASK = (
    "Each block below has a hint about the form of the answer, a question and a model's response to it. Take the final "
    "answer out of the last response and write it, in the form that the hint asks for and with nothing else, where the "
    "last block ends. Do not answer the question yourself."
)


def _block(form: str, question: str, response: str, extracted: str = "") -> str:
    hint = f"Hint: the answer is {form}."
    return f"{hint}\nQuestion: {question}\n\nModel response: {response}\n\n{EXTRACTED} {extracted}".rstrip()


EXTRACTOR_EXAMPLES = (
    _block("a whole number, for example 7", "How many birds sit on the wire?", "I count five birds on the wire.", "5"),
    _block(
        "a number with 1 decimal place, for example 1.2",
        "How heavy is the parcel on the scale? (Unit: kg)",
        "The needle stands between 2 and 3, closer to 3, so it weighs 2.8 kg.",
        "2.8",
    ),
    _block(
        "a number with 2 decimal places, for example 1.25",
        "Which share of the pie is blue?",
        "A fourth and a twentieth of the pie are blue. Together that is a share of 0.3.",
        "0.30",
    ),
    _block(
        "a list in square brackets, for example [4, 9]",
        "In which years did the line reach its peak?",
        "It peaks twice, in 1998 and once more in 2006.",
        "[1998, 2006]",
    ),
    _block(
        "the letter of one of the choices, for example B",
        "Which side is the longest?\nA. AB\nB. BC\nC. CA",
        "BC is opposite the right angle, which makes it the hypotenuse and so the longest side.",
        "B",
    ),
)


def answer_form(question: Question) -> str:
    """The form of answer that a question wants; its type and precision travel in `meta` under MathVista's names."""
    if question.choices:
        return "the letter of one of the choices, for example B"
    kind = question.meta.get("answer_type")
    if kind == "integer":
        return "a whole number, for example 7"
    if kind == "float":
        places = int(question.meta["precision"])
        return f"a number with {places} decimal place{'s' * (places != 1)}, for example {1.25:.{places}f}"
    if kind == "list":
        return "a list in square brackets, for example [4, 9]"
    return "a word, a number or a short phrase"


def extractor_text(question: Question, response: str) -> str:
    """The extractor's user turn about one response."""
    last = _block(answer_form(question), question_text(question), response)
    return "\n\n".join([EXTRACTOR_TASK, *EXTRACTOR_EXAMPLES, last])
