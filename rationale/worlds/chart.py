"""Bar and line charts of 64 x 64 pixels with coloured items and whole values; the stand-in for ChartQA."""

from __future__ import annotations

from functools import partial
from random import Random

from PIL import Image, ImageDraw

from rationale.worlds import template
from rationale.worlds.template import Solution, Template, World, nothing, values_of

SIZE = 64
COLORS = {
    "red": (214, 39, 40), "blue": (31, 88, 200), "green": (44, 160, 44), "orange": (255, 140, 0),
    "purple": (128, 60, 170), "black": (20, 20, 20), "pink": (250, 140, 200), "brown": (130, 80, 40),
}  # fmt: skip
KIND, SCORER = "short", "relaxed_accuracy"


def draw_world(rng: Random, largest: int = 20) -> World:
    """Three to six items in distinct colours, values 1 to `largest`, at most 20."""
    colors = rng.sample(list(COLORS), rng.randint(3, 6))
    items = [{"color": color, "value": rng.randint(1, largest)} for color in colors]
    return {"kind": rng.choice(["bar", "line"]), "items": items}


def render(world: World) -> Image.Image:
    """Three pixels a unit over a baseline at y = 62, one column of eight pixels an item; rules at 5, 10, 15 and 20."""
    image = Image.new("RGB", (SIZE, SIZE), "white")
    pen = ImageDraw.Draw(image)
    for value in (5, 10, 15, 20):
        pen.line([(2, 62 - 3 * value), (63, 62 - 3 * value)], fill=(222, 222, 222))
    pen.line([(1, 0), (1, 62), (63, 62)], fill=(90, 90, 90))
    tops = [(12 + 8 * i, 62 - 3 * value) for i, value in enumerate(values_of(world).values())]
    if world["kind"] == "line":
        pen.line(tops, fill=(170, 170, 170))
    for (x, y), color in zip(tops, values_of(world), strict=True):
        box = [x - 3, y, x + 2, 61] if world["kind"] == "bar" else [x - 2, y - 2, x + 2, y + 2]
        pen.rectangle(box, fill=COLORS[color])
    return image


def listing(world: World, rng: Random) -> str:
    """Every item from left to right with its value."""
    noun = "bars" if world["kind"] == "bar" else "points"
    items = ", ".join(f"{color} {value}" for color, value in values_of(world).items())
    return rng.choice((f"From left to right the {noun} are {items}.", f"The {noun} show {items}."))


def _threshold(world: World, rng: Random) -> dict:
    return {"t": rng.randint(1, max(values_of(world).values()))}


def _ends(world: World, args: dict, sign: str) -> Solution:
    high, low, said = template.running_extremes(values_of(world))
    result = high + low if sign == "+" else high - low
    working = [said, f"the highest is {high}, the lowest is {low}", f"{high} {sign} {low} = {result}"]
    return Solution(str(result), working)


def _count(world: World, args: dict, word: str) -> Solution:
    count, said = template.count_beyond(values_of(world), word, args["t"])
    return Solution(str(count), [said, f"the count is {count}"])


TEMPLATES = (
    Template("difference", template.two, ("What is the difference between {a} and {b}?",
             "How far apart are {a} and {b}?"), partial(template.combined, sign="-")),
    Template("sum_two", template.two, ("What is the sum of {a} and {b}?", "What do {a} and {b} add up to?"),
             partial(template.combined, sign="+")),
    Template("sum_all", nothing, ("What is the sum of all values?", "What do all values add up to?"), template.total),
    Template("range", nothing, ("What is the difference between the highest and the lowest value?",
             "How far apart are the highest and the lowest value?"), partial(_ends, sign="-")),
    Template("count_above", _threshold, ("How many values are above {t}?", "How many are higher than {t}?"),
             partial(_count, word="above")),
    Template("count_below", _threshold, ("How many values are below {t}?",), partial(_count, word="below"),
             held_out=True),
    Template("sum_of_ends", nothing, ("What is the sum of the highest and the lowest value?",),
             partial(_ends, sign="+"), held_out=True),
    Template("value", template.one, ("What is the value of {a}?", "How high is {a}?"), template.read_off, hop=1),
    Template("highest", nothing, ("What is the highest value?",),
             lambda world, args: Solution(str(max(values_of(world).values()))), hop=1),
    Template("number", nothing, ("How many values are shown?",), template.number_of, hop=1),
)  # fmt: skip
