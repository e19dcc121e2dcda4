"""A rationale judged by its question's own rule: what stage distill keeps, and what import takes for kept."""

from __future__ import annotations

from rationale.schema import Question, Rationale
from rationale.scoring.judge import is_correct, judge


def judged(question: Question, text: str, teacher: str, ending: str = "") -> Rationale:
    """Kept where its answer agrees with the annotation, else with the reason why not; `ending` is added to that."""

    def row(status: str, reason: str, predicted: str | None = None, score: float = 0.0) -> Rationale:
        return Rationale(question.question_id, text, predicted, status, score, teacher, reason)

    if not text.strip():
        return row("empty", f"no text{ending}")
    verdict = judge(question, text, "cot")
    if verdict.predicted is None:
        return row("unparsed", f"no answer found{ending}")
    if is_correct(verdict.score):
        return row("kept", "", verdict.predicted, verdict.score)
    reason = f"answered {verdict.predicted!r}, annotated {question.answer!r}{ending}"
    return row("disagrees", reason, verdict.predicted, verdict.score)
