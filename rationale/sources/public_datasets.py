"""What a row of each public data set says: one small function a set, from the columns of its hub copy to `ParsedRow`.

The columns are those of the cards named in `conf/dataset/`. Keyword arguments are the options that change scores; they
come from `options` of the config and stand in every question's `meta`.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rationale.artifacts import UserError
from rationale.schema import LETTERS, RowError
from rationale.scoring.answers import extract_choice

Row = Mapping[str, Any]
REASONS = {
    "no_image": "the row has no image, and an image question needs one",
    "several_images": "the row has more than one image",
    "repeated_choices": "two choices read the same, so a letter does not name one answer",
    "unreadable_choices": "the choices could not be told apart in the question's text",
    "no_answer": "the row states no answer that can be scored",
    "difficult_direct_answer": "A-OKVQA leaves such rows out of its direct-answer score",
}


class Unusable(Exception):
    """A row that cannot be asked as it stands; `reason` is a key of REASONS."""

    def __init__(self, reason: str):
        super().__init__(REASONS[reason])
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """A question before it has an id, a scorer and a stored image. With `choices`, `answers` is the right one's text.

    `images` is an image as the row holds it (bytes, a {"bytes", "path"} pair, a picture of Pillow, or a path), or a
    list of them.
    """

    question: str
    answers: list[str]
    images: Any
    key: Any = None  # the source's id of the row; where it has none, its place in the split counts
    split: str | None = None  # where the row says it itself
    choices: list[str] = field(default_factory=list)
    kind: str | None = None  # where it is neither `choice` nor `short`
    meta: Mapping[str, Any] = field(default_factory=dict)


def one_of(name: str, value: Any, known: Sequence[Any]) -> Any:
    """The value of an option; UserError where it is none of those known."""
    if value not in known:
        raise UserError(f"dataset.options.{name}={value}: it is one of {list(known)}")
    return value


def choice_at(choices: Sequence[str], place: int | None) -> str:
    """The text of the right choice."""
    if place is None or not 0 <= place < len(choices):
        raise Unusable("no_answer")
    return choices[place]


def letter_of(choices: Sequence[str], letter: str) -> str:
    """The text of the choice that a letter names."""
    return choice_at(choices, LETTERS.find(letter.strip()) if len(letter.strip()) == 1 else None)


def choice_in(choices: Sequence[str], text: str) -> str:
    """The text of the choice that a reply names."""
    return letter_of(choices, extract_choice(text, choices) or "")


def split_choices(text: str, gap: str = r"[\s,]") -> tuple[str, list[str]]:
    """The stem and the choices of a text that lists "A: one, B: two" or "A. one" a line; `gap` stands before a letter.

    Letters are sought in their order, so a "B:" within choice A is taken for the next choice; there is no telling.
    """
    marks: list[re.Match] = []
    for letter in LETTERS:
        begin = marks[-1].end() if marks else 0
        mark = re.compile(rf"(?:^|{gap})\(?{letter}(?:[.:)]|\)[.:])\s*").search(text, begin)
        if mark is None:
            break
        marks.append(mark)
    if len(marks) < 2:
        raise Unusable("unreadable_choices")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    choices = [text[mark.end() : end].strip().rstrip(",") for mark, end in zip(marks, ends, strict=True)]
    return text[: marks[0].start()].strip(), choices


TAG = re.compile(r"<image ?(\d*)>")
ARTICLES = ("the", "a", "an", "this", "that", "each")
UNFINISHED = (*ARTICLES, "of", "in", "on", "from", "by", "with", "to", "as", "like", "for", "is", "are", "and", "or",
              "than")  # fmt: skip  # no sentence ends in one of these


def in_words(text: str) -> str:
    """The text with "the image" for "<image 1>" where its sentence needs it; one image stands before all text.

    Of several images each is "image 2" by its number. A tag between sentences or on a line of its own goes: it only
    shows where the picture was. So Megatron-LM's evaluation asks MMMU with one image; the authors leave the tags, and
    VLMEvalKit and lmms-eval put the pixels in their place, where our prompts have none.
    """
    said, *rest = TAG.split(text)
    several = len(set(rest[::2])) > 1
    for number, after in zip(rest[::2], rest[1::2], strict=True):
        before, following = said.rstrip(" \t"), after.lstrip(" \t")
        last = (before.split() or [""])[-1].lower()
        finished, opens = last[-1:] in ("", *".?!:;"), last[-1:] in ("", *".?!")
        begins, ends = before[-1:] in ("", "\n"), following[:1] in ("", "\n")  # a line
        needed = (
            (following[:1] in (*".,;:?!)",) and (not opens or not last))
            or (last in UNFINISHED and not begins)
            or (finished and following[:1].islower())
            or not (finished or begins or ends or following[0].isupper())
        )
        if needed and not (begins and ends):
            name = f"image {number}" if several else "image" if last in ARTICLES else "the image"
            name = name[0].upper() + name[1:] if opens else name
            said += " " * said[-1:].isalnum() + name + " " * after[:1].isalnum() + after
        else:
            gap = "\n" if "\n" in (before[-1:], following[:1]) else " "
            said = before.rstrip() + gap + following.lstrip()
    return said.strip()


def plain(row: Row, *, names: Mapping[str, str], letters: bool) -> ParsedRow:
    """A row of a person's own folder (`sources.public.folder`). `letters`: the answer to choices is their letter.

    Whole numbers and decimals are read as the text that they are written as; what is wrong is named by its column.
    """

    def text(column: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return str(value)
        raise RowError(f"column {column!r} should be text, found {value!r:.80}; mend or remove the row")

    for needed in ("question_id", "question", "answer", "image", "split"):
        if row.get(names[needed]) in (None, "", []):
            raise RowError(f"no {names[needed]!r} in this row; add it or remove the row")
    choices = given = row.get(names["choices"]) or []
    if isinstance(given, str):  # as a table of text holds them
        with suppress(SyntaxError, ValueError, RecursionError):
            choices = ast.literal_eval(given)
    if not isinstance(choices, list | tuple):
        raise RowError(f'column {names["choices"]!r} should be a list such as ["red", "blue"], found {given!r:.80}')
    choices = [text(names["choices"], choice) for choice in choices]
    answer = row[names["answer"]]
    answers = [text(names["answer"], one) for one in (answer if isinstance(answer, list) else [answer])]
    if choices and letters:
        answers = [letter_of(choices, answers[0])]
    question, key, split = (text(names[name], row[names[name]]) for name in ("question", "question_id", "split"))
    rationale = row.get(names["rationale"])
    meta = {"rationale": None if rationale is None else text(names["rationale"], rationale)}
    return ParsedRow(question, answers, row[names["image"]], key, split, choices, meta=meta)


def aokvqa(row: Row, *, answer: str) -> ParsedRow:
    """A-OKVQA: `answer` is "choice" (four choices) or "direct" (ten answers of annotators, no choices shown)."""
    rationales = list(row["rationales"] or [])
    meta = {"rationale": rationales[0] if rationales else None, "rationales": rationales}
    if one_of("answer", answer, ("choice", "direct")) == "choice":
        choices = row["choices"]
        right = choice_at(choices, row["correct_choice_idx"])
        return ParsedRow(row["question"], [right], row["image"], row["question_id"], choices=choices, meta=meta)
    # The hub copy holds the ten answers as the text of a Python list, the authors' files as a list.
    given = row["direct_answers"]
    answers = ast.literal_eval(given) if isinstance(given, str) and given else list(given or [])
    if str(row["difficult_direct_answer"]) == "True":
        raise Unusable("difficult_direct_answer")
    return ParsedRow(row["question"], blanks_last(answers), row["image"], row["question_id"], meta=meta)


def blanks_last(answers: Sequence[str]) -> list[str]:
    """The answers of several annotators, those who wrote nothing last: they count, and none is taught."""
    return sorted(answers, key=lambda answer: not answer.strip())


def chartqa(row: Row) -> ParsedRow:
    """ChartQA; `meta["part"]` tells the questions of people from those of a machine."""
    part = row["human_or_machine"]
    part = part if isinstance(part, str) else ("human", "machine")[part]
    return ParsedRow(row["query"], row["label"], row["image"], meta={"part": part})


def docvqa(row: Row) -> ParsedRow:
    """DocVQA and InfographicVQA."""
    return ParsedRow(row["question"], row["answers"] or [], row["image"], row["questionId"])


def textvqa(row: Row, *, ocr_tokens: bool) -> ParsedRow:
    """TextVQA; with `ocr_tokens` the question ends with what an OCR system read, as LLaVA's evaluation has it."""
    question = row["question"]
    if ocr_tokens:
        question += f"\nReference OCR token: {', '.join(row['ocr_tokens'] or [])}"
    return ParsedRow(question, blanks_last(row["answers"] or []), row["image"], row["question_id"])


