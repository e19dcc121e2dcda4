"""What a row of each public data set becomes: rows in the columns of the cards that conf/dataset names."""

import pytest
from public_rows import (
    AI2D,
    AOKVQA,
    CAULDRON,
    CHARTQA,
    DOCVQA,
    GEO,
    IMAGE,
    MATHVISION,
    MATHVISTA,
    MMMU,
    MMSTAR,
    OCRBENCH,
    SCIENCEQA,
    TAGGED,
    TEXTVQA,
)

from rationale.artifacts import UserError
from rationale.question_checks import check
from rationale.schema import Question, RowError
from rationale.scoring.judge import judge
from rationale.sources import public_datasets
from rationale.sources.public_datasets import Unusable, in_words, split_choices


def reason(call, *args, **kwargs):
    with pytest.raises(Unusable) as caught:
        call(*args, **kwargs)
    return caught.value.reason


def test_aokvqa_as_choice():
    found = public_datasets.aokvqa(AOKVQA, answer="choice")
    assert (found.key, found.answers, found.choices[0]) == ("22jbM6gDxdaMaunuzgrsBB", ["cigarette"], "toothpick")
    assert found.meta["rationale"] == "He's smoking while riding."


@pytest.mark.parametrize("given", [AOKVQA["direct_answers"], ["cigarette"] * 9 + ["smoke"]], ids=["text", "list"])
def test_aokvqa_as_direct_answer_shows_no_choices(given):
    found = public_datasets.aokvqa({**AOKVQA, "direct_answers": given}, answer="direct")
    assert (found.choices, found.answers) == ([], ["cigarette"] * 9 + ["smoke"])


def test_an_annotator_who_wrote_nothing_counts_among_the_ten():
    ten = ["", "stop", "stop", "point", *["halt"] * 6]
    found = public_datasets.aokvqa({**AOKVQA, "direct_answers": ten}, answer="direct")
    assert found.answers == [*ten[1:], ""]
    asked = Question("q", "aokvqa", "val", ["a.png"], "What?", found.answers, "short", "aokvqa_direct")
    check(asked)
    said = {"stop": 2 / 3, "point": 1 / 3, "halt": 1.0, "go": 0.0}  # min(1, matches / 3), as allenai/aokvqa has it
    assert {answer: judge(asked, answer, "direct").score for answer in said} == said


def test_aokvqa_leaves_difficult_rows_out_of_direct_answers_only():
    difficult = {**AOKVQA, "difficult_direct_answer": True}
    assert reason(public_datasets.aokvqa, difficult, answer="direct") == "difficult_direct_answer"
    assert public_datasets.aokvqa(difficult, answer="choice").answers == ["cigarette"]


def test_an_unknown_value_of_an_option_is_named():
    with pytest.raises(UserError, match=r"dataset\.options\.answer=both: it is one of \['choice', 'direct'\]"):
        public_datasets.aokvqa(AOKVQA, answer="both")


@pytest.mark.parametrize(("code", "part"), [(0, "human"), (1, "machine"), ("human", "human")])
def test_chartqa(code, part):
    found = public_datasets.chartqa({**CHARTQA, "human_or_machine": code})
    assert (found.question, found.answers, found.meta) == ("How many food item is shown?", ["14"], {"part": part})


def test_docvqa_keeps_every_accepted_answer():
    found = public_datasets.docvqa(DOCVQA)
    assert (found.key, found.answers) == ("49153", ["1/8/93", "1/8/1993"])


def test_docvqa_test_rows_have_no_answer():
    assert public_datasets.docvqa({**DOCVQA, "answers": None}).answers == []


def test_textvqa_with_and_without_ocr_tokens():
    assert public_datasets.textvqa(TEXTVQA, ocr_tokens=False).question == "what brand?"
    assert public_datasets.textvqa(TEXTVQA, ocr_tokens=True).question == "what brand?\nReference OCR token: NOUS, LES"
    assert len(public_datasets.textvqa(TEXTVQA, ocr_tokens=False).answers) == 10


