"""From rows to tensors: prompts on the left, responses on the right, so that responses line up in a batch."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from rationale.artifacts import UserError
from rationale.images import open_image
from rationale.models.batch import PER_TOKEN, Batch, Example, padded
from rationale.models.layout import rows_about, rows_batch, shared_prefixes, tree_batch
from rationale.schema import RowError

_WORD = "Paris"  # stands for any text: templates hold no such word


@dataclass(frozen=True, slots=True)
class Turn:
    """What a chat template writes around a response: `before` is the text of the prompt's end that is no special token,
    `lead` the space between the generation prompt and the response, `end` the special token that follows."""

    before: str
    lead: str
    end: str


def user(parts: Sequence[Path | str]) -> dict[str, Any]:
    """One user turn of texts and images in order."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in parts]
    return {"role": "user", "content": content}


def turn_of(processor: Any) -> Turn:
    """Read from what the template makes of an answered question and of one that is not answered yet.

    Where the tokens of the two do not begin alike, as LLaVA-OneVision's and Llama 3's for LLaVA-NeXT, a response
    follows the generation prompt: what a model is asked with is what it is trained on. Where no special token follows
    the response, the tokenizer's end token does.
    """
    asked = processor.apply_chat_template([user([_WORD])], add_generation_prompt=True)
    answer = {"role": "assistant", "content": [{"type": "text", "text": _WORD}]}
    head, _, tail = processor.apply_chat_template([user([_WORD]), answer]).rpartition(_WORD)
    special = special_tokens(processor.tokenizer)
    ends = [token for token in special if tail.lstrip().startswith(token)]
    last = max((asked.rfind(token) + len(token) for token in special if token in asked), default=0)
    before, lead = asked[last:], head.removeprefix(asked) if head.startswith(asked) else ""
    alone, joined = text_ids(processor.tokenizer, [before, before + lead + _WORD])
    if not lead.isspace() or joined[: len(alone)] != alone:
        lead = ""
    return Turn(before, lead, max(ends, key=len, default=processor.tokenizer.eos_token))


def keeps_order(processor: Any) -> bool:
    """Whether a chat template writes texts and images in their order; LLaVA's write all images first."""
    between = [
        processor.apply_chat_template([user([_WORD, *image, _WORD])]).split(_WORD)[1] for image in ([], [Path()])
    ]
    return between[0] != between[1]


def text_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of texts in which nothing is a special token, whatever they spell."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The id of each special token. Added tokens that are not special, as Qwen's <think>, are words like others."""
    return {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}


