"""Drills: each answer is right, worked out again from the words of its question."""

from __future__ import annotations

import re
from random import Random

import pytest

from rationale.data import tasks
from rationale.data.mini import WORLDS, drill


def entries(question):
    listed = re.search(r"The list is (.*?)\. ", question)[1]
    return {name: int(value) for name, value in (entry.split() for entry in listed.split(", "))}


@pytest.mark.parametrize("seed", range(20))
def test_lookup_gives_the_value_of_the_name(seed):
    question, answer = drill.lookup(Random(seed))
    name = question.split("What is ")[1].rstrip("?")
    assert answer.lower() == f"{name} is {entries(question)[name]}."


@pytest.mark.parametrize("seed", range(20))
def test_extreme_is_the_largest_or_smallest(seed):
    question, answer = drill.extreme(Random(seed))
    pick = max if "highest" in question else min
    assert answer.endswith(f"is {pick(entries(question).values())}.")


@pytest.mark.parametrize("seed", range(20))
def test_above_keeps_what_passes_the_limit_and_nothing_else(seed):
    question, answer = drill.above(Random(seed))
    side, limit = re.search(r"(above|below) (\d+)\?", question).groups()
    kept = {n: v for n, v in entries(question).items() if (v > int(limit) if side == "above" else v < int(limit))}
    named = dict(re.findall(r"([a-z]+) (\d+)", answer.split(" are ")[1])) if " are " in answer else {}
    assert {name: int(value) for name, value in named.items()} == kept


@pytest.mark.parametrize("make", [drill.add, drill.subtract])
@pytest.mark.parametrize("seed", range(10))
def test_sums_and_differences_are_right(make, seed):
    a, sign, b, c = re.fullmatch(r"(\d+) ([+-]) (\d+) = (\d+)\.", make(Random(seed))[1]).groups()
    assert int(a) + (int(b) if sign == "+" else -int(b)) == int(c)


@pytest.mark.parametrize("seed", range(10))
def test_letter_names_the_line_of_the_choice(seed):
    question, answer = drill.letter(Random(seed))
    wanted = re.match(r"Which letter is (.*)\?", question)[1]
    assert f"\n{answer}. {wanted}" in question


@pytest.mark.parametrize("name", WORLDS)
def test_a_description_with_a_look_up_says_what_the_world_holds(name):
    rng = Random(3)
    world = WORLDS[name].draw_world(rng)
    question, answer = drill.describe_and_say(WORLDS[name], world, rng)
    assert question.startswith("Describe the image. ")
    said = answer.split(". ")[1].rstrip(".").lower()
    if "objects" in world:
        thing = next(t for t in world["objects"] if f"the {t['color']} {t['shape']} is" in said)
        axis, number = said.split()[-2:]
        assert thing[axis] == int(number)
    else:
        item = next(i for i in world["items"] if said.startswith((i.get("color") or i["name"]) + " is"))
        assert said.endswith(f"is {item.get('value') or item['price']}")


def test_drill_rows_are_open_questions_about_train_images_only():
    rows = [question for question, _, _ in tasks.mini_drills(2, 2, seed=0)]
    assert {q.kind for q in rows} == {"open"}
    assert {q.split for q in rows} == {"train"}
    assert len(rows) == 3 * 2 * 3
