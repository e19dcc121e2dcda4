"""A question as a model is asked it, and a stored response as the preference loss sees it: cut and ended by rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from rationale.models.batch import Example
from rationale.pairing import truncate_words
from rationale.prompts import prompt_text
from rationale.schema import Question, ResponseKey
from rationale.settings import Count, Limit, Style, settings


@settings
class Truncation:
    """A response is cut to `words` (None or 0: not), its tokens to `tokens`; `eos` says where an end token follows.

    `uncut`: only where the response is whole and ended by itself (a cut sentence is no place to learn to stop);
    `always`, as in the authors' rows; `never`, as in their loss, which drops the last token.
    """

    words: Limit | None
    tokens: Count | None
    eos: Literal["uncut", "always", "never"]


def prompted(question: Question, root: Path, style: Style) -> Example:
    """The prompt of a style, with no response yet. `root` holds the images."""
    return Example(question.question_id, question.files(root), prompt_text(question, style), "")


def response_example(key: ResponseKey, question: Question, root: Path, truncate: Truncation) -> Example:
    """Cut, and with an end token, as `truncate` says; a text that is cut has the tokens of the shorter text. `root`
    holds the images."""
    _, style, whole, ended, token_ids = key
    text, cut = truncate_words(whole, truncate.words)
    ends = {"uncut": ended and not cut, "always": True, "never": False}[truncate.eos]
    return replace(prompted(question, root, style), response=text, ended=ends, token_ids=() if cut else token_ids)
