"""Preference training from the SFT model against a frozen reference (paper, sections 3.3 and 5)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath, UserError
from rationale.models.batch import Example
from rationale.models.checks import check_end, check_rows
from rationale.models.encode import Encoder
from rationale.models.fingerprints import context_hash, scored_with
from rationale.models.prefix import layout_for
from rationale.models.response import response_example
from rationale.models.vlm import VLM, freeze
from rationale.pairing import truncate_words
from rationale.schema import Pair, ResponseKey, ResponseLogps, RowError, iter_jsonl
from rationale.settings import typed
from rationale.stages.inputs import check_known, need, questions_by_id
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.fit import fit
from rationale.training.plan import held_out
from rationale.training.settings import DPOSettings


@typed
def run(
    questions: InputPath,
    pairs: InputPath,
    model: Callable[..., VLM],
    settings: DPOSettings,
    logger: Callable[..., list],
    seed: int,
    out: Path,
) -> dict:
    """Train the policy on pairs and save a plain transformers folder in `model/`.

    The pairs of a share of the questions are held out. No reference is looked for where the objective needs none.
    """
    truncate, stored = settings.truncate, None
    by_id = questions_by_id(questions)
    path = need(pairs, "pairs.jsonl")
    every, names = list(iter_jsonl(path, Pair)), settings.datasets
    check_known(path, {p.question_id for p in every}, by_id)
    rows = [p for p in every if names is None or by_id[p.question_id].dataset in names]
    if not rows:
        raise UserError(f"{path}: none of {len(every)} pairs is of dpo.datasets={names}")
    train, held = held_out([p.question_id for p in rows], settings.validation.fraction, seed)
    rows = [rows[i] for i in train + held]

    def example(key: ResponseKey) -> Example:
        return response_example(key, by_id[key[0]], Path(questions), truncate)

    examples = [tuple(map(example, pair.keys)) for pair in rows]
    reads = settings.reference == "scored" and settings.objective.needs_reference
    scores = need_scores(settings.reference_logps) if reads else None
    vlm = model(lora=settings.lora)
    encoder = Encoder(vlm.processor, truncate.tokens, layout_for(vlm.model, settings.layout))
    kept, num_rows = unlike(encoder, examples), len(rows)
    num_train = sum(i < len(train) for i in kept)
    if not num_train or (held and num_train == len(kept)):
        raise UserError(
            f"{path}: {num_rows - len(kept)} of {num_rows} pairs have a chosen and a rejected response of the same "
            f"tokens after dpo.truncate={truncate}, which leaves none to {'measure' if num_train else 'train'} on; "
            "raise its limits, or draw other pairs"
        )
    rows, examples = ([side[i] for i in kept] for side in (rows, examples))
    if scores:
        contexts = {(p.question_id, p.style): context_hash(e.images, encoder.render(e))
                    for p, (e, _) in zip(rows, examples, strict=True)}  # fmt: skip
        stored = stored_logps(scores, rows, scored_with(vlm, truncate, settings.precision), contexts)
    check_rows(vlm, encoder, [e for pair in examples for e in pair])
    check_end(vlm, encoder)
    freeze(vlm.model, settings.frozen_parts)
    order, held = settings.order(seed), examples[num_train:]
    data = dpo_data(encoder, examples[:num_train], order, stored, settings.group_by, held)
    module = DPOModule(vlm, settings.objective, settings.reference, settings.optim, data.plan.num_steps)
    counts = fit(module, data, settings, logger, out)
    cut = sum(truncate_words(text, truncate.words)[1] for p in rows for text in (p.chosen, p.rejected))
    return {
        "pairs": num_train,
        "of_other_datasets": len(every) - num_rows,
        "equal_after_truncation": num_rows - len(kept),
        "held_out": len(kept) - num_train,
        "truncated": cut,
        **counts,
    }


def unlike(encoder: Encoder, examples: list[tuple[Example, Example]]) -> list[int]:
    """Indices of the pairs whose responses differ in a token that is trained on, the end token included. Of the others
    nothing but rounding would be learned: their margin is 0 whatever the weights are."""
    ids = encoder.responses([e for pair in examples for e in pair])
    return [i for i in range(len(examples)) if ids[2 * i] != ids[2 * i + 1]]


def need_scores(folder: str | None) -> Path:
    """The rows of a score artifact."""
    if folder is None:
        raise UserError("dpo.reference=scored needs dpo.reference_logps: run stage=score on the pairs first")
    return need(folder, "rows.jsonl")


def stored_logps(
    path: Path, pairs: list[Pair], expected: dict[str, Any], contexts: dict[tuple[str, str], str]
) -> list[tuple[list[float], list[float]]]:
    """Per-token reference log-probs of the chosen and the rejected response of each pair.

    Refused where they were not made with the `expected` weights, processor, dtype and truncation, or with another image
    or prompt than the pair has now (`contexts`, by question and style).
    """
    made = json.loads(need(str(path.parent), "scored_with.json").read_text(encoding="utf-8"))
    if stale := [f"{k}: {made.get(k)} then, {v} now" for k, v in expected.items() if made.get(k) != v]:
        raise UserError(
            f"{path.parent}: these log-probs are of something else ({'; '.join(stale)}); re-run stage=score"
        )
    by_key = {r.key: r for r in iter_jsonl(path, ResponseLogps)}
    sides = [p.keys for p in pairs]
    if absent := [key for both in sides for key in both if key not in by_key]:
        raise RowError(
            f"{path}: no log-probs of {len(absent)} responses, first {absent[0][0]!r}; run stage=score again"
        )
    if moved := [key for both in sides for key in both if by_key[key].context != contexts[key[:2]]]:
        raise RowError(
            f"{path}: image or prompt of {len(moved)} responses changed since, first {moved[0][0]!r}; "
            "re-run stage=score"
        )
    return [(by_key[chosen].logps, by_key[rejected].logps) for chosen, rejected in sides]
