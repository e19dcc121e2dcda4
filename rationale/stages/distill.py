"""A teacher's rationale for every training question, judged by the benchmark's own rule (paper, section 3.1)."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from tqdm import tqdm

from rationale.data.journal import Journal
from rationale.metrics.scoring import is_correct, judge
from rationale.models.replies import Meter, Reply
from rationale.models.served_teacher import ServedTeacher
from rationale.models.teacher import LocalTeacher, OneByOne
from rationale.schema import Question, Rationale, iter_jsonl, to_line
from rationale.stages.inputs import questions_by_id

STATUSES = ("kept", "disagrees", "unparsed", "empty", "refused", "malformed", "failed")
AGAIN = ("refused", "malformed", "failed")  # what retry_failed asks again
NUM_EXAMPLES = 3  # in the report, of each data set and status
SHOWN = 600  # characters of a reply in the report


def status(question: Question, reply: Reply, teacher: str) -> Rationale:
    """The reply with its verdict: kept where its answer agrees with the annotation, else the reason why not."""

    def row(found: str, reason: str, predicted: str | None = None, score: float = 0.0) -> Rationale:
        return Rationale(question.question_id, reply.text, predicted, found, score, teacher, reason)

    if reply.status != "answered":
        return row(reply.status, reply.reason)
    cut = "" if reply.finished else ", cut at the token limit"
    if not reply.text.strip():
        return row("empty", f"no text{cut}")
    verdict = judge(question, reply.text, "cot")
    if verdict.predicted is None:
        return row("unparsed", f"no answer found{cut}")
    if is_correct(verdict.score):
        return row("kept", "", verdict.predicted, verdict.score)
    reason = f"answered {verdict.predicted!r}, annotated {question.answer!r}{cut}"
    return row("disagrees", reason, verdict.predicted, verdict.score)


def run(
    questions: str,
    teacher: Callable[[Question], str] | OneByOne | LocalTeacher | ServedTeacher,
    split: str,
    chunk: int,
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
    meter: Meter = many.meter
    done = set()
    for reply in journal.all():
        meter.count([reply])
        done.add(reply.question_id)
        if retry_failed and reply.status in AGAIN:
            done.remove(reply.question_id)
    if dry_run:
        print(many.preview([q for i, q in asked.items() if i not in done], Path(questions)), flush=True)
        return None
    ask(many, list(asked.values()), done, Path(questions), out, journal)
    journal.sort(asked)
    counts = write_rows(out, asked, journal, many.name)
    (out / "report.md").write_text("\n".join(report(out / "rows.jsonl", asked, counts, meter)) + "\n", encoding="utf-8")
    total = Counter()
    for (_, found), number in counts.items():
        total[found] += number
    by_dataset = {f"{dataset}/{found}": number for (dataset, found), number in sorted(counts.items())}
    cost = {} if meter.spent is None else {"cost": round(meter.spent, 4)}
    tokens = {"tokens": dict(zip(("input", "output"), meter.tokens, strict=True))} if any(meter.tokens) else {}
    return {"asked": len(asked), **dict(sorted(total.items())), **cost, **tokens, "by_dataset": by_dataset}


def ask(many: OneByOne, asked: list[Question], done: set[str], root: Path, out: Path, journal: Journal) -> None:
    """Store the replies that are missing, showing cost so far and projected."""
    try:
        with tqdm(total=len(asked), initial=len(done), desc="distill", unit="reply", mininterval=2) as bar:
            arriving = many.replies(asked, done, root, out)
            bar.set_postfix_str(many.meter.line(bar.total - bar.n))
            for reply in arriving:
                journal.append(reply)
                bar.update()
                bar.set_postfix_str(many.meter.line(bar.total - bar.n), refresh=False)
            bar.refresh()
    finally:
        journal.close()


def write_rows(out: Path, asked: dict[str, Question], journal: Journal, teacher: str) -> Counter:
    """`rows.jsonl` from the journal; counts by data set and status."""
    counts: Counter = Counter()
    partial = out / "rows.partial"
    with partial.open("w", encoding="utf-8") as file:
        for question_id, question in asked.items():
            row = status(question, journal[question_id], teacher)
            counts[question.dataset, row.status] += 1
            file.write(to_line(row))
    os.replace(partial, out / "rows.jsonl")
    return counts


def report(rows: Path, asked: dict[str, Question], counts: Counter, meter: Meter) -> Iterator[str]:
    """Lines of `report.md`: counts by data set and status, and examples of what was dropped, with the reason."""
    yield "# What the filter did\n"
    yield "| data set | asked | " + " | ".join(STATUSES) + " |"
    yield "|---" * (len(STATUSES) + 2) + "|"
    for dataset in sorted({dataset for dataset, _ in counts}):
        found = [counts[dataset, name] for name in STATUSES]
        yield f"| {dataset} | {sum(found)} | " + " | ".join(map(str, found)) + " |"
    if any(meter.tokens):
        price = "prices not known" if meter.spent is None else f"${meter.spent:.2f}"
        yield f"\n{meter.tokens[0]} input and {meter.tokens[1]} output tokens; {price}."
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
            yield f"\n## {dataset}, {found}: {row.question_id}\n"
            shown = f"question: {question.question}\nannotated: {question.answer}\nreason: {row.reason}\nreply: {said}"
            yield from (f"    {line}" for line in shown.splitlines())  # indented: shown as it is, not as Markdown
