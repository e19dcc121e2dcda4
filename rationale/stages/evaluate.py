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
from rationale.models.vlm import VLM
from rationale.prompts import prompt_text
from rationale.schema import EvalRow, Question, read_jsonl, to_line
from rationale.scoring.judge import judge
from rationale.settings import Count, Style
from rationale.shards import ALONE, Processes, in_shards
from rationale.stages.inputs import questions_by_id
from rationale.training.dashboard import unless_ended
from rationale.training.loggers import close, dashboards
from rationale.training.panels import evaluation_panels


def run(
    questions: InputPath,
    model: Callable[..., VLM],
    generator: Callable[..., Generator],
    name: str,
    seed: int,
    split: str | None,
    styles: list[Style],
    max_new_tokens: dict[Style, Count],
    batch_size: Count,
    blind: bool,
    out: Path,
    logger: Callable[[Path], list] = lambda out: [],
    processes: Processes = ALONE,
) -> dict:
    """Greedy predictions of `generator(model)` in each style, scored; `summary.json` has accuracy and unparsed rate by
    data set.

    `name` and `seed` say which row of a table this is. `blind` blanks every image: what is left is the language prior.
    `logger` makes the loggers for a folder; what is shown is logged when all is written, so a cut run shows nothing.
    """
    asked = questions_by_id(questions, split)
    found = [q for q in asked.values() if q.kind != "open"]
    share = processes.join(out, alone=is_shared(generator))
    answer = generator(model)
    first = {q.image: len(q.question) for q in reversed(found)}  # questions about one image stay together
    ordered = sorted(found, key=lambda q: (first[q.image], q.image, q.question_id))
    units = in_chunks([(q, style) for q in ordered for style in styles], answer.at_once or batch_size)

    def example(question: Question, style: str) -> Example:
        return Example(question.question_id, Path(questions) / question.image, prompt_text(question, style), "")

    answer.check([example(*u) for unit in units for u in unit], [max_new_tokens[s] for unit in units for _, s in unit])

    def work(unit: list[tuple[Question, str]], read: Any) -> list[str]:
        examples = [example(*u) for u in unit]
        answered = answer(examples, [max_new_tokens[style] for _, style in unit], blind=blind, read=read)
        lines = []
        for (question, style), (reply,) in zip(unit, answered, strict=True):
            verdict = judge(question, reply.text, style)
            row = EvalRow(
                question.question_id, question.dataset, question.image, style, reply.text, verdict.predicted,
                verdict.score, reply.num_tokens, reply.finished, question.meta.get("options", {}),
            )  # fmt: skip
            lines.append(to_line(row))
        return lines

    rows = in_shards(out, units, work, f"evaluate {name}", share, lambda unit: answer.read([example(*u) for u in unit]))
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
    write_json(out / "summary.json", {"name": name, "seed": seed, "blind": blind, "split": split, "cells": summary})
    loggers = logger(out)
    for dashboard in dashboards(loggers):
        shown = evaluation_panels(summary, judged, asked, Path(questions), dashboard.table_rows)
        with unless_ended():
            dashboard.experiment.log(shown)
    close(loggers, out)
    return {cell: round(100 * values["accuracy"], 1) for cell, values in summary.items()}
