"""A teacher behind an OpenAI-compatible endpoint, asked live or in the provider's batch mode."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError
from rationale.endpoints.batches import Batches
from rationale.endpoints.chat import ImageEncoding
from rationale.endpoints.client import Endpoint
from rationale.images import open_image
from rationale.models.batch import Example
from rationale.prompts import TEACHER_SYSTEM, teacher_text
from rationale.replies import Reply
from rationale.schema import Question

LOOKED_AT = 16  # questions that the first estimate is made from


def example_of(question: Question, root: Path) -> Example:
    """What a teacher is asked of a question, in its user turn."""
    return Example(question.question_id, question.files(root), teacher_text(question), "")


@dataclass(eq=False, kw_only=True)
class ServedTeacher(Endpoint):
    """GPT-4o in the paper; any endpoint that speaks its language here. `batches` turns on the provider's batch mode."""

    picture: ImageEncoding
    batches: Batches | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = self.model_name
        if self.batches and len(self.addresses) > 1:
            raise UserError("teacher.batches: batch mode is of one provider; give one address in teacher.base_url")

    def body(self, question: Question, root: Path) -> dict[str, Any]:
        """The request about one question."""
        turns = self.picture.messages(example_of(question, root), TEACHER_SYSTEM)
        return {"model": self.name, "messages": turns, **self.options}

    def estimate(self, questions: Sequence[Question], root: Path) -> None:
        """Tell the budget about how many tokens a request has, from a few evenly spread questions."""
        some = questions[:: max(1, len(questions) // LOOKED_AT)][:LOOKED_AT]
        each = [self.picture.estimate(example_of(q, root), TEACHER_SYSTEM) for q in some]
        self.budget.expected_input = sum(each) / max(1, len(some))

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        """As `OneByOne.replies`; the budget knows the first estimate before the first reply is asked for."""
        left = [q for q in asked if q.question_id not in done]
        self.estimate(left, root)
        requests = [(q.question_id, partial(self.body, q, root)) for q in left]
        arriving = self.batches.stream(self, requests, folder) if self.batches else self.stream(requests)
        return (replies[0] for _, replies in arriving)

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        """The projected cost and three rendered prompts; asks nothing and needs no key."""
        self.estimate(questions, root)
        tokens = [round(n * len(questions)) for n in self.budget.each]
        cost = self.budget.projected(len(questions))
        price = "at unknown prices (budget.input_price, budget.output_price)" if cost is None else f"about ${cost:.2f}"
        shown = [f"{self.name}: {len(questions)} questions to ask, about {tokens[0]} + {tokens[1]} tokens, {price}"]
        for question in questions[:3]:
            sent = []
            for name, path in zip(question.images, question.files(root), strict=True):
                size = self.picture.size(*open_image(path, question.question_id).size)
                sent.append(f"<{name}, sent as {size[0]} x {size[1]} {self.picture.format}>")
            user = "\n".join([*sent, teacher_text(question)])
            shown.append(f"--- {question.question_id}\n[system] {TEACHER_SYSTEM}\n[user] {user}")
        return "\n\n".join(shown)
