"""From rows to tensors: prompts on the left, responses on the right, so that responses line up in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rationale.data.images import open_image
from rationale.objectives.logprobs import IGNORE


@dataclass(frozen=True, slots=True)
class Example:
    """One response to one prompt about one image. `ended` is False where the text was cut: no end token follows."""

    question_id: str
    image: Path
    prompt: str
    response: str
    ended: bool = True


@dataclass(slots=True)
class Batch:
    """`inputs` are the model's keyword arguments over [prompt | response] rows; `labels` (B, R) are the response
    tokens, -100 where padded. The last R + 1 positions of a row are its last prompt token and its response, so
    logits at the first R of them score `labels` position by position."""

    inputs: dict[str, Tensor]
    labels: Tensor

    @property
    def mask(self) -> Tensor:
        return self.labels != IGNORE

    def to(self, device: torch.device) -> Batch:
        """The batch on another device; Lightning calls this."""
        return Batch({name: value.to(device) for name, value in self.inputs.items()}, self.labels.to(device))


class Encoder:
    """Turns examples into batches with a model's own processor and chat template.

    `max_response_tokens` cuts responses (never prompts, so never an image token); a cut response gets no end token.
    """

    def __init__(self, processor: Any, max_response_tokens: int | None = None):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_response_tokens = max_response_tokens

    def render(self, prompt: str) -> str:
        """The chat template's text for one user turn with one image, up to where the response begins."""
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Processor outputs for the prompts alone, left-padded; image tokens are expanded by the processor."""
        images = [open_image(e.image, e.question_id) for e in examples]
        encoded = self.processor(
            text=[self.render(e.prompt) for e in examples], images=images, return_tensors="pt", padding=True,
            padding_side="left", add_special_tokens=False,
        )  # fmt: skip
        return dict(encoded)

    def response_ids(self, text: str, ended: bool = True) -> list[int]:
        """Token ids of a response, the end token last where it ended by itself."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.max_response_tokens is not None and len(ids) > self.max_response_tokens:
            return ids[: self.max_response_tokens]
        return [*ids, self.tokenizer.eos_token_id] if ended else ids

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows [padding, prompt, response, padding] of several examples."""
        inputs = self.prompts(examples)
        responses = [self.response_ids(e.response, e.ended) for e in examples]
        width = max(map(len, responses))
        labels = torch.full((len(examples), width), IGNORE, dtype=torch.long)
        for row, ids in enumerate(responses):
            labels[row, : len(ids)] = torch.tensor(ids)
        present = labels != IGNORE
        padded = labels.masked_fill(~present, self.tokenizer.pad_token_id)
        size = inputs["input_ids"].shape[0]
        for name, value in inputs.items():
            if name == "input_ids":
                inputs[name] = torch.cat([value, padded], dim=1)
            elif name == "attention_mask":
                inputs[name] = torch.cat([value, present.to(value.dtype)], dim=1)
            elif name in ("token_type_ids", "mm_token_type_ids") and value.shape[0] == size:
                inputs[name] = torch.cat([value, torch.zeros_like(padded, dtype=value.dtype)], dim=1)
        return Batch(inputs, labels)

    def response_lengths(self, examples: Sequence[Example]) -> list[int]:
        """Number of response tokens of each example, without reading any image."""
        texts = (
            self.tokenizer([e.response for e in examples], add_special_tokens=False)["input_ids"] if examples else []
        )
        limit = self.max_response_tokens
        counts = [(len(ids), e.ended) for ids, e in zip(texts, examples, strict=True)]
        return [limit if limit is not None and n > limit else n + ended for n, ended in counts]


def in_chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    return list(iter(lambda: list(itertools.islice(iterator, size)), []))
