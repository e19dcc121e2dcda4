"""A teacher's rationale for every training question, judged by the benchmark's own rule (paper, section 3.1)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from rationale.artifacts import InputPath
from rationale.journal import Journal
from rationale.markdown import in_markdown, table
from rationale.models.teachers import OneByOne, Teacher
from rationale.replies import Budget, Reply, answered, store
from rationale.schema import Question, Rationale, iter_jsonl, write_jsonl
from rationale.scoring.judged import judged
from rationale.settings import Count
from rationale.stages.inputs import questions_by_id

STATUSES = ("kept", "disagrees", "unparsed", "empty", "refused", "malformed", "failed")
AGAIN = ("refused", "malformed", "failed")  # what retry_failed asks again
NUM_EXAMPLES = 3  # in the report, of each data set and status
SHOWN = 600  # characters of a reply in the report


def status(question: Question, reply: Reply, teacher: str) -> Rationale:
    """The reply with its verdict, or with the reason why there is nothing to judge."""
    if reply.status != "answered":
        return Rationale(question.question_id, reply.text, None, reply.status, 0.0, teacher, reply.reason)
    cut = "" if reply.finished else ", cut at the token limit"
    return replace(judged(question, reply.text, teacher, cut), way=reply.way)


def run(
    questions: InputPath,
    teacher: Callable[[Question], str] | Teacher,
    split: str,
    chunk: Count,
    out: Path,
    retry_failed: bool = False,
    dry_run: bool = False,
) -> dict | None:
    """Ask the teacher; every reply, kept or not, is in `rows.jsonl`, in the order of the questions.

    `replies.jsonl` is what was stored as it arrived, with its tokens; it reaches the disk every `chunk` replies. A run
    that was cut asks what has no reply, and with `retry_failed` also what was refused, malformed or failed. `dry_run`
    prints what would be asked and asks nothing. `report.md` and the counts tell what the filter did.
    """
    asked = {q.question_id: q for q in questions_by_id(questions, split).values() if q.kind != "open"}
    many = teacher if hasattr(teacher, "replies") else OneByOne(teacher)
    journal = Journal(out / "replies.jsonl", Reply, chunk)
    budget: Budget = many.budget
    done = answered(journal, budget, lambda reply: retry_failed and reply.status in AGAIN)
    if dry_run:
        print(many.preview([q for i, q in asked.items() if i not in done], Path(questions)), flush=True)
        return None
    arriving = many.replies(list(asked.values()), done, Path(questions), out)
    store(arriving, journal, budget, "distill", len(asked), len(done))
    journal.sort(asked)
    counts: Counter = Counter()  # by data set and status

    def rows() -> Iterator[Rationale]:
        for question_id, question in asked.items():
            row = status(question, journal[question_id], many.name)
            counts[question.dataset, row.status] += 1
            yield row

    write_jsonl(out / "rows.jsonl", rows())
    lines = report(out / "rows.jsonl", asked, counts, budget)
    (out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    total = Counter()
    for (_, found), number in counts.items():
        total[found] += number
    by_dataset = {f"{dataset}/{found}": number for (dataset, found), number in sorted(counts.items())}
    return {"asked": len(asked), **dict(sorted(total.items())), **budget.counts(), "by_dataset": by_dataset}


def report(rows: Path, asked: dict[str, Question], counts: Counter, budget: Budget) -> Iterator[str]:
    """Lines of `report.md`: counts by data set and status, and examples of what was dropped, with the reason."""
    yield "# What the filter did\n"
    by_dataset = {d: [counts[d, name] for name in STATUSES] for d in sorted({d for d, _ in counts})}
    lines = ([in_markdown(d), *map(str, [sum(found), *found])] for d, found in by_dataset.items())
    yield from table(["data set", "asked", *STATUSES], lines, rule="---")
    if any(budget.tokens):
        price = "prices not known" if budget.spent is None else f"${budget.spent:.2f}"
        yield f"\n{budget.tokens[0]} input and {budget.tokens[1]} output tokens; {price}."
    yield "\nDropped rows stay in `rows.jsonl` with their reason. Examples:"
    examples: dict[tuple[str, str], list[Rationale]] = defaultdict(list)
    for row in iter_jsonl(rows, Rationale):
        kind = examples[asked[row.question_id].dataset, row.status]
        if row.status != "kept" and len(kind) < NUM_EXAMPLES:
            kind.append(row)
    for (dataset, found), some in sorted(examples.items()):
        for row in some:
            question = asked[row.question_id]
            said = row.text if len(row.text) <= SHOWN else f"{row.text[:SHOWN]} [{len(row.text)} characters]"
            yield f"\n## {in_markdown(f'{dataset}, {found}: {row.question_id}')}\n"
            shown = f"question: {question.question}\nannotated: {question.answer}\nreason: {row.reason}\nreply: {said}"
            yield from (f"    {line}" for line in shown.splitlines())  # indented: shown as it is, not as Markdown
