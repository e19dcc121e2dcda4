"""A prefix is shared only where the language model inside was compared and every layer sees all that came before."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from families import CASES, IMAGE, IN_ROWS, PROMPTS, RESPONSES, TEXT, Family, both, llava

from rationale.artifacts import UserError
from rationale.models import prefix
from rationale.models.batch import continued
from rationale.models.families import can_share, obstacle
from rationale.models.generate import decode_alone
from rationale.models.logps import response_logps

COMPARED = {
    "llama": lambda: t.LlamaConfig(**TEXT),
    "mistral": lambda: t.MistralConfig(**TEXT, sliding_window=None),
    "qwen2": lambda: t.Qwen2Config(**TEXT),
    "qwen3": lambda: t.Qwen3Config(**TEXT, head_dim=8),
}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
REFUSED = {
    "mistral with a window": (lambda: t.MistralConfig(**TEXT, sliding_window=8), "looks back 8 tokens, of at most 512"),
    "qwen2 with a window": (
        lambda: t.Qwen2Config(**TEXT, use_sliding_window=True, sliding_window=8, max_window_layers=1),
        "layers of its qwen2 are sliding_attention",
    ),
    "gemma3_text": (
        lambda: t.Gemma3TextConfig(**TEXT, head_dim=8, sliding_window=8),
        "gemma3_text inside was not compared",
    ),
    "phi3": (lambda: t.Phi3Config(**TEXT, **ENDS, sliding_window=8), "phi3 inside was not compared"),
    "cohere2": (lambda: t.Cohere2Config(**TEXT, **ENDS, sliding_window=8), "cohere2 inside was not compared"),
    "exaone4": (lambda: t.Exaone4Config(**TEXT, sliding_window=8), "exaone4 inside was not compared"),
    "llama4": (
        lambda: t.Llama4TextConfig(**TEXT, head_dim=8, attention_chunk_size=8, num_local_experts=2),
        "llama4_text inside was not compared",
    ),
    "lfm2": (lambda: t.Lfm2Config(**TEXT, layer_types=["conv", "full_attention"]), "lfm2 inside was not compared"),
    "qwen3_next": (
        lambda: t.Qwen3NextConfig(**TEXT, head_dim=8, layer_types=["linear_attention", "full_attention"]),
        "qwen3_next inside was not compared",
    ),
    "stablelm": (lambda: t.StableLmConfig(**TEXT), "stablelm inside was not compared"),
}


def model_with(text: t.PretrainedConfig) -> Family:
    torch.manual_seed(0)
    family = llava(text)
    family.model.eval()
    return family


@pytest.mark.parametrize("name", COMPARED)
def test_values_and_gradients_of_tree_are_those_of_rows_with_this_model_inside(name):
    family = model_with(COMPARED[name]())
    assert can_share(family.model)
    prefix.enable(family.model)
    found = []
    for batch in both(family):
        family.model.zero_grad()
        logps = response_logps(family.model, batch)
        logps.sum().backward()
        found.append((logps.detach(), {n: p.grad for n, p in family.model.named_parameters() if p.grad is not None}))
    (rows, plain), (tree, shared) = found
    torch.testing.assert_close(tree, rows, atol=1e-5, rtol=0)
    for part, gradient in plain.items():
        torch.testing.assert_close(shared[part], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", REFUSED)
def test_a_text_model_whose_layers_do_not_all_see_everything_is_refused_in_tree(name):
    build, reason = REFUSED[name]
    family = model_with(build())
    assert reason in obstacle(family.model)
    with pytest.raises(UserError, match=r"llava: its prefix cannot be shared \(.*\); set layout=rows"):
        response_logps(family.model, both(family)[1])


def not_shared(name: str) -> Family:
    """LLaVA with a language model that is refused, or a whole family that is."""
    if name in REFUSED:
        return model_with(REFUSED[name][0]())
    torch.manual_seed(0)
    family = IN_ROWS[name]()
    family.model.eval()
    return family


def then(inputs, tokens):
    """A row's inputs with more tokens (1, n) after it."""
    return continued(inputs, tokens, torch.ones_like(tokens))


def alone(family, example, response):
    """log p of one response by transformers' own forward pass of an unpadded row."""
    inputs = then(family.prompts(PROMPTS, [example]), torch.tensor([response]))
    logits = family.model(**inputs, use_cache=False).logits[0, -len(response) - 1 : -1]
    return logits.float().log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]


@torch.no_grad()
@pytest.mark.parametrize("name", [*REFUSED, *IN_ROWS])
def test_plain_rows_of_a_model_that_is_not_shared_are_transformers_own(name):
    family = not_shared(name)
    logps = response_logps(family.model, both(family)[0])
    for row, example, response in zip(logps, CASES, RESPONSES, strict=True):
        torch.testing.assert_close(row[: len(response)], alone(family, example, response), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", [*REFUSED, *IN_ROWS])
def test_greedy_decoding_of_a_model_that_is_not_shared_takes_the_largest_logit_of_every_step(name):
    family = not_shared(name)
    family.model.generation_config.eos_token_id = [126]
    family.model.get_output_embeddings().weight[IMAGE] = 0  # never the largest: another image would be asked for
    expected = []
    for example in CASES[:2]:
        inputs = family.prompts(PROMPTS, [example])
        for _ in range(4):
            chosen = family.model(**inputs, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            inputs = then(inputs, chosen)
        expected.append(inputs["input_ids"][0, -4:].tolist())
    inputs = family.prompts(PROMPTS, CASES[:2])
    tokens = decode_alone(family.model, inputs, torch.tensor([4, 3]), 0.0, 1.0, 1)
    assert tokens.tolist() == [expected[0], [*expected[1][:3], -1]]
