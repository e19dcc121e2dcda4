"""What stands around an answer and says nothing: Unicode forms, end tokens, emphasis, code marks, LaTeX."""

from __future__ import annotations

import re
import unicodedata

_BLANKS = re.compile(r"[^\S\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]")
_GLYPHLESS = re.compile(r"[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
_HYPHENS = re.compile(r"[\u2010\u2011\u2212]")
_END_TOKEN = re.compile(r"(?:</?s>|<[|｜][^<>\n]{1,40}[|｜]>|<(?:eos|bos|pad|unk|end_of_\w{1,20})>)\s*\Z", re.I)
COMMAND = r"\\(?:boxed|fbox|text|textbf|textit|texttt|mathrm|mathbf|mathit|mbox|emph)\s*\{"
_OPENING = re.compile(COMMAND)
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"[{}]")
_MARKS = ["***", "**", "*", "___", "__", "_", "```", "`", "$$", "$"]
_PAIRS = [(mark, mark) for mark in _MARKS] + [(r"\(", r"\)"), (r"\[", r"\]")]
_TAG = re.compile(r"<(\w+)>(.+)</\1>", re.DOTALL)
_MOST_LAYERS = 10


def normal(text: str) -> str:
    """The text in the one Unicode form that answers and annotations are read in, stripped.

    NFC, without characters that have no glyph (zero width, direction, soft hyphen); every blank is a space, U+2212 and
    the hyphens are "-". A model's special tokens at the end ("</s>", "<|im_end|>", "<end_of_turn>") are gone.
    """
    text = _HYPHENS.sub("-", _BLANKS.sub(" ", _GLYPHLESS.sub("", text)))
    text = unicodedata.normalize("NFC", text).strip()
    end = len(text)
    while (token := _END_TOKEN.search(text, max(0, end - 60), end)) is not None:
        end = token.start()
    return text[:end].strip()


def undressed(answer: str) -> str:
    """An answer without what is wrapped around the whole of it: emphasis, code marks, mathematics, \\text{}, a box.

    A full stop behind the dress goes with it. Marks within the text stand: "2*3", "snake_case", "$5", "**4** or **2**".
    """
    answer = answer.strip()
    for _ in range(_MOST_LAYERS):
        inside = _inside(answer) or _inside(answer.removesuffix(".").rstrip())
        if not inside:
            break
        answer = inside
    return answer


def _inside(text: str) -> str:
    for opening, closing in _PAIRS:
        if text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside and closing not in inside:
                return inside.strip()
    if tag := _TAG.fullmatch(text):
        return tag[2].strip()
    if (command := _OPENING.match(text)) and _closing_brace(text, command.end()) == len(text) - 1:
        return text[command.end() : -1].strip()
    return ""


def boxed(text: str) -> tuple[str, str] | None:
    """What the last \\boxed{...} holds and what comes behind it, stripped; None without a whole box."""
    opening = _BOX.match(text, text.rfind("\\boxed")) if "\\boxed" in text else None
    end = None if opening is None else _closing_brace(text, opening.end())
    return None if end is None else (text[opening.end() : end].strip(), text[end + 1 :].strip())


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return brace.start()
    return None


def plain_text(text: str) -> str:
    """Lower case, single spaces, without one trailing full stop."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()
