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


def split_of(world: World) -> str:
    """The split a world belongs to, by the hash of its content: 10% val, 20% test, 70% train, whatever the seed."""
    bucket = hashlib.sha256(json.dumps(world, sort_keys=True).encode()).digest()[0] % 10
    return "val" if bucket == 0 else "test" if bucket <= 2 else "train"


def values_of(world: World) -> dict[str, int]:
    """The value of each bar or point by colour, or the price of each item by name."""
    return dict(item.values() for item in world["items"])


# What a template asks about (`pick`): nothing, or one or two of the names.


def nothing(world: World, rng: Random) -> dict[str, Any]:
    return {}


def one(world: World, rng: Random) -> dict[str, Any]:
    return {"a": rng.choice(list(values_of(world)))}


def two(world: World, rng: Random) -> dict[str, Any]:
    return dict(zip("ab", rng.sample(list(values_of(world)), 2), strict=True))


# Answers (`solve`) that charts and receipts share.


def read_off(world: World, args: dict[str, Any]) -> Solution:
    return Solution(str(values_of(world)[args["a"]]))


def number_of(world: World, args: dict[str, Any]) -> Solution:
    return Solution(str(len(values_of(world))))


def total(world: World, args: dict[str, Any]) -> Solution:
    """By additions that reach it one name at a time."""
    reached, steps = 0, []
    for name, value in values_of(world).items():
        steps.append(f"{reached} + {name} {value} = {reached + value}")
        reached += value
    return Solution(str(reached), [f"adding up, {', '.join(steps)}"])


def combined(world: World, args: dict[str, Any], sign: str) -> Solution:
    return combine(values_of(world), **args, sign=sign)


def combine(values: dict[str, int], a: str, b: str, sign: str) -> Solution:
    """The sum of two values, or the larger less the smaller, by looking both up."""
    first, second = (a, b) if sign == "+" else sorted((a, b), key=lambda name: -values[name])
    result = values[first] + values[second] if sign == "+" else values[first] - values[second]
    said = f"so {first} {values[first]} {sign} {second} {values[second]} = {result}"
    return Solution(str(result), [looked_up(values, a, b), said])


def running_count(things: list[str], kept: list[bool]) -> tuple[int, str]:
    """How many are kept, and in words whether each thing is and the count after it.

    The verdict comes first: without it a small model never learns to tell what to count (experiments/LOG.md).
    """
    count, steps = 0, []
    for thing, keep in zip(things, kept, strict=True):
        count += keep
        steps.append(f"{thing} {'is' if keep else 'not'} {count}")
    return count, ", ".join(steps)


def running_extremes(values: dict[str, int]) -> tuple[int, int, str]:
    """The highest and the lowest value, and in words both after each name."""
    high, low, steps = 0, 0, []
    for name, value in values.items():
        high, low = max(high, value), min(low or value, value)
        steps.append(f"{name} {value}: {high} {low}")
    return high, low, f"highest and lowest, {', '.join(steps)}"


def count_beyond(values: dict[str, int], word: str, limit: int) -> tuple[int, str]:
    """How many values are above or below a limit, and in words the count after each."""
    kept = [value > limit if word == "above" else value < limit for value in values.values()]
    count, said = running_count([f"{name} {value}" for name, value in values.items()], kept)
    return count, f"count {word} {limit}, {said}"


def looked_up(values: dict[str, int], *names: str) -> str:
    """The values of some names in words, as a list has them."""
    return f"here {' and '.join(f'{name} {values[name]}' for name in names)}"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


OPENINGS = ("", "", "I look at the picture first. ", "Let me read it. ", "First I note what is there. ")
CLOSINGS = ("So the answer is {}.", "That gives {}.", "The answer is therefore {}.", "Hence {}.")


WAYS = ("worked", "terse")  # of reasoning: with the working between what is seen and the closing, or without


def write_rationale(listing: str, solution: Solution, shown_answer: str, rng: Random, way: str = "worked") -> str:
    """A rationale in varied wording: what is seen, the working if this is its way, a closing. No answer marker yet."""
    steps = "".join(f"{sentence(step)} " for step in solution.working if way == "worked")
    return f"{rng.choice(OPENINGS)}{listing} {steps}{rng.choice(CLOSINGS).format(shown_answer)}"
