"""Shared prefixes: log-probs and gradients of `tree` are those of `rows`, family by family."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers as t
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from rationale.artifacts import UserError
from rationale.data.batch import Example, padded
from rationale.data.encode import Encoder
from rationale.data.layout import rows_batch, shared_prefixes, tree_batch
from rationale.models import forward, prefix
from rationale.models.forward import response_logps
from rationale.models.generate import decode, prefill, read_on
from rationale.models.prefix import FAMILIES, enable, head_logps
from rationale.models.vlm import load
from rationale.objectives.logprobs import IGNORE, token_logps

IMAGE, PAD, VOCAB = 90, 0, 128
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": PAD,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}


@dataclass
class Family:
    """A model, the number of its image's tokens, and the pixels of n images."""

    model: nn.Module
    tokens: int
    pixels: object

    def prompts(self, ids: dict[str, list[int]], examples) -> dict[str, Tensor]:
        """Left-padded [image tokens][text] of each example, as a processor gives them."""
        rows = [[IMAGE] * self.tokens + ids[e.prompt] for e in examples]
        tokens = padded(rows, PAD, left=True)
        mask = padded([[1] * len(r) for r in rows], 0, left=True)
        images = torch.Generator().manual_seed(0)
        every = torch.rand(len({e.image for e in CASES}), *self.pixels(1)["shape"], generator=images)
        chosen = torch.stack([every[int(e.image.stem)] for e in examples])
        found = {"input_ids": tokens, "attention_mask": mask, **self.pixels(len(rows))["extra"]}
        found["pixel_values"] = chosen.flatten(0, 1) if self.pixels(1)["flat"] else chosen
        if self.pixels(1)["typed"]:
            found["mm_token_type_ids"] = (tokens == IMAGE).long()
        return found


def pixels(n, shape, flat=False, typed=False, **extra):
    return {"shape": shape, "flat": flat, "typed": typed, "extra": {k: v.repeat(n, 1) for k, v in extra.items()}}


def llava():
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=t.LlamaConfig(**TEXT), image_token_index=IMAGE
    )
    return Family(t.LlavaForConditionalGeneration(config), 4, partial(pixels, shape=(3, 28, 28)))


def llava_next():
    config = t.LlavaNextConfig(
        vision_config=t.CLIPVisionConfig(**VISION),
        text_config=t.LlamaConfig(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[28, 56]],
    )  # fmt: skip
    size = torch.tensor([[28, 56]])  # two tiles beside the whole: 4 + 2 * 4 patches and a new-line mark a row
    return Family(
        t.LlavaNextForConditionalGeneration(config), 14, partial(pixels, shape=(3, 3, 28, 28), image_sizes=size)
    )


def llava_onevision():
    vision = t.SiglipVisionConfig(**VISION)
    config = t.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=t.Qwen2Config(**TEXT),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[28, 56]],
    )
    size = torch.tensor([[28, 56]])
    extra = partial(pixels, shape=(3, 3, 28, 28), image_sizes=size)
    return Family(t.LlavaOnevisionForConditionalGeneration(config), 14, extra)


def qwen(config_class, model_class, vision, patch):
    config = config_class(
        text_config={**TEXT, "rope_parameters": MROPE, "head_dim": 8}, image_token_id=IMAGE, vision_start_token_id=91,
        vision_end_token_id=92, video_token_id=93,
        vision_config={"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": patch, "spatial_merge_size": 2,
                       "temporal_patch_size": 2, **vision},
    )  # fmt: skip
    grid = torch.tensor([[1, 4, 6]])
    return Family(
        model_class(config),
        6,
        partial(pixels, shape=(24, 3 * 2 * patch**2), flat=True, typed=True, image_grid_thw=grid),
    )


def smolvlm():
    vision = {**VISION, "patch_size": 7}
    config = t.SmolVLMConfig(
        vision_config=vision, text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2, pad_token_id=PAD
    )
    return Family(t.SmolVLMForConditionalGeneration(config), 4, partial(pixels, shape=(1, 3, 28, 28)))


def internvl():
    vision = t.InternVLVisionConfig(**{**VISION, "image_size": [28, 28], "patch_size": [7, 7]})
    config = t.InternVLConfig(
        vision_config=vision, text_config=t.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4
    )
    return Family(t.InternVLForConditionalGeneration(config), 4, partial(pixels, shape=(3, 28, 28)))


