"""Receipts of 64 x 64 pixels with readable words and digits; the stand-in for DocVQA and TextVQA."""

from __future__ import annotations

from functools import partial
from random import Random

from PIL import Image, ImageDraw, ImageFont

from rationale.worlds import template
from rationale.worlds.template import Solution, Template, World, nothing, values_of

SIZE = 64
ITEMS = ("tea", "ham", "egg", "jam", "pie", "rye", "oat", "fig", "nut", "cod")
KIND, SCORER = "short", "exact"
INKS = ((0, 0, 0), (20, 20, 120), (90, 20, 20))
_FONT = ImageFont.load_default_imagefont()  # the bitmap font that ships with Pillow: same pixels everywhere


def draw_world(rng: Random, largest: int = 40) -> World:
    """A receipt number of three digits and three to five items of prices 1 to `largest`, at most 99."""
    names = rng.sample(ITEMS, rng.randint(3, 5))
    items = [{"name": name, "price": rng.randint(1, largest)} for name in names]
    return {"number": rng.randint(100, 999), "items": items, "ink": rng.randrange(len(INKS))}


def render(world: World) -> Image.Image:
    """The receipt number on the first line, then an item a line, prices flush right.

    A line has eight characters, each in a cell of 8 x 8 pixels.
    """
    image = Image.new("RGB", (SIZE, SIZE), (252, 250, 240))
    pen = ImageDraw.Draw(image)
    for row, (left, right) in enumerate([("NO", world["number"]), *values_of(world).items()]):
        for column, letter in enumerate(left.upper() + str(right).rjust(8 - len(left))):
            pen.text((8 * column + 1, 8 * row - 1), letter, font=_FONT, fill=INKS[world["ink"]])
    return image


def listing(world: World, rng: Random) -> str:
    """The number and every line with its price."""
    number, items = world["number"], ", ".join(f"{name} {price}" for name, price in values_of(world).items())
    return rng.choice((f"The receipt {number} lists {items}.", f"On receipt {number} I read {items}."))


def _dearer(world: World, rng: Random) -> dict | None:
    prices = values_of(world)
    a, b = sorted(template.two(world, rng).values(), key=lambda name: -prices[name])
    return {"a": a, "b": b} if prices[a] > prices[b] else None


def _paid(world: World, rng: Random) -> dict:
    notes = [note for note in (10, 20, 50, 100) if note >= max(values_of(world).values())]
    return {**template.one(world, rng), "cash": rng.choice(notes[:2])}


def _change(world: World, args: dict) -> Solution:
    prices, a, cash = values_of(world), args["a"], args["cash"]
    left = cash - prices[a]
    return Solution(str(left), [template.looked_up(prices, a), f"so {cash} - {a} {prices[a]} = {left}"])


def _dearest(world: World, args: dict) -> Solution:
    high, _, said = template.running_extremes(values_of(world))
    return Solution(str(high), [said, f"the highest is {high}"])


TEMPLATES = (
    Template("total", nothing, ("What is the total?", "What do all items cost together?"), template.total),
    Template("together", template.two, ("What do {a} and {b} cost together?", "What is the price of {a} and {b}?"),
             partial(template.combined, sign="+")),
    Template("change", _paid, ("How much is left of {cash} after buying {a}?",
             "What is the change from {cash} for {a}?"), _change),
    Template("dearest", nothing, ("What does the item cost that costs the most?", "What is the highest price?"),
             _dearest),
    Template("number", nothing, ("What is the receipt number?",),
             lambda world, args: Solution(str(world["number"]), ["the number stands in the first line"])),
    Template("more", _dearer, ("How much more does {a} cost than {b}?",), partial(template.combined, sign="-"),
             held_out=True),
    Template("price", template.one, ("What is the price of {a}?", "How much is {a}?"), template.read_off, hop=1),
    Template("lines", nothing, ("How many items are listed?",), template.number_of, hop=1),
    Template("first", nothing, ("Which item comes first?",),
             lambda world, args: Solution(world["items"][0]["name"]), hop=1),
)  # fmt: skip
