"""Replies to a stage's questions, what they cost, and how they are kept as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from rationale.artifacts import UserError
from rationale.journal import Journal
from rationale.settings import NonNegative, Positive


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer to one question, or the reason why there is none.

    `status` is answered, refused (the model or its provider declined), malformed (something came that is no answer) or
    failed (nothing came, as often as it was tried). `finished` is False where the token limit cut the text. The tokens
    are those of the whole request, whose first answer carries them. `logps` are log p of the answer's tokens, where
    they were asked for and the endpoint gives them. `way` is how the teacher reasons, where it says so.
    """

    question_id: str
    text: str
    status: str = "answered"
    reason: str = ""
    finished: bool = True
    input_tokens: int = 0
    output_tokens: int = 0
    logps: list[float] = field(default_factory=list)
    way: str = ""


@dataclass(slots=True)
class Budget:
    """Tokens and cost so far and to come. Prices are per million tokens, None where they are not known.

    A request whose reply does not say its tokens counts as the mean of those that do, or as the first estimate: what is
    spent is rather over- than under-stated.
    """

    input_price: NonNegative | None = None
    output_price: NonNegative | None = None
    max_cost: NonNegative | None = None
    factor: Positive = 1.0  # on both prices: batch mode is cheaper
    expected_output: NonNegative = 0.0  # tokens of an answer, before any has come
    expected_input: float = field(default=0.0, init=False)  # of a request; who asks knows its texts and images
    known: int = field(default=0, init=False)  # requests whose tokens are known
    unknown: int = field(default=0, init=False)
    tokens: list[int] = field(default_factory=lambda: [0, 0], init=False)

    def __post_init__(self) -> None:
        if self.max_cost is not None and None in (self.input_price, self.output_price):
            raise UserError("budget.max_cost needs budget.input_price and budget.output_price (per million tokens)")

    def count(self, replies: Sequence[Reply]) -> None:
        """Add the replies of one request; one that failed for good costs nothing."""
        spent = (sum(r.input_tokens for r in replies), sum(r.output_tokens for r in replies))
        if any(spent):
            self.known += 1
            self.tokens = [a + b for a, b in zip(self.tokens, spent, strict=True)]
        elif any(r.status != "failed" for r in replies):
            self.unknown += 1

    @property
    def each(self) -> tuple[float, float]:
        """Input and output tokens of a request, as far as is known."""
        return tuple(n / self.known for n in self.tokens) if self.known else (self.expected_input, self.expected_output)

    def _price(self, tokens: Sequence[float]) -> float | None:
        if None in (self.input_price, self.output_price):
            return None
        return self.factor * (tokens[0] * self.input_price + tokens[1] * self.output_price) / 1e6

    @property
    def spent(self) -> float | None:
        """Cost so far."""
        return self._price([n + self.unknown * one for n, one in zip(self.tokens, self.each, strict=True)])

    def projected(self, left: int) -> float | None:
        """Cost once `left` more requests are answered."""
        each = self._price(self.each)
        return None if each is None else self.spent + left * each

    def allows(self, more: int) -> bool:
        """Whether `more` requests at the same time stay within max_cost."""
        return self.max_cost is None or self.projected(more) <= self.max_cost

    def line(self, left: int) -> str:
        """Cost so far and projected, for a progress bar; tokens where prices are not known; nothing where none are."""
        if self.spent is None:
            return f"{self.tokens[0]} + {self.tokens[1]} tokens" if any(self.tokens) else ""
        return f"${self.spent:.2f} of about ${self.projected(left):.2f}"

    def counts(self) -> dict[str, Any]:
        """Cost and tokens so far, as far as they are known, for a manifest."""
        cost = {} if self.spent is None else {"cost": round(self.spent, 4)}
        tokens = {"tokens": dict(zip(("input", "output"), self.tokens, strict=True))} if any(self.tokens) else {}
        return cost | tokens


def answered(journal: Journal, budget: Budget, again: Callable[[Reply], bool]) -> set[str]:
    """Ids of stored replies that need not be asked `again`; what all of them cost is counted."""
    done = set()
    for reply in journal.all():
        budget.count([reply])
        (done.discard if again(reply) else done.add)(reply.question_id)
    return done


def store(arriving: Iterable[Reply], journal: Journal, budget: Budget, label: str, total: int, done: int = 0) -> None:
    """Append replies as they arrive, showing how many of `total` there are, and cost so far and projected."""
    try:
        with tqdm(total=total, initial=done, desc=label, unit="reply", mininterval=2) as bar:
            bar.set_postfix_str(budget.line(bar.total - bar.n))
            for reply in arriving:
                journal.append(reply)
                bar.update()
                bar.set_postfix_str(budget.line(bar.total - bar.n), refresh=False)
            bar.refresh()
    finally:
        journal.close()
