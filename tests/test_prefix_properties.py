"""Shared prefixes on random trees: what they give is what plain rows give, however examples are cut and padded.

A tree has images and prompts without one, prompts that begin another, responses of no token, of one, and equal ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from families import BUILDERS, IMAGE, PAD, Family
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from varlen import varlen_attn

from rationale.models import layout, prefix
from rationale.models.batch import Example, padded
from rationale.models.encode import Encoder
from rationale.models.generate import decode
from rationale.models.layout import rows_about, rows_batch
from rationale.models.logps import response_logps
from rationale.models.packed import sdpa_of_segments
from rationale.models.prefill import candidate_logps, extend, prefill

# One with plain positions, one whose images have rows and columns; test_prefix.py compares all on one tree.
NAMES = ("llava", "qwen2_5_vl")
WORDS = st.integers(1, 89)  # of 128 tokens; 90 to 93 mark images


@dataclass(frozen=True)
class Tree:
    """Examples whose texts are numbers of tokens.

    `lead` comes before an image, as a system turn does; `spare` more columns of padding come before the prompts;
    `cuts` part the examples into micro-batches; a row with more than `room` response tokens is cut.
    """

    examples: list[Example]
    lead: list[int]
    spare: int
    cuts: list[int]
    room: int

    @property
    def micro_batches(self) -> list[list[Example]]:
        return [self.examples[a:b] for a, b in pairwise([0, *self.cuts, len(self.examples)])]


def said(tokens: list[int]) -> str:
    return " ".join(map(str, tokens))


def tokens_of(text: str) -> list[int]:
    return [int(word) for word in text.split()]


@st.composite
def trees(draw) -> Tree:
    """Responses may have no token. A chat template puts some around any text: no prompt has one alone."""
    examples = []
    for number in range(draw(st.integers(1, 3))):
        images = draw(st.sampled_from([(Path(str(number)),), ()]))
        text = draw(st.lists(WORDS, min_size=7, max_size=7))
        for _ in range(draw(st.integers(1, 3))):
            prompt = said(text[: draw(st.integers(2, 7))] + draw(st.lists(WORDS, max_size=2)))
            responses = draw(st.lists(st.lists(WORDS, max_size=6), min_size=1, max_size=3))
            examples += [Example("q", images, prompt, said(response)) for response in responses]
    examples += draw(st.lists(st.sampled_from(examples), max_size=2))
    examples = draw(st.permutations(examples))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(examples) - 1)), max_size=3)) - {len(examples)})
    lead, spare = draw(st.lists(WORDS, max_size=2)), draw(st.integers(0, 3))
    return Tree(examples, lead, spare, cuts, draw(st.sampled_from([4, 9, 2048])))


class Tokens(Encoder):
    """An encoder of such texts for a family."""

    def __init__(self, family: Family, tree: Tree, layout: str):
        tokenizer = SimpleNamespace(pad_token_id=PAD)
        super().__init__(SimpleNamespace(tokenizer=tokenizer, image_token_id=IMAGE), layout=layout)
        self.family, self.tree = family, tree

    def prompts(self, examples: list[Example]) -> dict[str, Tensor]:
        rows = [self.tree.lead + [IMAGE] * self.family.tokens * len(e.images) + tokens_of(e.prompt) for e in examples]
        widest = [PAD] * (max(map(len, rows)) + self.tree.spare)
        ids = padded([*rows, widest], PAD, left=True)[:-1]
        found = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
        shown = [int(image.stem) for e in examples for image in e.images]
        kind = self.family.pixels(len(shown))
        if kind["typed"]:
            found["mm_token_type_ids"] = (ids == IMAGE).long()
        if shown:
            every = torch.rand(3, *kind["shape"], generator=torch.Generator().manual_seed(0))[shown]
            found |= {"pixel_values": every.flatten(0, 1) if kind["flat"] else every, **kind["extra"]}
        return found

    def responses(self, examples: list[Example]) -> list[list[int]]:
        return [tokens_of(e.response) for e in examples]


@cache
def family_of(name: str) -> Family:
    torch.manual_seed(0)
    built = BUILDERS[name]()
    built.model.eval()
    prefix.enable(built.model)
    with torch.no_grad():
        for part, weight in built.model.named_parameters():
            if "language_model" in part and ("q_proj.weight" in part or "k_proj.weight" in part):
                weight *= 10  # as drawn, every token is attended to alike, wherever it stands
        built.model.get_output_embeddings().weight[IMAGE:94] = 0  # no mark of an image is the most likely token
    built.model.generation_config.eos_token_id = list(range(40))  # of 128 tokens: samples end at many lengths
    return built


def plain(family: Family, tree: Tree) -> Tensor:
    """log p of every response token, example after example, by one row for each."""
    batch = Tokens(family, tree, "rows").batch(tree.examples)
    return response_logps(family.model, batch)[batch.mask]


def shared(family: Family, tree: Tree, kernel: Callable[..., Tensor] | None = None) -> Tensor:
    """The same, micro-batch after micro-batch, by rows of shared prefixes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "kernel_for", lambda *_, **__: kernel)
        patch.setattr(layout, "BRANCH_TOKENS", tree.room)
        batches = [Tokens(family, tree, "tree").batch(examples) for examples in tree.micro_batches]
        return torch.cat([response_logps(family.model, batch)[batch.mask] for batch in batches])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(tree=trees())
