"""What every question must satisfy, wherever its row comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

from rationale.schema import LETTERS, Question, RowError
from rationale.scoring.judge import SCORERS

KINDS = ("short", "choice", "open")


@dataclass
class Refusals:
    """Rows that cannot be used, gathered so that one run names them and not only the first.

    The first is printed as it is met. At `limit` of them the run stops, else where `stop` is called after the last row.
    """

    limit: int = 20
    found: list[RowError] = field(default_factory=list)

    def add(self, error: RowError) -> None:
        """One more; raises at the limit."""
        if not self.found:
            print(f"{error}\n(this stops the run; reading on to name other such rows)", flush=True)
        self.found.append(error)
        if len(self.found) >= self.limit:
            self.stop(", and the rows after them were not looked at")

    def stop(self, rest: str = "") -> None:
        """Raise one error that names all, if there are any."""
        if len(self.found) == 1:
            raise self.found[0]
        if self.found:
            raise RowError("\n".join([f"{len(self.found)} rows cannot be used{rest}:", *map(str, self.found)]))


def check(question: Question) -> None:
    """Raise RowError where a row cannot be asked, taught or scored."""
    where = question.question_id or "(no question_id)"
    if not question.question_id or not question.question.strip():
        raise RowError(f"{where}: empty question or question_id; complete the row or remove it")
    scorer = SCORERS.get(question.scorer)
    if scorer is None:
        raise RowError(f"{where}: scorer {question.scorer!r} is none of {sorted(SCORERS)}")
    stated = question.answers[:1] if scorer.annotated else question.answers
    if not stated or any(not answer.strip() for answer in stated):
        raise RowError(f"{where}: empty answer in {question.answers!r}; annotate the row or remove it")
    if question.kind not in KINDS:
        raise RowError(f"{where}: kind {question.kind!r} is none of {list(KINDS)}")
    if len(question.choices) > len(LETTERS):
        raise RowError(f"{where}: {len(question.choices)} choices, more than letters; remove the row")
    if question.kind == "choice":
        if (answer := question.answers[0]) not in question.choices:
            raise RowError(f"{where}: answer {answer!r} is none of {question.choices}; mend the row's choices")
        if len(set(question.choices)) != len(question.choices):
            raise RowError(f"{where}: choices repeat: {question.choices}; each choice must differ")
    if question.kind != "open":
        try:
            scorer.score(question, question.answers[0])
        except ValueError as error:  # what its rule needs is missing, or the gold is not of its form
            raise RowError(f"{where}: cannot be scored: {error}") from error
