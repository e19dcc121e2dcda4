"""What a row of each public data set becomes: rows in the columns of the cards that conf/dataset names."""

import pytest

from rationale.artifacts import UserError
from rationale.question_checks import check
from rationale.schema import Question, RowError
from rationale.scoring.judge import judge
from rationale.sources import public_datasets
from rationale.sources.public_datasets import Unusable, in_words, split_choices

IMAGE = b"..."  # no function here opens an image


def reason(call, *args, **kwargs):
    with pytest.raises(Unusable) as caught:
        call(*args, **kwargs)
    return caught.value.reason


# HuggingFaceM4/A-OKVQA; the row is the first of the authors' validation file, one of its answers changed.
AOKVQA = {
    "image": IMAGE, "question_id": "22jbM6gDxdaMaunuzgrsBB", "question": "What is in the motorcyclist's mouth?",
    "choices": ["toothpick", "food", "popsicle stick", "cigarette"], "correct_choice_idx": 3,
    "direct_answers": str(["cigarette"] * 9 + ["smoke"]), "difficult_direct_answer": False,
    "rationales": ["He's smoking while riding.", "The man is smoking."],
}  # fmt: skip


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
    asked = Question("q", "aokvqa", "val", "a.png", "What?", found.answers, "short", "aokvqa_direct")
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


CHARTQA = {"image": IMAGE, "query": "How many food item is shown?", "label": ["14"], "human_or_machine": 0}


@pytest.mark.parametrize(("code", "part"), [(0, "human"), (1, "machine"), ("human", "human")])
def test_chartqa(code, part):
    found = public_datasets.chartqa({**CHARTQA, "human_or_machine": code})
    assert (found.question, found.answers, found.meta) == ("How many food item is shown?", ["14"], {"part": part})


DOCVQA = {"questionId": "49153", "question": "What is the date?", "image": IMAGE, "answers": ["1/8/93", "1/8/1993"]}


def test_docvqa_keeps_every_accepted_answer():
    found = public_datasets.docvqa(DOCVQA)
    assert (found.key, found.answers) == ("49153", ["1/8/93", "1/8/1993"])


def test_docvqa_test_rows_have_no_answer():
    assert public_datasets.docvqa({**DOCVQA, "answers": None}).answers == []


TEXTVQA = {
    "question_id": 34602, "question": "what brand?", "image": IMAGE, "answers": ["nous les gosses"] * 10,
    "ocr_tokens": ["NOUS", "LES"],
}  # fmt: skip


def test_textvqa_with_and_without_ocr_tokens():
    assert public_datasets.textvqa(TEXTVQA, ocr_tokens=False).question == "what brand?"
    assert public_datasets.textvqa(TEXTVQA, ocr_tokens=True).question == "what brand?\nReference OCR token: NOUS, LES"
    assert len(public_datasets.textvqa(TEXTVQA, ocr_tokens=False).answers) == 10


AI2D = {"question": "Which is a producer?", "options": ["hawk", "frog", "grass"], "answer": "2", "image": IMAGE}


@pytest.mark.parametrize("answer", ["2", "C"])
def test_ai2d_names_the_right_option_by_place_or_letter(answer):
    found = public_datasets.ai2d({**AI2D, "answer": answer}, images="ai2d")
    assert (found.answers, found.meta) == (["grass"], {"images": "ai2d"})


# HuggingFaceM4/the_cauldron, ai2d, after `each: texts` has made each turn a row.
CAULDRON = {
    "images": [IMAGE],
    "texts": {
        "user": "Question: What do respiration and combustion give out\nChoices:\nA. Oxygen\nB. Carbon dioxide\n"
        "C. Nitrogen\nD. Heat\nAnswer with the letter.",
        "assistant": "Answer: B", "source": "AI2D",
    },
}  # fmt: skip


def test_ai2d_train_cuts_the_choices_out_of_the_turn():
    found = public_datasets.ai2d_train(CAULDRON)
    assert found.question == "What do respiration and combustion give out"
    assert (found.choices, found.answers) == (["Oxygen", "Carbon dioxide", "Nitrogen", "Heat"], ["Carbon dioxide"])


def test_ai2d_train_says_why_a_turn_cannot_be_asked():
    assert reason(public_datasets.ai2d_train, {**CAULDRON, "images": [IMAGE, IMAGE]}) == "several_images"
    silent = {**CAULDRON, "texts": {**CAULDRON["texts"], "assistant": "I do not know."}}
    assert reason(public_datasets.ai2d_train, silent) == "no_answer"


SCIENCEQA = {
    "image": IMAGE, "question": "Which is farthest north?", "choices": ["Maine", "Utah"], "answer": 0, "hint": "Look.",
    "task": "closed choice", "grade": "grade2", "subject": "social science", "topic": "geography",
    "category": "Geography", "skill": "Read a map", "lecture": "Maps have four directions.", "solution": "Maine is.",
}  # fmt: skip


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
        public_datasets.scienceqa({**SCIENCEQA, "image": None}, subset="FULL", hint=True, lecture=False).image is None
    )


MATHVISION = {
    "id": "6", "question": "Which picture shows\n<image1>?", "options": ["one", "two"], "image": "images/6.jpg",
    "decoded_image": IMAGE, "answer": "B", "solution": None, "level": 3, "subject": "logic",
}  # fmt: skip


def test_mathvision_answers_by_letter_or_by_value():
    assert public_datasets.mathvision(MATHVISION).answers == ["two"]
    number = public_datasets.mathvision({**MATHVISION, "options": [], "answer": "61"})
    assert (number.answers, number.choices) == (["61"], [])


def test_mathvision_letter_beyond_the_options_is_no_answer():
    assert reason(public_datasets.mathvision, {**MATHVISION, "answer": "C"}) == "no_answer"


