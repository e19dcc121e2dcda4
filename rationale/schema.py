"""The records that stages exchange: frozen, typed, one JSON object a line, the same field order always."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# question_id, style, text, finished, token_ids: what decides a response's tokens
ResponseKey = tuple[str, str, str, bool, tuple[int, ...]]


class Pictured:
    """A record with `images`, paths relative to the folder of the questions."""

    __slots__ = ()

    @property
    def shown(self) -> str:
        """Its images as one text: records with the same are about the same images."""
        return " ".join(self.images)

    def files(self, root: Path) -> tuple[Path, ...]:
        """Its images' files below the folder of the questions."""
        return tuple(root / image for image in self.images)


@dataclass(frozen=True, slots=True)
class Question(Pictured):
    """One question about its images, most often one.

    `images` is empty for a row of text alone (kind open only). Of several each is shown where question or choices say
    `<image 2>` for the second, and before all text where they do not (prompts.parts_of).
    `answers` holds every accepted answer, the preferred one first; for multiple choice it holds the text of the right
    choice, which is one of `choices`.
    `scorer` names the function of `scoring.judge` that judges any response to this question. `kind` picks
    the prompt suffix (paper, section 3.2): short answer, multiple choice, or open (no suffix).
    """

    question_id: str
    dataset: str
    split: str
    images: list[str]
    question: str
    answers: list[str]
    kind: str = "short"  # short | choice | open
    scorer: str = "exact"
    choices: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """What a model is taught to say: the letter for multiple choice, else the preferred answer."""
        return LETTERS[self.choices.index(self.answers[0])] if self.kind == "choice" else self.answers[0]


@dataclass(frozen=True, slots=True)
class Rationale:
    """A teacher's reply to one question. Only `status == "kept"` is trained on; the rest stay, with the reason.

    Where the teacher declined (refused), sent what is no answer (malformed) or sent nothing as often as it was asked
    (failed), `text` is what came, if anything did. `way` is how the teacher says that it reasons (`worlds.WAYS`).
    """

    question_id: str
    text: str
    predicted: str | None
    status: str  # kept | disagrees | unparsed | empty | refused | malformed | failed
    score: float
    teacher: str
    reason: str = ""  # why it was not kept
    way: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled response of a policy, judged against the annotation.

    `token_ids` are the tokens that were sampled, the end token left out, where the text has others; else empty.
    """

    question_id: str
    sample_id: int
    style: str  # direct | cot
    text: str
    predicted: str | None
    score: float
    finished: bool  # ended by itself, not by the token limit
    token_ids: list[int] = field(default_factory=list)

    @property
    def key(self) -> ResponseKey:
        return self.question_id, self.style, self.text, self.finished, tuple(self.token_ids)


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference between two responses to one question: which sample each was, what it answered, and whether it
    ended by itself (one cut at the token limit has no end to learn). Token ids are those of `Response`."""

    question_id: str
    pair_id: int
    style: str
    chosen: str
    rejected: str
    chosen_id: int
    rejected_id: int
    chosen_answer: str | None
    rejected_answer: str | None
    chosen_finished: bool = True
    rejected_finished: bool = True
    chosen_token_ids: list[int] = field(default_factory=list)
    rejected_token_ids: list[int] = field(default_factory=list)

    @property
    def keys(self) -> tuple[ResponseKey, ResponseKey]:
        """Of the chosen and of the rejected response."""
        return (
            (self.question_id, self.style, self.chosen, self.chosen_finished, tuple(self.chosen_token_ids)),
            (self.question_id, self.style, self.rejected, self.rejected_finished, tuple(self.rejected_token_ids)),
        )


@dataclass(frozen=True, slots=True)
class ResponseLogps:
    """Per-token log-probabilities (nats) of one text under one model, float32, end-of-text token included.

    Stage score writes one for each `key` there is: whether a text ended by itself decides whether its end token is
    among the values. `context` is the hash of the image's bytes and of the rendered prompt (models.fingerprints).
    """

    question_id: str
    style: str
    text: str
    finished: bool
    logps: list[float]
    context: str
    token_ids: list[int] = field(default_factory=list)

    @property
    def key(self) -> ResponseKey:
        return self.question_id, self.style, self.text, self.finished, tuple(self.token_ids)


