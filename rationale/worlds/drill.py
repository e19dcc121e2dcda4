"""Single steps of language for the base model: look up, compare, filter, count, add, subtract, name a letter.

The part that a language model's own pre-training plays. Each step stands by itself and follows from what was listed
before; taking one step from the result of another is what rationales teach. They are worded as rationales word them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rationale.worlds import chart, form, scene
from rationale.worlds.template import (
    World,
    combine,
    count_beyond,
    looked_up,
    running_extremes,
    sentence,
    values_of,
)

Step = tuple[str, str]  # what is asked, what is said
NAMES = (*chart.COLORS, *form.ITEMS)
LARGEST = (9, 15)  # value in a list: of one digit, or also of two
MOST = 70  # to which one more is added


# Steps on a list of named numbers.


def look_up(values: dict[str, int], rng: Random) -> Step:
    names = rng.sample(list(values), min(len(values), rng.randint(1, 2)))
    return f"What is {' and '.join(names)}?", sentence(looked_up(values, *names))


def extremes(values: dict[str, int], rng: Random) -> Step:
    return "Go for highest and lowest.", sentence(running_extremes(values)[2])


def beyond(values: dict[str, int], rng: Random) -> Step:
    word, limit = rng.choice(("above", "below")), rng.randint(1, max(values.values()))
    return f"Count {word} {limit}.", sentence(count_beyond(values, word, limit)[1])


def add_two(values: dict[str, int], rng: Random) -> Step:
    a, b = rng.sample(list(values), 2)
    sign, asked = rng.choice((("+", f"Add {a} and {b}."), ("-", f"How far apart are {a} and {b}?")))
    solution = combine(values, a, b, sign)
    return asked, f"{sentence(solution.working[-1])} Hence {solution.answer}."


def add_each(values: dict[str, int], rng: Random) -> Step:
    base = rng.randint(0, MOST)
    return f"Add each to {base}.", ", ".join(f"{base} + {n} {v} = {base + v}" for n, v in values.items()) + "."


# Steps on a list of objects.


def where(objects: list[dict], rng: Random) -> Step:
    thing = rng.choice(objects)
    name = scene.name_of(thing)
    return f"Which column holds the {name}?", f"Here {name} {thing['column']}."


def beside(objects: list[dict], rng: Random) -> Step:
    side = rng.choice(list(scene.SIDES))
    axis, limit = scene.SIDES[side][0], rng.randint(1, scene.GRID)
    return f"Count {side} {axis} {limit}.", sentence(scene.count_side(objects, side, limit)[1])


def two_shapes(objects: list[dict], rng: Random) -> Step:
    shapes = rng.sample(scene.SHAPES, 2)
    said = " ".join(sentence(scene.count_look(objects, "shape", shape)[1]) for shape in shapes)
    return f"Count {' and '.join(f'{shape}s' for shape in shapes)}.", said


def in_row(objects: list[dict], rng: Random) -> Step:
    row = rng.choice(objects)["row"]
    return f"What does row {row} hold?", f"Here {scene.in_row(objects, row)}."


def one_look(objects: list[dict], rng: Random) -> Step:
    key, look = rng.choice((("color", rng.choice(list(scene.COLORS))), ("shape", rng.choice(scene.SHAPES))))
    return f"Count {look}{'' if key == 'color' else 's'}.", sentence(scene.count_look(objects, key, look)[1])


ON_VALUES = (look_up, look_up, add_two, add_two, extremes, beyond, add_each)
ON_OBJECTS = (where, beside, beside, in_row, one_look, one_look, one_look, two_shapes)


def _several(steps: tuple[Callable, ...], listed: dict | list, count: int, rng: Random) -> Step:
    """Some steps that all follow from one list, none from another."""
    asked, said = zip(*(rng.choice(steps)(listed, rng) for _ in range(count)), strict=True)
    return " ".join(asked), " ".join(said)


def _listed(rng: Random) -> tuple[tuple[Callable, ...], dict | list, str]:
    """A list in words, with the steps that can follow from it: named numbers, or objects."""
    if rng.random() < 0.5:
        world = scene.draw_world(rng, 6)
        return ON_OBJECTS, world["objects"], scene.listing(world, rng)
    largest = rng.choice(LARGEST)
    values = {name: rng.randint(1, largest) for name in rng.sample(NAMES, rng.randint(2, 6))}
    return ON_VALUES, values, f"The list is {', '.join(f'{name} {value}' for name, value in values.items())}."


# Drills on text alone.


def asked_of_a_list(rng: Random) -> Step:
    steps, listed, text = _listed(rng)
    asked, said = _several(steps, listed, 2, rng)
    return f"{text} {asked}", said


def said_of_a_list(rng: Random) -> Step:
    """Many steps on a list that nobody asked for: looking up is learned from text that looks up all the time."""
    steps, listed, text = _listed(rng)
    said = []
    while sum(map(len, said)) < 220:
        said.append(rng.choice(steps)(listed, rng)[1])
    return f"{text} Go on.", " ".join(said)


def counts(rng: Random) -> Step:
    """A list of objects, and how many have one color or shape, or another."""
    world = scene.draw_world(rng, 6)
    asked, said = _several((one_look, two_shapes), world["objects"], rng.randint(1, 2), rng)
    return f"{scene.listing(world, rng)} {asked}", said


def _sum(rng: Random) -> str:
    a, b = rng.randint(0, rng.choice((9, MOST))), rng.randint(1, rng.choice(LARGEST))
    if rng.random() < 0.4:
        a, b = max(a % 21, b), min(a % 21, b)
        return f"{a} - {b} = {a - b}"
    return f"{a} + {b} = {a + b}"


def sums(rng: Random) -> Step:
    return "Add and subtract.", ", ".join(_sum(rng) for _ in range(12)) + "."


def letters(rng: Random) -> Step:
    words = rng.sample([*scene.COLORS, *map(str, range(8)), *scene.VERDICTS], 4)
    asked = rng.sample(words, 3)
    listed = "\n".join(f"{letter}. {word}" for letter, word in zip("ABCD", words, strict=True))
    said = ", ".join(f"{word} is {'ABCD'[words.index(word)]}" for word in asked)
    return f"Which letters are {', '.join(asked)}?\n{listed}", f"{said}."


def verdicts(rng: Random) -> Step:
    pairs = [(rng.randint(0, 5), rng.randint(0, 5)) for _ in range(3)]
    asked = ", ".join(f"{a} against {b}" for a, b in pairs)
    return f"More or fewer, {asked}?", " ".join(f"{a} against {b} is {scene.verdict(a, b)}." for a, b in pairs)


def repeat(rng: Random) -> Step:
    """A list said again, twice: what copying is learned from."""
    names = rng.sample(NAMES, rng.randint(3, 8))
    numbered, largest = rng.random() < 0.5, rng.choice(LARGEST)
    said = ", ".join(f"{name} {rng.randint(1, largest)}" if numbered else name for name in names)
    return f"The list is {said}. Say it again.", f"{said}. {said}."


IN_TEXT = (said_of_a_list, said_of_a_list, said_of_a_list, asked_of_a_list, asked_of_a_list, asked_of_a_list, sums,
           letters, verdicts, repeat, counts, counts)  # fmt: skip


def describe_and_say(module: object, world: World, rng: Random) -> Step:
    """A description, and one or two steps that follow from it."""
    steps, listed = (ON_OBJECTS, world["objects"]) if "objects" in world else (ON_VALUES, values_of(world))
    asked, said = _several(steps, listed, rng.randint(1, 2), rng)
    return f"Describe the image. {asked}", f"{module.listing(world, rng)} {said}"
