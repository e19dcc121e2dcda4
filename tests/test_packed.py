"""Rows with branches in segments: what the kernel is given, and where which kernel is taken."""

from __future__ import annotations

import pytest
import torch
from families import both, llava
from torch._subclasses import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn

from rationale.models import prefix
from rationale.models.logps import response_logps
from rationale.models.packed import GQA, LOOP_FROM, Packed, kernel_for, sdpa_of_segments

# A prefix of two tokens with branches of two and of one, and a prefix of three with a branch of one; padding around.
SEGMENTS = torch.tensor([[-1, 0, 0, 1, 1, 2, -1], [0, 0, 0, 1, -1, -1, -1]])


def test_a_kernel_is_given_every_segment_with_the_keys_of_its_prefix_and_its_own_and_no_padding():
    given = []

    def kernel(*args, **kwargs):
        given.append((args, kwargs))
        return args[0] + 1

    tokens = torch.arange(14.0).view(2, 1, 7, 1)
    out = Packed.of(SEGMENTS, kernel, torch.float32).attend(tokens, tokens, -tokens, 0.5)
    ((query, key, value, ends, key_ends, *longest), named) = given[0]
    assert query.flatten().tolist() == [1, 2, 3, 4, 5, 7, 8, 9, 10]
    assert key.flatten().tolist() == [*[1, 2], *[1, 2, 3, 4], *[1, 2, 5], *[7, 8, 9], *[7, 8, 9, 10]]
    assert value.flatten().tolist() == (-key).flatten().tolist()
    assert ends.tolist() == [0, 2, 4, 5, 8, 9]
    assert key_ends.tolist() == [0, 2, 6, 9, 12, 16]
    assert longest == [3, 4]
    assert named == {"scale": 0.5, "window_size": (-1, 0), **GQA}
    assert out.flatten().tolist() == [0, 2, 3, 4, 5, 6, 0, 8, 9, 10, 11, 0, 0, 0]


def test_the_kernel_of_cuda_takes_what_it_is_given_and_has_a_backward():
    """Shapes and registration alone: fake tensors hold no numbers."""
    packed = Packed.of(SEGMENTS, varlen_attn, torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        states = [torch.empty(2, heads, 7, 8, dtype=torch.bfloat16, requires_grad=True) for heads in (4, 2, 2)]
        out = packed.attend(*states, 0.5)
        out.sum().backward()
    assert out.shape == (2, 7, 4, 8)
    assert out.dtype == torch.bfloat16
    assert [t.grad.shape for t in states] == [t.shape for t in states]


def in_segments(monkeypatch):
    """A LLaVA that attends in segments, and the arguments of every call to come."""
    family, given = llava(), []
    prefix.enable(family.model)

    def kernel(*args, **kwargs):
        given.append(args)
        return sdpa_of_segments(*args, **kwargs)

    monkeypatch.setattr(prefix, "kernel_for", lambda *_, **__: kernel)
    return family, given


def test_lengths_are_counted_once_a_batch_for_all_layers_and_for_those_run_again_in_backward(monkeypatch):
    family, given = in_segments(monkeypatch)
    family.model.train().gradient_checkpointing_enable({"use_reentrant": False})
    response_logps(family.model, both(family)[1]).sum().backward()
    assert len(given) == 4  # two layers, twice
    assert len({(id(ends), id(key_ends)) for *_, ends, key_ends, _, _ in given}) == 1


def test_dropout_which_the_kernel_does_not_know_is_left_to_the_mask(monkeypatch):
    family, given = in_segments(monkeypatch)
    for layer in family.model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.5
    tree = both(family)[1]
    one, other = (response_logps(family.model.train(), tree) for _ in range(2))
    assert not given and not torch.equal(one, other)
    response_logps(family.model.eval(), tree)
    assert len(given) == 2


@pytest.mark.parametrize(
    ("dtype", "head", "capability", "hip", "expected"),
    [
        (torch.bfloat16, 128, (8, 0), None, varlen_attn),
        (torch.float16, 8, (9, 0), None, varlen_attn),
        (torch.float32, 128, (9, 0), None, None),
        (torch.bfloat16, 20, (9, 0), None, None),
        (torch.bfloat16, 264, (9, 0), None, None),
        (torch.float16, 128, (7, 5), None, None),
        (torch.bfloat16, 128, (9, 4), "7.0", None),
    ],
)
def test_cuda_attends_in_segments_in_half_precision_where_flash_attention_runs(
    dtype, head, capability, hip, expected, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert kernel_for(torch.device("cuda"), dtype, head, prefix=1000, branches=50) is expected


@pytest.mark.parametrize(
    ("prefix", "branches", "expected"),
    [(10, LOOP_FROM - 1, None), (10, LOOP_FROM, sdpa_of_segments), (LOOP_FROM + 1, LOOP_FROM, None)],
)
def test_the_cpu_attends_in_segments_where_branches_are_many(prefix, branches, expected):
    assert kernel_for(torch.device("cpu"), torch.float32, 32, prefix, branches) is expected


def test_under_autocast_attention_computes_in_its_type(monkeypatch):
    found, family = [], llava()
    monkeypatch.setattr(prefix, "kernel_for", lambda device, dtype, *_, **__: found.append(dtype))
    prefix.enable(family.model)
    tree = both(family)[1]
    response_logps(family.model, tree)
    with torch.autocast("cpu", torch.float16):
        response_logps(family.model, tree)
    response_logps(family.model.bfloat16(), tree)
    assert found == [torch.float32, torch.float16, torch.bfloat16]
