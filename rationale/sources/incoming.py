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
from rationale.sources.exchange import ROW_FORMS, Row
from rationale.sources.outgoing import cot_row, direct_row, order_of, pair_row, placed, text_of, with_marks, wrap_of

PROMPTS = ("suffixed", "plain")
_SUFFIX = {re.compile(rf"\n{re.escape(text)}(\.?\s*)\Z"): style for style, text in SUFFIXES.items()}


@dataclass(frozen=True, slots=True)
class RowFiles:
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
        for name, value, known in (("form", self.form, ROW_FORMS), ("prompts", self.prompts, PROMPTS)):
            if value not in known:
                raise UserError(f"exchange: {name} {value!r} is none of {list(known)}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a prompt asks; `ending` is what followed the suffix."""

    question: str
    kind: str
    style: str
    choices: list[str] = field(default_factory=list)
    ending: str = ""


def parse_prompt(prompt: str, where: str) -> Prompt:
    """Question, choices, kind and style of a prompt that ends in one of the four suffixes."""
    for pattern, (style, kind) in _SUFFIX.items():
        if found := pattern.search(prompt):
            body, choices = prompt[: found.start()], []
            if kind == "choice":
                body, choices = _with_choices(body, where)
            return Prompt(body, kind, style, choices, found[1])
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


def _predicted(text: str, prompt: Prompt) -> tuple[str | None, str | None]:
    """What a response answers, as it says it and as it is judged: the letter of a choice, or the short answer."""
    said = None if prompt.kind == "open" else extract_answer(text, prompt.style)
    return said, extract_choice(said, prompt.choices) if said is not None and prompt.kind == "choice" else said


def _answer(text: str, prompt: Prompt, where: str) -> str:
    """What a response that counts as correct answers: the text of a choice, or the short answer."""
    said, predicted = _predicted(text, prompt)
    if said is None:
        raise RowError(f"{where} has no line {ANSWER_MARKER!r} with an answer, found {text[-80:]!r}")
    if predicted is None:
        raise RowError(f"{where} names none of the choices {prompt.choices}, found {said[-80:]!r}")
    return prompt.choices[LETTERS.index(predicted)] if prompt.kind == "choice" else said


@dataclass(slots=True)
class _Gathered:
    """What the rows about one question have given so far; `cot` is a response of which no row of ours says more."""

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

    Rows with the same images, text and choices are one question: its CoT row gives the rationale, its direct row the
    annotated answer (without one, the rationale's own), its pairs the pairs. A second CoT or direct row of a question,
    as in the released `geo.mcq.x2`, makes a second question of the same text, so that both are trained on.
    """

    def __init__(self) -> None:
        self._questions: dict[Any, list[_Gathered]] = {}

    def add(self, row: Row, source: RowFiles, images: list[str], where: str) -> None:
        """Take one row; `images` are where its images were stored."""
        if row.record is not None:
            try:
                self._add_own(row, source.form, images, where)
            except RowError:
                raise
            except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
                raise RowError(
                    f"{where}: field 'record' is not as export wrote it ({error!r}); remove the field"
                ) from error
            return
        for name, text in zip(row.fields, (row.prompt, row.response, row.rejected), strict=True):
            if text is not None and not text.strip():
                raise RowError(f"{where}: field {name!r} is empty; complete the row or remove it")
            check_writable(text, name, where)
        for name, kept in row.rest.items():
            check_writable({name: kept}, name, where)
        plain, pair = source.prompts == "plain", row.rejected is not None
        if not images and not (plain and not pair):
            raise RowError(f"{where}: no image; only rows to imitate with prompts=plain may be text alone")
        prompt, answer = Prompt(row.prompt, "open", "direct"), row.response
        if not plain:
            prompt = parse_prompt(row.prompt, f"{where}: field {row.fields[0]!r}")
            answer = _answer(row.response, prompt, f"{where}: field {row.fields[1]!r}")
        if pair and row.response == row.rejected:
            raise RowError(f"{where}: chosen and rejected are the same text; remove the row")
        key = (source.dataset, source.split, *images, prompt.kind, prompt.question, *prompt.choices)
        slots = self._questions.setdefault(key, [])
        free = [pair or (not slot.direct if prompt.style == "direct" else slot.cot is None) for slot in slots]
        place = free.index(True) if True in free else len(slots)
        question = slots[place].question if place < len(slots) else _question(prompt, source, images, place, answer)
        if prompt.style == "direct" and not pair:
            question = replace(question, answers=[answer])
        try:
            check(question)
        except RowError as error:
            raise RowError(f"{where}: {error}") from error
        if place == len(slots):
            slots.append(_Gathered(question, source.teacher))
        slots[place].question = question
        self._keep(slots[place], row, prompt)

    def _keep(self, found: _Gathered, row: Row, prompt: Prompt) -> None:
        question, key = found.question, prompt.style
        if row.rejected is not None:
            key = f"pair-{len(found.pairs)}"
            found.pairs.append(_pair(found, row, prompt))
        elif prompt.style == "cot":
            found.cot = row.response
        else:
            found.direct = True
        kept = {"wrap": list(row.wrap), "rest": row.rest}
        if prompt.ending:
            kept["ending"] = prompt.ending
        if key == "direct" and row.response != question.answer:
            kept["target"] = row.response
        question.meta["source"]["rows"][key] = kept

    def _add_own(self, row: Row, form: str, images: list[str], where: str) -> None:
        """A row that our export wrote: its record, checked by writing the row again."""
        record = json.loads(row.record)
        fields, style, marks = record["question"], record["style"], record["marks"]
        key = f"pair-{record['pair']['pair_id']}" if "pair" in record else style
        named = record.get("named", [])  # images within the prompt, by their numbers in the question
        order = order_of(named, len(images))
        fields["images"] = [images[order.index(number)] for number in range(len(images))]
        question = from_dict(Question, {**fields, "question": ""}, where)
        texts = {name: getattr(row, name) or "" for name in ("prompt", "response", "rejected")}
        if named:
            before, after = wrap_of(form, question, key, len(images) - len(named))
            texts["prompt"] = placed(row.asked[len(before) : len(row.asked) - len(after)], named)
        texts = {name: with_marks(text, marks.get(name, ())) for name, text in texts.items()}
        text = text_of(question, style, key, texts["prompt"])
        question = replace(question, question=text or "")
        found = self._questions.get(("record", question.question_id), [_Gathered(question)])[0]
        ours, pair, rationale = {"question_id": question.question_id}, None, None
        if "pair" in record:
            replies = {"chosen": texts["response"], "rejected": texts["rejected"], "style": style}
            pair = from_dict(Pair, {**ours, **record["pair"], **replies}, where)
            again = pair_row(form, question, pair)
        elif "rationale" in record:
            rationale = from_dict(Rationale, {**ours, **record["rationale"], "text": texts["response"]}, where)
            again = cot_row(form, question, rationale)
        else:
            rationale = from_dict(Rationale, record["unkept"], where) if record["unkept"] else None
            again = direct_row(form, question, rationale)
        if named and again.asked == row.asked:  # images beside one another may stand before a text or in it
            again = replace(again, prompt=row.prompt, wrap=row.wrap)
        if text is None or replace(again, images=row.images) != row or found.question != question:
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
        rationales = [s.rationale if s.cot is None else judged(s.question, s.cot, s.teacher) for s in found]
        return (
            [s.question for s in found],
            [r for r in rationales if r is not None],
            [p for s in found for p in s.pairs],
        )


def _question(prompt: Prompt, source: RowFiles, images: list[str], place: int, answer: str) -> Question:
    """A new question; its id is that of its content, so the order of rows and files is of no account."""
    content = json.dumps([source.split, " ".join(images), prompt.kind, prompt.question, prompt.choices])
    again = f"-{place + 1}" if place else ""
    return Question(
        question_id=f"{source.dataset}-{hashlib.sha256(content.encode()).hexdigest()[:16]}{again}",
        dataset=source.dataset, split=source.split, images=images, question=prompt.question, answers=[answer],
        kind=prompt.kind, scorer={"choice": "multiple_choice", "open": "exact"}.get(prompt.kind, source.scorer),
        choices=prompt.choices, meta={"source": {"form": source.form, "rows": {}}},
    )  # fmt: skip


def _pair(found: _Gathered, row: Row, prompt: Prompt) -> Pair:
    """A preference; texts of a question are numbered as they come, as the row does not say which sample each was."""
    texts = (row.response, row.rejected)
    ids = [found.texts.setdefault(text, len(found.texts)) for text in texts]
    answers = [_predicted(text, prompt)[1] for text in texts]
    return Pair(found.question.question_id, len(found.pairs), prompt.style, *texts, *ids, *answers)