def ai2d(row: Row, *, images: str) -> ParsedRow:
    """AI2D. `images` names the copy: diagrams whose labels are covered by letters, or left as they were."""
    choices, answer = row["options"], str(row["answer"])
    right = letter_of(choices, answer if not answer.isdigit() else LETTERS[int(answer)])
    return ParsedRow(row["question"], [right], row["image"], choices=choices, meta={"images": images})


def ai2d_train(row: Row) -> ParsedRow:
    """AI2D in the form of The Cauldron, one turn of an image's conversation a row: "Question: ... Choices: A. ..."."""
    turn = row["texts"]
    stem, _, listed = turn["user"].removeprefix("Question:").partition("Choices:")
    choices = split_choices(listed.strip(), gap=r"\n")[1]
    choices[-1] = choices[-1].split("\n")[0].strip()  # what follows is the instruction
    return ParsedRow(stem.strip(), [choice_in(choices, turn["assistant"])], row["images"], choices=choices)


def scienceqa(row: Row, *, subset: str, hint: bool, lecture: bool) -> ParsedRow:
    """ScienceQA. `hint` and `lecture` put those texts before the question; `subset` names the copy, IMG or FULL."""
    before = [("Lecture", row["lecture"])] * lecture + [("Context", row["hint"])] * hint
    question = "\n".join([*(f"{name}: {text.strip()}" for name, text in before if text), row["question"]])
    choices = row["choices"]
    meta = {"rationale": row["solution"] or None, "subject": row["subject"], "topic": row["topic"], "subset": subset}
    return ParsedRow(question, [choice_at(choices, row["answer"])], row["image"], choices=choices, meta=meta)


