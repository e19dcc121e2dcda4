"""Single steps of language for the base model: look one thing up in a list, compare, filter, count, add, subtract.

The part that a language model's own pre-training plays. Each drill is one step; putting steps together is what
rationales teach.
"""

from __future__ import annotations

from random import Random

from rationale.data.mini import chart, form, scene
from rationale.data.mini.template import World, sentence

NAMES = (*chart.COLORS, *form.ITEMS)


def _list(rng: Random) -> tuple[dict[str, int], str]:
    values = {name: rng.randint(1, 40) for name in rng.sample(NAMES, rng.randint(2, 6))}
    return values, ", ".join(f"{name} {value}" for name, value in values.items())


def lookup(rng: Random) -> tuple[str, str]:
    """The value of one name."""
    values, text = _list(rng)
    name = rng.choice(list(values))
    return f"The list is {text}. What is {name}?", sentence(f"{name} is {values[name]}")


def extreme(rng: Random) -> tuple[str, str]:
    """The highest or lowest value."""
    values, text = _list(rng)
    word, pick = rng.choice((("highest", max), ("lowest", min)))
    return f"The list is {text}. What is the {word}?", f"The {word} is {pick(values.values())}."


def above(rng: Random) -> tuple[str, str]:
    """The entries above or below a limit."""
    values, text = _list(rng)
    limit, word = rng.randint(3, 30), rng.choice(("above", "below"))
    kept = [f"{n} {v}" for n, v in values.items() if (v > limit if word == "above" else v < limit)]
    said = f"{word} {limit} are {', '.join(kept)}" if kept else f"none is {word} {limit}"
    return f"The list is {text}. Which are {word} {limit}?", sentence(said)


def count(rng: Random) -> tuple[str, str]:
    """How many entries there are."""
    values, text = _list(rng)
    return f"The list is {text}. What is the count?", f"The count is {len(values)}."


def add(rng: Random) -> tuple[str, str]:
    """A sum of two numbers."""
    a, b = rng.randint(1, 120), rng.randint(1, 40)
    return f"What is {a} + {b}?", f"{a} + {b} = {a + b}."


def subtract(rng: Random) -> tuple[str, str]:
    """A difference that is not negative."""
    a, b = sorted((rng.randint(1, 60), rng.randint(1, 40)), reverse=True)
    return f"What is {a} - {b}?", f"{a} - {b} = {a - b}."


def letter(rng: Random) -> tuple[str, str]:
    """The letter of a choice."""
    words = rng.sample([*scene.COLORS, *map(str, range(8)), "more", "fewer", "as many"], 4)
    which = rng.randrange(4)
    listed = "\n".join(f"{'ABCD'[i]}. {word}" for i, word in enumerate(words))
    return f"Which letter is {words[which]}?\n{listed}", "ABCD"[which]


def describe_and_say(module: object, world: World, rng: Random) -> tuple[str, str]:
    """A description, and after it one thing looked up in it."""
    listing = module.listing(world, rng)
    if "objects" in world:
        thing = rng.choice(world["objects"])
        name = f"{thing['color']} {thing['shape']}"
        axis = rng.choice(("row", "column"))
        return (
            f"Describe the image. Which {axis} holds the {name}?",
            f"{listing} The {name} is in {axis} {thing[axis]}.",
        )
    item = rng.choice(world["items"])
    name = item.get("color") or item["name"]
    value = item.get("value") or item["price"]
    return f"Describe the image. What is {name}?", f"{listing} {sentence(f'{name} is {value}')}"


DRILLS = (lookup, lookup, extreme, above, count, add, add, subtract, letter)
