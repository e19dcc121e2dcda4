"""Bar and line charts of 64 x 64 pixels with coloured items and whole values; the stand-in for ChartQA."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from rationale.worlds.template import (
    Solution,
    Template,
    World,
    added_up,
    combined,
    count_beyond,
    no_arguments,
    running_extremes,
)

SIZE = 64
MAX_VALUE = 20
COLORS = {
    "red": (214, 39, 40), "blue": (31, 88, 200), "green": (44, 160, 44), "orange": (255, 140, 0),
    "purple": (128, 60, 170), "black": (20, 20, 20), "pink": (250, 140, 200), "brown": (130, 80, 40),
}  # fmt: skip
KIND, SCORER = "short", "relaxed_accuracy"


def draw_world(rng: Random, largest: int = MAX_VALUE) -> World:
    """Three to six items in distinct colours, values 1 to `largest`, at most 20."""
    colors = rng.sample(list(COLORS), rng.randint(3, 6))
    items = [{"color": color, "value": rng.randint(1, largest)} for color in colors]
    return {"kind": rng.choice(["bar", "line"]), "items": items}


def render(world: World) -> Image.Image:
    """Three pixels a unit over a baseline at y = 62, one column of eight pixels an item; rules at 5, 10, 15 and 20."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(image)
    top = [62 - 3 * item["value"] for item in world["items"]]
    for value in (5, 10, 15, 20):
        pen.line([(2, 62 - 3 * value), (63, 62 - 3 * value)], fill=(222, 222, 222))
    pen.line([(1, 0), (1, 62), (63, 62)], fill=(90, 90, 90))
    centre = [12 + 8 * i for i in range(len(top))]
    if world["kind"] == "line":
        pen.line(list(zip(centre, top, strict=True)), fill=(170, 170, 170))
    for x, y, item in zip(centre, top, world["items"], strict=True):
        color = COLORS[item["color"]]
        if world["kind"] == "bar":
            pen.rectangle([x - 3, y, x + 2, 61], fill=color)
        else:
            pen.rectangle([x - 2, y - 2, x + 2, y + 2], fill=color)
    return image


def listing(world: World, rng: Random) -> str:
    """Every item from left to right with its value."""
    noun = "bars" if world["kind"] == "bar" else "points"
    items = ", ".join(f"{item['color']} {item['value']}" for item in world["items"])
    return rng.choice((f"From left to right the {noun} are {items}.", f"The {noun} show {items}."))


def values_of(world: World) -> dict[str, int]:
    """The values by color."""
    return {item["color"]: item["value"] for item in world["items"]}


def _one(world: World, rng: Random) -> dict:
    return {"a": rng.choice(list(values_of(world)))}


def _two(world: World, rng: Random) -> dict:
    a, b = rng.sample(list(values_of(world)), 2)
    return {"a": a, "b": b}


def _threshold(world: World, rng: Random) -> dict:
    highest = max(values_of(world).values())
    return {"t": rng.randint(1, highest)}


def _ends(world: World, sign: str) -> Solution:
    high, low, said = running_extremes(values_of(world))
    result = high + low if sign == "+" else high - low
    return Solution(
        str(result),
        [
            f"highest and lowest, {said}",
            f"the highest is {high}, the lowest is {low}",
            f"{high} {sign} {low} = {result}",
        ],
    )


def _count(world: World, args: dict, word: str) -> Solution:
    count, said = count_beyond(values_of(world), word, args["t"])
    return Solution(str(count), [said, f"the count is {count}"])


TEMPLATES = (
    Template("difference", _two, ("What is the difference between {a} and {b}?", "How far apart are {a} and {b}?"),
             lambda world, args: combined(values_of(world), **args, sign="-")),
    Template("sum_two", _two, ("What is the sum of {a} and {b}?", "What do {a} and {b} add up to?"),
             lambda world, args: combined(values_of(world), **args, sign="+")),
    Template("sum_all", no_arguments, ("What is the sum of all values?", "What do all values add up to?"),
             lambda world, args: added_up(values_of(world))),
    Template("range", no_arguments, ("What is the difference between the highest and the lowest value?",
             "How far apart are the highest and the lowest value?"), lambda world, args: _ends(world, "-")),
    Template("count_above", _threshold, ("How many values are above {t}?", "How many are higher than {t}?"),
             lambda world, args: _count(world, args, "above")),
    Template("count_below", _threshold, ("How many values are below {t}?",),
             lambda world, args: _count(world, args, "below"), held_out=True),
    Template("sum_of_ends", no_arguments, ("What is the sum of the highest and the lowest value?",),
             lambda world, args: _ends(world, "+"), held_out=True),
    Template("value", _one, ("What is the value of {a}?", "How high is {a}?"),
             lambda world, args: Solution(str(values_of(world)[args["a"]])), hop=1),
    Template("highest", no_arguments, ("What is the highest value?",),
             lambda world, args: Solution(str(max(values_of(world).values()))), hop=1),
    Template("number", no_arguments, ("How many values are shown?",),
             lambda world, args: Solution(str(len(world["items"]))), hop=1),
)  # fmt: skip