@dataclass(frozen=True, slots=True)
class EvalRow(Pictured):
    """One prediction of one model on one question, kept whole so that any table cell opens onto its rows.

    `options` are the data set's choices that change scores (masks, OCR tokens, hints), as the question has them.
    """

    question_id: str
    dataset: str
    images: list[str]
    style: str
    text: str
    predicted: str | None
    score: float
    num_tokens: int
    finished: bool
    options: dict[str, Any] = field(default_factory=dict)


Record = TypeVar("Record")
Sourced = tuple[Question, list[tuple[bytes, str]]]  # a question, and each of its image files: bytes and suffix


class RowError(ValueError):
    """A row that cannot be used; the message names the file, the row, what was found and what to do."""


def _matches(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_matches(value, option) for option in get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(_matches(item, get_args(hint)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict)
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and -sys.float_info.max <= value <= sys.float_info.max  # no NaN, and no int that is no float
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_hints = cache(get_type_hints)


def check_writable(value: Any, name: str, where: str) -> None:
    """Raise RowError where a field is no JSON (RFC 8259: no NaN, no infinity) or its text no UTF-8 (half of a surrogate
    pair, which "\\ud800" in JSON reads as): what is taken in could not be written again."""
    try:
        if not (isinstance(value, str) and value.isascii()):
            _WRITER.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        shown = f"{value!r:.80}" if isinstance(value, str | float) else type(value).__name__
        raise RowError(
            f"{where}: field {name!r} cannot be written as JSON ({error}), found {shown}; mend or remove it"
        ) from error


def decoded(line: str | bytes) -> Any:
    """The value that JSON text writes; ValueError where it is none, is nested too deep, or says a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError(f"a key occurs twice among {[key for key, _ in pairs]!r:.120}")
        return found

    try:
        return json.loads(line, object_pairs_hook=once)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def from_dict(kind: type[Record], row: Any, where: str) -> Record:
    """A record from one decoded JSON object; raises RowError naming `where` and the field at fault."""
    if not isinstance(row, dict):
        raise RowError(f"{where}: a {kind.__name__} is a JSON object, found {type(row).__name__}")
    hints = _hints(kind)
    if "images" in hints and "images" not in row and isinstance(row.get("image"), str):  # as earlier versions wrote it
        row = {"images": [row["image"]] * bool(row["image"]), **{k: v for k, v in row.items() if k != "image"}}
    unknown = sorted(set(row) - set(hints), key=str)
    if unknown:
        raise RowError(f"{where}: {kind.__name__} has no field {unknown}; its fields are {list(hints)}")
    for name, value in row.items():
        if not _matches(value, hints[name]):
            raise RowError(f"{where}: field {name!r} of {kind.__name__} should be {hints[name]}, found {value!r:.80}")
        check_writable(value, name, where)
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in required if name not in row]:
        raise RowError(f"{where}: a {kind.__name__} needs {missing}; re-make the row, found {row!r:.120}")
    return kind(**row)


def iter_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Records of a JSON-lines file in order; a line cut short or of another shape is named with its number."""
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                row = decoded(line)
            except ValueError as error:
                raise RowError(
                    f"{where}: not a whole JSON line ({error}); re-make the file or drop the line"
                ) from error
            yield from_dict(kind, row, where)


def read_jsonl(path: Path, kind: type[Record]) -> list[Record]:
    """All records of a JSON-lines file."""
    return list(iter_jsonl(path, kind))


def to_line(record: Any) -> str:
    """One record as one line of JSON, fields in the order of the class."""
    return json.dumps(asdict(record), ensure_ascii=False) + "\n"


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Write records, one a line; returns how many. The caller renames the folder when all is whole."""
    count = 0
    with Path(path).open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_line(record))
            count += 1
    return count
