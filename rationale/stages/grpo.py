"""Online reinforcement learning from the SFT model on its own samples, rewarded where they are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rationale.artifacts import InputPath, UserError
from rationale.models.checks import check_end, check_rows, log_unfollowed
from rationale.models.encode import Encoder
from rationale.models.prefix import layout_for
from rationale.models.response import prompted
from rationale.models.vlm import VLM, freeze
from rationale.settings import typed
from rationale.stages.inputs import choose, questions_by_id
from rationale.training.fit import fit
from rationale.training.grpo import GRPOModule, grpo_data
from rationale.training.plan import held_out
from rationale.training.settings import GRPOSettings


@typed
def run(
    questions: InputPath, model: Callable[..., VLM], settings: GRPOSettings, logger: Callable[..., list], seed: int,
    out: Path,
) -> dict:  # fmt: skip
    """Train the policy on what it answers to training questions and save a plain transformers folder in `model/`.

    A fraction of the questions is held out.
    """
    rollout, names = settings.rollout, settings.datasets
    found = [q for q in questions_by_id(questions, split="train").values() if q.kind != "open"]
    asked = choose([q for q in found if names is None or q.dataset in names], settings.limit, seed)
    if not asked:
        raise UserError(f"{questions}: none of {len(found)} training questions is of grpo.datasets={names}")
    train, held = held_out([q.question_id for q in asked], settings.validation.fraction, seed)
    asked = [asked[i] for i in train + held]
    prompts = [prompted(q, Path(questions), rollout.style) for q in asked]
    vlm = model(lora=settings.lora)
    encoder = Encoder(vlm.processor, layout=layout_for(vlm.model, settings.layout))
    check_rows(vlm, encoder, prompts, [rollout.max_new_tokens] * len(prompts))
    check_end(vlm, encoder)
    log_unfollowed(vlm)
    freeze(vlm.model, settings.frozen_parts)
    rows = list(zip(asked, prompts, strict=True))
    data = grpo_data(len(train), settings.order(seed), settings.updates, len(held))
    module = GRPOModule(vlm, encoder, rows, settings, data.plan.num_steps, seed)
    data.recipe = module.recipe
    counts = fit(module, data, settings, logger, out)
    groups = {name: module.counts[name] for name in ("used", "all_right", "all_wrong")}
    return {"questions": len(train), "held_out": len(held), "groups": groups, **counts}
