"""The sizes of a model, read from its class built without weights, and those of a micro-batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from rationale.artifacts import UserError
from rationale.models.families import LANGUAGE, PROJECTOR, VISION, base_of, is_in
from rationale.models.vlm import freeze

HEAD = "lm_head"
PARTS = (VISION, PROJECTOR, LANGUAGE, HEAD)


@dataclass(frozen=True, slots=True)
class Part:
    """Numbers of a part: all, those that train, and `multiplied`, the weights that every token of it meets once."""

    total: int
    trainable: int
    multiplied: int

    def __add__(self, other: Part) -> Part:
        return Part(self.total + other.total, self.trainable + other.trainable, self.multiplied + other.multiplied)


@dataclass(frozen=True, slots=True)
class Layers:
    """A stack of transformer layers: its number, and the widths of what each keeps for a token."""

    count: int
    width: int
    attention: int  # heads x their width
    keys: int  # the same of keys, and of values
    inner: int  # of the MLP


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's parts and layers; `numels` are the numbers in each of its parameters, `pixels` those in an image patch.

    `adapted` says that it trains a LoRA.
    """

    parts: dict[str, Part]
    text: Layers
    vision: Layers
    pixels: int
    vocabulary: int
    numels: tuple[int, ...]
    adapted: bool = False

    @property
    def total(self) -> int:
        return sum(part.total for part in self.parts.values())

    @property
    def trainable(self) -> int:
        return sum(part.trainable for part in self.parts.values())


def sizes(path: str, frozen_parts: Iterable[str] = (), lora: dict[str, Any] | None = None) -> Sizes:
    """Of the model whose `config.json` is at a folder or hub id; parameters are counted exactly, on the meta device."""
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config)
            if lora is not None:
                model = get_peft_model(model, LoraConfig(**lora))
    except (OSError, ValueError) as error:
        raise UserError(f"plan.path={path}: no vision-language model's config: {str(error).splitlines()[0]}") from error
    freeze(model, frozen_parts)
    return sizes_of(model)


def sizes_of(model: nn.Module) -> Sizes:
    """Of a model that is there, or on the meta device."""
    base = base_of(model)
    held = dict.fromkeys(PARTS, Part(0, 0, 0))
    for name, p in model.named_parameters():
        held[part_of(model, name)] += Part(p.numel(), p.numel() * p.requires_grad, 0)
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Conv3d)):
            held[part_of(model, f"{name}.weight")] += Part(0, 0, module.weight.numel())
    text = base.config.get_text_config()
    heads, width = text.num_attention_heads, text.hidden_size
    each = getattr(text, "head_dim", None) or width // heads
    keys = (getattr(text, "num_key_value_heads", None) or heads) * each
    return Sizes(
        parts=held,
        text=Layers(text.num_hidden_layers, width, heads * each, keys, text.intermediate_size),
        vision=_vision(base),
        pixels=next(m.weight[0].numel() for m in base.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))),
        vocabulary=text.vocab_size,
        numels=tuple(p.numel() for p in model.parameters()),
        adapted=isinstance(model, PeftModel),
    )  # fmt: skip


def part_of(model: nn.Module, name: str) -> str:
    """The part that a parameter belongs to; the head apart from the language model."""
    if "lm_head" in name:
        return HEAD
    return next((part for part in (VISION, PROJECTOR) if is_in(model, part, name)), LANGUAGE)


def _vision(base: nn.Module) -> Layers:
    """The longest stack of layers in the vision tower; its MLP is the widest of what its matrices read."""
    lists = {f"{name}.": module for name, module in base.named_modules() if isinstance(module, nn.ModuleList)}
    stack = max((lists[name] for name in lists if is_in(base, VISION, name)), key=len, default=None)
    if stack is None:
        raise UserError(
            f"{base.config.model_type}: no vision tower by a name that is known; add it to models/families.py"
        )
    read = [module.in_features for module in stack[0].modules() if isinstance(module, nn.Linear)]
    return Layers(len(stack), read[0], read[0], read[0], max(read))


@dataclass(frozen=True, slots=True)
class Rows:
    """A micro-batch of equal rows: each an image, a prompt, and as many responses as share them.

    An image is `tiles` of `tile_tokens` patches (and class token) in the vision tower, and `image` tokens in the
    language model. In the layout `rows` a row has one response; in `tree` it has `branches`.
    """

    rows: int
    tiles: float
    tile_tokens: int
    image: int
    prompt: int
    response: int
    branches: int = 1

    @property
    def prefix(self) -> int:
        return self.image + self.prompt

    @property
    def patches(self) -> float:
        """Tokens of the vision tower."""
        return self.rows * self.tiles * self.tile_tokens

    @property
    def tokens(self) -> int:
        """Tokens of the language model: a prompt once a row, whatever hangs on it."""
        return self.rows * self.prefix + self.predicted

    @property
    def predicted(self) -> int:
        """Response tokens, the only ones that meet the vocabulary."""
        return self.rows * self.branches * self.response

    @property
    def attended(self) -> int:
        """Pairs of tokens whose attention counts: the square of a plain row; with branches that of the prefix, and
        every branch token with all of its row (`models.prefix`).

        A kernel that leaves out what is above the diagonal does about half; utilisation is by custom that of the whole
        square (PaLM, arXiv 2204.02311, appendix B).
        """
        late, whole = self.branches * self.response, self.prefix + self.branches * self.response
        return self.rows * (whole**2 if self.branches == 1 else self.prefix**2 + late * whole)
