"""What a chat template writes around a user's and an assistant's text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WORD = "Paris"  # stands for any text: templates hold no such word


@dataclass(frozen=True, slots=True)
class Turn:
    """What surrounds a response.

    `before` is the text of the prompt's end that is no special token, `lead` the space that the template puts between
    the generation prompt and the response, `end` the special token that follows the response.
    """

    before: str
    lead: str
    end: str


def user(prompt: str, image: bool) -> dict[str, Any]:
    """One user turn: an image, or none, then the text."""
    return {"role": "user", "content": [{"type": "image"}] * image + [{"type": "text", "text": prompt}]}


def turn_of(processor: Any) -> Turn:
    """Read from what the template makes of an answered question and of one that is not answered yet.

    Where the tokens of the two do not begin alike, as LLaVA-OneVision's and Llama 3's for LLaVA-NeXT, a response
    follows the generation prompt: what a model is asked with is what it is trained on. Where no special token follows
    the response, the tokenizer's end token does.
    """
    asked = processor.apply_chat_template([user(_WORD, False)], add_generation_prompt=True)
    answer = {"role": "assistant", "content": [{"type": "text", "text": _WORD}]}
    head, _, tail = processor.apply_chat_template([user(_WORD, False), answer]).rpartition(_WORD)
    special = special_tokens(processor.tokenizer)
    ends = [token for token in special if tail.lstrip().startswith(token)]
    last = max((asked.rfind(token) + len(token) for token in special if token in asked), default=0)
    before, lead = asked[last:], head.removeprefix(asked) if head.startswith(asked) else ""
    alone, joined = text_ids(processor.tokenizer, [before, before + lead + _WORD])
    if not lead.isspace() or joined[: len(alone)] != alone:
        lead = ""
    return Turn(before, lead, max(ends, key=len, default=processor.tokenizer.eos_token))


def text_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Token ids of texts in which nothing is a special token, whatever they spell."""
    return tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """The id of each special token. Added tokens that are not special, as Qwen's <think>, are words like others."""
    return {token.content: id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
