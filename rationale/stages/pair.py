"""Preference pairs from judged responses (paper, section 3.3)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rationale.artifacts import InputPath, UserError
from rationale.pairing import PairingRule, pair_all
from rationale.schema import Question, Response, write_jsonl
from rationale.scoring.judge import canonical
from rationale.scoring.votes import majority
from rationale.stages.inputs import grouped, need, questions_by_id


def run(questions: InputPath, responses: InputPath, rule: PairingRule, seed: int, out: Path) -> dict:
    """Write `pairs.jsonl`; counts say why the other questions gave none."""
    asked = questions_by_id(questions)
    found = grouped(need(responses, "rows.jsonl"), Response, asked)
    if rule.feedback == "majority":
        found = {i: judged_by_vote(group, asked[i]) for i, group in found.items()}
    pairs, reasons = pair_all(found.values(), rule, seed)
    if not pairs:
        raise UserError(f"{responses}: no pair under {rule}; reasons: {dict(reasons)}")
    write_jsonl(out / "pairs.jsonl", pairs)
    return {"pairs": len(pairs), "questions": len(found), **{f"questions_{k}": v for k, v in sorted(reasons.items())}}


def judged_by_vote(responses: list[Response], question: Question) -> list[Response]:
    """One question's responses with scores that the annotation has no part in: 1 where the answer is their most
    frequent, else 0."""
    answers = [canonical(question, r.predicted) for r in responses]
    elected = answers[majority(answers)]
    agrees = [answer is not None and answer == elected for answer in answers]
    return [replace(r, score=float(right)) for r, right in zip(responses, agrees, strict=True)]
