"""Teachers: what writes a rationale for a question.

A teacher that answers one question at a time is called as teacher(question) and returns its text. One that answers many
at once has `name`, `meter`, `replies` and `preview`, as `OneByOne` has, which makes the first kind into the second.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from rationale.artifacts import UserError
from rationale.data.batch import Example
from rationale.data.encode import in_chunks
from rationale.data.mini import WORLDS, World, write_rationale
from rationale.models.generator import Local
from rationale.models.replies import Meter, Reply
from rationale.models.vlm import VLM
from rationale.prompts import ANSWER_MARKER, TEACHER_SYSTEM, teacher_text, with_answer
from rationale.schema import LETTERS, Question
from rationale.settings import Count, NonNegative, PositiveShare, Share


@dataclass(frozen=True, slots=True)
class ProgramTeacher:
    """Works out the mini worlds exactly and writes it down in varied wording.

    With probability `slip` it misreads the image first, as a real teacher sometimes does, so that the filter has
    something to find; the slip depends on (seed, question_id) alone.
    """

    slip: Share = 0.0
    seed: int = 0
    name: str = "program"

    def __call__(self, question: Question) -> str:
        if "world" not in question.meta:
            raise UserError(f"{question.question_id}: teacher=program knows the mini worlds only; use teacher=recorded")
        rng = Random(f"{self.seed}/{question.question_id}")
        module = WORLDS[question.meta["task"]]
        world, args = question.meta["world"], question.meta["args"]
        if rng.random() < self.slip:
            world = misread(world, args, rng)
        template = next(t for t in module.TEMPLATES if t.name == question.meta["template"])
        solution = template.solve(world, args)
        answer = solution.answer
        if question.kind == "choice":
            if answer not in question.choices:  # a misread count beyond the choices: the teacher says so
                return write_rationale(module.listing(world, rng), solution, answer, rng)
            answer = LETTERS[question.choices.index(answer)]
        return with_answer(write_rationale(module.listing(world, rng), solution, solution.answer, rng), answer)


def misread(world: World, args: dict[str, Any], rng: Random) -> World:
    """The world with one thing seen wrongly: a value or price off by a little, or one object overlooked.

    An overlooked object is never in the row of the object that the question names: the question would make no sense.
    """
    if "objects" in world:
        named = {t["row"] for t in world["objects"] if (t["color"], t["shape"]) == (args.get("c"), args.get("s"))}
        others = [t for t in world["objects"] if t["row"] not in named]
        lost = rng.choice(others) if others else None
        return {**world, "objects": [t for t in world["objects"] if t is not lost]}
    items = [dict(item) for item in world["items"]]
    item = rng.choice(items)
    key = "value" if "value" in item else "price"
    item[key] = max(1, item[key] + rng.choice((-2, -1, 1, 2)))
    return {**world, "items": items}


@dataclass(frozen=True, slots=True)
class RecordedTeacher:
    """Replays the rationale that the data carry in `meta["rationale"]`.

    A recorded text without an answer line gets one only where it states the annotated answer itself; otherwise it
    stays without and the filter counts it as unparsed. The answer is looked for as a whole word or number.
    """

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
    meter: Meter = field(default_factory=Meter)

    @property
    def name(self) -> str:
        return self.teacher.name

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        """Replies as they come to those of `asked` that are not `done`. `root` holds the images; in `folder` a teacher
        may keep what it needs to go on after a cut."""
        for question in asked:
            if question.question_id not in done:
                yield Reply(question.question_id, self.teacher(question))

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        """What would be asked, and what it would cost; asks nothing."""
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
    top_p: PositiveShare
    batch_size: Count
    seed: int
    name: str = "local"
    meter: Meter = field(default_factory=Meter)

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        answer = Local(self.model)
        ordered = sorted(asked, key=lambda q: (len(prompt(q)), q.question_id))  # like lengths: little padding
        examples = {q.question_id: Example(q.question_id, root / q.image, prompt(q), "") for q in ordered}
        answer.check(list(examples.values()), [self.max_new_tokens] * len(examples))
        for batch in in_chunks(ordered, self.batch_size):
            if all(q.question_id in done for q in batch):
                continue
            told = [examples[q.question_id] for q in batch]
            answered = answer(told, self.max_new_tokens, 1, self.temperature, self.top_p, self.seed)
            for question, (said,) in zip(batch, answered, strict=True):
                if question.question_id not in done:
                    yield Reply(question.question_id, said.text, finished=said.finished)

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        """What would be asked; asks nothing."""
        shown = "\n\n".join(f"--- {q.question_id} ({q.image})\n{prompt(q)}" for q in questions[:3])
        return f"{self.name}: {len(questions)} questions to a model of this machine, at no cost\n\n{shown}"


def prompt(question: Question) -> str:
    """The teacher's instructions as one turn: not every chat template has a system turn."""
    return f"{TEACHER_SYSTEM}\n\n{teacher_text(question)}"
