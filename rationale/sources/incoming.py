"""Rows of other projects as our records. A text that fits no form is an error, never a guess."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

from rationale.artifacts import UserError
from rationale.prompts import ANSWER_MARKER, SUFFIXES
from rationale.question_checks import check
from rationale.schema import LETTERS, Pair, Question, Rationale, RowError, check_writable, from_dict
from rationale.scoring.answers import extract_answer, extract_choice
from rationale.scoring.judged import judged
from rationale.sources.exchange import FORMS, Row
from rationale.sources.outgoing import cot_row, direct_row, pair_row, text_of, with_marks

PROMPTS = ("suffixed", "plain")
_SUFFIX = {re.compile(rf"\n{re.escape(text)}(\.?\s*)\Z"): style for style, text in SUFFIXES.items()}


@dataclass(frozen=True, slots=True)
class Source:
    """Some files of rows and what their rows do not say.

    `rows` are paths or patterns of .json, .jsonl or .parquet files in a form of `exchange`. `prompts` says whether
    every prompt ends in one of the four suffixes (paper, section 3.2), from which style and kind are read, or is taken
    as it stands (`plain`, kind open). `scorer` judges short answers, `teacher` is who wrote the rationales. A row that
    our export wrote says all this itself.
    """

    rows: list[str]
    form: str
    dataset: str
    split: str = "train"
    scorer: str = "exact"
    prompts: str = "suffixed"
    teacher: str = "imported"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UserError(f"exchange: form {self.form!r} is none of {list(FORMS)}")
        if self.prompts not in PROMPTS:
            raise UserError(f"exchange: prompts {self.prompts!r} is none of {list(PROMPTS)}")


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt taken apart; `ending` is what followed the suffix."""

    question: str
    kind: str
    style: str
    choices: list[str] = field(default_factory=list)
    ending: str = ""


def taken_apart(prompt: str, where: str) -> Asked:
    """Question, choices, kind and style of a prompt that ends in one of the four suffixes."""
    for pattern, (style, kind) in _SUFFIX.items():
        if found := pattern.search(prompt):
            body, ending = prompt[: found.start()], found[1]
            if kind == "short":
                return Asked(body, kind, style, ending=ending)
            question, choices = _with_choices(body, where)
            return Asked(question, kind, style, choices, ending)
    raise RowError(
        f"{where} ends in none of the suffixes {list(SUFFIXES.values())}, found {prompt[-80:]!r}; "
        "prompts=plain takes prompts as they stand"
    )


def _with_choices(body: str, where: str) -> tuple[str, list[str]]:
    lines = body.split("\n")
    first = max((i for i, line in enumerate(lines) if line.startswith("A. ")), default=len(lines))
    marks = [f"{letter}. " for letter in LETTERS[: len(lines) - first]]
    lettered = zip(lines[first:], marks, strict=False)
    if not 2 <= len(marks) == len(lines) - first or not all(line.startswith(mark) for line, mark in lettered):
        raise RowError(f"{where} asks for a letter, but its last lines are no choices 'A. ...', 'B. ...'")
    return "\n".join(lines[:first]), [line[3:] for line in lines[first:]]


def _answer(text: str, asked: Asked, where: str) -> str:
    """What a response that counts as correct answers: the text of a choice, or the short answer."""
    said = extract_answer(text, asked.style)
    if said is None:
        raise RowError(f"{where} has no line {ANSWER_MARKER!r} with an answer, found {text[-80:]!r}")
    if asked.kind != "choice":
        return said
    letter = extract_choice(said, asked.choices)
    if letter is None:
        raise RowError(f"{where} names none of the choices {asked.choices}, found {said[-80:]!r}")
    return asked.choices[LETTERS.index(letter)]


@dataclass(slots=True)
class _Found:
    """What the rows about one question have given so far."""

    question: Question
    teacher: str = ""
    cot: str | None = None
    rationale: Rationale | None = None
    direct: bool = False
    pairs: list[Pair] = field(default_factory=list)
    texts: dict[str, int] = field(default_factory=dict)
    own: set[str] = field(default_factory=set)


