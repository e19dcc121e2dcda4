"""Prompts read once: decoding, and log-probs of many candidates, family by family."""

from __future__ import annotations

from functools import partial

import torch
from families import CASES, IMAGE, IN_ROWS, PAD, PROMPTS, RESPONSES, VOCAB, Encoded

from rationale.models.cache import SharedCache
from rationale.models.families import can_copy, can_share
from rationale.models.generate import decode, decode_alone
from rationale.models.layout import rows_batch, shared_prefixes
from rationale.models.logps import response_logps
from rationale.models.prefill import candidate_logps, extend, prefill


@torch.no_grad()
def test_decoding_gives_the_tokens_of_generate(family):
    inputs = family.prompts(PROMPTS, [CASES[0], CASES[1]])
    family.model.generation_config.eos_token_id = 5
    family.model.generation_config.pad_token_id = PAD
    own = decode(family.model, prefill(family.model, inputs), torch.tensor([8, 8]), 0.0, 1.0, num_samples=2)
    theirs = family.model.generate(**inputs, do_sample=False, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :]
    for row in range(2):
        length = int((own[2 * row] >= 0).sum())
        assert own[2 * row, :length].tolist() == own[2 * row + 1, :length].tolist() == theirs[row, :length].tolist()
        assert length == 8 or own[2 * row, length - 1] == 5


@torch.no_grad()
def test_prompts_that_share_a_prefix_decode_as_they_do_alone(family):
    family.model.generation_config.eos_token_id = VOCAB  # none
    asked = [CASES[0], CASES[1], CASES[2]]
    alone = [
        decode(family.model, prefill(family.model, family.prompts(PROMPTS, [e])), torch.tensor([6]), 0.0, 1.0)
        for e in asked
    ]
    inputs, rests = shared_prefixes(asked, [0, 1, 0], partial(family.prompts, PROMPTS), IMAGE, PAD, spare=1)
    read = extend(family.model, prefill(family.model, inputs).repeated(torch.tensor([0, 1, 0])), rests)
    assert torch.equal(decode(family.model, read, torch.tensor([6] * 3), 0.0, 1.0), torch.cat(alone))


@torch.no_grad()
def test_log_probs_of_candidates_are_those_of_rows(family):
    rows = rows_batch(CASES, RESPONSES, partial(family.prompts, PROMPTS), PAD)
    found = candidate_logps(family.model, Encoded(family), CASES)
    for own, expected, response in zip(found, response_logps(family.model, rows), RESPONSES, strict=True):
        torch.testing.assert_close(torch.tensor(own), expected[: len(response)], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_state_is_read_once_and_gives_the_samples_of_generate():
    torch.manual_seed(0)
    built = IN_ROWS["qwen3_5"]()
    inputs, limits = built.prompts(PROMPTS, [CASES[1], CASES[0]]), torch.tensor([8, 6])  # of uneven length
    built.model.eval().generation_config.eos_token_id = 5
    built.model.get_output_embeddings().weight[IMAGE] = -built.model.get_output_embeddings().weight[5]
    torch.manual_seed(1)
    theirs = decode_alone(built.model, inputs, limits, 1.0, 1.0, num_samples=4)
    torch.manual_seed(1)
    read = prefill(built.model, inputs)
    assert torch.equal(decode(built.model, read, limits, 1.0, 1.0, num_samples=4), theirs)


@torch.no_grad()
def test_log_probs_of_candidates_that_begin_with_a_state_are_those_of_rows():
    torch.manual_seed(0)
    built = IN_ROWS["qwen3_5"]()
    built.model.eval()
    assert can_copy(built.model) and not can_share(built.model)
    rows, images = rows_batch(CASES, RESPONSES, partial(built.prompts, PROMPTS), PAD), []
    tower = built.model.model.visual.register_forward_hook(lambda tower, given, out: images.append(given[0].shape[0]))
    found = candidate_logps(built.model, Encoded(built), CASES)
    tower.remove()
    assert images == [2 * len(built.prompts(PROMPTS, CASES[:1])["pixel_values"])]  # two images, five candidates
    for own, expected, response in zip(found, response_logps(built.model, rows), RESPONSES, strict=True):
        torch.testing.assert_close(torch.tensor(own), expected[: len(response)], atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_cache_holds_each_prompt_once_whatever_its_samples(family):
    read = prefill(family.model, family.prompts(PROMPTS, CASES[:2])).repeated(torch.tensor([0] * 5 + [1] * 3))
    assert isinstance(read.cache, SharedCache)
    assert {len(keys) for keys, _ in read.cache.prompts} == {2}
    family.model(**read.decoder_inputs(torch.full((8, 1), 7), torch.ones(8, 1, dtype=torch.long)))
    assert {tuple(layer.keys.shape[i] for i in (0, 2)) for layer in read.cache.layers} == {(8, 1)}