@pytest.mark.parametrize("answer", ["2", "C"])
def test_ai2d_names_the_right_option_by_place_or_letter(answer):
    found = public_datasets.ai2d({**AI2D, "answer": answer}, images="ai2d")
    assert (found.answers, found.meta) == (["grass"], {"images": "ai2d"})


def test_ai2d_train_cuts_the_choices_out_of_the_turn():
    found = public_datasets.ai2d_train(CAULDRON)
    assert found.question == "What do respiration and combustion give out"
    assert (found.choices, found.answers) == (["Oxygen", "Carbon dioxide", "Nitrogen", "Heat"], ["Carbon dioxide"])


def test_ai2d_train_says_why_a_turn_cannot_be_asked():
    silent = {**CAULDRON, "texts": {**CAULDRON["texts"], "assistant": "I do not know."}}
    assert reason(public_datasets.ai2d_train, silent) == "no_answer"


@pytest.mark.parametrize(
    ("hint", "lecture", "before"),
    [
        (False, False, ""),
        (True, False, "Context: Look.\n"),
        (False, True, "Lecture: Maps have four directions.\n"),
        (True, True, "Lecture: Maps have four directions.\nContext: Look.\n"),
    ],
)
def test_scienceqa_puts_hint_and_lecture_first_where_asked(hint, lecture, before):
    found = public_datasets.scienceqa(SCIENCEQA, subset="IMG", hint=hint, lecture=lecture)
    assert found.question == before + "Which is farthest north?"
    assert (found.answers, found.meta["rationale"]) == (["Maine"], "Maine is.")


def test_scienceqa_without_hint_has_no_empty_context():
    found = public_datasets.scienceqa({**SCIENCEQA, "hint": ""}, subset="IMG", hint=True, lecture=False)
    assert found.question == "Which is farthest north?"


def test_scienceqa_row_without_image_holds_none():
    assert (
        public_datasets.scienceqa({**SCIENCEQA, "image": None}, subset="FULL", hint=True, lecture=False).images is None
    )


def test_mathvision_answers_by_letter_or_by_value():
    assert public_datasets.mathvision(MATHVISION).answers == ["two"]
    number = public_datasets.mathvision({**MATHVISION, "options": [], "answer": "61"})
    assert (number.answers, number.choices) == (["61"], [])


def test_mathvision_letter_beyond_the_options_is_no_answer():
    assert reason(public_datasets.mathvision, {**MATHVISION, "answer": "C"}) == "no_answer"


def test_gllava_question_has_its_choices_and_the_solution_as_rationale():
    found = public_datasets.gllava(GEO, task="qa")
    assert found.question == "In triangle ABC, the size of angle CED is ()"
    assert (found.choices, found.answers) == (["40°", "60°", "120°", "140°"], ["40°"])
    assert found.meta["rationale"].startswith("Angle C is 40°")


def test_gllava_question_without_choices_takes_the_answer_behind_its_mark():
    turns = [
        {"from": "human", "value": "<image>\nQuestion: How long is AB?"},
        {"from": "gpt", "value": "So.\nAnswer: 5"},
    ]
    found = public_datasets.gllava({**GEO, "conversations": turns}, task="qa")
    assert (found.question, found.answers, found.choices) == ("How long is AB?", ["5"], [])
    turns[1]["value"] = "It cannot be told."
    assert reason(public_datasets.gllava, {**GEO, "conversations": turns}, task="qa") == "no_answer"


def test_gllava_description_is_an_open_row():
    turns = [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "A triangle ABC."}]
    found = public_datasets.gllava({**GEO, "conversations": turns}, task="alignment")
    assert (found.kind, found.question, found.answers) == ("open", "Describe it.", ["A triangle ABC."])


def test_mathvista_keeps_what_its_rule_needs():
    found = public_datasets.mathvista(MATHVISTA, hint=False)
    assert (found.key, found.question, found.answers, found.choices) == ("1", "How far does it move?", ["1.2"], [])
    assert (found.meta["answer_type"], found.meta["precision"]) == ("float", 1.0)


def test_mathvista_hint_and_unit():
    found = public_datasets.mathvista({**MATHVISTA, "unit": "m"}, hint=True)
    hint = "Hint: Please answer the question requiring a floating-point number with one decimal place."
    assert found.question == f"{hint}\nHow far does it move? (Unit: m)"


