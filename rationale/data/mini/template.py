"""What the mini worlds share: question templates, worked solutions, and splits that are disjoint by construction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

World = dict[str, Any]  # JSON: what is drawn, and nothing else


@dataclass(frozen=True, slots=True)
class Solution:
    """The exact answer and the working that leads there from what is seen; one sentence an item."""

    answer: str
    working: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of question. `pick` draws arguments that make it answerable (None: not in this world); `ask` holds
    its wordings, formatted with those arguments; `solve` works it out. `hop` is 1 for what can be read off
    directly, 2 for what takes several readings. Held-out templates are asked in the test split only."""

    name: str
    pick: Callable[[World, Random], dict[str, Any] | None]
    ask: tuple[str, ...]
    solve: Callable[[World, dict[str, Any]], Solution]
    hop: int = 2
    held_out: bool = False


def no_arguments(world: World, rng: Random) -> dict[str, Any]:
    """`pick` of a question about the whole image."""
    return {}


def split_of(world: World) -> str:
    """The split a world belongs to, by the hash of its content: 10% val, 20% test, 70% train, whatever the seed."""
    digest = hashlib.sha256(json.dumps(world, sort_keys=True).encode()).digest()
    bucket = digest[0] % 10
    return "val" if bucket == 0 else "test" if bucket <= 2 else "train"


def numbered(things: list[str]) -> str:
    """ "1 first, 2 second": the last number is the count. "none" of nothing."""
    return ", ".join(f"{i} {thing}" for i, thing in enumerate(things, start=1)) or "none"


def running_sum(values: dict[str, int]) -> tuple[int, str]:
    """The total, and in words the additions that reach it one name at a time."""
    total, steps = next(iter(values.values())), []
    for name, value in list(values.items())[1:]:
        steps.append(f"{total} + {name} {value} = {total + value}")
        total += value
    return total, f"adding up, {', '.join(steps)}"


def extremes(values: dict[str, int]) -> tuple[int, int, str]:
    """The highest and the lowest value, and in words whose they are."""
    high, low = max(values, key=values.get), min(values, key=values.get)
    return values[high], values[low], f"the highest is {high} {values[high]} and the lowest is {low} {values[low]}"


def looked_up(values: dict[str, int], *names: str) -> str:
    """The values of some names in words."""
    return f"here {' and '.join(f'{name} is {values[name]}' for name in names)}"


def sentence(text: str) -> str:
    """Capital first letter, full stop last."""
    return text[:1].upper() + text[1:] + "."


OPENINGS = ("", "", "I look at the picture first. ", "Let me read it. ", "First I note what is there. ")
CLOSINGS = ("So the answer is {}.", "That gives {}.", "The answer is therefore {}.", "Hence {}.")


def write_rationale(listing: str, solution: Solution, shown_answer: str, rng: Random) -> str:
    """A step-by-step rationale in varied wording: what is seen, the working, a closing. No answer marker yet."""
    steps = " ".join(sentence(step) for step in solution.working)
    return f"{rng.choice(OPENINGS)}{listing} {steps} {rng.choice(CLOSINGS).format(shown_answer)}"
