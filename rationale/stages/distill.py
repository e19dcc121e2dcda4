"""A teacher's rationale for every training question, judged by the benchmark's own rule (paper, section 3.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rationale.artifacts import in_shards
from rationale.data.encode import in_chunks
from rationale.metrics.scoring import is_correct, judge
from rationale.schema import Question, Rationale, iter_jsonl, to_line
from rationale.stages.inputs import questions_by_id


def status(question: Question, text: str, teacher: str) -> Rationale:
    """The reply with its verdict: kept where its answer agrees with the annotation, else the reason why not."""
    if not text.strip():
        return Rationale(question.question_id, text, None, "empty", 0.0, teacher)
    verdict = judge(question, text, "cot")
    if verdict.predicted is None:
        return Rationale(question.question_id, text, None, "unparsed", 0.0, teacher)
    found = "kept" if is_correct(verdict.score) else "disagrees"
    return Rationale(question.question_id, text, verdict.predicted, found, verdict.score, teacher)


def run(questions: str, teacher: Callable[[Question], str], split: str, chunk: int, out: Path) -> dict:
    """Write every reply, kept or not, to `rows.jsonl`; counts by status and data set tell what the filter did."""
    asked = [q for q in questions_by_id(questions, split).values() if q.kind != "open"]

    def work(rows: list[Question]) -> list[str]:
        return [to_line(status(q, teacher(q), teacher.name)) for q in rows]

    rows = in_shards(out, in_chunks(asked, chunk), work, "distill")
    datasets = {q.question_id: q.dataset for q in asked}
    counts = Counter(f"{datasets[r.question_id]}/{r.status}" for r in iter_jsonl(rows, Rationale))
    total = Counter()
    for name, number in counts.items():
        total[name.rsplit("/", 1)[1]] += number
    return {"asked": len(asked), **dict(sorted(total.items())), "by_dataset": dict(sorted(counts.items()))}
