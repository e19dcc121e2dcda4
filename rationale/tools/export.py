"""Questions, rationales and pairs as a folder that another project trains on as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rationale.artifacts import InputPath, UserError, write_json
from rationale.prompts import question_text
from rationale.schema import Pair, Question, Rationale
from rationale.settings import Style, typed
from rationale.sources.exchange import MARK, ROW_FORMS, sharegpt_info
from rationale.sources.outgoing import pair_row, sft_rows
from rationale.sources.rowfiles import link, write_rows
from rationale.stages.inputs import grouped, need, questions_by_id


@typed
def run(
    questions: InputPath,
    rationales: InputPath | None,
    pairs: InputPath | None,
    form: Literal[tuple(ROW_FORMS)],
    styles: list[Style],
    split: str | None,
    record: bool,
    out: Path,
) -> dict:
    """Write rows to imitate (`sft`) in `styles`, preferences (`dpo`), and the images they name in `images/`.

    `record` adds to every row what only our own import reads; without it an import sees rows like any other's. What no
    row carries (a rationale that was not kept, with styles=[cot]) stands in `left_out.jsonl`.
    """
    everything = questions_by_id(questions)
    said = grouped(need(rationales, "rows.jsonl"), Rationale, everything) if rationales else {}
    if repeated := [i for i, found in said.items() if len(found) > 1]:
        raise UserError(f"{rationales}: {repeated[0]} has several rationales; a question has one")
    preferred = grouped(need(pairs, "pairs.jsonl"), Pair, everything) if pairs else {}
    chosen = [q for q in everything.values() if split is None or q.split == split]
    if not chosen:
        raise UserError(f"{questions}: no question of split {split!r}; set export.split, null for all")
    used = {}

    def written(kind: str) -> Iterator[dict[str, Any]]:
        for question in chosen:
            name = question.question_id
            rows = (pair_row(form, question, pair, record) for pair in preferred.get(name, []))
            if kind == "sft":
                rows = sft_rows(form, question, said.get(name, [None])[0], styles, record)
            for row in rows:
                used[name] = question
                yield ROW_FORMS[form].write(row)

    files, counts = {}, {}
    for kind in ("sft", "dpo"):
        path = out / f"{kind}{ROW_FORMS[form].suffix}"
        counts[kind] = write_rows(path, written(kind))
        if counts[kind]:
            files[kind] = path.name
        else:
            path.unlink()
    if not used:
        there = f"{len(said)} rationales, {len(preferred)} questions with pairs"
        raise UserError(f"no row to export: styles {styles}, {there}")
    if form == "sharegpt":
        write_json(out / "dataset_info.json", sharegpt_info(files))
    for image in {image for q in used.values() for image in q.images}:
        link((Path(questions) / image).resolve(), out / image)
    left = list(left_out(chosen, said, used, styles, record))
    if left:
        write_rows(out / "left_out.jsonl", left)
    texts = {i: [r.text for r in found] for i, found in said.items()}
    for i, found in preferred.items():
        texts.setdefault(i, []).extend(text for pair in found for text in (pair.chosen, pair.rejected))
    marked = (any(MARK in text for text in (question_text(q), *q.answers, *texts.get(i, ()))) for i, q in used.items())
    return {
        **counts, "questions": len(used), "left_out": len(left), "other_splits": len(everything) - len(chosen),
        "questions_with_marks_spelled_out": sum(marked),
    }  # fmt: skip


def left_out(
    chosen: list[Question], said: dict[str, list[Rationale]], used: dict[str, Question], styles: list[str], record: bool
) -> Iterator[dict]:
    """What no row carries, whole, with the reason."""
    for question in chosen:
        if question.question_id not in used:
            yield {"reason": f"no row in styles {styles} and no pair", "question": asdict(question)}
        for rationale in said.get(question.question_id, []):
            kept = rationale.status == "kept"
            if not ("cot" in styles and question.kind != "open" if kept else "direct" in styles and record):
                reason = f"{rationale.status}; styles {styles}, record {record}"
                yield {"reason": reason, "rationale": asdict(rationale)}
