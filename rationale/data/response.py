"""A stored response as the preference loss sees it: cut by rule, the end token by rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rationale.artifacts import UserError
from rationale.data.batch import Example
from rationale.pairing import truncate_words

EOS_RULES = ("uncut", "always", "never")


def response_example(
    question_id: str,
    image: Path,
    prompt: str,
    text: str,
    ended: bool,
    truncate: dict[str, Any],
    token_ids: tuple[int, ...] = (),
) -> Example:
    """Cut to `truncate["words"]` words, with the tokens that the shorter text has; `truncate["eos"]` says where an end
    token follows.

    `uncut`: only where the response is whole and ended by itself (a cut sentence is no place to learn to stop);
    `always`, as in the authors' rows; `never`, as in their loss, which drops the last token.
    """
    rule = truncate["eos"]
    if rule not in EOS_RULES:
        raise UserError(f"truncate.eos: {rule!r} is none of {list(EOS_RULES)}")
    text, cut = truncate_words(text, truncate["words"])
    ended = {"uncut": ended and not cut, "always": True, "never": False}[rule]
    return Example(question_id, image, prompt, text, ended, () if cut else token_ids)
