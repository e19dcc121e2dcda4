"""What stored log-probs hang on: the weights, the processor and the prompt with its images, each as a short hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rationale.models.families import has_adapter
from rationale.models.response import Truncation
from rationale.models.vlm import VLM


def bytes_of(tensor: Tensor) -> np.ndarray:
    """A tensor's bytes, whatever its type and device."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def digest(parts: Iterable[bytes | np.ndarray]) -> str:
    """A short hash of several byte strings, and of where one ends and the next begins."""
    made = hashlib.sha256()
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.hexdigest()[:16]


def weights_hash(model: nn.Module) -> str:
    """Of every parameter's name, dtype and bytes; a LoRA policy counts as the model beneath its adapters."""
    state = model.state_dict()
    if has_adapter(model):
        strip = ("base_model.model.", ".base_layer")
        state = {k.replace(strip[0], "").replace(strip[1], ""): v for k, v in state.items() if "lora_" not in k}
    return digest(
        part
        for name, value in sorted(state.items())
        for part in (f"{name} {value.dtype} {tuple(value.shape)}".encode(), bytes_of(value))
    )


def processor_hash(processor: Any) -> str:
    """Of what turns text and pixels into a batch: vocabulary and merges, chat template, sizes, tiling, normalisation.

    The image processor's class is part of it, for with torchvision and without it pixels differ by up to 0.03; the
    padding that a tokenizer was last used with is not.
    """
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    settings = {
        "processor": processor.to_dict(), "template": processor.chat_template,
        "images": type(processor.image_processor).__name__,
        "tokenizer": {k: v for k, v in tokenizer.items() if k not in ("padding", "truncation")},
    }  # fmt: skip
    return digest([json.dumps(settings, sort_keys=True, default=str).encode()])


def scored_with(vlm: VLM, truncate: Truncation, precision: str) -> dict[str, Any]:
    """What all log-probs of one pass have in common; dtype is that of the weights, `precision` that of the pass."""
    return {
        "weights": weights_hash(vlm.model), "processor": processor_hash(vlm.processor),
        "dtype": str(next(vlm.model.parameters()).dtype), "truncate": asdict(truncate),
        "precision": precision,
    }  # fmt: skip


def context_hash(images: Sequence[Path], rendered: str) -> str:
    """Of one prompt: the image files' bytes and the chat template's text. Two images with one question differ."""
    return digest([*([image.read_bytes() for image in images] or [b""]), rendered.encode()])
