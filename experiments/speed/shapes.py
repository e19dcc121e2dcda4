"""Model shapes of the benchmarks, and images, prompts and responses for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from random import Random

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import torch
from PIL import Image
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
)

from rationale.models.batch import Example
from rationale.models.device import device_of
from rationale.tools.small_llava import CHAT_TEMPLATE, train_tokenizer

WORDS = ("bar", "is", "the", "red", "blue", "value", "of", "left", "higher", "than", "and", "so", "we", "see", "two")


@dataclass(frozen=True, slots=True)
class Shape:
    """A LLaVA-NeXT: tiles of 336 pixels in patches of 14, so an image of 672 x 672 has 2,928 tokens in five tiles."""

    layers: int
    width: int
    vocab: int
    image: int = 672
    vision_layers: int = 4
    vision_width: int = 128
    vision_heads: int = 4

    def head_share(self) -> float:
        """FLOPs of the LM head on every token over those of head and language model, attention not counted."""
        body = self.layers * (4 * self.width**2 + 3 * self.width * self.inner)
        return self.width * self.vocab / (self.width * self.vocab + body)

    def flops(self, tiles: int, prefix: int, branches: list[int]) -> float:
        """Of a forward pass over a row [prefix][branch 1]...: the matrix products, a product and a sum as two.

        The vision tower sees every tile whole; in the language model a token sees what stands before it and no other
        branch; the head runs on the branches alone.
        """
        patches, w, v = 577, self.width, self.vision_width
        vision = tiles * self.vision_layers * (24 * patches * v**2 + 4 * patches**2 * v)
        tokens = prefix + sum(branches)
        projections = self.layers * tokens * (8 * w**2 + 6 * w * self.inner)
        pairs = prefix**2 / 2 + sum(b * prefix + b**2 / 2 for b in branches)
        return vision + projections + self.layers * 4 * w * pairs + 2 * w * self.vocab * sum(branches)

    @property
    def inner(self) -> int:
        return int(self.width * 8 / 3) // 16 * 16


SHAPES = {
    "body-heavy": Shape(layers=10, width=512, vocab=4096),    # the head is a small part, as in an 8B model
    "head-heavy": Shape(layers=6, width=256, vocab=32000),
    "1B": Shape(layers=16, width=2048, vocab=32000, vision_layers=24, vision_width=1024, vision_heads=16),  # CLIP-L
    "tiny": Shape(layers=2, width=64, vocab=512, image=336, vision_layers=1, vision_width=32),  # to try a script out
}  # fmt: skip


def save_model(shape: Shape, folder: Path, device: str = "cpu") -> None:
    """Random weights, drawn on a device, and a processor as a transformers folder."""
    rng = Random(0)
    tokenizer = train_tokenizer((" ".join(rng.choices(WORDS, k=50)) for _ in range(200)), 512)
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336},
        image_grid_pinpoints=[[336, 336], [shape.image, shape.image]],
    )  # fmt: skip
    processor = LlavaNextProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=shape.vision_width, intermediate_size=4 * shape.vision_width,
            num_attention_heads=shape.vision_heads, num_hidden_layers=shape.vision_layers, image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=shape.vocab, hidden_size=shape.width, intermediate_size=shape.inner,
            num_hidden_layers=shape.layers, num_attention_heads=shape.width // 64 or 1,
            num_key_value_heads=shape.width // 64 or 1, max_position_embeddings=8192,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        image_token_index=processor.image_token_id, image_grid_pinpoints=images.image_grid_pinpoints,
    )  # fmt: skip
    torch.manual_seed(0)
    with device_of(device):
        model = LlavaNextForConditionalGeneration(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.cpu().save_pretrained(folder)
    processor.save_pretrained(folder)


def save_images(shape: Shape, folder: Path, count: int) -> list[Path]:
    """Images of coarse noise."""
    paths = []
    for index in range(count):
        rng = Random(f"image/{index}")
        small = Image.frombytes("RGB", (24, 24), rng.randbytes(24 * 24 * 3))
        paths.append(folder / f"{index}.png")
        small.resize((shape.image, shape.image), Image.Resampling.NEAREST).save(paths[-1])
    return paths


def response(name: str, low: int = 70, high: int = 120) -> str:
    """A response of `low` to `high` words, each one or two tokens of the tokenizer; the same for the same name."""
    rng = Random(name)
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def prompt(index: int) -> str:
    """A question of some fifteen tokens."""
    return f"Question: {response(f'prompt/{index}', 8, 12)}?\nGenerate a reason first and then output a short answer."


def responses(images: list[Path], per_image: int) -> list[list[Example]]:
    """`per_image` responses to one question about each image."""
    return [
        [Example(f"q{i}", (path,), prompt(i), response(f"{i}/{k}")) for k in range(per_image)]
        for i, path in enumerate(images)
    ]
