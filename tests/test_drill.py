"""Drills: each answer is right, worked out again from the words of its question."""

from __future__ import annotations

import itertools
import re
from random import Random

import pytest

from rationale.artifacts import UserError
from rationale.sources import tasks
from rationale.worlds import WORLDS, drill, scene

VALUES = {"red": 17, "tea": 4, "blue": 40, "jam": 17, "pie": 3}
OBJECTS = scene.draw_world(Random(5))["objects"]


def counts(said):
    """The things of "first is 1, second not 1", and the count after each; the word says whether it went up."""
    entries = [re.fullmatch(r"(.*) (is|not) (\d+)", entry).groups() for entry in said.rstrip(".").split(", ")]
    found = [int(count) for _, _, count in entries]
    assert [word == "is" for _, word, _ in entries] == [b > a for a, b in itertools.pairwise([0, *found])]
    return [thing for thing, _, _ in entries], found


def running(kept):
    return list(itertools.accumulate(map(int, kept)))


@pytest.mark.parametrize("seed", range(10))
def test_look_up_gives_the_value_of_each_name(seed):
    asked, said = drill.look_up(VALUES, Random(seed))
    names = re.fullmatch(r"What is (.*)\?", asked)[1].split(" and ")
    assert said == f"Here {' and '.join(f'{name} {VALUES[name]}' for name in names)}."


def test_extremes_are_those_so_far():
    _, said = drill.extremes(VALUES, Random(0))
    assert said == "Highest and lowest, red 17: 17 17, tea 4: 17 4, blue 40: 40 4, jam 17: 40 4, pie 3: 40 3."


@pytest.mark.parametrize("seed", range(20))
def test_beyond_counts_what_passes_the_limit_and_nothing_else(seed):
    asked, said = drill.beyond(VALUES, Random(seed))
    side, limit = re.fullmatch(r"Count (above|below) (\d+)\.", asked).groups()
    passes = (lambda v: v > int(limit)) if side == "above" else (lambda v: v < int(limit))
    start, rest = said.split(", ", 1)
    assert start == f"Count {side} {limit}"
    assert counts(rest) == ([f"{n} {v}" for n, v in VALUES.items()], running(passes(v) for v in VALUES.values()))


@pytest.mark.parametrize("seed", range(10))
def test_add_two_takes_the_smaller_from_the_larger(seed):
    asked, said = drill.add_two(VALUES, Random(seed))
    a, x, sign, b, y, result = re.match(r"So (\w+) (\d+) ([+-]) (\w+) (\d+) = (\d+)\. ", said).groups()
    assert {a, b} == set(re.findall("|".join(VALUES), asked))
    assert (int(x), int(y)) == (VALUES[a], VALUES[b])
    assert int(result) == (int(x) + int(y) if sign == "+" else int(x) - int(y)) >= 0
    assert said.endswith(f" Hence {result}.")


@pytest.mark.parametrize("seed", range(10))
def test_two_shapes_are_counted_one_after_the_other(seed):
    asked, said = drill.two_shapes(OBJECTS, Random(seed))
    shapes = re.fullmatch(r"Count (\w+)s and (\w+)s\.", asked).groups()
    for shape, sentence in zip(shapes, said.removesuffix(".").split(". "), strict=True):
        start, rest = sentence.split(", ", 1)
        assert start == f"Count {shape}s"
        assert counts(rest) == (scene.entries(OBJECTS), running(t["shape"] == shape for t in OBJECTS))


@pytest.mark.parametrize("seed", range(10))
def test_counts_are_of_the_objects_that_the_text_lists(seed):
    asked, said = drill.counts(Random(seed))
    listed = asked[: asked.index(". Count")]
    for sentence in said.removesuffix(".").split(". "):
        assert all(thing in listed for thing in counts(sentence.split(", ", 1)[1])[0])


def test_add_each_goes_through_the_list_in_order():
    asked, said = drill.add_each(VALUES, Random(0))
    base = int(re.fullmatch(r"Add each to (\d+)\.", asked)[1])
    found = re.findall(r"(\d+) \+ (\w+) (\d+) = (\d+)", said)
    assert [(int(a), name, int(v), int(total)) for a, name, v, total in found] == [
        (base, name, v, base + v) for name, v in VALUES.items()
    ]


