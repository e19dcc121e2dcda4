"""Receipts of 64 x 64 pixels with readable words and digits; the stand-in for DocVQA and TextVQA."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw, ImageFont

from rationale.worlds.template import (
    Solution,
    Template,
    World,
    added_up,
    combined,
    looked_up,
    no_arguments,
    running_extremes,
)

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


def _write(pen: ImageDraw.ImageDraw, row: int, left: str, right: str, ink: tuple[int, int, int]) -> None:
    """One line of eight characters, each in a cell of 8 x 8 pixels."""
    for column, letter in enumerate(left + right.rjust(8 - len(left))):
        pen.text((8 * column + 1, 8 * row - 1), letter, font=_FONT, fill=ink)


def render(world: World) -> Image.Image:
    """The receipt number on the first line, then an item a line, prices flush right."""
    image = Image.new("RGB", (SIZE, SIZE), (252, 250, 240))
    pen = ImageDraw.Draw(image)
    ink = INKS[world["ink"]]
    _write(pen, 0, "NO", str(world["number"]), ink)
    for row, item in enumerate(world["items"], start=1):
        _write(pen, row, item["name"].upper(), str(item["price"]), ink)
    return image


def listing(world: World, rng: Random) -> str:
    """The number and every line with its price."""
    items = ", ".join(f"{item['name']} {item['price']}" for item in world["items"])
    return rng.choice(
        (f"The receipt {world['number']} lists {items}.", f"On receipt {world['number']} I read {items}.")
    )


def values_of(world: World) -> dict[str, int]:
    """The prices by item."""
    return {item["name"]: item["price"] for item in world["items"]}


def _one(world: World, rng: Random) -> dict:
    return {"a": rng.choice(list(values_of(world)))}


def _two(world: World, rng: Random) -> dict:
    a, b = rng.sample(list(values_of(world)), 2)
    return {"a": a, "b": b}


def _dearer(world: World, rng: Random) -> dict | None:
    pair = _two(world, rng)
    prices = values_of(world)
    a, b = sorted(pair.values(), key=lambda name: -prices[name])
    return {"a": a, "b": b} if prices[a] > prices[b] else None


def _paid(world: World, rng: Random) -> dict:
    prices = values_of(world)
    notes = [note for note in (10, 20, 50, 100) if note >= max(prices.values())]
    return {"a": rng.choice(list(prices)), "cash": rng.choice(notes[:2])}


def _change(world: World, args: dict) -> Solution:
    prices, a, cash = values_of(world), args["a"], args["cash"]
    left = cash - prices[a]
    return Solution(str(left), [looked_up(prices, a), f"so {cash} - {a} {prices[a]} = {left}"])


def _dearest(world: World, args: dict) -> Solution:
    high, _, said = running_extremes(values_of(world))
    return Solution(str(high), [f"highest and lowest, {said}", f"the highest is {high}"])


TEMPLATES = (
    Template("total", no_arguments, ("What is the total?", "What do all items cost together?"),
             lambda world, args: added_up(values_of(world))),
    Template("together", _two, ("What do {a} and {b} cost together?", "What is the price of {a} and {b}?"),
             lambda world, args: combined(values_of(world), **args, sign="+")),
    Template("change", _paid, ("How much is left of {cash} after buying {a}?",
             "What is the change from {cash} for {a}?"), _change),
    Template("dearest", no_arguments, ("What does the item cost that costs the most?", "What is the highest price?"),
             _dearest),
    Template("number", no_arguments, ("What is the receipt number?",),
             lambda world, args: Solution(str(world["number"]), ["the number stands in the first line"])),
    Template("more", _dearer, ("How much more does {a} cost than {b}?",),
             lambda world, args: combined(values_of(world), **args, sign="-"), held_out=True),
    Template("price", _one, ("What is the price of {a}?", "How much is {a}?"),
             lambda world, args: Solution(str(values_of(world)[args["a"]])), hop=1),
    Template("lines", no_arguments, ("How many items are listed?",),
             lambda world, args: Solution(str(len(world["items"]))), hop=1),
    Template("first", no_arguments, ("Which item comes first?",),
             lambda world, args: Solution(world["items"][0]["name"]), hop=1),
)  # fmt: skip
