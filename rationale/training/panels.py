"""What an evaluation shows on the dashboard: accuracy by cell, lengths, and rows with their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from rationale.images import side_by_side
from rationale.schema import EvalRow, Question

# Prefix and factor of each number of a cell: accuracy and unparsed rate in percent, as tables have them.
MEASURES = {
    "accuracy": ("eval", 100), "unparsed": ("unparsed", 100), "tokens": ("tokens", 1), "questions": ("questions", 1),
}  # fmt: skip
COLUMNS = [
    "question_id", "data set", "style", "image", "question", "answer", "prediction", "score", "tokens", "response",
]  # fmt: skip


def evaluation_panels(
    cells: Mapping[str, Mapping[str, float]],
    rows: Sequence[EvalRow],
    questions: Mapping[str, Question],
    folder: Path,
    table_rows: int,
) -> dict[str, Any]:
    """Everything to log of one evaluation: `cells` and `rows` are its summary's and its own.

    `eval/<style>/<data set>` and `unparsed/...` are in percent. The table holds the first `table_rows` rows; `folder`
    is that of the questions, for their images.
    """
    shown = {
        f"{prefix}/{cell}": factor * values[measure]
        for cell, values in cells.items()
        for measure, (prefix, factor) in MEASURES.items()
    }
    for style in sorted({row.style for row in rows}):
        lengths = [row.num_tokens for row in rows if row.style == style]
        shown[f"response_tokens/{style}"] = wandb.Histogram(lengths)
    if table_rows:
        first = [table_row(r, questions[r.question_id], folder) for r in rows[:table_rows]]
        shown["predictions"] = wandb.Table(COLUMNS, first)
    return shown


def table_row(row: EvalRow, question: Question, folder: Path) -> list[Any]:
    """One prediction in the order of COLUMNS, its image the stored file, or several side by side."""
    files = row.files(folder)
    image = str(files[0]) if len(files) == 1 else side_by_side(files)
    return [
        row.question_id, row.dataset, row.style, wandb.Image(image), question.question,
        question.answer, row.predicted, row.score, row.num_tokens, row.text,
    ]  # fmt: skip
