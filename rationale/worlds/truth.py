"""Where a rationale about a mini world first goes wrong: its words against every true wording of the solution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise, product, zip_longest
from typing import Any

from rationale.prompts import ANSWER_MARKER, with_answer
from rationale.schema import Question
from rationale.worlds import WAYS, WORLDS, write_rationale
from rationale.worlds.template import OPENINGS

_KEYS = {"task", "world", "args", "template"}


class _Scripted:
    """Stands for the `Random` of a text: takes of each choice the option that the script says, else the first."""

    def __init__(self, script: Sequence[int] = ()):
        self.script, self.sizes = iter(script), []

    def choice(self, options: Sequence[Any]) -> Any:
        self.sizes.append(len(options))
        return options[next(self.script, 0)]


def has_truth(question: Question) -> bool:
    """Whether the question is about a mini world, so that its true rationales can be written down."""
    return question.meta.keys() >= _KEYS


def wordings(question: Question) -> list[str]:
    """Every text of a teacher that does not slip, with its answer line: all that its ways and choices of words give."""
    meta = question.meta
    module, world = WORLDS[meta["task"]], meta["world"]
    solution = next(t for t in module.TEMPLATES if t.name == meta["template"]).solve(world, meta["args"])

    def text(rng: _Scripted, way: str) -> str:
        written = write_rationale(module.listing(world, rng), solution, solution.answer, rng, way)
        return with_answer(written, question.answer)

    first = _Scripted()
    text(first, WAYS[0])  # whatever was chosen, the next choice has as many options
    scripts = list(product(*map(range, first.sizes)))
    return list(dict.fromkeys(text(_Scripted(script), way) for way in WAYS for script in scripts))


def way_of(text: str) -> str:
    """The way in which a rationale about a mini world is written: terse where at most two sentences, what is seen and
    the closing, stand between an opening and the answer line."""
    said = text.split(ANSWER_MARKER.strip())[0].strip()
    opening = next((o.strip() for o in OPENINGS if o and said.startswith(o.strip())), "")
    return "terse" if len(re.findall(r"[.!?](?=\s|$)", said[len(opening) :].lstrip())) <= 2 else "worked"


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends; a text of spaces alone, or of nothing, is one word."""
    return [match.span() for match in re.finditer(r"\S+", text)] or [(0, len(text))]


def word_steps(text: str) -> list[int]:
    """The number of the step that each word stands in: a sentence, or a line (the answer's)."""
    spans, steps = word_spans(text), [0]
    for (_, end), (start, _) in pairwise(spans):
        steps.append(steps[-1] + (text[end - 1] in ".!?" or "\n" in text[end:start]))
    return steps


def first_wrong_step(question: Question, text: str) -> int | None:
    """The step of the first word at which a text departs from every true wording; None for one of them.

    A text that ends too soon departs in its last step. The space before a word is part of it. Only for a question that
    `has_truth`, and for a text that is meant as a rationale.
    """
    said = _pieces(text)
    true = [_pieces(wording) for wording in wordings(question)]
    if said in true:
        return None
    steps = word_steps(text)
    same = (next(i for i, (a, b) in enumerate(zip_longest(said, one)) if a != b) for one in true)
    return steps[min(max(same), len(steps) - 1)]


def free_words(question: Question, text: str) -> set[int]:
    """Words at which the true wordings that begin as the text does go on differently: matters of style."""
    said = _pieces(text)
    true = [_pieces(wording) for wording in wordings(question)]
    ways = [{one[at] for one in true if one[:at] == said[:at] and at < len(one)} for at in range(len(said))]
    return {at for at, words in enumerate(ways) if len(words) > 1}


def _pieces(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text.strip())