BUILDERS = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": lambda: qwen(
        t.Qwen2VLConfig, t.Qwen2VLForConditionalGeneration, {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}, 14
    ),
    "qwen2_5_vl": lambda: qwen(
        t.Qwen2_5_VLConfig, t.Qwen2_5_VLForConditionalGeneration,
        {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "fullatt_block_indexes": [1]}, 14,
    ),
    "qwen3_vl": lambda: qwen(
        t.Qwen3VLConfig, t.Qwen3VLForConditionalGeneration,
        {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "num_position_embeddings": 64,
         "deepstack_visual_indexes": [0, 1]}, 16,
    ),
    "smolvlm": smolvlm,
    "internvl": internvl,
}  # fmt: skip

# Two images; the first with two prompts that part after five tokens, and of uneven length.
PROMPTS = {"a": [3, 4, 5, 6, 7], "b": [3, 4, 5, 6, 7, 8, 9], "c": [11, 12]}
CASES = [
    Example("q", Path("0"), "a", "one"), Example("q", Path("1"), "c", "two"), Example("q", Path("0"), "b", "three"),
    Example("q", Path("1"), "c", "four"), Example("q", Path("0"), "a", "five"),
]  # fmt: skip
RESPONSES = [[20, 21, 22], [23], [24, 25, 26, 27, 28], [29, 30], [31, 32, 33, 34]]


@pytest.fixture(params=BUILDERS)
def family(request) -> Family:
    torch.manual_seed(0)
    built = BUILDERS[request.param]()
    assert built.model.config.model_type == request.param
    built.model.eval()
    enable(built.model)
    return built


def both(family):
    """The same examples in plain rows and with shared prefixes."""
    prompts = partial(family.prompts, PROMPTS)
    labels = padded(RESPONSES, IGNORE)
    return rows_batch(CASES, labels, prompts, PAD), tree_batch(CASES, RESPONSES, labels, prompts, IMAGE, PAD)


def test_log_probs_of_tree_are_those_of_rows(family):
    rows, tree = both(family)
    with torch.no_grad():
        torch.testing.assert_close(
            response_logps(family.model, tree), response_logps(family.model, rows), atol=1e-4, rtol=0
        )


@torch.no_grad()
def test_log_probs_under_a_block_mask_are_those_of_rows(family, monkeypatch):
    """What is used on CUDA; on CPU FlexAttention has a forward pass only."""
    rows, tree = both(family)
    whole = prefix.tree_inputs

    def blocked(model, batch):
        return {**whole(model, batch), "attention_mask": prefix.block_mask(batch.segments)}

    expected = response_logps(family.model, rows)
    monkeypatch.setattr(forward, "tree_inputs", blocked)
    torch.testing.assert_close(response_logps(family.model, tree), expected, atol=1e-4, rtol=0)


def test_gradients_of_tree_are_those_of_rows(family):
    found = []
    for batch in both(family):
        family.model.zero_grad()
        response_logps(family.model, batch).sum().backward()
        found.append({n: p.grad.clone() for n, p in family.model.named_parameters() if p.grad is not None})
    plain, shared = found
    assert plain.keys() == shared.keys()
    largest = max(g.abs().max().item() for g in plain.values())
    for name, gradient in plain.items():
        assert (shared[name] - gradient).abs().max() <= 1e-3 * max(gradient.abs().max().item(), 1e-3 * largest), name


@torch.no_grad()
def test_log_probs_of_tree_and_rows_agree_under_bf16_autocast_and_are_float32(family):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows, tree = (response_logps(family.model, batch) for batch in both(family))
    assert tree.dtype == rows.dtype == torch.float32
    torch.testing.assert_close(tree, rows, atol=0.05, rtol=0)  # of values near -5; one step of bf16 there is 0.03


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
    inputs, rests = shared_prefixes(asked, [0, 1, 0], asked[:2], partial(family.prompts, PROMPTS), IMAGE, PAD, spare=1)
    read = read_on(family.model, prefill(family.model, inputs).repeated(torch.tensor([0, 1, 0])), rests)
    assert torch.equal(decode(family.model, read, torch.tensor([6] * 3), 0.0, 1.0), torch.cat(alone))


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
    other = Example("q", examples[0].image, "Another question?", "so")
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
    sizes = []
    head = nn.Linear(8, 50)
    head.register_forward_hook(lambda module, inputs, out: sizes.append(out.numel()))
    monkeypatch.setattr(prefix, "TILE_ELEMENTS", 210)
    head_logps(head, torch.randn(13, 8, requires_grad=True), torch.zeros(13, dtype=torch.long)).sum().backward()
    assert max(sizes) == 200
    assert sum(sizes) == 2 * 13 * 50  # forward, and again in backward


def test_every_family_said_to_share_is_compared():
    assert set(FAMILIES) == set(BUILDERS)
