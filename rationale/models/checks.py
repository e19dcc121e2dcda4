"""What stops a stage whose rows do not fit its model: found before the first step, and named by the row's id."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image
from torch import Tensor, nn
from transformers import Idefics3Processor, LlavaOnevisionProcessor

from rationale.artifacts import UserError
from rationale.models.batch import Example
from rationale.models.device import moved
from rationale.models.encode import Encoder
from rationale.models.families import base_of
from rationale.models.towers import Shapes
from rationale.models.vlm import VLM
from rationale.schema import RowError

# What changes a model's own `generate`, and the value that changes nothing. Our decoding follows temperature, top_p
# and end tokens alone.
NEUTRAL = {
    "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "num_beams": 1,
    "min_length": 0, "min_new_tokens": 0, "length_penalty": 1.0, "bad_words_ids": None, "suppress_tokens": None,
    "begin_suppress_tokens": None, "sequence_bias": None, "forced_bos_token_id": None, "forced_eos_token_id": None,
}  # fmt: skip


NO_FEATURES = (
    "Where one is missing, as with copies that do not state num_additional_image_tokens, set "
    "model.processor='{num_additional_image_tokens: 1}'; else take the checkpoint's own processor files"
)
NO_SEVERAL = (
    "It takes one image a prompt: leave rows with several out (dataset.skip=[several_images] where they are prepared), "
    "or choose another model"
)


def check_rows(vlm: VLM, encoder: Encoder, examples: Sequence[Example], more: Sequence[int] | None = None) -> None:
    """Refuse rows whose image tokens are not what the model reads, and rows that are too long for it.

    `more` are the tokens that may be made after each prompt; where it is None, those of the response that it has.
    """
    check_image_tokens(vlm, encoder, examples)
    check_lengths(vlm, encoder, examples, encoder.response_lengths(examples) if more is None else more)


def check_image_tokens(vlm: VLM, encoder: Encoder, examples: Sequence[Example]) -> list[int]:
    """Each prompt must hold as many image tokens as the processor gives its images without a text, at least one, and
    those of the first must be as many as the model has features for it. Looked at are 16 examples of different images,
    whose image tokens are returned, and 16 of several images each."""
    different = {e.images: e for e in examples if e.images}.values()
    counts: list[int] = []
    for several in (False, True):
        if pictured := [e for e in different if (len(e.images) > 1) == several][:16]:
            counts += _image_tokens(vlm, encoder, pictured, NO_SEVERAL if several else NO_FEATURES)
    return counts


def _image_tokens(vlm: VLM, encoder: Encoder, pictured: list[Example], remedy: str) -> list[int]:
    image, bare = image_token(vlm), [replace(e, prompt="") for e in pictured]
    whose = f"{vlm.source} ({base_of(vlm.model).config.model_type})"
    try:
        counts = [(encoder.prompts(rows)["input_ids"] == image).sum(1).tolist() for rows in (pictured, bare)]
    except RowError:
        raise
    except ValueError as error:  # transformers', where a template shows fewer images than there are
        raise UserError(f"{whose}: {error} {remedy}") from error
    for example, found, number in zip(pictured, *counts, strict=True):
        if found != number or not found:
            raise RowError(
                f"{example.question_id}: {found} image tokens in the prompt, {number} for {named(example)} alone; look "
                "at the chat template"
            )
    features = num_features(vlm.model, encoder.prompts(pictured[:1]))
    if features != counts[0][0]:
        raise UserError(
            f"{whose}: {counts[0][0]} image tokens for {named(pictured[0])}, of which the model makes {features} "
            f"features. {remedy}"
        )
    return counts[0]


def named(example: Example) -> str:
    return ", ".join(map(str, example.images))


def image_token(vlm: VLM) -> int:
    """The id of the tokens that images' features take the place of. Gemma 3's processor means by its `image_token_id`
    the one token before them."""
    return base_of(vlm.model).config.image_token_id


@torch.no_grad()
def num_features(model: nn.Module, inputs: dict[str, Tensor]) -> int:
    """How many tokens' embeddings the model makes of a prompt's images; their values are not computed."""
    read = base_of(model).get_image_features
    names = inspect.signature(read).parameters
    given = moved({k: v for k, v in inputs.items() if k in names}, model.device)
    with Shapes():
        found = read(**given, return_dict=True).pooler_output
    return sum(f.numel() // f.shape[-1] for f in (found if isinstance(found, (list, tuple)) else [found]))


def check_lengths(vlm: VLM, encoder: Encoder, examples: Sequence[Example], more: Sequence[int]) -> None:
    """No row may be longer than the positions that the language model was made for; to a token or two an image, for
    images are counted and not read."""
    limit = getattr(base_of(vlm.model).config.get_text_config(), "max_position_embeddings", None)
    if limit is None:
        return
    images = list(dict.fromkeys(e.images for e in examples))
    tokens = dict(zip(images, image_tokens(encoder.processor, images), strict=True))
    # The first with each number of images, whose other tokens are the template's.
    bare = {len(e.images): replace(e, prompt="") for e in reversed(examples)}
    around = {number: encoder.prompts([e])["input_ids"].shape[1] - tokens[e.images] for number, e in bare.items()}
    lengths = [
        around[len(e.images)] + tokens[e.images] + text + added
        for e, text, added in zip(examples, encoder.prompt_lengths(examples), more, strict=True)
    ]
    if long := [(e.question_id, n) for e, n in zip(examples, lengths, strict=True) if n > limit]:
        raise RowError(
            f"{long[0][0]}: {long[0][1]} tokens with its images and response, and {vlm.source} reads {limit} "
            f"(max_position_embeddings); {len(long)} of {len(examples)} rows are longer. Take them out, shorten their "
            "responses, or give images fewer tokens (model.processor)"
        )


def image_tokens(processor: Any, images: Sequence[Sequence[Path]]) -> list[int]:
    """How many tokens of a prompt the images of each take, by their sizes alone."""
    every = list(dict.fromkeys(path for shown in images for path in shown))
    if not every:
        return [0] * len(images)
    # SmolVLM's processor lays tiles out as Idefics3's does, and has no such count of its own.
    count = getattr(type(processor), "_get_num_multimodal_tokens", Idefics3Processor._get_num_multimodal_tokens)
    found = count(processor, image_sizes=[seen_size(path) for path in every])["num_image_tokens"]
    alone = dict(zip(every, found, strict=True))
    whole = 0  # of each of several images, where it is not what the image alone takes
    if isinstance(processor, LlavaOnevisionProcessor):  # which cuts none of several into tiles
        whole = processor.num_image_tokens + 1 - (processor.vision_feature_select_strategy == "default")
    return [sum((len(shown) > 1 and whole) or alone[path] for path in shown) for shown in images]


def seen_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is seen; no pixel is read."""
    with Image.open(path) as image:
        width, height = image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (width, height) if turned else (height, width)


