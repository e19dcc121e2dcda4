"""What a model is given: examples as text, batches as tensors, in plain rows or in rows that share a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rationale.models.device import moved
from rationale.objectives.logprobs import IGNORE
from rationale.prompts import parts_of

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")  # processor outputs (B, T)


@dataclass(frozen=True, slots=True)
class Example:
    """One response to one prompt and its images, if it has any. `ended` is False where the text was cut: no end token.
    `token_ids` are the response's tokens where they are not those that its text has."""

    question_id: str
    images: tuple[Path, ...]
    prompt: str
    response: str
    ended: bool = True
    token_ids: tuple[int, ...] = ()

    @property
    def parts(self) -> list[Path | str]:
        """The prompt in order: texts, and its images each at its place."""
        return [self.images[p] if isinstance(p, int) else p for p in parts_of(self.prompt, len(self.images))]

    @property
    def about(self) -> tuple[Path | str, ...] | str:
        """What examples that can share a row have in common: their images, with the text between them where they stand
        in it, or their prompt where there is none."""
        return tuple(self.parts[:-1]) or self.prompt


@dataclass(slots=True)
class Batch:
    """Rows for the model, and the N responses that they hold.

    `inputs` are the model's keyword arguments. `labels` (N, R) are the response tokens, -100 where padded; `sources`
    (N, R) say which token of the flattened rows predicts each. In the layout `rows` a row is
    [padding, prompt, response, padding]. In the layout `tree` it is [padding, prefix, branch 1, ..., branch K,
    padding]: `segments` (B, T) numbers the branch of every token (0: the prefix, -1: padding), `depth` (B, T) counts
    the tokens of a branch from 0, and the prefix ends with the column `width` - 1.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    sources: Tensor
    segments: Tensor | None = None
    depth: Tensor | None = None
    width: int = 0

    @property
    def mask(self) -> Tensor:
        return self.labels != IGNORE

    @property
    def padding(self) -> float:
        """The share of the rows' tokens that are padding."""
        present = self.inputs["attention_mask"] if self.segments is None else self.segments >= 0
        return 1 - present.float().mean().item()

    def to(self, device: torch.device) -> Batch:
        """The batch on another device; Lightning calls this."""
        rest = (self.labels, self.sources, self.segments, self.depth)
        there = (t if t is None else t.to(device, non_blocking=True) for t in rest)
        return Batch(moved(self.inputs, device), *there, self.width)


def padded(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Rows of one length, (B, T), filled up with `value` on one side."""
    width = max(map(len, rows))
    filled = (([value] * (width - len(r)), list(r)) for r in rows)
    return torch.tensor([fill + row if left else row + fill for fill, row in filled], dtype=torch.long)


def continued(inputs: dict[str, Tensor], tokens: Tensor, present: Tensor) -> dict[str, Tensor]:
    """A processor's outputs with the text that follows the prompts: `tokens` (B, R), padding where not `present`."""
    more = {"input_ids": tokens, "attention_mask": present.long()}
    names, other = inputs.keys() & set(PER_TOKEN), torch.zeros_like(tokens)
    return inputs | {name: torch.cat([inputs[name], more.get(name, other)], 1) for name in names}
