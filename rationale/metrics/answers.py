"""The answer in a response: the text behind the marker, and the option it names."""

from __future__ import annotations

import re
from bisect import bisect_left

from rationale.schema import LETTERS

_MARKER = re.compile(r"###\s*(?:Answer:|\*\*Answer(?::\*\*|\*\*:))")
_DECORATION = re.compile(r'\\(?:boxed|textbf|text|mathrm|mathbf)\b|[*{}$`"]')
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"[{}]")
_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_EDGES = " \t\r\n.,:;!?'()[]"
_CUE = re.compile(
    r"\b(?i:answer|(?:correct|right|best) (?:option|choice|letter))\b(?i:\s+(?:is|would be|should be|must be))?"
    r"\s*[:=]?\s*(?i:the\s+)?(?i:(?:option|choice|letter)\b)?\s*"
)
_BARE = r"(?<![\w.'-])([A-Z])(?![\w'\u2019-]|\.\w)"
_NAMED = re.compile(rf"[(\[]\s*([A-Za-z])\s*[)\]]|{_BARE}")
_LINE_START = re.compile(
    r"(?m)^[ \t]*(?:[(\[]?([A-Z])[)\].:](?!\w)|[(\[]?([a-z])[)\]](?!\w)|([A-Z])\s+[-\u2013\u2014]\s)"
)
_MARKED = re.compile(r"(?<!\w)(?i:not )?(?:\(([A-Z])\)|(?i:option|choice) ([A-Z])\b)")
_STANDALONE = re.compile(rf"(?i:\bnot )?{_BARE}")
_NEXT_WORD = re.compile(r"[ \t]+([^\W\d_]+)")
# After an option these words are grammatical; after an article or a pronoun they hardly are.
_AFTER_OPTION = frozenset(["and", "as", "because", "but", "due", "for", "given", "is", "or", "since", "which"])


def plain_text(text: str) -> str:
    """Lower case, single spaces, without one trailing full stop."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()


def extract_answer(text: str, style: str) -> str | None:
    """The final answer of a response in `style` ("direct" or "cot"), or None where it gives none.

    "cot": the first line with text behind the last "### Answer:" ("###Answer:" and "### **Answer:**" too); no marker,
    or nothing behind it, is no answer. "direct": the whole text; if the marker is there, what follows it.
    """
    if style not in ("direct", "cot"):
        raise ValueError(f"style {style!r} is neither 'direct' nor 'cot'")
    before, *after = _MARKER.split(text)
    if after:
        return next((line.strip() for line in after[-1].splitlines() if line.strip()), None)
    return (before.strip() or None) if style == "direct" else None


def boxed(text: str) -> tuple[str, str] | None:
    """What the last \\boxed{...} holds and what comes behind it, stripped; None without a whole box."""
    opening = _BOX.match(text, text.rfind("\\boxed")) if "\\boxed" in text else None
    if opening is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[opening.end() : brace.start()].strip(), text[brace.end() :].strip()
    return None


def unwrapped(answer: str) -> str:
    """The answer without a bold "**...**" or a \\boxed{...} around the whole of it."""
    bold = _BOLD.fullmatch(answer)
    answer = bold[1].strip() if bold else answer
    box = boxed(answer)
    whole = box and answer.lstrip("$ ").startswith("\\boxed") and not box[1].strip("$. ")
    return box[0] if whole else answer


def extract_choice(answer: str, choices: list[str]) -> str | None:
    """The letter of the option that `answer` names, or None.

    Of a text with \\boxed{} only the last box is read; where it names no option, what comes behind it. In this order:
    a lone letter ("C", "C.", "(C)", "**C**"); the exact text of one choice; the last "answer is ..." naming either; a
    line that opens with "C)" or "C."; one single letter in the last five words (the reach of VLMEvalKit's can_infer),
    or marked "(C)" or "option C" anywhere. A lone lower-case letter counts, where VLMEvalKit gives up. "A" and "I"
    before a word are an article and a pronoun. A letter beyond the number of choices is None.
    """
    if (box := boxed(answer)) is not None:
        return _choice_in(box[0], choices) or _choice_in(box[1], choices)
    return _choice_in(answer, choices)


def _choice_in(answer: str, choices: list[str]) -> str | None:
    clean = _DECORATION.sub("", answer).strip()
    lone = clean.strip(_EDGES).upper()
    if len(lone) == 1 and lone in LETTERS[: len(choices)]:
        return lone
    by_text = _letter_of_text(answer, choices) or _letter_of_text(clean, choices)
    if by_text:
        return by_text
    for cue in reversed(list(_CUE.finditer(clean))):
        rest = clean[cue.end() :]
        named = _NAMED.match(rest)
        if named and not _reads_as_word(named, choices):
            return _within((named[1] or named[2]).upper(), choices)
        by_text = _letter_of_text(rest.partition("\n")[0], choices)
        if by_text:
            return by_text
    opening = {(a or b or c).upper() for a, b, c in _LINE_START.findall(clean)}
    if len(opening) == 1:
        return _within(opening.pop(), choices)
    return _single_letter(clean, choices)


def _within(letter: str, choices: list[str]) -> str | None:
    return letter if letter in LETTERS[: len(choices)] else None


def _letter_of_text(text: str, choices: list[str]) -> str | None:
    places = [i for i, choice in enumerate(choices[: len(LETTERS)]) if _reads(text, choice)]
    return LETTERS[places[0]] if len(places) == 1 and plain_text(text) else None


def _reads(text: str, choice: str) -> bool:
    """Whether a text is that of a choice. Of a long one only the first words are looked at: it may stand behind each of
    thousands of cues."""
    most = len(choice.split()) + 1  # a full stop may stand alone
    return len(text.split(None, most)) <= most and plain_text(text) == plain_text(choice)


def _reads_as_word(match: re.Match, choices: list[str]) -> bool:
    """True for a bare "A" or "I" in prose; "A cat" still names the option where choice A is "cat"."""
    if match[0][-1] not in "AI":
        return False
    word = _NEXT_WORD.match(match.string, match.end())
    if word is None or word[1].lower() in _AFTER_OPTION:
        return False
    index = LETTERS.index(match[0][-1])
    return not (index < len(choices) and _reads(match.string[match.end() :], choices[index]))


def _single_letter(clean: str, choices: list[str]) -> str | None:
    """The only option letter in `clean`, if it is marked as an option or stands in the last five words."""
    marked = {m[1] or m[2] for m in _MARKED.finditer(clean) if not m[0].lower().startswith("not ")}
    bare = [m for m in _STANDALONE.finditer(clean) if not (m[0][:-1] or _reads_as_word(m, choices))]
    near = bisect_left(bare, True, key=lambda m: len(clean[m.end() :].split(None, 5)) < 5)
    near_end = {m[1] for m in bare[near:]}
    letters = {letter for letter in marked | {m[1] for m in bare} if _within(letter, choices)}
    return letters.pop() if len(letters) == 1 and letters <= marked | near_end else None
