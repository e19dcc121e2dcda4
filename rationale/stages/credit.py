"""Per-token credit of sampled responses: the heat map of the paper's Figure 7, and the number that it lacks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from rationale.artifacts import UserError
from rationale.metrics.scoring import is_correct
from rationale.models.vlm import check_path
from rationale.reporting.credit import Credited, Logps, credit_table, credited
from rationale.reporting.credit_page import drawn, page, picture
from rationale.reporting.tables import to_csv, to_markdown
from rationale.schema import Response, ResponseLogps, iter_jsonl
from rationale.settings import Count, Positive, Side, typed
from rationale.stages.inputs import grouped, need, questions_by_id


@typed
def run(
    questions: str,
    candidates: str,
    logps: dict[Side, str],
    model: str,
    num_examples: Count,
    threshold: Positive,
    seed: int,
    num_resamples: Count,
    out: Path,
) -> dict:
    """Write `credit.html` and `credit.png`, and where the first wrong step is known `credit.csv` and `credit.md`.

    `logps` names the folders of the two sides, sft and dpo; `model` is whose tokenizer scored them. Weights are not
    read.
    """
    asked = questions_by_id(questions)
    responses = grouped(need(candidates, "rows.jsonl"), Response, asked)
    sides = {side: logps_of(logps[side]) for side in ("dpo", "sft")}
    tokenizer = tokenizer_of(model)

    found: list[Credited] = []
    for question_id, rows in responses.items():
        offsets = tokenizer([r.text for r in rows], add_special_tokens=False, return_offsets_mapping=True)
        pairs = zip(rows, offsets["offset_mapping"], strict=True)
        found += [credited(asked[question_id], row, at, sides) for row, at in pairs if at or row.finished]
    if not found:
        raise UserError(f"{candidates}: no response of a token or more")

    table = credit_table(found, threshold, seed, num_resamples)
    if table is not None:
        (out / "credit.csv").write_text(to_csv(table), encoding="utf-8")
        (out / "credit.md").write_text(to_markdown(table), encoding="utf-8")
    shown, kinds = drawn(found, num_examples, seed)
    (out / "credit.html").write_text(page(shown, kinds, table, Path(questions), seed), encoding="utf-8")
    picture(shown, Path(questions), out / "credit.png")
    return counts(found, sum(map(len, responses.values()))) | {"shown": len(shown)}


def logps_of(folder: str) -> Logps:
    """Log-probs of one side with their context."""
    found: Logps = {}
    for row in iter_jsonl(need(folder, "rows.jsonl"), ResponseLogps):
        found.setdefault((row.question_id, row.style, row.text), {})[len(row.logps)] = (row.logps, row.context)
    return found


def tokenizer_of(model: str) -> Any:
    """The tokenizer of a model, which must tell where in the text a token stands."""
    check_path(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{model}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{model}: its tokenizer does not tell where in the text a token is; it needs tokenizer.json")
    return tokenizer


def counts(found: list[Credited], num: int) -> dict[str, int]:
    """Responses by what is known of them."""
    kinds = Counter((is_correct(c.response.score), c.wrong_step is not None) for c in found)
    return {
        "responses": num,
        "without_a_token": num - len(found),
        "right": kinds[True, True] + kinds[True, False],
        "wrong": kinds[False, True] + kinds[False, False],
        "wrong_with_first_wrong_step": kinds[False, True],
    }