# Luckyjhg/Geo170K, qa_tuning: the wording of its requests.
GEO = {
    "image": "geoqa_plus/1.png",
    "conversations": [
        {"from": "human", "value": "<image>\nFirst perform reasoning, then finally select the question from the "
         "choices in the following format: Answer: xxx.\n"
         "Question:In triangle ABC, the size of angle CED is ()\nChoices:\n"
         "A:40°\nB:60°\nC:120°\nD:140°"},
        {"from": "gpt", "value": "Angle C is 40°, and DE is parallel to BC.\nAnswer:A"},
    ],
}  # fmt: skip


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


MATHVISTA = {
    "pid": "1", "question": "How far does it move?", "image": "images/1.jpg", "decoded_image": IMAGE, "choices": None,
    "unit": None, "precision": 1.0, "answer": "1.2", "question_type": "free_form", "answer_type": "float",
    "metadata": {"category": "math-targeted-vqa", "source": "SciBench"},
    "query": "Hint: Please answer the question requiring a floating-point number with one decimal place.\n"
    "Question: How far does it move?",
}  # fmt: skip


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
    assert public_datasets.mathvista(official, hint=False).image == "images/1.jpg"
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


OCRBENCH = {
    "dataset": "HME100k", "question": "Write the formula.", "question_type": "Formula", "answer": ["x ^ 2"],
    "image": IMAGE,
}  # fmt: skip


def test_ocrbench_keeps_the_set_that_its_rule_depends_on():
    assert public_datasets.ocrbench(OCRBENCH).meta == {"dataset_name": "HME100k", "question_type": "Formula"}


MMSTAR = {  # the first row of the set
    "index": 0, "image": IMAGE, "answer": "A", "category": "coarse perception", "l2_category": "image scene and topic",
    "question": "Which option describe the object relationship in the image correctly?\nOptions: A: The suitcase is on "
    "the book., B: The suitcase is beneath the cat., C: The suitcase is beneath the bed., D: The suitcase is beneath "
    "the book.",
}  # fmt: skip


def test_mmstar_cuts_the_choices_out_of_the_question():
    found = public_datasets.mmstar(MMSTAR)
    assert found.question == "Which option describe the object relationship in the image correctly?"
    assert found.choices == [f"The suitcase is {where}." for where in (
        "on the book", "beneath the cat", "beneath the bed", "beneath the book")]  # fmt: skip
    assert (found.key, found.answers) == (0, ["The suitcase is on the book."])


def test_mmstar_question_without_choices_is_unreadable():
    assert reason(public_datasets.mmstar, {**MMSTAR, "question": "What is it?"}) == "unreadable_choices"


MMMU = {
    "id": "validation_Accounting_1", "question": "<image 1> Baxter Company has ... what are the costs?",
    "options": "['$6', '$7', '$8', '$9']", "explanation": "", **{f"image_{i}": None for i in range(2, 8)},
    "image_1": IMAGE, "img_type": "['Tables']", "answer": "B", "topic_difficulty": "Medium",
    "question_type": "multiple-choice", "subfield": "Managerial Accounting",
}  # fmt: skip


def test_mmmu_reads_choices_and_drops_the_tag():
    found = public_datasets.mmmu(MMMU)
    assert found.question == "Baxter Company has ... what are the costs?"
    assert (found.key, found.choices, found.answers) == ("validation_Accounting_1", ["$6", "$7", "$8", "$9"], ["$7"])


# Questions of MMMU and, last, of MATH-Vision, cut short.
TAGGED = {
    "Which explains the trend shown in the <image 1>?": "Which explains the trend shown in the image?",
    "<image 1> of Louis Black was painted by whom?": "The image of Louis Black was painted by whom?",
    "Refer to the figure <image 1>, which term is it?": "Refer to the figure the image, which term is it?",
    "<image 1> Which nutrient seems to be absent?": "Which nutrient seems to be absent?",
    "<image 1>The uniform rod is held in place.": "The uniform rod is held in place.",
    "Calculate the cost by the formula. <image 1>": "Calculate the cost by the formula.",
    "Children in ___ households benefit from <image 1>.": "Children in ___ households benefit from the image.",
    "These are forward rates: <image 1> In addition, some.": "These are forward rates: In addition, some.",
    "In clockwise direction:<image 1>The line BA turns.": "In clockwise direction: The line BA turns.",
    "They are in the table.<image 1> The rate was": "They are in the table. The rate was",
    "It was constructed in approximately the <image 1>": "It was constructed in approximately the image",
    "Match the dance with the figures <image 1>": "Match the dance with the figures",
    "The work (<image 1>) shown is of whom?": "The work (the image) shown is of whom?",
    "Were works such as <image 1> shown?": "Were works such as the image shown?",
    "<image 1> <image 2> In contrast with the poem": "In contrast with the poem",
    "word<image 1>word": "word the image word",
    "When the ant <image1> walks home <image2> along": "When the ant image 1 walks home image 2 along",
    "The segments on the side of the\n<image1>\n5 x 5 square": "The segments on the side of the\n5 x 5 square",
    "Which hexagons fit so\n<image1>that one can travel?": "Which hexagons fit so\nthat one can travel?",
    "From above: <image1>. From the front: <image2>.": "From above: image 1. From the front: image 2.",
    "Which is opposite to <image3>?\n<image4>": "Which is opposite to image 3?",
}


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


def test_mmmu_row_with_two_images_cannot_be_held():
    assert reason(public_datasets.mmmu, {**MMMU, "image_2": IMAGE}) == "several_images"
    assert public_datasets.mmmu({**MMMU, "image_1": None, "image_2": IMAGE}).image == IMAGE


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
