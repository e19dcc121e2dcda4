"""Tiny models of every family by transformers' own classes, and examples for them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers as t
from torch import Tensor, nn

from rationale.models.batch import Batch, Example, padded
from rationale.models.layout import rows_about, rows_batch, shared_prefixes, tree_batch

IMAGE, END, PAD, VOCAB = 90, 92, 0, 128
TEXT = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": PAD,
}  # fmt: skip
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}


@dataclass
class Family:
    """A model, the number of an image's tokens, and the pixels of n images."""

    model: nn.Module
    tokens: int
    pixels: object

    def prompts(self, ids: dict[str, list[int]], examples) -> dict[str, Tensor]:
        """Left-padded image tokens and text of each example in order, as a processor gives them."""
        rows = []
        for e in examples:
            image = [IMAGE] * self.tokens + [END] * (len(e.images) > 1)  # or two would be one to Qwen
            rows.append([t for part in e.parts for t in (ids[part] if isinstance(part, str) else image)])
        shown = [int(p.stem) for e in examples for p in e.parts if isinstance(p, Path)]
        tokens = padded(rows, PAD, left=True)
        mask = padded([[1] * len(r) for r in rows], 0, left=True)
        images = torch.Generator().manual_seed(0)
        every = torch.rand(2, *self.pixels(1)["shape"], generator=images)
        chosen = every[shown]
        found = {"input_ids": tokens, "attention_mask": mask, **self.pixels(len(shown))["extra"]}
        found["pixel_values"] = chosen.flatten(0, 1) if self.pixels(1)["flat"] else chosen
        if name := self.pixels(1)["typed"]:
            found[name] = (tokens == IMAGE).long()
        return found


def pixels(n, shape, flat=False, typed=None, **extra):
    return {"shape": shape, "flat": flat, "typed": typed, "extra": {k: v.repeat(n, 1) for k, v in extra.items()}}


def llava(text=None):
    config = t.LlavaConfig(
        vision_config=t.CLIPVisionConfig(**VISION), text_config=text or t.LlamaConfig(**TEXT), image_token_index=IMAGE
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


def qwen(config_class, model_class, vision, patch, **text):
    config = config_class(
        text_config={**TEXT, "rope_parameters": MROPE, "head_dim": 8, **text}, image_token_id=IMAGE,
        vision_start_token_id=91, vision_end_token_id=92, video_token_id=93,
        vision_config={"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": patch, "spatial_merge_size": 2,
                       "temporal_patch_size": 2, **vision},
    )  # fmt: skip
    grid = torch.tensor([[1, 4, 6]])
    return Family(
        model_class(config),
        6,
        partial(pixels, shape=(24, 3 * 2 * patch**2), flat=True, typed="mm_token_type_ids", image_grid_thw=grid),
    )


def smolvlm(config_class=t.SmolVLMConfig, model_class=t.SmolVLMForConditionalGeneration):
    vision = {**VISION, "patch_size": 7}
    config = config_class(
        vision_config=vision, text_config=t.LlamaConfig(**TEXT), image_token_id=IMAGE, scale_factor=2, pad_token_id=PAD
    )
    return Family(model_class(config), 4, partial(pixels, shape=(1, 3, 28, 28)))


def internvl():
    vision = t.InternVLVisionConfig(**{**VISION, "image_size": [28, 28], "patch_size": [7, 7]})
    config = t.InternVLConfig(
        vision_config=vision, text_config=t.Qwen2Config(**TEXT), image_token_id=IMAGE, image_seq_length=4
    )
    return Family(t.InternVLForConditionalGeneration(config), 4, partial(pixels, shape=(3, 28, 28)))


def gemma3(image=IMAGE, **more):
    text = t.Gemma3TextConfig(
        **{**TEXT, **more}, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
    )  # fmt: skip
    config = t.Gemma3Config(
        vision_config=t.SiglipVisionConfig(**{**VISION, "patch_size": 7}), text_config=text, image_token_index=image,
        mm_tokens_per_image=4, boi_token_index=91, eoi_token_index=92,
    )  # fmt: skip
    model = t.Gemma3ForConditionalGeneration(config)
    nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.02)  # zeros as it is built
    return Family(model, 4, partial(pixels, shape=(3, 28, 28), typed="token_type_ids"))


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
    "idefics3": lambda: smolvlm(t.Idefics3Config, t.Idefics3ForConditionalGeneration),
    "internvl": internvl,
}  # fmt: skip

IN_ROWS = {  # families whose prefix cannot be shared
    "gemma3": gemma3,
    "qwen3_5": lambda: qwen(
        t.Qwen3_5Config, t.Qwen3_5ForConditionalGeneration,
        {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": 32, "num_position_embeddings": 64}, 16,
        layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8,
        rope_parameters=MROPE | {"mrope_interleaved": True, "partial_rotary_factor": 1.0},
    ),
}  # fmt: skip
EVERY = BUILDERS | IN_ROWS

# Two images; the first with two prompts that part after five tokens, and of uneven length.
PROMPTS = {"a": [3, 4, 5, 6, 7], "b": [3, 4, 5, 6, 7, 8, 9], "c": [11, 12]}
FIRST, SECOND = (Path("0"),), (Path("1"),)
CASES = [
    Example("q", FIRST, "a", "one"), Example("q", SECOND, "c", "two"), Example("q", FIRST, "b", "three"),
    Example("q", SECOND, "c", "four"), Example("q", FIRST, "a", "five"),
]  # fmt: skip
# Two images each, the second within the text or before it, beside a question about one.
WITHIN = "c<image 2>"
SEVERAL = [
    Example("q", FIRST + SECOND, f"{WITHIN}a", "one"), Example("q", SECOND, "c", "two"),
    Example("q", FIRST + SECOND, f"{WITHIN}b", "three"), Example("q", SECOND + FIRST, "a", "four"),
    Example("q", SECOND + FIRST, "b", "five"),
]  # fmt: skip
RESPONSES = [[20, 21, 22], [23], [24, 25, 26, 27, 28], [29, 30], [31, 32, 33, 34]]


def both(family: Family, cases: list[Example] = CASES) -> tuple[Batch, Batch]:
    """The same examples in plain rows and with shared prefixes."""
    prompts = partial(family.prompts, PROMPTS)
    return rows_batch(cases, RESPONSES, prompts, PAD), tree_batch(cases, RESPONSES, prompts, IMAGE, PAD)


class Encoded:
    """What `candidate_logps` asks of an Encoder, with the family's own tokens."""

    layout = "tree"

    def __init__(self, family):
        self.family = family

    def prefixes(self, examples):
        return shared_prefixes(
            examples, rows_about(examples), partial(self.family.prompts, PROMPTS), IMAGE, PAD, spare=1
        )

    def responses(self, examples):
        return [RESPONSES[CASES.index(e)] for e in examples]
