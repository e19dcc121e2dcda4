"""Teachers: what writes a rationale for a question.

A teacher that answers one question at a time is called as teacher(question) and returns its text; it may say in which
`way(question)` it reasons. One that answers many
at once is a `Teacher`, which `OneByOne` makes of the first kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from rationale.models.batch import Example
from rationale.models.encode import in_chunks
from rationale.models.local import Local
from rationale.models.vlm import VLM
from rationale.prompts import ANSWER_MARKER, TEACHER_SYSTEM, teacher_text, with_answer
from rationale.replies import Budget, Reply
from rationale.schema import Question
from rationale.settings import Count, NonNegative, PositiveFraction


class Teacher(Protocol):
    """What stage distill needs of one that answers many questions."""

    name: str
    budget: Budget

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        """Replies as they come to those of `asked` that are not `done`. `root` holds the images; in `folder` a teacher
        may keep what it needs to go on after a cut."""

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        """What would be asked, and what it would cost; asks nothing."""


@dataclass(frozen=True, slots=True)
class RecordedTeacher:
    """Replays the rationale that the data carry in `meta["rationale"]`. A text without an answer line gets one where it
    states the annotated answer, as a whole word or number; otherwise the filter counts it as unparsed."""

    name: str = "recorded"

    def __call__(self, question: Question) -> str:
        text = question.meta.get("rationale") or ""
        if not text or ANSWER_MARKER.strip() in text:
            return text
        stated = re.search(rf"(?<![\w.,]){re.escape(question.answers[0])}(?![\w]|[.,]\d)", text, flags=re.IGNORECASE)
        return with_answer(text, question.answer) if stated else text


@dataclass(frozen=True, slots=True)
class OneByOne:
    """A teacher of one question at a time, asked like one of many."""

    teacher: Callable[[Question], str]
    budget: Budget = field(default_factory=Budget)

    @property
    def name(self) -> str:
        return self.teacher.name

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        for question in asked:
            if question.question_id not in done:
                way = getattr(self.teacher, "way", lambda _: "")(question)
                yield Reply(question.question_id, self.teacher(question), way=way)

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        return f"{self.name}: {len(questions)} questions, at no cost and without a prompt"


@dataclass(frozen=True, slots=True)
class LocalTeacher:
    """A vision-language model on this machine, asked what a served one is asked, in one user turn.

    A batch is made of the same questions in every run, for what is drawn depends on the whole batch: one that a cut
    run has stored in part is asked again, and only what is missing of it is new.
    """

    model: Callable[..., VLM]
    max_new_tokens: Count
    temperature: NonNegative
    top_p: PositiveFraction
    batch_size: Count
    seed: int
    name: str = "local"
    budget: Budget = field(default_factory=Budget)

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        answer = Local(self.model)
        ordered = sorted(asked, key=lambda q: (len(prompt(q)), q.question_id))  # like lengths: little padding
        examples = {q.question_id: Example(q.question_id, q.files(root), prompt(q), "") for q in ordered}
        answer.check(list(examples.values()), [self.max_new_tokens] * len(examples))
        for batch in in_chunks(ordered, self.batch_size):
            if all(q.question_id in done for q in batch):
                continue
            given = [examples[q.question_id] for q in batch]
            answered = answer(given, self.max_new_tokens, 1, self.temperature, self.top_p, self.seed)
            for question, (reply,) in zip(batch, answered, strict=True):
                if question.question_id not in done:
                    yield Reply(question.question_id, reply.text, finished=reply.finished)

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        shown = "\n\n".join(f"--- {q.question_id} ({q.shown})\n{prompt(q)}" for q in questions[:3])
        return f"{self.name}: {len(questions)} questions to a model of this machine, at no cost\n\n{shown}"


def prompt(question: Question) -> str:
    """The teacher's instructions as one turn: not every chat template has a system turn."""
    return f"{TEACHER_SYSTEM}\n\n{teacher_text(question)}"
