"""Mutation check: each of these mistakes, made on purpose in a copy of the package, fails a test that is named here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "rationale"

TREE = "test_prefix.py::test_log_probs_of_tree_are_those_of_rows[masked-llava]"
SEGMENTS = "test_prefix.py::test_log_probs_of_tree_are_those_of_rows[loop-llava]"
ANY_TREE = "test_prefix_properties.py::test_log_probs_of_any_tree_are_those_of_rows[llava]"
CACHE = "test_prefix_properties.py::test_log_probs_through_a_cache_of_prompts_are_those_of_rows[llava]"
LABELS = "test_encode.py::test_labels_are_the_response_and_its_end_token"
WHOLE_SEQUENCE = "test_encode.py::test_logps_equal_those_of_the_whole_sequence_through_the_model"
PREFERS = "test_bounds.py::test_training_on_pairs_moves_likelihood_from_rejected_to_chosen"
FROZEN = "test_training.py::test_the_frozen_reference_does_not_move_and_has_no_gradient"
CUT = "test_bounds.py::test_the_gradient_of_a_step_does_not_depend_on_how_it_is_cut"
SAMPLED = "test_generate.py::test_tokens_are_those_of_the_library_under_the_same_seed"
SEEDED = "test_generate.py::test_another_seed_draws_other_responses"
BATCHED = "test_generate.py::test_a_draw_depends_on_every_question_of_its_batch"
DRAWN = "test_generate.py::test_a_response_is_drawn_at_its_temperature"
BLIND = "test_generate.py::test_a_blind_model_sees_no_pixel[True]"
SERVED_SAMPLES = "test_served.py::test_a_served_model_gives_its_samples_in_one_request_or_one_by_one[8-5]"
SERVED_BLIND = "test_served.py::test_a_served_model_that_answers_blind_is_sent_grey_pictures"
LOGGED = "test_training.py::test_what_is_logged_of_a_step_is_the_mean_over_it_however_it_is_cut[2-3]"
LIKELIHOOD = "test_training.py::test_the_sft_term_is_the_mean_over_the_tokens_of_the_chosen"
LONGEST = "test_plan.py::test_the_longest_rows_are_trained_on"
EQUAL = "test_stages.py::test_pairs_that_truncation_makes_equal_are_left_out_and_counted[truncate1-1]"
SCORED = "test_stages.py::test_a_text_with_its_end_and_without_is_scored_as_two"


class Mutation(NamedTuple):
    """`old` stands once in `file`; with `new` in its place `test` must fail: a node id in this folder, or a whole file
    of tests that need no fixture."""

    file: str
    old: str
    new: str
    test: str


MUTATIONS = {
    "a branch sees one token ahead": Mutation(
        "models/prefix.py", "& _causal(branch.shape[1], query.device)",
        "& _causal(branch.shape[1] + 1, query.device)[1:, :-1]", TREE,
    ),
    "a branch does not see its own token": Mutation(
        "models/prefix.py", "& _causal(branch.shape[1], query.device)",
        "& _causal(branch.shape[1] + 1, query.device)[:-1, 1:]", TREE,
    ),
    "a branch in segments sees one token ahead": Mutation(
        "models/packed.py", ".tril(seen - new)", ".tril(seen - new + 1)", SEGMENTS
    ),
    "a branch sees the padding before its prefix": Mutation(
        "models/prefix.py", "torch.cat([(prefix == 0)[:, None, :]", "torch.cat([(prefix <= 0)[:, None, :]", TREE
    ),
    "a branch sees its neighbours": Mutation(
        "models/prefix.py", "own = (branch[:, :, None] == branch[:, None, :])",
        "own = (branch[:, :, None] > 0) & (branch[:, None, :] > 0)", TREE,
    ),
    "positions of a branch begin one early": Mutation(
        "models/prefix.py", "if positions.ndim == 3 else largest) + 1", "if positions.ndim == 3 else largest)", ANY_TREE
    ),
    "positions of a branch begin one late": Mutation(
        "models/layout.py", "depth[row] += range(len(rest + response))",
        "depth[row] += range(1, len(rest + response) + 1)", ANY_TREE,
    ),
    "a cache shows one token ahead": Mutation(
        "models/cache.py", "own & order.tril(size - new)", "own & order.tril(size - new + 1)", CACHE
    ),
    "positions behind a cache begin one late": Mutation(
        "models/prefill.py", "(present.cumsum(1) - 1).clamp(min=0)", "present.cumsum(1)", CACHE
    ),
    "a label is predicted by itself": Mutation(
        "models/layout.py", "torch.arange(width - 1, length - 1)", "torch.arange(width, length)", WHOLE_SEQUENCE
    ),
    "a label in a branch is predicted by itself": Mutation(
        "models/layout.py", "*range(start, start + len(response) - 1)]",
        "*range(start + 1, start + len(response))]", TREE,
    ),
    "the label mask is shifted by one": Mutation(
        "models/batch.py", "return self.labels != IGNORE", "return (self.labels != IGNORE).roll(1, 1)", LABELS
    ),
    "the end of the text is not learnt": Mutation(
        "models/encode.py", "else ids + [self.end_id] * e.ended", "else ids", LABELS
    ),
    "beta has the wrong sign": Mutation(
        "objectives/dpo.py", "epsilon = label_smoothing\n", "epsilon, beta = label_smoothing, -beta\n",
        "test_dpo_loss.py",
    ),
    "policy and reference are swapped in the loss": Mutation(
        "objectives/dpo.py", "epsilon = label_smoothing\n",
        "epsilon, policy, reference = label_smoothing, reference, policy\n", "test_dpo_loss.py",
    ),
    "the log-sigmoid has the wrong sign": Mutation(
        "objectives/dpo.py", "loss = -(1 - epsilon) * F.logsigmoid(margin) - epsilon",
        "loss = (1 - epsilon) * F.logsigmoid(margin) - epsilon", "test_dpo_loss.py",
    ),
    "policy and reference are swapped in training": Mutation(
        "training/dpo.py", "objective(policy, other)", "objective(other, policy)", PREFERS
    ),
    "chosen and rejected are swapped in training": Mutation(
        "training/dpo.py", "objective.length_normalised).chunk(2)",
        "objective.length_normalised).chunk(2)[::-1]", PREFERS,
    ),
    "the reference takes gradients": Mutation(
        "training/step.py", "copy.deepcopy(self.policy).requires_grad_(False)", "copy.deepcopy(self.policy)",
        FROZEN,
    ),
    "an average counts padding": Mutation(
        "objectives/logprobs.py", "total / mask.sum(-1).clamp(min=1)", "total / mask.shape[-1]", "test_logprobs.py"
    ),
    "a sum takes what stands at padding": Mutation(
        "objectives/logprobs.py", "token_logps.masked_fill(~mask, 0.0).sum(-1)", "token_logps.sum(-1)",
        "test_logprobs.py",
    ),
    "log-probs are as coarse as their logits": Mutation(
        "objectives/logprobs.py", "chosen.float() - torch.logsumexp(logits.float(), dim=-1)",
        "(chosen - torch.logsumexp(logits, dim=-1)).float()", "test_logprobs.py",
    ),
    "the SFT loss averages over padding": Mutation(
        "objectives/sft.py", "denominator = mask.sum() if", "denominator = mask.numel() if", "test_sft_loss.py"
    ),
    "a micro-batch is averaged over itself": Mutation(
        "training/sft.py", "sum(lengths[i] for i in whole) if", "sum(lengths[i] for i in indices) if", CUT
    ),
    "accumulation divides the gradient": Mutation(
        "training/step.py", "self.trainer.accumulate_grad_batches * self.trainer.world_size",
        "self.trainer.world_size", CUT,
    ),
    "a micro-batch of pairs weighs as a whole step": Mutation(
        "training/dpo.py", "PairBatch(rows, len(whole),", "PairBatch(rows, len(indices),", CUT
    ),
    "micro-batches of pairs weigh alike": Mutation(
        "training/dpo.py", "terms.loss.sum() / (batch.step_pairs * batch.copies)",
        "terms.loss.mean()", CUT,
    ),
    "a row in two micro-batches of a step counts twice": Mutation(
        "training/plan.py", "return step.count(indices[0])", "return 1", CUT
    ),
    "the SFT term of DPO is averaged over a micro-batch": Mutation(
        "training/dpo.py", "mask[:half], batch.step_tokens * batch.copies)", "mask[:half])", CUT
    ),
    "the SFT term of DPO trains the rejected too": Mutation(
        "training/dpo.py", "sft_loss(logps[:half], mask[:half],", "sft_loss(logps, mask,", LIKELIHOOD
    ),
    "what is logged of a step is not weighted": Mutation(
        "training/step.py", "torch.as_tensor(v, device=self.device) * weight",
        "torch.as_tensor(v, device=self.device)", LOGGED,
    ),
    "the logged DPO loss weighs micro-batches alike": Mutation(
        "training/dpo.py", "self.log_step(index, loss, len(terms.loss) / batch.copies,",
        "self.log_step(index, loss, 1.0,", LOGGED,
    ),
    "the logged SFT loss weighs micro-batches alike": Mutation(
        "training/sft.py", "self.log_step(index, loss, tokens,", "self.log_step(index, loss, 1.0,", LOGGED
    ),
    "what fills no step is the longest rows": Mutation(
        "training/plan.py", "rest = order[whole:]",
        "order.sort(key=lambda i: lengths[i])\n        rest = order[whole:]", LONGEST,
    ),
    "pairs that truncation makes equal are trained on": Mutation(
        "stages/dpo.py", "if ids[2 * i] != ids[2 * i + 1]]", "]", EQUAL
    ),
    "score takes every response for a finished one": Mutation(
        "models/response.py", '"uncut": ended and not cut', '"uncut": not cut', SCORED
    ),
    "chosen and rejected are swapped in a pair": Mutation(
        "pairing.py", "for pair_id, (chosen, rejected) in", "for pair_id, (rejected, chosen) in", "test_pairing.py"
    ),
    "the lower bound of the accuracy is exclusive": Mutation(
        "pairing.py", "if accuracy < rule.low:", "if accuracy <= rule.low:", "test_pairing.py"
    ),
    "the first answer of a response counts": Mutation(
        "scoring/answers.py", "for marker in reversed(markers):", "for marker in markers:", "test_answers.py"
    ),
    "half a score is wrong": Mutation(
        "scoring/judge.py", "return score >= 0.5", "return score > 0.5", "test_scoring.py"
    ),
    "five per cent is too far": Mutation(
        "scoring/rules.py", "/ abs(target) <= 0.05", "/ abs(target) < 0.05", "test_rules.py"
    ),
    "a weighted vote counts heads": Mutation(
        "scoring/votes.py", "[math.exp((reward - top) / temperature) for reward in rewards]", "[1.0] * len(rewards)",
        "test_votes.py",
    ),
    "the temperature is ignored": Mutation(
        "models/generate.py", "TemperatureLogitsWarper(temperature)", "TemperatureLogitsWarper(1.0)", SAMPLED
    ),
    "the temperature is applied twice in a step of decoding": Mutation(
        "models/generate.py", "warp(None, logits).softmax(-1)", "warp(None, warp(None, logits)).softmax(-1)", DRAWN
    ),
    "the temperature is applied twice to a batch": Mutation(
        "models/generate.py", "decode(vlm.model, prefix, limits, temperature, top_p",
        "decode(vlm.model, prefix, limits, temperature**2, top_p", DRAWN,
    ),
    "the temperature is applied twice in a vote": Mutation(
        "scoring/votes.py", "math.exp((reward - top) / temperature)", "math.exp((reward - top) / temperature**2)",
        "test_votes.py",
    ),
    "the temperature is applied twice by stage sample": Mutation(
        "stages/sample.py", "sampling.temperature[batch[0].kind], sampling.top_p",
        "sampling.temperature[batch[0].kind] ** 2, sampling.top_p",
        SERVED_SAMPLES,
    ),
    "a blind model keeps the pixels": Mutation(
        "models/generate.py", "    if blind:\n", "    if blind and False:\n", BLIND
    ),
    "a blind evaluation is none": Mutation(
        "stages/evaluate.py", "blind=evaluation.blind, read", "blind=False, read", SERVED_BLIND
    ),
    "the draw depends on the first question alone": Mutation(
        "models/generate.py", "*(e.question_id for e in examples)", "examples[0].question_id", BATCHED
    ),
    "the seed is ignored": Mutation(
        "models/generate.py", '"/".join([str(seed), *names])', '"/".join(names)', SEEDED
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_a_mutation_replaces_is_there_once(name):
    """Otherwise it would change nothing, or more than it says: bring its text up to date."""
    mutation = MUTATIONS[name]
    assert (PACKAGE / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1


@pytest.fixture(scope="module")
def became(tmp_path_factory):
    """What became of each mutation's test, and, under None, of all of them on the package as it is."""
    out = tmp_path_factory.mktemp("mutations")
    package = out / "copy" / "rationale"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    runs = {"control": (sorted({m.test for m in MUTATIONS.values()}), None)}
    runs |= {name: ([m.test], (m.file, m.old, m.new)) for name, m in MUTATIONS.items()}
    (out / "settings.json").write_text(
        json.dumps({"package": str(package), "out": str(out), "runs": runs}), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, str(HERE / "mutants.py"), str(out / "settings.json")], cwd=out, capture_output=True,
        encoding="utf-8", timeout=1200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(out / "hypothesis")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {name: json.loads((out / f"{name.replace(' ', '_')}.json").read_text(encoding="utf-8")) for name in runs}


@pytest.mark.slow
def test_every_mutation_fails_its_test_that_passes_without_it(became):
    control = became.pop("control")
    assert control["copy"] and control["code"] == 0 and not control["failed"], control
    survivors = {}
    for name, found in became.items():
        assert found["copy"], name
        # An assertion that failed, in a test and not in what comes before it.
        errors = [error[1:3] for error in found["failed"]]
        if found["code"] != 1 or errors not in ([["call", "AssertionError"]], [["call", "Failed"]]):
            survivors[name] = found
    assert not survivors, "\n".join(f"{name}: {found}" for name, found in survivors.items())