class Encoder:
    """Turns examples into batches with a model's own processor and chat template.

    `max_response_tokens` cuts responses (never prompts, so never an image token); a cut response gets no end token.
    `layout` is rows (a row a response) or tree (a row an image, shared by the responses about it, or several images of
    one question). What a row's own text spells, `<image>` or `</s>` even, is text: special tokens are the template's
    and the processor's alone.
    """

    def __init__(self, processor: Any, max_response_tokens: int | None = None, layout: str = "rows"):
        if layout not in ("rows", "tree"):
            raise UserError(f"layout: {layout!r} is neither rows nor tree")
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.max_response_tokens = max_response_tokens
        self.layout = layout

    @cached_property
    def turn(self) -> Turn:
        return turn_of(self.processor)

    @cached_property
    def end_id(self) -> int:
        """The token that ends a response: the one that the template ends an assistant's turn with."""
        return self.tokenizer.convert_tokens_to_ids(self.turn.end)

    @cached_property
    def _keeps_order(self) -> bool:
        return keeps_order(self.processor)

    def render(self, example: Example) -> str:
        """The chat template's text for one user turn, up to where the response begins. Where the template would put an
        image that stands within the text before it, the image's own token stands in the text."""
        parts = example.parts
        if len(parts) > len(example.images) + 1 and not self._keeps_order:
            first = list(itertools.takewhile(lambda part: isinstance(part, Path), parts))
            rest = (part if isinstance(part, str) else self.processor.image_token for part in parts[len(first) :])
            parts = [*first, "".join(rest)]
        return self.processor.apply_chat_template([user(parts)], add_generation_prompt=True)

    def prompts(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Processor outputs for the prompts alone, left-padded; image tokens are expanded by the processor.

        The ids are those of transformers' `apply_chat_template(tokenize=True)`.
        """
        spelled = [self._special.findall(e.prompt) for e in examples]
        texts = [self.render(replace(e, prompt=self._special.sub(self._stand_in, e.prompt))) for e in examples]
        images = [[open_image(part, e.question_id) for part in e.parts if isinstance(part, Path)] for e in examples]
        begun = self.tokenizer.bos_token is not None and texts[0].startswith(self.tokenizer.bos_token)
        encoded = self.processor(
            text=texts, images=images if any(images) else None,
            return_tensors="pt", padding=True, padding_side="left", add_special_tokens=not begun,
        )  # fmt: skip
        return self._spelled_out(dict(encoded), examples, spelled) if any(spelled) else dict(encoded)

    @cached_property
    def _special(self) -> re.Pattern:
        return re.compile("|".join(re.escape(t) for t in sorted(special_tokens(self.tokenizer), key=len, reverse=True)))

    @cached_property
    def _stand_in(self) -> str:
        """A special token that no prompt holds, for those that a text spells."""
        template = self.render(Example("", (Path(),), "", "")) + self.turn.end
        return next(t for t in (self.tokenizer.pad_token, *special_tokens(self.tokenizer)) if t not in template)

    def _spelled_out(
        self, encoded: dict[str, Tensor], examples: Sequence[Example], spelled: list[list[str]]
    ) -> dict[str, Tensor]:
        """Each stand-in replaced by the tokens of the text that it stands for."""
        kept, names = encoded["attention_mask"].bool(), sorted(set(encoded) & set(PER_TOKEN))
        rows = {name: [row[k].tolist() for row, k in zip(encoded[name], kept, strict=True)] for name in names}
        stand_in = self.tokenizer.convert_tokens_to_ids(self._stand_in)
        for number, (example, texts) in enumerate(zip(examples, spelled, strict=True)):
            places = [place for place, id in enumerate(rows["input_ids"][number]) if id == stand_in]
            if len(places) != len(texts):
                raise RowError(f"{example.question_id}: the prompt's text holds {texts}, special tokens; take them out")
            for place, ids in reversed(list(zip(places, self._after("\n", texts), strict=True))):
                for name in names:
                    row = rows[name][number]
                    row[place : place + 1] = ids if name == "input_ids" else row[place : place + 1] * len(ids)
        pads = {"input_ids": self.tokenizer.pad_token_id}
        return encoded | {name: padded(rows[name], pads.get(name, 0), left=True) for name in names}

    def prefixes(self, examples: Sequence[Example]) -> tuple[dict[str, Tensor], list[list[int]]]:
        """What the prompts about the same images begin with alike, and the rest of each prompt, at least a token."""
        pad, image = self.tokenizer.pad_token_id, self.processor.image_token_id
        return shared_prefixes(examples, rows_about(examples), self.prompts, image, pad, spare=1)

    def responses(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of each response, the end token last where it ended by itself and is not cut."""
        limit = self.max_response_tokens
        return [
            ids[:limit] if limit is not None and len(ids) > limit else ids + [self.end_id] * e.ended
            for e, ids in zip(examples, self._whole(examples), strict=True)
        ]

    def _whole(self, examples: Sequence[Example]) -> list[list[int]]:
        """Token ids of each response: those that it brings, or that its text has in one string with its prompt."""
        of_text = self._after(self.turn.before, [self.turn.lead * bool(e.response) + e.response for e in examples])
        return [list(e.token_ids) or ids for e, ids in zip(examples, of_text, strict=True)]

    def spans(self, examples: Sequence[Example]) -> list[list[tuple[int, int]]]:
        """Where in the response's text each of its tokens stands, from and to; the end token is left out."""
        before = self.turn.before + self.turn.lead
        skipped, shift = len(text_ids(self.tokenizer, [self.turn.before])[0]), len(before)
        encoded = self.tokenizer(
            [before + e.response for e in examples], add_special_tokens=False, split_special_tokens=True,
            return_offsets_mapping=True,
        )  # fmt: skip
        return [
            self._decoded_spans(e) if e.token_ids
            else [(max(0, start - shift), max(0, end - shift)) for start, end in offsets[skipped:]]
            for e, offsets in zip(examples, encoded["offset_mapping"], strict=True)
        ]  # fmt: skip

    def _decoded_spans(self, example: Example) -> list[tuple[int, int]]:
        """Those of tokens that are not what a tokenizer makes of the text: by what ever more of them decode to."""
        parts = [example.token_ids[:count] for count in range(len(example.token_ids) + 1)]
        texts = self.tokenizer.batch_decode(parts, skip_special_tokens=True)
        space = len(texts[-1]) - len(texts[-1].lstrip())
        ends = [min(max(0, len(text) - space), len(example.response)) for text in texts]
        return list(itertools.pairwise(ends))

    def _after(self, before: str, texts: list[str]) -> list[list[int]]:
        """Token ids of each text behind `before`; alone, where its first characters would join the prompt's last."""
        head, *found = text_ids(self.tokenizer, [before, *(before + text for text in texts)])
        return [
            ids[len(head) :] if ids[: len(head)] == head else text_ids(self.tokenizer, [text])[0]
            for ids, text in zip(found, texts, strict=True)
        ]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows of several examples in this encoder's layout; labels are in the order of the examples."""
        responses, pad = self.responses(examples), self.tokenizer.pad_token_id
        if self.layout == "tree":
            return tree_batch(examples, responses, self.prompts, self.processor.image_token_id, pad)
        return rows_batch(examples, responses, self.prompts, pad)

    def prompt_lengths(self, examples: Sequence[Example]) -> list[int]:
        """Number of tokens of each example's prompt, without its images and the chat template."""
        texts = [[part for part in e.parts if isinstance(part, str)] for e in examples]
        lengths = map(len, text_ids(self.tokenizer, list(itertools.chain(*texts))))
        return [sum(itertools.islice(lengths, len(parts))) for parts in texts]

    def response_lengths(self, examples: Sequence[Example]) -> list[int]:
        """Number of response tokens of each example, without reading any image."""
        return [len(ids) for ids in self.responses(examples)]

    def num_cut(self, examples: Sequence[Example]) -> int:
        """Of the examples, those whose response is longer than the limit."""
        limit = self.max_response_tokens
        return 0 if limit is None else sum(len(ids) > limit for ids in self._whole(examples))


def in_chunks(items: Sequence[Any], size: int) -> list[list[Any]]:
    """Consecutive lists of at most `size` items."""
    iterator = iter(items)
    return list(iter(lambda: list(itertools.islice(iterator, size)), []))
