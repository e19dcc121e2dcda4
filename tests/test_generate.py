"""Decoding: greedy does not depend on the batch, sampling depends on seed and question alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from rationale.artifacts import UserError
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.generate import decode, generate, seed_of
from rationale.models.local import Local
from rationale.models.prefill import prefill


def texts(groups):
    return [[g.text for g in group] for group in groups]


def test_greedy_is_the_argmax_of_the_model(tiny, examples):
    (reply,) = generate(tiny, examples[:1], max_new_tokens=1)[0]
    inputs = Encoder(tiny.processor).prompts(examples[:1])
    best = tiny.model(**inputs).logits[0, -1].argmax()
    assert reply.text == tiny.tokenizer.decode([best], skip_special_tokens=True).strip()


def test_samples_of_several_images_are_refused_where_a_prompt_is_not_read_once(tiny, examples):
    several = replace(examples[0], images=examples[0].images + examples[-1].images)
    assert len(generate(tiny, [several], 2, num_samples=2, temperature=1.0)[0]) == 2
    tiny.model.config.model_type = "gemma3"
    with pytest.raises(UserError, match=r"\(gemma3\): several samples of a prompt with several images"):
        generate(tiny, [several], 2, num_samples=2, temperature=1.0)


def test_sampling_gives_the_asked_number_and_repeats_under_one_seed(tiny, examples):
    first = generate(tiny, examples[:2], 6, num_samples=5, temperature=1.0, seed=3)
    again = generate(tiny, examples[:2], 6, num_samples=5, temperature=1.0, seed=3)
    assert [len(group) for group in first] == [5, 5]
    assert texts(first) == texts(again)


def test_reading_ahead_leaves_the_tokenizer_of_the_call_alone(tiny, examples):
    """Both run at once: with one tokenizer, what the call tokenises was padded as prompts are, and prompts were not."""
    answer, backend = Local(lambda: tiny), tiny.tokenizer.backend_tokenizer
    backend.no_padding()
    read = answer.read(examples)
    assert backend.padding is None
    assert texts(answer(examples, 3, read=read)) == texts(generate(tiny, examples, 3))


def test_with_a_seed_each_the_samples_of_a_prompt_do_not_hang_on_the_batch(tiny, examples):
    drawn = {"num_samples": 3, "temperature": 1.0}
    together = generate(tiny, examples[:3], 6, seed=[5, 6, 7], **drawn)
    alone = [generate(tiny, [e], 6, seed=[s], **drawn)[0] for e, s in zip(examples[:3], [5, 6, 7], strict=True)]
    assert texts(together) == texts(alone)
    assert texts(together) != texts(generate(tiny, examples[:3], 6, seed=[5, 6, 8], **drawn))


def test_another_seed_draws_other_responses(tiny, examples):
    a = generate(tiny, examples[:2], 6, num_samples=8, temperature=1.0, seed=3)
    b = generate(tiny, examples[:2], 6, num_samples=8, temperature=1.0, seed=4)
    assert texts(a) != texts(b)


def test_sampling_leaves_the_global_generator_alone(tiny, examples):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    generate(tiny, examples[:1], 2, num_samples=2, temperature=1.0, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_the_mode_of_every_module_stays_as_it_was(tiny, examples):
    tiny.model.train()
    tiny.model.model.vision_tower.eval()  # as where one part is frozen
    before = [module.training for module in tiny.model.modules()]
    assert len({*before}) == 2
    generate(tiny, examples[:1], max_new_tokens=1)
    assert [module.training for module in tiny.model.modules()] == before


def test_a_response_at_the_limit_is_not_finished(tiny, examples):
    (reply,) = generate(tiny, examples[:1], max_new_tokens=3)[0]
    assert (reply.num_tokens, reply.finished) == (3, False)


def test_each_prompt_has_its_own_limit(tiny, examples):
    tiny.model.generation_config.eos_token_id = 10**6  # no token: every response runs to its limit
    answered = generate(tiny, examples[:3], [2, 5, 1])
    assert [group[0].num_tokens for group in answered] == [2, 5, 1]


def test_prompts_about_one_image_get_the_answers_that_they_get_alone(tiny, examples):
    asked = [replace(examples[0], prompt=p) for p in ("Why?", "Which one is it and why?", "Which?", "Why? Say more")]
    asked.insert(2, examples[5])
    together = texts(generate(tiny, asked, [6, 3, 5, 6, 4]))
    alone = [texts(generate(tiny, [e], limit))[0] for e, limit in zip(asked, [6, 3, 5, 6, 4], strict=True)]
    assert together == alone


def test_an_image_is_read_once_for_all_its_prompts(tiny, examples):
    sizes = []
    tiny.model.model.vision_tower.register_forward_hook(
        lambda module, args, kwargs, out: sizes.append(len(kwargs.get("pixel_values", args[0] if args else ()))),
        with_kwargs=True,
    )
    generate(tiny, [replace(examples[0], prompt=p) for p in ("Why?", "Which one?", "Who?")], 2)
    assert sizes == [1]


def test_the_tokens_that_were_sampled_are_kept_where_the_text_has_others(tiny, examples):
    """What is trained on is what was drawn, though a text has many spellings in tokens, and space around it is gone."""
    encoder, num = Encoder(tiny.processor), 24
    found = [g for group in generate(tiny, examples[:2], 8, num, temperature=1.0, seed=3) for g in group]
    torch.manual_seed(seed_of(3, *(e.question_id for e in examples[:2])))
    with torch.inference_mode():
        read = prefill(tiny.model, encoder.prompts(examples[:2]))
        drawn = decode(tiny.model, read, torch.tensor([8, 8]), 1.0, 1.0, num)
    said = encoder.responses([Example("", (), "", g.text, g.finished, tuple(g.token_ids)) for g in found])
    tokens, mark = [row[row >= 0].tolist() for row in drawn], tiny.processor.image_token_id
    assert all(ids == sampled or mark in sampled for ids, sampled in zip(said, tokens, strict=True))
    assert not any(mark in ids for ids in said)  # read again, a model would look for the image
    assert sum(bool(g.token_ids) for g in found) > num


def test_an_end_token_finishes_a_response(tiny, examples):
    with torch.no_grad():
        tiny.model.lm_head.weight.zero_()  # every logit alike: greedy takes token 0
    tiny.model.generation_config.eos_token_id = 0
    (reply,) = generate(tiny, examples[:1], max_new_tokens=3)[0]
    assert (reply.num_tokens, reply.finished, reply.text) == (1, True, "")


@pytest.mark.parametrize("blind", [True, False])
def test_a_blind_model_sees_no_pixel(blind, tiny, examples):
    seen = []
    tiny.model.model.vision_tower.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs.get("pixel_values", args[0] if args else None)),
        with_kwargs=True,
    )
    generate(tiny, examples[:2], 2, blind=blind)
    assert [bool(pixels.any()) for pixels in seen] == [not blind]


def test_a_draw_depends_on_every_question_of_its_batch(tiny, examples):
    """Two batches that begin alike are not drawn alike."""
    first, *others = (replace(examples[0], question_id=i) for i in ("one", "two", "three"))
    drawn = [texts(generate(tiny, [first, other], 6, num_samples=8, temperature=1.0, seed=3)) for other in others]
    assert drawn[0] != drawn[1]


def test_a_response_is_drawn_at_its_temperature(tiny, examples):
    """Two tokens with logits 0.7 and 0 are drawn at 0.7 as exp(1) to 1: 73.1% and 26.9%. Applied twice: 80.7%."""
    with torch.no_grad():
        tiny.model.lm_head.weight.zero_()
    logits = torch.full((tiny.model.lm_head.out_features,), -100.0)
    first, second = tiny.tokenizer("ab", add_special_tokens=False)["input_ids"][-2:]
    logits[first], logits[second] = 0.7, 0.0
    tiny.model.lm_head.register_forward_hook(lambda module, args, out: out + logits)
    found = Counter(g.text for g in generate(tiny, examples[:1], 1, num_samples=4000, temperature=0.7, seed=1)[0])
    shares = [n / 4000 for n in sorted(found.values())]
    assert shares == pytest.approx([0.269, 0.731], abs=0.02)  # 0.007 is the standard deviation


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (1.2, 0.9)])
def test_tokens_are_those_of_the_library_under_the_same_seed(temperature, top_p, tiny, examples):
    tiny.model.eval()
    inputs = Encoder(tiny.processor).prompts(examples[:3])
    sampled = (
        {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
        if temperature
        else {"do_sample": False}
    )
    num = 6 if temperature else 1
    ends = list(range(100))  # of about 400 tokens a quarter ends a response, so rows leave at many lengths
    tiny.model.generation_config.eos_token_id = ends
    with torch.inference_mode():
        torch.manual_seed(7)
        theirs = tiny.model.generate(**inputs, **sampled, max_new_tokens=12, num_return_sequences=num, pad_token_id=0)
        torch.manual_seed(7)
        ours = decode(tiny.model, prefill(tiny.model, inputs), torch.tensor([12] * 3), temperature, top_p, num)
    theirs = theirs[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(ours[:, : theirs.shape[1]].clamp(min=0), theirs.masked_fill(ours[:, : theirs.shape[1]] < 0, 0))
    lengths = (ours >= 0).sum(1)
    assert len(lengths.unique()) > 1 or not temperature


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_in_the_mode_that_it_was_in(training, tiny, examples):
    tiny.model.train(training).model.vision_tower.eval()
    modes = [module.training for module in tiny.model.modules()]
    generate(tiny, examples[:1], 2)
    assert [module.training for module in tiny.model.modules()] == modes
