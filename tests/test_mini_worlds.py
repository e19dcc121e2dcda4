"""The drawn worlds: answers worked out by hand, splits that share nothing, a teacher that gets them right."""

import io
from functools import partial
from random import Random

import pytest
from PIL import Image

from rationale.artifacts import produce
from rationale.prompts import ANSWER_MARKER
from rationale.schema import LETTERS, Question, read_jsonl
from rationale.scoring.judge import judge
from rationale.sources.tasks import mini, mini_base
from rationale.stages import prepare
from rationale.worlds import WORLDS, chart, form, scene, split_of
from rationale.worlds.teacher import ProgramTeacher, misread

CHART = {
    "kind": "bar",
    "items": [
        {"color": "red", "value": 7},
        {"color": "blue", "value": 12},
        {"color": "green", "value": 3},
        {"color": "black", "value": 12},
    ],
}
# row 1:  red circle (1), blue square (3)     row 2:  red square (2)     row 4:  black circle (1), red diamond (4)
SCENE = {
    "objects": [
        {"color": "red", "shape": "circle", "row": 1, "column": 1},
        {"color": "blue", "shape": "square", "row": 1, "column": 3},
        {"color": "red", "shape": "square", "row": 2, "column": 2},
        {"color": "black", "shape": "circle", "row": 4, "column": 1},
        {"color": "red", "shape": "diamond", "row": 4, "column": 4},
    ]
}
FORM = {
    "number": 417,
    "items": [{"name": "tea", "price": 5}, {"name": "pie", "price": 18}, {"name": "egg", "price": 9}],
    "ink": 0,
}
RED_SQUARE = {"c": "red", "s": "square"}
COLORS = ["green", "red", "blue", "black"]

BY_HAND = [
    (chart, CHART, "difference", {"a": "green", "b": "blue"}, "9"),
    (chart, CHART, "sum_two", {"a": "red", "b": "blue"}, "19"),
    (chart, CHART, "sum_all", {}, "34"),
    (chart, CHART, "range", {}, "9"),
    (chart, CHART, "count_above", {"t": 7}, "2"),  # 7 itself is not above 7
    (chart, CHART, "count_below", {"t": 7}, "1"),
    (chart, CHART, "count_below", {"t": 3}, "0"),
    (chart, CHART, "sum_of_ends", {}, "15"),
    (chart, CHART, "value", {"a": "green"}, "3"),
    (chart, CHART, "highest", {}, "12"),
    (chart, CHART, "number", {}, "4"),
    (scene, SCENE, "count_color", {"c": "red"}, "3"),
    (scene, SCENE, "count_color", {"c": "purple"}, "0"),
    (scene, SCENE, "count_shape", {"s": "circle"}, "2"),
    (scene, SCENE, "left_of", RED_SQUARE, "2"),
    (scene, SCENE, "right_of", RED_SQUARE, "2"),
    (scene, SCENE, "row_mate", {"c": "red", "s": "circle", "choices": COLORS}, "blue"),
    (scene, SCENE, "row_mate", {"c": "red", "s": "diamond", "choices": COLORS}, "black"),
    (scene, SCENE, "compare", {"a": "circle", "b": "diamond"}, "more"),
    (scene, SCENE, "compare", {"a": "triangle", "b": "diamond"}, "fewer"),
    (scene, SCENE, "compare", {"a": "circle", "b": "square"}, "as many"),
    (scene, SCENE, "above", RED_SQUARE, "2"),
    (scene, SCENE, "above", {"c": "black", "s": "circle"}, "3"),
    (scene, SCENE, "color_at", {"r": 4, "k": 1}, "black"),
    (scene, SCENE, "shape_at", {"r": 4, "k": 4}, "diamond"),
    (scene, SCENE, "row_of", {"c": "black", "s": "circle"}, "4"),
    (scene, SCENE, "number", {}, "5"),
    (form, FORM, "total", {}, "32"),
    (form, FORM, "together", {"a": "tea", "b": "egg"}, "14"),
    (form, FORM, "change", {"a": "pie", "cash": 40}, "22"),
    (form, FORM, "dearest", {}, "18"),
    (form, FORM, "number", {}, "417"),
    (form, FORM, "more", {"a": "pie", "b": "egg"}, "9"),
    (form, FORM, "price", {"a": "egg"}, "9"),
    (form, FORM, "lines", {}, "3"),
    (form, FORM, "first", {}, "tea"),
]


def template_of(module, name):
    return next(t for t in module.TEMPLATES if t.name == name)


@pytest.mark.parametrize(("module", "world", "name", "args", "answer"), BY_HAND)
def test_a_template_answers_as_one_does_by_hand(module, world, name, args, answer):
    template = template_of(module, name)
    solution = template.solve(world, args)
    assert solution.answer == answer
    assert not solution.choices or answer in solution.choices
    assert all("{" not in wording.format(**args) for wording in template.ask)


def test_every_template_was_worked_out_by_hand():
    done = {(module, name) for module, _, name, _, _ in BY_HAND}
    assert done == {(module, t.name) for module in WORLDS.values() for t in module.TEMPLATES}


def questions(split="test", images=12, seed=0):
    """Questions with the bytes of their images, `images` of each world."""
    return [(q, data) for q, ((data, _),) in mini({split: images}, 3, 2, seed)]


TEST, TRAIN = questions(), questions("train", images=60)
EVERY = [q for q, _ in TEST + TRAIN]


