"""Per-token credit of sampled responses: the heat map of the paper's Figure 7, and the number that it lacks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rationale.artifacts import InputPath, UserError
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.vlm import read_processor
from rationale.reporting import standing
from rationale.reporting.credit import Credited, Logps, credit_table, credited
from rationale.reporting.credit_page import drawn, page, picture
from rationale.reporting.tables import save
from rationale.schema import Response, ResponseLogps, iter_jsonl
from rationale.scoring.judge import is_correct
from rationale.settings import Count, Positive, Side, typed
from rationale.stages.inputs import grouped, need, questions_by_id


@typed
def run(
    questions: InputPath,
    candidates: InputPath,
    logps: dict[Side, InputPath],
    model: InputPath,
    num_examples: Count,
    threshold: Positive,
    seed: int,
    num_resamples: Count,
    stale: standing.Stale,
    out: Path,
) -> dict:
    """Write `credit.html` and `credit.png`, and where the first wrong step is known `credit.csv` and `credit.md`.

    `logps` names the folders of the two sides, sft and dpo; `model` is whose tokenizer scored them. Weights are not
    read. Where candidates or log-probs are stale, `stale` says whether to refuse or to mark them.
    """
    stands = standing.checked([Path(candidates), *map(Path, logps.values())], stale).values()
    asked = questions_by_id(questions)
    responses = grouped(need(candidates, "rows.jsonl"), Response, asked)
    sides = {side: logps_of(logps[side]) for side in ("dpo", "sft")}
    encoder = encoder_of(model)

    found: list[Credited] = []
    for question_id, rows in responses.items():
        said = [Example(question_id, (), "", r.text, token_ids=tuple(r.token_ids)) for r in rows]
        pairs = zip(rows, encoder.spans(said), strict=True)
        found += [credited(asked[question_id], row, at, sides) for row, at in pairs if at or row.finished]
    if not found:
        raise UserError(f"{candidates}: no response of a token or more")

    table = credit_table(found, threshold, seed, num_resamples)
    if table is not None:
        save(standing.shown(table, stands), out, ["csv", "md"])
    shown, kinds = drawn(found, num_examples, seed)
    text = page(shown, kinds, table, Path(questions), seed, standing.notes(stands))
    (out / "credit.html").write_text(text, encoding="utf-8")
    picture(shown, Path(questions), out / "credit.png")
    return counts(found, sum(map(len, responses.values()))) | {"shown": len(shown)}


def logps_of(folder: str) -> Logps:
    """Log-probs of one side."""
    return {row.key: row for row in iter_jsonl(need(folder, "rows.jsonl"), ResponseLogps)}


def encoder_of(model: str) -> Encoder:
    """What gives a model's responses their tokens; its tokenizer must tell where in the text a token stands."""
    encoder = Encoder(read_processor(model))
    if not encoder.tokenizer.is_fast:
        raise UserError(f"{model}: its tokenizer does not tell where in the text a token is; it needs tokenizer.json")
    return encoder


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