@torch.no_grad()
def test_log_probs_of_any_tree_are_those_of_rows(name, tree):
    family = family_of(name)
    torch.testing.assert_close(shared(family, tree), plain(family, tree), atol=1e-4, rtol=0)


def assert_gradients_agree(family: Family, tree: Tree, kernel: Callable[..., Tensor] | None) -> None:
    found = []
    for way in (plain, partial(shared, kernel=kernel)):
        family.model.zero_grad()
        logps = way(family, tree)
        (logps * torch.linspace(1, 2, len(logps))).sum().backward()
        found.append({n: p.grad.clone() for n, p in family.model.named_parameters() if p.grad is not None})
        found.append(logps.detach())
    rows, expected, tree_, logps = found
    torch.testing.assert_close(logps, expected, atol=1e-4, rtol=0)
    assert rows.keys() == tree_.keys()
    largest = max(g.abs().max().item() for g in rows.values())
    for name, gradient in rows.items():
        assert (tree_[name] - gradient).abs().max() <= 1e-5 * max(largest, 1), name


@settings(max_examples=30, deadline=None, derandomize=True)
@given(tree=trees())
def test_gradients_of_any_tree_are_those_of_rows(tree):
    assert_gradients_agree(family_of("llava"), tree, None)


@pytest.mark.parametrize("kernel", [sdpa_of_segments, varlen_attn], ids=["loop", "varlen"])
@pytest.mark.parametrize("name", BUILDERS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(tree=trees())
def test_values_and_gradients_of_any_tree_in_segments_are_those_of_rows(name, kernel, tree):
    assert_gradients_agree(family_of(name), tree, kernel)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(tree=trees())
@torch.no_grad()
def test_log_probs_through_a_cache_of_prompts_are_those_of_rows(name, tree):
    family = family_of(name)
    encoder = Tokens(family, tree, "tree")
    found = [logps for examples in tree.micro_batches for logps in candidate_logps(family.model, encoder, examples)]
    assert [len(logps) for logps in found] == [len(tokens_of(e.response)) for e in tree.examples]
    flat = torch.tensor([value for logps in found for value in logps])
    torch.testing.assert_close(flat, plain(family, tree), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(tree=trees(), data=st.data())
@torch.no_grad()
def test_what_is_decoded_through_a_cache_of_prompts_is_the_most_likely_in_rows(name, tree, data):
    family, row_of = family_of(name), rows_about(tree.examples)
    limits = data.draw(st.lists(st.integers(1, 5), min_size=len(row_of), max_size=len(row_of)))
    model, encoder = family.model, Tokens(family, tree, "rows")
    inputs, rests = encoder.prefixes(tree.examples)
    read = extend(model, prefill(model, inputs).repeated(torch.tensor(row_of)), rests)
    tokens = decode(model, read, torch.tensor(limits), temperature=0.0, top_p=1.0)
    rows = rows_batch(tree.examples, [[t for t in row if t >= 0] for row in tokens.tolist()], encoder.prompts, PAD)
    logits = model(**rows.inputs).logits.flatten(0, 1)[rows.sources[rows.mask]]
    chosen = logits.gather(1, rows.labels[rows.mask][:, None])[:, 0]
    torch.testing.assert_close(chosen, logits.amax(1), atol=1e-4, rtol=0)
