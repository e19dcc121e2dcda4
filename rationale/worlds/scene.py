"""Coloured shapes on a 4 x 4 grid of 64 x 64 pixels, asked with choices; the stand-in for A-OKVQA and AI2D."""

from __future__ import annotations

from functools import partial
from random import Random

from PIL import Image, ImageDraw

from rationale.worlds.template import Solution, Template, World, nothing, running_count

SIZE, GRID, CELL = 64, 4, 16
SHAPES = ("circle", "square", "triangle", "diamond")
COLORS = {
    "red": (214, 39, 40), "blue": (31, 88, 200), "green": (44, 160, 44),
    "orange": (255, 140, 0), "purple": (128, 60, 170), "black": (20, 20, 20),
}  # fmt: skip
SIDES = {"left of": ("column", -1), "right of": ("column", 1), "above": ("row", -1)}
VERDICTS = ("more", "fewer", "as many")
KIND, SCORER = "choice", "multiple_choice"


def draw_world(rng: Random, largest: int = 7) -> World:
    """Four to `largest` objects, no two alike, in cells read row by row."""
    looks = rng.sample([(color, shape) for color in COLORS for shape in SHAPES], rng.randint(4, largest))
    cells = sorted(rng.sample(range(GRID * GRID), len(looks)))
    return {"objects": [
        {"color": color, "shape": shape, "row": cell // GRID + 1, "column": cell % GRID + 1}
        for (color, shape), cell in zip(looks, cells, strict=True)
    ]}  # fmt: skip


def render(world: World) -> Image.Image:
    """Each object fills most of its cell; no grid is drawn."""
    image = Image.new("RGB", (SIZE, SIZE), (244, 244, 244))
    pen = ImageDraw.Draw(image)
    for thing in world["objects"]:
        x, y = CELL * (thing["column"] - 1) + 2, CELL * (thing["row"] - 1) + 2
        draw, place = {
            "circle": (pen.ellipse, [x, y, x + 11, y + 11]),
            "square": (pen.rectangle, [x, y, x + 11, y + 11]),
            "triangle": (pen.polygon, [(x, y + 11), (x + 11, y + 11), (x + 5, y)]),
            "diamond": (pen.polygon, [(x + 5, y), (x + 11, y + 6), (x + 6, y + 11), (x, y + 5)]),
        }[thing["shape"]]
        draw(place, fill=COLORS[thing["color"]])
    return image


def name_of(thing: dict) -> str:
    return f"{thing['color']} {thing['shape']}"


def entries(objects: list[dict]) -> list[str]:
    """Every object row by row with the number of its column; the first of a row says the row."""
    found, row = [], None
    for thing in objects:
        new = f"row {thing['row']} " if thing["row"] != row else ""
        found.append(f"{new}{name_of(thing)} {thing['column']}")
        row = thing["row"]
    return found


def listing(world: World, rng: Random) -> str:
    """Every object in words."""
    text = ", ".join(entries(world["objects"]))
    return rng.choice((f"The objects by row and column are {text}.", f"I see {text}."))


def count_look(objects: list[dict], key: str, look: str) -> tuple[int, str]:
    """How many objects have a color or shape, and in words the count after each."""
    count, said = running_count(entries(objects), [t[key] == look for t in objects])
    return count, f"count {look}{'' if key == 'color' else 's'}, {said}"


def count_side(objects: list[dict], side: str, limit: int) -> tuple[int, str]:
    """How many objects stand on one side of a row or column, and in words the count after each."""
    axis, sign = SIDES[side]
    count, said = running_count(entries(objects), [sign * (t[axis] - limit) > 0 for t in objects])
    return count, f"count {side} {axis} {limit}, {said}"


def in_row(objects: list[dict], row: int) -> str:
    """Which objects a row holds, in words."""
    return ", ".join(entries([t for t in objects if t["row"] == row]))


def verdict(a: int, b: int) -> str:
    """Whether the first count is more, fewer or as many."""
    return VERDICTS[0 if a > b else 1 if a < b else 2]


def _anchor(world: World, rng: Random) -> dict:
    thing = rng.choice(world["objects"])
    return {"c": thing["color"], "s": thing["shape"]}


def _place(world: World, rng: Random) -> dict:
    thing = rng.choice(world["objects"])
    return {"r": thing["row"], "k": thing["column"]}


def _same_row(world: World, rng: Random) -> dict | None:
    """Two objects that share a row with no third: one is asked about, the other is the answer."""
    rows = {}
    for thing in world["objects"]:
        rows.setdefault(thing["row"], []).append(thing)
    pairs = [things for things in rows.values() if len(things) == 2]
    if not pairs:
        return None
    asked, other = rng.sample(rng.choice(pairs), 2)
    colors = [*rng.sample([c for c in COLORS if c != other["color"]], 3), other["color"]]
    rng.shuffle(colors)
    return {"c": asked["color"], "s": asked["shape"], "choices": colors}


def _find(world: World, args: dict) -> dict:
    """The object that the arguments name, by its look or its place."""
    keys = {"c": "color", "s": "shape", "r": "row", "k": "column"}
    return next(t for t in world["objects"] if all(t[keys[k]] == args[k] for k in keys.keys() & args.keys()))


def _counted(count: int, *working: str) -> Solution:
    low = max(0, count - count % 4)  # the choices are a block of four that holds the answer
    return Solution(str(count), [*working, f"the count is {count}"], [str(low + i) for i in range(4)])


def _look(world: World, args: dict, key: str, name: str) -> Solution:
    return _counted(*count_look(world["objects"], key, args[name]))


def _relative(world: World, args: dict, side: str) -> Solution:
    here, axis = _find(world, args), SIDES[side][0]
    count, said = count_side(world["objects"], side, here[axis])
    found = f"here {name_of(here)} {here[axis]}" if axis == "column" else f"here row {here[axis]} {name_of(here)}"
    return _counted(count, found, said)


def _row_mate(world: World, args: dict) -> Solution:
    here = _find(world, args)
    mate = next(t for t in world["objects"] if t["row"] == here["row"] and t is not here)
    working = [f"here {in_row(world['objects'], here['row'])}", f"the other is the {name_of(mate)}"]
    return Solution(mate["color"], working, args["choices"])


def _compare(world: World, args: dict) -> Solution:
    (first, said), (second, also) = (count_look(world["objects"], "shape", args[name]) for name in "ab")
    answer = verdict(first, second)
    return Solution(answer, [said, also, f"{first} against {second} is {answer}"], list(VERDICTS))


def _read_off(world: World, args: dict, key: str) -> Solution:
    return Solution(str(_find(world, args)[key]))


TEMPLATES = (
    Template("count_color", lambda world, rng: {"c": rng.choice(list(COLORS))},
             ("How many objects are {c}?", "How many {c} things are there?"), partial(_look, key="color", name="c")),
    Template("count_shape", lambda world, rng: {"s": rng.choice(SHAPES)},
             ("How many {s}s are there?", "What is the number of {s}s?"), partial(_look, key="shape", name="s")),
    Template("left_of", _anchor, ("How many objects are left of the {c} {s}?",), partial(_relative, side="left of")),
    Template("right_of", _anchor, ("How many objects are right of the {c} {s}?",), partial(_relative, side="right of")),
    Template("row_mate", _same_row, ("What color is the object in the same row as the {c} {s}?",
             "Which color stands beside the {c} {s}?"), _row_mate),
    Template("compare", lambda world, rng: dict(zip("ab", rng.sample(SHAPES, 2), strict=True)),
             ("Are there more {a}s than {b}s, or fewer?",), _compare),
    Template("above", _anchor, ("How many objects are above the {c} {s}?",), partial(_relative, side="above"),
             held_out=True),
    Template("color_at", _place, ("What color is in row {r} column {k}?",), partial(_read_off, key="color"), hop=1),
    Template("shape_at", _place, ("What shape is in row {r} column {k}?",), partial(_read_off, key="shape"), hop=1),
    Template("row_of", _anchor, ("Which row holds the {c} {s}?",), partial(_read_off, key="row"), hop=1),
    Template("number", nothing, ("How many objects are there?",),
             lambda world, args: Solution(str(len(world["objects"]))), hop=1),
)  # fmt: skip
