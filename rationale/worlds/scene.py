"""Coloured shapes on a 4 x 4 grid of 64 x 64 pixels, asked with choices; the stand-in for A-OKVQA and AI2D."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from rationale.worlds.template import Solution, Template, World, running_count

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
    objects = [
        {"color": color, "shape": shape, "row": cell // GRID + 1, "column": cell % GRID + 1}
        for (color, shape), cell in zip(looks, cells, strict=True)
    ]
    return {"objects": objects}


def render(world: World) -> Image.Image:
    """Each object fills most of its cell; no grid is drawn."""
    image = Image.new("RGB", (SIZE, SIZE), (244, 244, 244))
    pen = ImageDraw.Draw(image)
    for thing in world["objects"]:
        x, y = CELL * (thing["column"] - 1) + 2, CELL * (thing["row"] - 1) + 2
        box, color = [x, y, x + 11, y + 11], COLORS[thing["color"]]
        if thing["shape"] == "circle":
            pen.ellipse(box, fill=color)
        elif thing["shape"] == "square":
            pen.rectangle(box, fill=color)
        elif thing["shape"] == "triangle":
            pen.polygon([(x, y + 11), (x + 11, y + 11), (x + 5, y)], fill=color)
        else:
            pen.polygon([(x + 5, y), (x + 11, y + 6), (x + 6, y + 11), (x, y + 5)], fill=color)
    return image


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


def _numeric_choices(answer: int) -> list[str]:
    low = max(0, answer - answer % 4)  # a block of four that holds the answer
    return [str(low + i) for i in range(4)]


def _color(world: World, rng: Random) -> dict:
    return {"c": rng.choice(list(COLORS))}


def _shape(world: World, rng: Random) -> dict:
    return {"s": rng.choice(SHAPES)}


def name_of(thing: dict) -> str:
    """What an object is called."""
    return f"{thing['color']} {thing['shape']}"


def _anchor(world: World, rng: Random) -> dict:
    thing = rng.choice(world["objects"])
    return {"c": thing["color"], "s": thing["shape"]}


def _find(world: World, args: dict) -> dict:
    return next(t for t in world["objects"] if t["color"] == args["c"] and t["shape"] == args["s"])


def alike(objects: list[dict], key: str, look: str) -> tuple[int, str]:
    """How many objects have a color or shape, and in words the count after each."""
    count, said = running_count(entries(objects), [t[key] == look for t in objects])
    return count, f"count {look}{'' if key == 'color' else 's'}, {said}"


def on_side(objects: list[dict], side: str, limit: int) -> tuple[int, str]:
    """How many objects stand on one side of a row or column, and in words the count after each."""
    axis, sign = SIDES[side]
    count, said = running_count(entries(objects), [sign * (t[axis] - limit) > 0 for t in objects])
    return count, f"count {side} {axis} {limit}, {said}"


def of_row(objects: list[dict], row: int) -> tuple[list[dict], str]:
    """The objects of a row, and in words which."""
    kept = [t for t in objects if t["row"] == row]
    return kept, ", ".join(entries(kept))


def verdict(a: int, b: int) -> str:
    """Whether the first count is more, fewer or as many."""
    return VERDICTS[0 if a > b else 1 if a < b else 2]


def _counted(count: int, *working: str) -> Solution:
    return Solution(str(count), [*working, f"the count is {count}"], _numeric_choices(count))


def _count_alike(world: World, key: str, look: str) -> Solution:
    return _counted(*alike(world["objects"], key, look))


def _relative(world: World, args: dict, side: str) -> Solution:
    here, axis = _find(world, args), SIDES[side][0]
    count, said = on_side(world["objects"], side, here[axis])
    found = f"here {name_of(here)} {here[axis]}" if axis == "column" else f"here row {here[axis]} {name_of(here)}"
    return _counted(count, found, said)


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


def _row_mate(world: World, args: dict) -> Solution:
    here = _find(world, args)
    held, said = of_row(world["objects"], here["row"])
    mate = next(t for t in held if t is not here)
    working = [f"here {said}", f"the other is the {name_of(mate)}"]
    return Solution(mate["color"], working, args["choices"])


def _shape_at(world: World, rng: Random) -> dict:
    thing = rng.choice(world["objects"])
    return {"r": thing["row"], "k": thing["column"]}


def _at(world: World, args: dict) -> dict:
    return next(t for t in world["objects"] if t["row"] == args["r"] and t["column"] == args["k"])


def _more_shapes(world: World, rng: Random) -> dict:
    a, b = rng.sample(SHAPES, 2)
    return {"a": a, "b": b}


def _compare(world: World, args: dict) -> Solution:
    (first, said), (second, also) = (alike(world["objects"], "shape", args[name]) for name in "ab")
    answer = verdict(first, second)
    return Solution(answer, [said, also, f"{first} against {second} is {answer}"], list(VERDICTS))


TEMPLATES = (
    Template("count_color", _color, ("How many objects are {c}?", "How many {c} things are there?"),
             lambda world, args: _count_alike(world, "color", args["c"])),
    Template("count_shape", _shape, ("How many {s}s are there?", "What is the number of {s}s?"),
             lambda world, args: _count_alike(world, "shape", args["s"])),
    Template("left_of", _anchor, ("How many objects are left of the {c} {s}?",),
             lambda world, args: _relative(world, args, "left of")),
    Template("right_of", _anchor, ("How many objects are right of the {c} {s}?",),
             lambda world, args: _relative(world, args, "right of")),
    Template("row_mate", _same_row, ("What color is the object in the same row as the {c} {s}?",
             "Which color stands beside the {c} {s}?"), _row_mate),
    Template("compare", _more_shapes, ("Are there more {a}s than {b}s, or fewer?",), _compare),
    Template("above", _anchor, ("How many objects are above the {c} {s}?",),
             lambda world, args: _relative(world, args, "above"), held_out=True),
    Template("color_at", _shape_at, ("What color is in row {r} column {k}?",),
             lambda world, args: Solution(_at(world, args)["color"]), hop=1),
    Template("shape_at", _shape_at, ("What shape is in row {r} column {k}?",),
             lambda world, args: Solution(_at(world, args)["shape"]), hop=1),
    Template("row_of", _anchor, ("Which row holds the {c} {s}?",),
             lambda world, args: Solution(str(_find(world, args)["row"])), hop=1),
    Template("number", lambda world, rng: {}, ("How many objects are there?",),
             lambda world, args: Solution(str(len(world["objects"]))), hop=1),
)  # fmt: skip
