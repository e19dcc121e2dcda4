"""Drills: each answer is right, worked out again from the words of its question."""

from __future__ import annotations

import re
from random import Random

import pytest

from rationale.data import tasks
from rationale.data.mini import WORLDS, drill, scene

VALUES = {"red": 17, "tea": 4, "blue": 40, "jam": 17, "pie": 4}
OBJECTS = scene.draw_world(Random(5))["objects"]


def entries(numbered_list):
    """The entries of "1 first, 2 second"; their numbers are checked."""
    if numbered_list == "none":
        return []
    numbers, names = zip(*(entry.split(" ", 1) for entry in numbered_list.split(", ")), strict=True)
    assert list(map(int, numbers)) == list(range(1, len(names) + 1))
    return list(names)


@pytest.mark.parametrize("seed", range(10))
def test_look_up_gives_the_value_of_each_name(seed):
    asked, said = drill.look_up(VALUES, Random(seed))
    names = re.fullmatch(r"What is (.*)\?", asked)[1].split(" and ")
    assert said == f"Here {' and '.join(f'{name} is {VALUES[name]}' for name in names)}."


@pytest.mark.parametrize("seed", range(10))
def test_extreme_is_the_first_largest_or_smallest(seed):
    asked, said = drill.extreme(VALUES, Random(seed))
    assert said == ("The highest is blue 40." if "highest" in asked else "The lowest is tea 4.")


@pytest.mark.parametrize("seed", range(20))
def test_beyond_keeps_what_passes_the_limit_and_nothing_else(seed):
    asked, said = drill.beyond(VALUES, Random(seed))
    side, limit = re.fullmatch(r"Which are (above|below) (\d+)\?", asked).groups()
    passes = (lambda v: v > int(limit)) if side == "above" else (lambda v: v < int(limit))
    start, kept = said.rstrip(".").split(" are ")
    assert start.lower() == f"{side} {limit}"
    assert entries(kept) == [f"{name} {value}" for name, value in VALUES.items() if passes(value)]


def test_add_each_goes_through_the_list_in_order():
    asked, said = drill.add_each(VALUES, Random(0))
    base = int(re.fullmatch(r"Add each to (\d+)\.", asked)[1])
    found = re.findall(r"(\d+) \+ (\w+) (\d+) = (\d+)", said)
    assert [(int(a), name, int(v), int(total)) for a, name, v, total in found] == [
        (base, name, v, base + v) for name, v in VALUES.items()
    ]


@pytest.mark.parametrize("seed", range(10))
def test_where_says_the_row_or_column(seed):
    asked, said = drill.where(OBJECTS, Random(seed))
    axis, color, shape = re.fullmatch(r"Which (row|column) holds the (\w+) (\w+)\?", asked).groups()
    thing = next(t for t in OBJECTS if (t["color"], t["shape"]) == (color, shape))
    assert said == f"The {color} {shape} is in {axis} {thing[axis]}."


@pytest.mark.parametrize("make", [drill.beside, drill.in_row, drill.alike])
@pytest.mark.parametrize("seed", range(20))
def test_objects_named_are_those_asked_for(make, seed):
    asked, said = make(OBJECTS, Random(seed))
    words = asked.rstrip("?").split()
    if make is drill.in_row:
        keep = [t for t in OBJECTS if t["row"] == int(words[3])]
    elif make is drill.alike:
        keep = [t for t in OBJECTS if words[-1].removesuffix("s") in (t["color"], t["shape"])]
    else:
        compare = {"left": int.__lt__, "right": int.__gt__, "above": int.__lt__}[words[2]]
        keep = [t for t in OBJECTS if compare(t[words[-2]], int(words[-1]))]
    assert entries(re.split(" are | holds ", said.rstrip("."))[1]) == [f"{t['color']} {t['shape']}" for t in keep]


@pytest.mark.parametrize("seed", range(10))
def test_sums_and_differences_are_right_and_those_asked_for(seed):
    asked, said = drill.sums(Random(seed))
    problems = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", said)
    assert asked == f"What is {', '.join(f'{a} {sign} {b}' for a, sign, b, _ in problems)}?"
    assert len(problems) == 5
    for a, sign, b, c in problems:
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(c) >= 0


@pytest.mark.parametrize("seed", range(10))
def test_letters_name_the_lines_of_the_choices(seed):
    asked, said = drill.letters(Random(seed))
    named = re.findall(r"([\w ]+?) is ([A-D])", said)
    assert len(named) == 3
    assert all(f"\n{letter}. {word.strip()}" in asked for word, letter in named)


@pytest.mark.parametrize("seed", range(10))
def test_verdicts_compare_the_two_counts(seed):
    for a, b, said in re.findall(r"(\d) against (\d) is ([\w ]+)\.", drill.verdicts(Random(seed))[1]):
        assert said == ("more" if a > b else "fewer" if a < b else "as many")


@pytest.mark.parametrize("seed", range(10))
def test_count_is_the_length_of_the_list(seed):
    asked, said = drill.count(Random(seed))
    listed = re.search(r"The list is (.*)\. What", asked)[1]
    assert said == f"The count is {len(entries(listed))}."


@pytest.mark.parametrize("name", WORLDS)
def test_a_description_comes_before_what_follows_from_it(name):
    world = WORLDS[name].draw_world(Random(3))
    asked, said = drill.describe_and_say(WORLDS[name], world, Random(3))
    assert asked.startswith("Describe the image. ")
    listings = {WORLDS[name].listing(world, Random(seed)) for seed in range(20)}
    assert any(said.startswith(listing + " ") for listing in listings)


def test_drill_rows_are_open_questions_about_train_images_only():
    rows = [question for question, _, _ in tasks.mini_drills(2, 1, 2, seed=0)]
    assert {q.kind for q in rows} == {"open"}
    assert {q.split for q in rows} == {"train"}
    assert len(rows) == 3 * 2 * 3
