"""Single steps of language for the base model: look up, compare, filter, count, add, subtract, name a letter.

The part that a language model's own pre-training plays. Each step stands by itself and follows from what was listed
before; taking one step from the result of another is what rationales teach. They are worded as rationales word them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rationale.data.mini import chart, form, scene
from rationale.data.mini.template import World, numbered, sentence

Step = tuple[str, str]  # what is asked, what is said
NAMES = (*chart.COLORS, *form.ITEMS)


def look_up(values: dict[str, int], rng: Random) -> Step:
    """The values of one or two names."""
    names = rng.sample(list(values), min(len(values), rng.randint(1, 2)))
    return f"What is {' and '.join(names)}?", f"Here {' and '.join(f'{name} is {values[name]}' for name in names)}."


def extreme(values: dict[str, int], rng: Random) -> Step:
    """The entry of the highest or lowest value; of several such, the first."""
    word, pick = rng.choice((("highest", max), ("lowest", min)))
    name = pick(values, key=values.get)
    return f"Which is the {word}?", f"The {word} is {name} {values[name]}."


def beyond(values: dict[str, int], rng: Random) -> Step:
    """The entries above or below a limit, numbered."""
    limit, word = (
        rng.randint(3, 30) if max(values.values()) > 20 else rng.randint(3, 17),
        rng.choice(("above", "below")),
    )
    kept = [f"{n} {v}" for n, v in values.items() if (v > limit if word == "above" else v < limit)]
    return f"Which are {word} {limit}?", sentence(f"{word} {limit} are {numbered(kept)}")


def add_each(values: dict[str, int], rng: Random) -> Step:
    """Every entry, in its order, added to one number."""
    base = rng.randint(1, 99)
    return f"Add each to {base}.", ", ".join(f"{base} + {n} {v} = {base + v}" for n, v in values.items()) + "."


def where(objects: list[dict], rng: Random) -> Step:
    """The row or column of one object."""
    thing, axis = rng.choice(objects), rng.choice(("row", "column"))
    name = scene.name_of(thing)
    return f"Which {axis} holds the {name}?", f"The {name} is in {axis} {thing[axis]}."


def beside(objects: list[dict], rng: Random) -> Step:
    """The objects on one side of a row or column, numbered."""
    side = rng.choice(list(scene.SIDES))
    axis, limit = scene.SIDES[side][0], rng.randint(1, scene.GRID)
    return f"Which are {side} {axis} {limit}?", sentence(scene.on_side(objects, side, limit)[1])


def in_row(objects: list[dict], rng: Random) -> Step:
    """The objects of one row, numbered."""
    row = rng.choice(objects)["row"]
    return f"What does row {row} hold?", sentence(scene.of_row(objects, row)[1])


def alike(objects: list[dict], rng: Random) -> Step:
    """The objects of one color or shape, numbered."""
    key, look = rng.choice((("color", rng.choice(list(scene.COLORS))), ("shape", rng.choice(scene.SHAPES))))
    said = scene.alike(objects, key, look)[1]
    return f"Which are {look}?" if key == "color" else f"Which are {look}s?", sentence(said)


ON_VALUES = (look_up, look_up, extreme, beyond, beyond, add_each)
ON_OBJECTS = (where, beside, beside, in_row, alike, alike)


def _several(steps: tuple[Callable, ...], listed: dict | list, count: int, rng: Random) -> Step:
    """Some steps that all follow from one list, none from another."""
    asked, said = zip(*(rng.choice(steps)(listed, rng) for _ in range(count)), strict=True)
    return " ".join(asked), " ".join(said)


def listed_values(rng: Random) -> Step:
    """Three steps on a list of named numbers."""
    values = {name: rng.randint(1, 40) for name in rng.sample(NAMES, rng.randint(2, 6))}
    asked, said = _several(ON_VALUES, values, 3, rng)
    return f"The list is {', '.join(f'{name} {value}' for name, value in values.items())}. {asked}", said


def listed_objects(rng: Random) -> Step:
    """Three steps on a list of objects."""
    world = scene.draw_world(rng)
    asked, said = _several(ON_OBJECTS, world["objects"], 3, rng)
    return f"{scene.listing(world, rng)} {asked}", said


def sums(rng: Random) -> Step:
    """Five sums and differences."""
    left, right = [], []
    for _ in range(5):
        a, b = rng.randint(1, rng.choice((40, 160))), rng.randint(1, 40)
        if rng.random() < 0.4:
            a, b = max(a % 61, b), min(a % 61, b)
            left.append(f"{a} - {b}")
            right.append(f"{a} - {b} = {a - b}")
        else:
            left.append(f"{a} + {b}")
            right.append(f"{a} + {b} = {a + b}")
    return f"What is {', '.join(left)}?", ", ".join(right) + "."


def letters(rng: Random) -> Step:
    """The letters of some choices."""
    words = rng.sample([*scene.COLORS, *map(str, range(8)), *scene.VERDICTS], 4)
    asked = rng.sample(words, 3)
    listed = "\n".join(f"{'ABCD'[i]}. {word}" for i, word in enumerate(words))
    said = ", ".join(f"{word} is {'ABCD'[words.index(word)]}" for word in asked)
    return f"Which letters are {', '.join(asked)}?\n{listed}", f"{said}."


def verdicts(rng: Random) -> Step:
    """Pairs of counts compared."""
    pairs = [(rng.randint(0, 5), rng.randint(0, 5)) for _ in range(3)]
    asked = ", ".join(f"{a} against {b}" for a, b in pairs)
    return f"More or fewer, {asked}?", " ".join(f"{a} against {b} is {scene.verdict(a, b)}." for a, b in pairs)


def count(rng: Random) -> Step:
    """The length of a numbered list."""
    entries = [f"{name} {rng.randint(1, 40)}" for name in rng.sample(NAMES, rng.randint(0, 6))]
    return f"The list is {numbered(entries)}. What is the count?", f"The count is {len(entries)}."


IN_TEXT = (listed_values, listed_values, listed_values, listed_objects, listed_objects, sums, sums, letters, verdicts,
           count)  # fmt: skip


def describe_and_say(module: object, world: World, rng: Random) -> Step:
    """A description, and one or two steps that follow from it."""
    if "objects" in world:
        steps, listed = ON_OBJECTS, world["objects"]
    else:
        steps, listed = ON_VALUES, module.values_of(world)
    asked, said = _several(steps, listed, rng.randint(1, 2), rng)
    return f"Describe the image. {asked}", f"{module.listing(world, rng)} {said}"