def test_the_counts_are_those_asked_for():
    names = [q.question_id.rsplit("-", 1)[0] for q in EVERY]
    assert len(set(names)) == 3 * (12 + 60)
    assert max(names.count(name) for name in names) <= 3 + 2


def test_splits_share_no_image_whatever_the_seed():
    seen = {split: {d for seed in (0, 1) for _, d in questions(split, 30, seed)} for split in ("train", "val", "test")}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["val"]
    assert not seen["val"] & seen["test"]


def test_the_base_model_sees_no_image_of_another_split_and_no_hop():
    base = list(mini_base(images=40, one_hop_per_image=1, sums_share=0.5, seed=0))
    assert not {data for _, files in base for data, _ in files} & {data for _, data in TEST}
    assert {q.kind for q, _ in base} == {"open"}
    assert {q.meta["skill"] for q, _ in base} == {"describe", "one_hop"}


def test_a_world_is_in_the_split_of_its_content():
    assert all(split_of(q.meta["world"]) == q.split for q in EVERY)


def test_held_out_templates_are_asked_in_test_only_and_named_so():
    held = {(name, t.name) for name, module in WORLDS.items() for t in module.TEMPLATES if t.held_out}
    for q in EVERY:
        is_held_out = (q.meta["task"], q.meta["template"]) in held
        assert q.dataset == q.meta["task"] + "_held_out" * is_held_out
        assert q.split == "test" or not is_held_out
    assert {(q.meta["task"], q.meta["template"]) for q, _ in TEST} >= held


def test_the_answer_of_a_choice_question_is_among_its_choices():
    asked = [q for q in EVERY if q.kind == "choice"]
    assert asked
    for q in asked:
        assert q.answers[0] in q.choices
        assert len(set(q.choices)) == len(q.choices)
        assert q.answer == LETTERS[q.choices.index(q.answers[0])]


def test_no_letter_is_right_most_of_the_time():
    letters = [q.answer for q in EVERY if q.kind == "choice"]
    assert max(letters.count(letter) for letter in set(letters)) < 0.6 * len(letters)


def test_drawing_is_deterministic():
    assert questions(images=3) == questions(images=3) != questions(images=3, seed=1)


def test_an_image_does_not_depend_on_how_many_are_drawn():
    assert questions(images=3)[:5] == TEST[:5]


def test_the_largest_value_and_number_of_objects_are_those_asked_for():
    largest = {"mini_chart": 9, "mini_form": 5, "mini_scene": 4}
    worlds = [q.meta["world"] for q, _ in mini({"test": 30}, 1, 0, 0, largest)]
    assert max(i["value"] for w in worlds for i in w.get("items", []) if "value" in i) == 9
    assert max(i["price"] for w in worlds for i in w.get("items", []) if "price" in i) == 5
    assert {len(w["objects"]) for w in worlds if "objects" in w} == {4}


def test_images_are_64_pixels_wide_and_high():
    assert {Image.open(io.BytesIO(data)).size for _, data in TEST} == {(64, 64)}


def test_the_teacher_agrees_with_the_annotation_of_every_prepared_question(tmp_path):
    task = mini({"train": 20, "test": 8}, 3, 2, seed=3)
    out = produce("prepare", {"out": str(tmp_path / "questions")}, partial(prepare.run, task))
    prepared = read_jsonl(out / "questions.jsonl", Question)
    teacher = ProgramTeacher(slip=0.0)
    assert len(prepared) > 150
    assert all(judge(q, teacher(q), "cot").score == 1 for q in prepared)


def test_every_rationale_ends_in_its_answer_line():
    teacher = ProgramTeacher(slip=0.0)
    for q in EVERY:
        reasoning, last = teacher(q).rsplit("\n", 1)
        assert last == ANSWER_MARKER + q.answer
        assert reasoning
        assert ANSWER_MARKER not in reasoning


def test_a_teacher_that_slips_is_sometimes_wrong_and_never_breaks():
    teacher = ProgramTeacher(slip=1.0)
    scores = [judge(q, teacher(q), "cot").score for q in EVERY]
    assert len(scores) > 400
    assert 0.2 < sum(scores) / len(scores) < 0.8  # what was misread does not always matter


def test_a_teacher_slips_as_often_as_told():
    right, always, seldom = (ProgramTeacher(slip=s) for s in (0.0, 1.0, 0.05))
    changed = [q for q in EVERY if right(q) != seldom(q)]
    assert 0 < len(changed) < 0.12 * len(EVERY)
    assert all(seldom(q) == always(q) for q in changed)


@pytest.mark.parametrize(("world", "args"), [(CHART, {}), (FORM, {}), (SCENE, RED_SQUARE)])
def test_misreading_leaves_the_world_itself_as_it_was(world, args):
    before = repr(world)
    seen = [misread(world, args, Random(seed)) for seed in range(20)]
    assert repr(world) == before
    assert any(one != world for one in seen)


def test_wording_varies_with_the_seed_and_the_question():
    by_seed = {ProgramTeacher(seed=seed)(EVERY[0]) for seed in range(20)}
    first_words = {ProgramTeacher()(q).split()[0] for q in EVERY}
    assert len(by_seed) > 5
    assert len(first_words) > 3


def test_the_same_seed_and_question_have_the_same_text():
    assert [ProgramTeacher(slip=0.5, seed=4)(q) for q in EVERY] == [ProgramTeacher(slip=0.5, seed=4)(q) for q in EVERY]


def test_no_wording_of_a_question_gives_its_answer_away():
    for q in EVERY:
        if q.kind == "short" and q.answers[0].isalpha():
            assert q.answers[0] not in q.question.lower().split()