@pytest.mark.parametrize("seed", range(10))
def test_where_gives_the_column(seed):
    asked, said = drill.where(OBJECTS, Random(seed))
    color, shape = re.fullmatch(r"Which column holds the (\w+) (\w+)\?", asked).groups()
    thing = next(t for t in OBJECTS if (t["color"], t["shape"]) == (color, shape))
    assert said == f"Here {color} {shape} {thing['column']}."


@pytest.mark.parametrize("make", [drill.beside, drill.one_look])
@pytest.mark.parametrize("seed", range(20))
def test_objects_counted_are_those_asked_for(make, seed):
    asked, said = make(OBJECTS, Random(seed))
    words = asked.rstrip(".").split()
    if make is drill.one_look:
        kept = [words[-1].removesuffix("s") in (t["color"], t["shape"]) for t in OBJECTS]
    else:
        compare = {"left": int.__lt__, "right": int.__gt__, "above": int.__lt__}[words[1]]
        kept = [compare(t[words[-2]], int(words[-1])) for t in OBJECTS]
    assert counts(said.split(", ", 1)[1]) == (scene.entries(OBJECTS), running(kept))


@pytest.mark.parametrize("seed", range(10))
def test_in_row_gives_the_objects_of_the_row(seed):
    asked, said = drill.in_row(OBJECTS, Random(seed))
    row = int(re.fullmatch(r"What does row (\d) hold\?", asked)[1])
    held = [f"{t['color']} {t['shape']} {t['column']}" for t in OBJECTS if t["row"] == row]
    assert said == f"Here row {row} {', '.join(held)}."


def test_repeat_says_the_list_twice():
    asked, said = drill.repeat(Random(0))
    listed = re.fullmatch(r"The list is (.*)\. Say it again\.", asked)[1]
    assert said == f"{listed}. {listed}."


@pytest.mark.parametrize("seed", range(10))
def test_sums_and_differences_are_right(seed):
    problems = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", drill.sums(Random(seed))[1])
    assert len(problems) == 12
    for a, sign, b, c in problems:
        assert int(a) + (int(b) if sign == "+" else -int(b)) == int(c) >= 0


@pytest.mark.parametrize("seed", range(10))
def test_what_is_said_of_a_list_is_said_in_the_words_of_single_steps(seed):
    asked, said = drill.said_of_a_list(Random(seed))
    starts = ("Here ", "Highest ", "Count ", "So ", "Hence ", *"0123456789")
    assert asked.endswith(" Go on.")
    assert len(said) > 200
    assert all(sentence.startswith(starts) for sentence in said.removesuffix(".").split(". "))


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


@pytest.mark.parametrize("name", WORLDS)
def test_a_description_comes_before_what_follows_from_it(name):
    world = WORLDS[name].draw_world(Random(3))
    asked, said = drill.describe_and_say(WORLDS[name], world, Random(3))
    assert asked.startswith("Describe the image. ")
    listings = {WORLDS[name].listing(world, Random(seed)) for seed in range(20)}
    assert any(said.startswith(listing + " ") for listing in listings)


def test_drill_rows_are_open_questions_about_train_images_only():
    rows = [question for question, _ in tasks.mini_drills(2, 1, 2, seed=0, largest={})]
    assert {q.kind for q in rows} == {"open"}
    assert {q.split for q in rows} == {"train"}
    assert len(rows) == 3 * 2 * 3


def test_drills_on_text_have_no_image_and_descriptions_have_one():
    sourced = list(tasks.mini_drills(2, 1, 2, seed=0, largest={}))
    assert all((not files) == (question.meta["skill"] == "drill") for question, files in sourced)


def test_only_the_drills_that_are_named_are_drawn():
    rows = [q for q, _ in tasks.mini_drills(3, 0, 4, seed=0, largest={}, only=["sums"])]
    assert {q.question for q in rows} == {"Add and subtract."}


def test_an_unknown_drill_is_named():
    with pytest.raises(UserError, match=r"no drill is called \['dance'\]; there are \['asked_of_a_list', "):
        next(tasks.mini_drills(1, 0, 1, seed=0, largest={}, only=["dance"]))