def test_mathvista_of_the_authors_names_its_image_and_has_no_query():
    official = {**MATHVISTA, "decoded_image": None, "query": None}
    assert public_datasets.mathvista(official, hint=False).images == "images/1.jpg"
    with pytest.raises(RowError, match=r"no 'query' in this row, which dataset\.options\.hint=true is read from"):
        public_datasets.mathvista(official, hint=True)


def test_mathvista_choices_count_for_multiple_choice_only():
    row = {
        **MATHVISTA,
        "choices": ["Yes", "No"],
        "answer": "No",
        "question_type": "multi_choice",
        "answer_type": "text",
    }
    assert (public_datasets.mathvista(row, hint=False).choices, public_datasets.mathvista(row, hint=False).answers) == (
        ["Yes", "No"],
        ["No"],
    )


def test_ocrbench_keeps_the_set_that_its_rule_depends_on():
    assert public_datasets.ocrbench(OCRBENCH).meta == {"dataset_name": "HME100k", "question_type": "Formula"}


def test_mmstar_cuts_the_choices_out_of_the_question():
    found = public_datasets.mmstar(MMSTAR)
    assert found.question == "Which option describe the object relationship in the image correctly?"
    assert found.choices == [f"The suitcase is {where}." for where in (
        "on the book", "beneath the cat", "beneath the bed", "beneath the book")]  # fmt: skip
    assert (found.key, found.answers) == (0, ["The suitcase is on the book."])


def test_mmstar_question_without_choices_is_unreadable():
    assert reason(public_datasets.mmstar, {**MMSTAR, "question": "What is it?"}) == "unreadable_choices"


def test_mmmu_reads_choices_and_drops_the_tag():
    found = public_datasets.mmmu(MMMU)
    assert found.question == "Baxter Company has ... what are the costs?"
    assert (found.key, found.choices, found.answers) == ("validation_Accounting_1", ["$6", "$7", "$8", "$9"], ["$7"])


@pytest.mark.parametrize(("tagged", "asked"), TAGGED.items())
def test_an_image_within_a_sentence_is_named_in_words(tagged, asked):
    assert in_words(tagged) == asked
    assert public_datasets.mmmu({**MMMU, "question": tagged}).question == asked


def test_choices_that_are_images_are_named_in_words():
    assert public_datasets.mmmu({**MMMU, "options": "['<image 1>', '$7']"}).choices == ["image 1", "$7"]


@pytest.mark.parametrize(("given", "answers"), [("84", ["84"]), ("['1.06', '1.07']", ["1.06", "1.07"])])
def test_mmmu_open_answers_may_be_several(given, answers):
    found = public_datasets.mmmu({**MMMU, "options": "[]", "question_type": "open", "answer": given})
    assert (found.choices, found.answers) == ([], answers)


def test_a_row_of_mmmu_with_two_images_shows_each_where_it_is_named():
    given = {**MMMU, "question": "<image 3> How does it differ from <image 1>?", "image_1": "first", "image_3": "third"}
    found = public_datasets.mmmu({**given, "options": "['<image 1>', 'As <image 2>', '$8', '$9']"})
    assert (found.question, found.images) == ("<image 2> How does it differ from <image 1>?", ["first", "third"])
    assert found.choices[:2] == ["<image 1>", "As image 2"]


def test_the_one_image_of_mmmu_may_be_in_any_column():
    assert public_datasets.mmmu({**MMMU, "image_1": None, "image_2": IMAGE}).images == [IMAGE]


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("A: one, B: two", ["one", "two"]),
        ("A. one\nB. two\nC. three", ["one", "two", "three"]),
        ("(A) one (B) two", ["one", "two"]),
        ("A:4.0\nB: 12.0\nC: 8.0", ["4.0", "12.0", "8.0"]),
    ],
)
def test_choices_are_found_by_their_letters_in_order(text, choices):
    assert split_choices(text) == ("", choices)


def test_one_letter_is_no_list_of_choices():
    assert reason(split_choices, "A: one and nothing else") == "unreadable_choices"
