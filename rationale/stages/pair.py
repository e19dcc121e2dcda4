"""Preference pairs from judged responses (paper, section 3.3)."""

from __future__ import annotations

from pathlib import Path

from rationale.artifacts import UserError
from rationale.metrics.scoring import is_correct
from rationale.pairing import PairingRule, pair_all
from rationale.schema import Response, write_jsonl
from rationale.stages.inputs import grouped, need, questions_by_id


def run(questions: str, responses: str, rule: PairingRule, seed: int, out: Path) -> dict:
    """Write `pairs.jsonl`; counts say why the other questions gave none."""
    found = grouped(need(responses, "rows.jsonl"), Response, questions_by_id(questions))
    pairs, reasons = pair_all(found.values(), rule, seed, correct=is_correct)
    if not pairs:
        raise UserError(f"{responses}: no pair under {rule}; reasons: {dict(reasons)}")
    write_jsonl(out / "pairs.jsonl", pairs)
    return {"pairs": len(pairs), "questions": len(found), **{f"questions_{k}": v for k, v in sorted(reasons.items())}}
