"""Direct and CoT accuracy of one model, every prediction kept (paper, section 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath, write_json
from rationale.models.batch import Example
from rationale.models.encode import in_chunks
from rationale.models.local import Generator, is_shared
from rationale.models.response import prompted
from rationale.models.vlm import VLM
from rationale.schema import EvalRow, Question, read_jsonl, to_line
from rationale.scoring.judge import judge
from rationale.settings import Count, Style, settings
from rationale.shards import ALONE, Processes, in_shards
from rationale.stages.inputs import questions_by_id
from rationale.training.dashboard import unless_ended
from rationale.training.loggers import close, dashboards
from rationale.training.panels import evaluation_panels


@settings
class Evaluation:
    """What a model is asked, and what a table calls it: `name`. `blind` blanks every image: what is left is the
    language prior. `batch_size` counts responses."""

    name: str
    split: str | None
    styles: list[Style]
    max_new_tokens: dict[Style, Count]
    batch_size: Count
    blind: bool = False


def run(
    questions: InputPath,
    model: Callable[..., VLM],
    generator: Callable[..., Generator],
    evaluation: Evaluation,
    seed: int,
    out: Path,
    logger: Callable[[Path], list] = lambda out: [],
    processes: Processes = ALONE,
) -> dict:
    """Greedy predictions of `generator(model)` in each style, scored; `summary.json` has accuracy and unparsed rate by
    data set.

    The evaluation's name and `seed` say which row of a table this is. `logger` makes the loggers for a folder; what is
    shown is logged when all is written, so a cut run shows nothing.
    """
    by_id, limits = questions_by_id(questions, evaluation.split), evaluation.max_new_tokens
    closed = [q for q in by_id.values() if q.kind != "open"]
    share = processes.join(out, alone=is_shared(generator))
    answer = generator(model)
    first = {q.shown: len(q.question) for q in reversed(closed)}  # questions about the same images stay together
    ordered = sorted(closed, key=lambda q: (first[q.shown], q.shown, q.question_id))
    units = in_chunks(
        [(q, style) for q in ordered for style in evaluation.styles], answer.at_once or evaluation.batch_size
    )

    def example(question: Question, style: str) -> Example:
        return prompted(question, Path(questions), style)

    answer.check([example(*u) for unit in units for u in unit], [limits[s] for unit in units for _, s in unit])

    def work(unit: list[tuple[Question, str]], read: Any) -> list[str]:
        examples = [example(*u) for u in unit]
        answered = answer(examples, [limits[style] for _, style in unit], blind=evaluation.blind, read=read)
        lines = []
        for (question, style), (reply,) in zip(unit, answered, strict=True):
            verdict = judge(question, reply.text, style)
            row = EvalRow(
                question.question_id, question.dataset, question.images, style, reply.text, verdict.predicted,
                verdict.score, reply.num_tokens, reply.finished, question.meta.get("options", {}),
            )  # fmt: skip
            lines.append(to_line(row))
        return lines

    label = f"evaluate {evaluation.name}"
    rows = in_shards(out, units, work, label, share, lambda unit: answer.read([example(*u) for u in unit]))
    cells: dict[tuple[str, str], list[EvalRow]] = defaultdict(list)
    judged = read_jsonl(rows, EvalRow)
    for row in judged:
        cells[row.style, row.dataset].append(row)
    summary = {
        f"{style}/{dataset}": {
            "accuracy": sum(r.score for r in rows) / len(rows),
            "unparsed": sum(r.predicted is None for r in rows) / len(rows),
            "tokens": sum(r.num_tokens for r in rows) / len(rows),
            "questions": len(rows),
        }
        for (style, dataset), rows in sorted(cells.items())
    }
    about = {"name": evaluation.name, "seed": seed, "blind": evaluation.blind, "split": evaluation.split}
    write_json(out / "summary.json", {**about, "cells": summary})
    loggers = logger(out)
    for dashboard in dashboards(loggers):
        shown = evaluation_panels(summary, judged, by_id, Path(questions), dashboard.table_rows)
        with unless_ended():
            dashboard.experiment.log(shown)
    close(loggers, out)
    return {cell: round(100 * values["accuracy"], 1) for cell, values in summary.items()}