def mathvision(row: Row) -> ParsedRow:
    """MATH-Vision: a letter where there are options, else a number or an expression."""
    choices, answer = [TAG.sub(r"image \1", c) for c in row["options"] or []], str(row["answer"])
    meta = {"rationale": row["solution"] or None, "subject": row["subject"], "level": row["level"]}
    answers = [letter_of(choices, answer) if choices else answer]
    return ParsedRow(in_words(row["question"]), answers, row["decoded_image"], row["id"], choices=choices, meta=meta)


def gllava(row: Row, *, task: str) -> ParsedRow:
    """Geo170K. `task` is "qa" (questions, most with choices, and worked solutions) or "alignment" (descriptions)."""
    asked, said = (turn["value"].replace("<image>", "").strip() for turn in row["conversations"][:2])
    if one_of("task", task, ("qa", "alignment")) == "alignment":
        return ParsedRow(asked, [said], row["image"], kind="open")
    question = asked.split("Question:", 1)[-1].strip()
    stem, listed, choices_text = question.partition("Choices:")
    if listed:
        choices = split_choices(choices_text.strip())[1]
        right = [choice_in(choices, said)]
        return ParsedRow(stem.strip(), right, row["image"], choices=choices, meta={"rationale": said})
    answer = said.rpartition("Answer:")[2].strip() if "Answer:" in said else ""
    if not answer:
        raise Unusable("no_answer")
    return ParsedRow(question, [answer], row["image"], meta={"rationale": said})


def mathvista(row: Row, *, hint: bool) -> ParsedRow:
    """MathVista, the hub's copy or the authors' `testmini.json`, which has no `query` and names images by path.

    `hint` puts the first line of the official query before the question: the form of answer wanted.
    """
    if hint and row["query"] is None:
        raise RowError("no 'query' in this row, which dataset.options.hint=true is read from; take the hub's copy")
    question = row["question"] + (f" (Unit: {row['unit']})" if row["unit"] else "")
    first, _, rest = (row["query"] or "").partition("\n")
    if hint and rest and first.startswith("Hint:"):
        question = f"{first}\n{question}"
    meta = {name: row[name] for name in ("question_type", "answer_type", "precision", "unit")}
    meta["source"] = row["metadata"]["source"]
    choices = list(row["choices"] or []) if row["question_type"] == "multi_choice" else []
    image = row["image"] if row["decoded_image"] is None else row["decoded_image"]
    return ParsedRow(question, [row["answer"]], image, row["pid"], choices=choices, meta=meta)


def ocrbench(row: Row) -> ParsedRow:
    """OCRBench; its rule depends on `meta["dataset_name"]`, the set that a row was taken from."""
    meta = {"dataset_name": row["dataset"], "question_type": row["question_type"]}
    return ParsedRow(row["question"], row["answer"], row["image"], meta=meta)


def mmstar(row: Row) -> ParsedRow:
    """MMStar, whose questions end with "Options: A: ..., B: ..."."""
    stem, listed, options = row["question"].rpartition("Options:")
    if not listed:
        raise Unusable("unreadable_choices")
    choices = split_choices(options.strip())[1]
    meta, answers = {name: row[name] for name in ("category", "l2_category")}, [letter_of(choices, row["answer"])]
    return ParsedRow(in_words(stem), answers, row["image"], row["index"], choices=choices, meta=meta)


def mmmu(row: Row) -> ParsedRow:
    """MMMU. Choices and lists of answers are texts of Python lists. Of several images each stays where it is named."""
    numbers = [str(i) for i in range(1, 8) if row[f"image_{i}"] is not None]
    places = {number: f"<image {place}>" for place, number in enumerate(numbers, 1)} if len(numbers) > 1 else {}

    def shown(text: str) -> str:
        return TAG.sub(lambda tag: places.get(tag[1], f"image {tag[1]}"), text)

    given, choices = row["answer"], []
    if row["question_type"] == "multiple-choice":
        choices = [shown(str(c)) for c in ast.literal_eval(row["options"])]
    answers = [str(a) for a in ast.literal_eval(given)] if not choices and given.startswith("[") else [given]
    answers = [letter_of(choices, given)] if choices else answers
    meta = {name: row[name] for name in ("subfield", "question_type")}
    question = shown(row["question"]).strip() if places else in_words(row["question"])
    images = [row[f"image_{number}"] for number in numbers]
    return ParsedRow(question, answers, images, row["id"], choices=choices, meta=meta)
