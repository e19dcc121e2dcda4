"""A teacher behind an OpenAI-compatible endpoint, asked live or in the provider's batch mode."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError
from rationale.endpoints.batches import Batches
from rationale.endpoints.chat import CHARACTERS_A_TOKEN, Picture, messages
from rationale.endpoints.client import Client, Traffic
from rationale.images import open_image
from rationale.prompts import TEACHER_SYSTEM, teacher_text
from rationale.replies import Meter, Reply
from rationale.schema import Question
from rationale.settings import Addresses

LOOKED_AT = 16  # questions that the first estimate is made from


class ServedTeacher:
    """GPT-4o in the paper; any endpoint that speaks its language here.

    `options` go into every request as they are (temperature, max_tokens and what else the endpoint knows). `batches`
    turns on the provider's batch mode.
    """

    def __init__(
        self,
        model_name: str,
        base_url: Addresses,
        key_variable: str | None,
        options: dict[str, Any],
        picture: Picture,
        traffic: Traffic,
        budget: Meter,
        batches: Batches | None = None,
    ):
        self.name, self.options, self.picture, self.meter = model_name, options, picture, budget
        self.batches = batches
        self.client = Client(model_name, base_url, key_variable, traffic, budget)
        if batches and len(self.client.addresses) > 1:
            raise UserError("teacher.batches: batch mode is of one provider; give one address in teacher.base_url")

    def body(self, question: Question, root: Path) -> dict[str, Any]:
        """The request about one question."""
        url = self.picture.url(root / question.image, question.question_id)
        turns = messages(TEACHER_SYSTEM, teacher_text(question), url, self.picture.detail)
        return {"model": self.name, "messages": turns, **self.options}

    def estimate(self, questions: Sequence[Question], root: Path) -> None:
        """Tell the meter about how many tokens a request has, from a few evenly spread questions."""
        some = questions[:: max(1, len(questions) // LOOKED_AT)][:LOOKED_AT]
        sizes = [open_image(root / q.image, q.question_id).size for q in some]
        texts = sum(len(TEACHER_SYSTEM) + len(teacher_text(q)) for q in some) / CHARACTERS_A_TOKEN
        images = sum(self.picture.tokens(*size) for size in sizes)
        self.meter.expected_input = (texts + images) / max(1, len(some))

    def replies(self, asked: Sequence[Question], done: Container[str], root: Path, folder: Path) -> Iterator[Reply]:
        """As `OneByOne.replies`; the meter knows the first estimate before the first reply is asked for."""
        left = [q for q in asked if q.question_id not in done]
        self.estimate(left, root)
        requests = [(q.question_id, partial(self.body, q, root)) for q in left]
        arriving = self.batches.stream(self.client, requests, folder) if self.batches else self.client.stream(requests)
        return (replies[0] for _, replies in arriving)

    def preview(self, questions: Sequence[Question], root: Path) -> str:
        """The projected cost and three rendered prompts; asks nothing and needs no key."""
        self.estimate(questions, root)
        tokens = [round(n * len(questions)) for n in self.meter.each]
        cost = self.meter.projected(len(questions))
        price = "at unknown prices (budget.input_price, budget.output_price)" if cost is None else f"about ${cost:.2f}"
        shown = [f"{self.name}: {len(questions)} questions to ask, about {tokens[0]} + {tokens[1]} tokens, {price}"]
        for question in questions[:3]:
            size = open_image(root / question.image, question.question_id).size
            sent = "{} x {}".format(*self.picture.size(*size))
            shown.append(
                f"--- {question.question_id}\n[system] {TEACHER_SYSTEM}\n[user] <{question.image}, sent as {sent} "
                f"{self.picture.format}>\n{teacher_text(question)}"
            )
        return "\n\n".join(shown)
