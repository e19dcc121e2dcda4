"""Shared prefixes: log-probs and gradients of `tree` are those of `rows`, family by family."""

from __future__ import annotations

import pytest
import torch
from families import BUILDERS, CASES, EVERY, IMAGE, SEVERAL, both
from peft import LoraConfig, get_peft_model
from torch import nn
from varlen import varlen_attn

from rationale.artifacts import UserError
from rationale.models import prefix
from rationale.models.batch import Example
from rationale.models.encode import Encoder
from rationale.models.families import FAMILIES
from rationale.models.logps import response_logps
from rationale.models.packed import sdpa_of_segments
from rationale.models.prefix import enable, head_logps
from rationale.models.vlm import load
from rationale.objectives.logprobs import token_logps


@pytest.fixture(params=[None, sdpa_of_segments, varlen_attn], ids=["masked", "loop", "varlen"])
def kernel(request, monkeypatch):
    """What attends to rows with branches: a mask, as is usual on CPU; a loop of calls; the double of CUDA's kernel."""
    monkeypatch.setattr(prefix, "kernel_for", lambda *_, **__: request.param)


@pytest.mark.usefixtures("kernel")
def test_log_probs_of_tree_are_those_of_rows(family):
    rows, tree = both(family)
    with torch.no_grad():
        torch.testing.assert_close(
            response_logps(family.model, tree), response_logps(family.model, rows), atol=1e-4, rtol=0
        )


def gradients_agree(family, cases):
    found = []
    for batch in both(family, cases):
        family.model.zero_grad()
        response_logps(family.model, batch).sum().backward()
        found.append({n: p.grad.clone() for n, p in family.model.named_parameters() if p.grad is not None})
    plain, shared = found
    assert plain.keys() == shared.keys()
    largest = max(g.abs().max().item() for g in plain.values())
    for name, gradient in plain.items():
        assert (shared[name] - gradient).abs().max() <= 1e-3 * max(gradient.abs().max().item(), 1e-3 * largest), name


@pytest.mark.usefixtures("kernel")
def test_gradients_of_tree_are_those_of_rows(family):
    gradients_agree(family, CASES)


@pytest.mark.parametrize("name", ["llava", "llava_next", "qwen2_vl", "qwen3_vl", "internvl"])
def test_several_images_of_a_prompt_are_shared_once_with_the_values_and_gradients_of_rows(name):
    torch.manual_seed(0)
    family = BUILDERS[name]()
    enable(family.model.eval())
    rows, tree = both(family, SEVERAL)
    assert (rows.inputs["input_ids"] == IMAGE).sum() == 9 * family.tokens
    assert (tree.inputs["input_ids"] == IMAGE).sum() == 5 * family.tokens
    with torch.no_grad():
        torch.testing.assert_close(
            response_logps(family.model, tree), response_logps(family.model, rows), atol=1e-4, rtol=0
        )
    gradients_agree(family, SEVERAL)


@pytest.mark.usefixtures("kernel")
@torch.no_grad()
def test_log_probs_of_tree_and_rows_agree_under_bf16_autocast_and_are_float32(family):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, tree = (response_logps(family.model, batch) for batch in both(family))
    assert tree.dtype == rows.dtype == torch.float32
    torch.testing.assert_close(tree, rows, atol=0.05, rtol=0)  # of values near -5; one step of bf16 there is 0.03


@pytest.mark.usefixtures("kernel")
def test_gradients_of_lora_adapters_in_tree_are_those_in_rows(family):
    torch.manual_seed(1)
    parts = r".*(language|text)_model.*\.(q_proj|down_proj)"
    adapted = get_peft_model(family.model, LoraConfig(r=2, target_modules=parts))
    found = []
    for batch in both(family):
        adapted.zero_grad()
        response_logps(adapted, batch).sum().backward()
        found.append({n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None})
    assert all("lora_" in name for name in found[0])
    assert len(found[0]) > 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-3)


def test_a_tree_holds_each_image_and_each_prefix_once(family):
    rows, tree = both(family)
    assert (rows.inputs["input_ids"] == IMAGE).sum() == 5 * family.tokens
    assert (tree.inputs["input_ids"] == IMAGE).sum() == 2 * family.tokens


@pytest.mark.usefixtures("kernel")
def test_gradients_with_checkpointing_are_those_without(family):
    found = []
    for checkpointing in (False, True):
        family.model.train()
        if checkpointing:
            family.model.gradient_checkpointing_enable({"use_reentrant": False})
        family.model.zero_grad()
        response_logps(family.model, both(family)[1]).sum().backward()
        found.append({n: p.grad.clone() for n, p in family.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)


def tree_of(vlm, examples):
    return Encoder(vlm.processor, layout="tree").batch(examples)


def test_a_family_that_was_not_compared_is_refused_by_name(tiny, examples):
    batch = tree_of(tiny, examples)
    tiny.model.config.model_type = "gemma3"
    with pytest.raises(UserError, match=r"gemma3: its prefix cannot be shared.*set layout=rows"):
        response_logps(tiny.model, batch)


def test_another_attention_is_refused_with_the_way_out(tiny_dir, examples):
    eager = load(str(tiny_dir), attention="eager")
    with pytest.raises(UserError, match=r"layout=tree needs model.attention=sdpa"):
        response_logps(eager.model, tree_of(eager, examples))


def test_prompts_whose_image_comes_last_share_nothing_and_say_so(tiny, examples):
    tiny.processor.chat_template = tiny.processor.chat_template.replace(
        "message['content'] %}", "message['content'] | reverse %}"
    )
    other = Example("q", examples[0].images, "Another question?", "so")
    with pytest.raises(UserError, match="puts the image after the prompt's text"):
        tree_of(tiny, [examples[0], other])
    assert len(tree_of(tiny, examples[:1]).labels) == 1


def test_the_head_in_tiles_gives_the_values_and_gradients_of_the_whole(monkeypatch):
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 50, bias=False), torch.randn(13, 8, requires_grad=True)
    labels = torch.randint(0, 50, (13,))
    whole = token_logps(head(hidden), labels)
    whole.sum().backward()
    expected = [hidden.grad.clone(), head.weight.grad.clone()]
    hidden.grad = head.weight.grad = None
    monkeypatch.setattr(prefix, "TILE_ELEMENTS", 4 * 50)
    tiles = head_logps(head, hidden, labels)
    tiles.sum().backward()
    torch.testing.assert_close(tiles, whole)
    torch.testing.assert_close([hidden.grad, head.weight.grad], expected)


def test_no_more_logits_exist_at_a_time_than_a_tile_holds(monkeypatch):
    sizes, calls, head = [], [], nn.Linear(8, 50)
    head.register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setattr(prefix, "token_logps", lambda a, b: sizes.append(a.numel()) or token_logps(a, b))
    monkeypatch.setattr(prefix, "TILE_ELEMENTS", 210)
    head_logps(head, torch.randn(13, 8, requires_grad=True), torch.zeros(13, dtype=torch.long)).sum().backward()
    assert max(sizes) == 200
    assert sum(sizes) == 2 * 13 * 50  # forward, and again in backward
    assert len(calls) == 1  # so ZeRO-3 gathers the weight once


def test_every_family_said_to_share_is_compared():
    assert {name for name, family in FAMILIES.items() if family.sharing == "tree"} == set(BUILDERS)
    assert set(FAMILIES) == set(EVERY)