def end_tokens(model: nn.Module) -> Tensor:
    """Ids that end a response: the generation config's, or the text model's where that names none."""
    ends = model.generation_config.eos_token_id
    return torch.as_tensor(model.config.get_text_config().eos_token_id if ends is None else ends).reshape(-1)


def check_end(vlm: VLM, encoder: Encoder) -> None:
    """What ends a trained response must end a generated one, or the model learns to stop where nobody listens."""
    ends = end_tokens(vlm.model).tolist()
    if encoder.end_id not in ends:
        raise UserError(
            f"{vlm.source}: a response is trained to end with {encoder.turn.end!r} ({encoder.end_id}), and generation "
            f"ends with {encoder.tokenizer.convert_ids_to_tokens(ends)} ({ends}); add {encoder.end_id} to eos_token_id "
            "in the checkpoint's generation_config.json"
        )


def log_unfollowed(vlm: VLM) -> None:
    """Name the settings of the checkpoint's generation_config that our decoding does not follow."""
    config = vlm.model.generation_config
    asked = {name: getattr(config, name, None) for name in NEUTRAL}
    if other := [f"{n}={v}" for n, v in asked.items() if v is not None and v != NEUTRAL[n]]:
        logging.getLogger(__name__).warning(
            "%s: its generation_config asks for %s, which is not followed: the likeliest token is taken, or one is "
            "drawn by temperature and top_p as configured", vlm.source, ", ".join(other),
        )  # fmt: skip
