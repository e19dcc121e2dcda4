"""The teacher of the drawn worlds, which knows their truth."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from rationale.artifacts import UserError
from rationale.prompts import with_answer
from rationale.schema import LETTERS, Question
from rationale.settings import Fraction
from rationale.worlds import WORLDS, World, write_rationale


@dataclass(frozen=True, slots=True)
class ProgramTeacher:
    """Works out the mini worlds exactly and writes it down in varied wording.

    With probability `slip` it misreads the image first, as a real teacher sometimes does, so that the filter has
    something to find. With probability `terse` it leaves the working out, as a real teacher often skips the steps that
    a small model needs. Both depend on (seed, question_id) alone.
    """

    slip: Fraction = 0.0
    terse: Fraction = 0.0
    seed: int = 0
    name: str = "program"

    def way(self, question: Question) -> str:
        """In which of `WAYS` its rationale is written."""
        return "terse" if Random(f"{self.seed}/way/{question.question_id}").random() < self.terse else "worked"

    def __call__(self, question: Question) -> str:
        if "world" not in question.meta:
            raise UserError(f"{question.question_id}: teacher=program knows the mini worlds only; use teacher=recorded")
        rng = Random(f"{self.seed}/{question.question_id}")
        module = WORLDS[question.meta["task"]]
        world, args = question.meta["world"], question.meta["args"]
        if rng.random() < self.slip:
            world = misread(world, args, rng)
        solution = next(t for t in module.TEMPLATES if t.name == question.meta["template"]).solve(world, args)
        way = self.way(question)
        text = write_rationale(module.listing(world, rng), solution, answer := solution.answer, rng, way)
        if question.kind == "choice":
            if answer not in question.choices:  # a misread count beyond the choices: the teacher says so
                return text
            answer = LETTERS[question.choices.index(answer)]
        return with_answer(text, answer)


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
    _, key = item
    item[key] = max(1, item[key] + rng.choice((-2, -1, 1, 2)))
    return {**world, "items": items}
