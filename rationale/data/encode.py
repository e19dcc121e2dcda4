"""From rows to tensors: prompts on the left, responses on the right, so that responses line up in a batch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rationale.artifacts import UserError
from rationale.data.batch import Batch, Example, padded
from rationale.data.images import open_image
from rationale.data.layout import rows_batch, shared_prefixes, tree_batch
from rationale.objectives.logprobs import IGNORE

LAYOUTS = ("rows", "tree")


class Encoder:
    """Turns examples into batches with a model's own processor and chat template.

    `max_response_tokens` cuts responses (never prompts, so never an image token); a cut response gets no end token.
    `layout` is rows (a row a response) or tree (a row an image, shared by the responses about it).
    """

    def __init__(self, processor: Any, max_response_tokens: int | None = None, layout: str = "rows"):
        if layout not in LAYOUTS:
            raise UserError(f"layout: {layout!r} is none of {list(LAYOUTS)}")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_response_tokens = max_response_tokens
        self.layout = layout

    def render(self, prompt: str, image: bool = True) -> str:
        """The chat template's text for one user turn, with one image or none, up to where the response begins."""
        content = [{"type": "image"}] * image + [{"type": "text", "text": prompt}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Processor outputs for the prompts alone, left-padded; image tokens are expanded by the processor."""
        images = [open_image(e.image, e.question_id) for e in examples if e.image]
        encoded = self.processor(
            text=[self.render(e.prompt, e.image is not None) for e in examples], images=images or None,
            return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False,
        )  # fmt: skip
        return dict(encoded)

    def prefixes(self, examples: Sequence[Example], row_of: Sequence[int]) -> tuple[dict[str, Tensor], list[list[int]]]:
        """What the prompts of a row begin with alike, and the rest of each prompt, at least a token."""
        first = {row: e for e, row in zip(reversed(examples), reversed(row_of), strict=True)}
        heads = [first[row] for row in sorted(first)]
        pad, image = self.tokenizer.pad_token_id, self.processor.image_token_id
        return shared_prefixes(examples, row_of, heads, self.prompts, image, pad, spare=1)

    def response_ids(self, text: str, ended: bool = True) -> list[int]:
        """Token ids of a response, the end token last where it ended by itself."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if self.max_response_tokens is not None and len(ids) > self.max_response_tokens:
            return ids[: self.max_response_tokens]
        return [*ids, self.tokenizer.eos_token_id] if ended else ids

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows of several examples in this encoder's layout; labels are in the order of the examples."""
        responses = [self.response_ids(e.response, e.ended) for e in examples]
        labels, pad = padded(responses, IGNORE), self.tokenizer.pad_token_id
        if self.layout == "tree":
            return tree_batch(examples, responses, labels, self.prompts, self.processor.image_token_id, pad)
        return rows_batch(examples, labels, self.prompts, pad)

    def prompt_lengths(self, examples: Sequence[Example]) -> list[int]:
        """Number of tokens of each example's prompt, without its image and the chat template."""
        return [len(ids) for ids in self._ids([e.prompt for e in examples])]

    def response_lengths(self, examples: Sequence[Example]) -> list[int]:
        """Number of response tokens of each example, without reading any image."""
        limit = self.max_response_tokens
        counts = zip(self._uncut_lengths(examples), examples, strict=True)
        return [limit if limit is not None and n > limit else n + e.ended for n, e in counts]

    def num_cut(self, examples: Sequence[Example]) -> int:
        """Of the examples, those whose response is longer than the limit."""
        limit = self.max_response_tokens
        return 0 if limit is None else sum(n > limit for n in self._uncut_lengths(examples))

    def _uncut_lengths(self, examples: Sequence[Example]) -> list[int]:
        return [len(ids) for ids in self._ids([e.response for e in examples])]

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def in_chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    return list(iter(lambda: list(itertools.islice(iterator, size)), []))
