"""The answers in the body of a chat completion."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

from rationale.replies import Reply


def read_replies(name: str, text: str) -> list[Reply]:
    """The answers in the body of a chat completion; a body that holds none gives one malformed Reply."""
    try:
        body = json.loads(text)
    except ValueError as error:
        return [Reply(name, text, "malformed", f"invalid JSON: {error}", finished=False)]
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        reason = "no choices" if choices == [] else "not a chat completion"
        return [Reply(name, text, "malformed", reason, False, *_usage(body))]
    read = [Reply(name, *_choice(choice), logps=_logps(choice)) for choice in choices]
    tokens = dict(zip(("input_tokens", "output_tokens"), _usage(body), strict=True))
    return [_writable(replace(reply, **tokens) if i == 0 else reply) for i, reply in enumerate(read)]


def _writable(reply: Reply) -> Reply:
    """JSON can bring half a surrogate pair, which no file takes."""
    try:
        reply.text.encode()
    except UnicodeEncodeError:
        shown = reply.text.encode(errors="replace").decode()
        return replace(reply, text=shown, status="malformed", reason="half of a surrogate pair in its text")
    return reply


def _choice(choice: Any) -> tuple[str, str, str, bool]:
    """Text, status, reason and whether it ended by itself."""
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return json.dumps(choice, ensure_ascii=False), "malformed", "a choice without a message", False
    said, refusal, ended = message.get("content"), message.get("refusal"), choice.get("finish_reason")
    if refusal:
        return str(refusal), "refused", "the model refused", ended == "stop"
    if ended == "content_filter":
        return said if isinstance(said, str) else "", "refused", "cut by the provider's content filter", False
    if said is not None and not isinstance(said, str):
        return json.dumps(said, ensure_ascii=False), "malformed", "content that is no text", False
    return said or "", "answered", "", ended == "stop"


def _logps(choice: Any) -> list[float]:
    try:
        found = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
    except (KeyError, TypeError, ValueError):
        return []  # not asked for, or of another form
    return found if all(map(math.isfinite, found)) else []


def _usage(body: Any) -> tuple[int, int]:
    """Input and output tokens as the endpoint counted them; 0 where it does not say."""
    usage = body.get("usage") if isinstance(body, dict) else None
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return tuple(n if isinstance(n, int) else 0 for n in counts)
