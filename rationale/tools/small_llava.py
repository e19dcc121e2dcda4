"""A LLaVA of about two million parameters, of transformers' own classes: tokenizer, processor, random weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

try:  # the PIL processor needs no torchvision; older transformers know it under its plain name
    from transformers import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError:
    from transformers import CLIPImageProcessor

SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|user|>", "<|assistant|>"]

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE in which every digit stands alone, so that numbers are read and added digit by digit."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?\d"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"}, clean_up_tokenization_spaces=False,
    )  # fmt: skip


def build_processor(tokenizer: PreTrainedTokenizerFast, image_size: int, patch_size: int) -> LlavaProcessor:
    """Images at their own size, no resampling where they already fit; scaled so that a white ground is near 0."""
    image_processor = CLIPImageProcessor(
        size={"height": image_size, "width": image_size}, do_center_crop=False,
        image_mean=[0.93] * 3, image_std=[0.3] * 3,
    )  # fmt: skip
    return LlavaProcessor(
        image_processor, tokenizer, patch_size=patch_size, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip


def _place(positions: torch.Tensor) -> None:
    """Start from 2-D sines and cosines of row and column; from small noise it takes long to learn where things are."""
    side, width = int((positions.shape[0] - 1) ** 0.5), positions.shape[1]
    rate = torch.pi * torch.arange(1, width // 4 + 1) / (width // 4)
    angle = torch.arange(side).unsqueeze(1) * rate
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = torch.cat([wave.repeat_interleave(side, 0), wave.repeat(side, 1)], dim=1)
    with torch.no_grad():
        positions[1:] = 0.5 * grid


def build_model(
    processor: LlavaProcessor, vision_width: int, vision_layers: int, width: int, layers: int, heads: int, seed: int
) -> LlavaForConditionalGeneration:
    """Random weights from `seed`; the image size is the processor's."""
    tokenizer = processor.tokenizer
    vision = CLIPVisionConfig(
        hidden_size=vision_width, intermediate_size=4 * vision_width, num_hidden_layers=vision_layers,
        num_attention_heads=4, image_size=processor.image_processor.size["height"], patch_size=processor.patch_size,
        projection_dim=vision_width,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=int(width * 8 / 3) // 16 * 16,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=processor.image_token_id, vision_feature_layer=-1,
        vision_feature_select_strategy="default", tie_word_embeddings=True,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        _place(model.model.vision_tower.embeddings.position_embedding.weight)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model