class Incoming:
    """Gathers rows into questions, rationales and pairs.

    Rows with the same image, text and choices are one question: its CoT row gives the rationale, its direct row the
    annotated answer (without one, the rationale's own), its pairs the pairs. A second CoT or direct row of a question,
    as in the released `geo.mcq.x2`, makes a second question of the same text, so that both are trained on.
    """

    def __init__(self) -> None:
        self._questions: dict[Any, list[_Found]] = {}

    def add(self, row: Row, source: Source, image: str, where: str) -> None:
        """Take one row; `image` is where its image was stored, empty for none."""
        if row.record is not None:
            self._add_own(row, source.form, image, where)
            return
        for name, text in zip(row.fields, (row.prompt, row.response, row.rejected), strict=True):
            if text is not None and not text.strip():
                raise RowError(f"{where}: field {name!r} is empty; complete the row or remove it")
            check_writable(text, name, where)
        for name, kept in row.rest.items():
            check_writable({name: kept}, name, where)
        plain = source.prompts == "plain"
        if not image and not (plain and row.rejected is None):
            raise RowError(f"{where}: no image; only rows to imitate with prompts=plain may be text alone")
        asked = Asked(row.prompt, "open", "direct")
        if not plain:
            asked = taken_apart(row.prompt, f"{where}: field {row.fields[0]!r}")
        pair = row.rejected is not None
        answer = row.response if plain else _answer(row.response, asked, f"{where}: field {row.fields[1]!r}")
        if pair and row.response == row.rejected:
            raise RowError(f"{where}: chosen and rejected are the same text; remove the row")
        slots = self._questions.setdefault(
            (source.dataset, source.split, image, asked.kind, asked.question, *asked.choices), []
        )
        taken = [pair or (not s.direct if asked.style == "direct" else s.cot is None) for s in slots]
        place = taken.index(True) if True in taken else len(slots)
        question = slots[place].question if place < len(slots) else _question(asked, source, image, place, answer)
        if asked.style == "direct" and not pair:
            question = replace(question, answers=[answer])
        try:
            check(question)
        except RowError as error:
            raise RowError(f"{where}: {error}") from error
        if place == len(slots):
            slots.append(_Found(question, source.teacher))
        slots[place].question = question
        self._keep(slots[place], row, asked)

    def _keep(self, found: _Found, row: Row, asked: Asked) -> None:
        question, key = found.question, asked.style
        if row.rejected is not None:
            key = f"pair-{len(found.pairs)}"
            found.pairs.append(_pair(found, row, asked))
        elif asked.style == "cot":
            found.cot = row.response
        else:
            found.direct = True
        kept = {"wrap": list(row.wrap), "rest": row.rest}
        if asked.ending:
            kept["ending"] = asked.ending
        if key == "direct" and row.response != question.answer:
            kept["target"] = row.response
        question.meta["source"]["rows"][key] = kept

    def _add_own(self, row: Row, form: str, image: str, where: str) -> None:
        """A row that our export wrote: its record, checked by writing the row again."""
        try:
            self._add_recorded(row, form, image, where)
        except RowError:
            raise
        except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise RowError(
                f"{where}: field 'record' is not as export wrote it ({error!r}); remove the field"
            ) from error

    def _add_recorded(self, row: Row, form: str, image: str, where: str) -> None:
        record = json.loads(row.record)
        fields, style, marks = record["question"], record["style"], record["marks"]
        key = f"pair-{record['pair']['pair_id']}" if "pair" in record else style
        texts = {n: with_marks(getattr(row, n), marks.get(n, ())) for n in ("prompt", "response")}
        question = from_dict(Question, {**fields, "image": image, "question": ""}, where)
        text = text_of(question, style, key, texts["prompt"])
        question = replace(question, question=text or "")
        found = self._questions.get(("record", question.question_id), [_Found(question)])[0]
        ours, pair, rationale = {"question_id": question.question_id}, None, None
        if "pair" in record:
            rejected = with_marks(row.rejected or "", marks.get("rejected", ()))
            replies = {"chosen": texts["response"], "rejected": rejected, "style": style}
            pair = from_dict(Pair, {**ours, **record["pair"], **replies}, where)
            again = pair_row(form, question, pair)
        elif "rationale" in record:
            rationale = from_dict(Rationale, {**ours, **record["rationale"], "text": texts["response"]}, where)
            again = cot_row(form, question, rationale)
        else:
            rationale = from_dict(Rationale, record["unkept"], where) if record["unkept"] else None
            again = direct_row(form, question, rationale)
        if text is None or replace(again, image=row.image) != row or found.question != question:
            raise RowError(
                f"{where}: the row of {question.question_id} says other than its record; remove the field 'record' to "
                "import it as it stands, or export it again"
            )
        if key in found.own:
            raise RowError(f"{where}: the {key} row of {question.question_id} occurs twice; remove one")
        self._questions[("record", question.question_id)] = [found]
        found.own.add(key)
        found.rationale = rationale or found.rationale
        found.pairs += [pair] if pair else []

    def records(self) -> tuple[list[Question], list[Rationale], list[Pair]]:
        """All that was gathered, in the order in which questions first came."""
        found = [slot for slots in self._questions.values() for slot in slots]
        for slot in found:
            if slot.cot is not None:
                slot.rationale = judged(slot.question, slot.cot, slot.teacher)
        rationales = [slot.rationale for slot in found if slot.rationale is not None]
        return [slot.question for slot in found], rationales, [pair for slot in found for pair in slot.pairs]


def _question(asked: Asked, source: Source, image: str, place: int, answer: str) -> Question:
    """A new question; its id is that of its content, so the order of rows and files is of no account."""
    content = json.dumps([source.split, image, asked.kind, asked.question, asked.choices])
    again = f"-{place + 1}" if place else ""
    scorer = {"choice": "multiple_choice", "open": "exact"}.get(asked.kind, source.scorer)
    return Question(
        question_id=f"{source.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:16]}{again}",
        dataset=source.dataset, split=source.split, image=image, question=asked.question, answers=[answer],
        kind=asked.kind, scorer=scorer, choices=asked.choices, meta={"source": {"form": source.form, "rows": {}}},
    )  # fmt: skip


def _pair(found: _Found, row: Row, asked: Asked) -> Pair:
    """A preference; texts of a question are numbered as they come, as the row does not say which sample each was."""

    def predicted(text: str) -> str | None:
        said = None if asked.kind == "open" else extract_answer(text, asked.style)
        return extract_choice(said, asked.choices) if said is not None and asked.kind == "choice" else said

    ids = [found.texts.setdefault(text, len(found.texts)) for text in (row.response, row.rejected)]
    return Pair(
        question_id=found.question.question_id, pair_id=len(found.pairs), style=asked.style, chosen=row.response,
        rejected=row.rejected, chosen_id=ids[0], rejected_id=ids[1], chosen_answer=predicted(row.response),
        rejected_answer=predicted(row.rejected),
    )  # fmt: skip
