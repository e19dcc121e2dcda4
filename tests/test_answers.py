"""Answer extraction: the marker, the option letter, and the article that is no option."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.metrics.answers import extract_answer, extract_choice
from rationale.metrics.dress import boxed, normal, undressed
from rationale.prompts import with_answer

CHOICES = ["Zooplankton", "Krill", "Phytoplankton", "Blue whale"]

COT = [
    ("Plants come first.\n### Answer: C", "C"),
    ("###Answer: 12%", "12%"),
    ("###   Answer:42", "42"),
    ("### **Answer:** 42", "42"),
    ("### **Answer**: 42", "42"),
    ("### Answer: A\nOn second thought:\n### Answer: B", "B"),
    ("### Answer:\n\n  New York \nbecause", "New York"),
    ("no marker, answer: 5", None),
    ("cut off ### Answer:  \n ", None),
    ("### Answer: 5\n### Answer:", "5"),
    ("", None),
]


@pytest.mark.parametrize(("text", "answer"), COT)
def test_cot_answer_is_the_first_line_behind_the_last_marker(text, answer):
    assert extract_answer(text, "cot") == answer


@pytest.mark.parametrize(
    ("text", "answer"), [(" 12 \n", "12"), ("two\nlines", "two\nlines"), ("  ", None), ("Why. ### Answer: 7", "7")]
)
def test_direct_answer_is_the_whole_text_unless_the_marker_is_there(text, answer):
    assert extract_answer(text, "direct") == answer


def test_unknown_style_is_refused():
    with pytest.raises(ValueError, match="style 'chain'"):
        extract_answer("5", "chain")


@given(st.text(), st.text().map(lambda text: " ".join(text.split())).filter(bool))
def test_a_rationale_as_trained_on_gives_its_answer_back(reasoning, answer):
    assert (
        extract_answer(with_answer(reasoning, answer), "cot") == (undressed(normal(answer)) or None) or "###" in answer
    )


# Cases of VLMEvalKit `can_infer` (vlmeval/utils/matching_util.py); it gives up on "c" and on the whale.
VLMEVALKIT = [
    ("C", "C"),
    ("C.", "C"),
    ("(C)", "C"),
    ("**C**", "C"),
    (r"\boxed{C}", "C"),
    ("C) Phytoplankton", "C"),
    ("The answer is (C) because it makes its own food", "C"),
    ("Based on A and B, answer is D", "D"),
    ("The correct answer is E", None),
    ("", None),
    ("c", "C"),
    ("A whale is bigger than a krill. ### Answer: C", "C"),
]

OWN = [
    ("C?", "C"),
    ("a", "A"),
    ("(c)", "C"),
    ("E", None),
    ("phytoplankton", "C"),
    ("Blue  Whale.", "D"),
    ("The answer is phytoplankton.", "C"),
    ("The answer is the letter C, as krill eat it", "C"),
    ("Answer: **B**\nExplanation: A and C are eaten by it", "B"),
    ("The correct option is (b).", "B"),
    ("The answer is A? No, the answer is C", "C"),
    ("The answer is A because it drifts", "A"),
    ("C: Phytoplankton, since A and B both feed on it", "C"),
    ("C - Phytoplankton", "C"),
    ("Option C shows the organism that all of the others live on", "C"),
    ("It must be C", "C"),
    ("It is not A but C", "C"),
    ("It cannot be decided between A and B", None),
    ("B is the organism that feeds on every one of the others", None),
    ("not C", None),
    ("E) Seaweed, which is not C", None),
    ("A. Zooplankton\nB. Krill\nC. Phytoplankton", None),
    ("C-shaped", None),
    ("Krill or phytoplankton", None),
    ("C. Phytoplankton", "C"),
    (r"Of A and B it is B. \boxed{C}", "C"),
    (r"Not \boxed{A}, so \boxed{\text{(C) Phytoplankton}}.", "C"),
    (r"$\boxed{\text{Phytoplankton}}$", "C"),
    (r"\boxed{7} of them. The answer is (C)", "C"),
    (r"The answer is (A). \boxed{\text{seaweed}}", None),
    (r"\boxed{C", "C"),
]

ARTICLES = [
    ("A whale is bigger than a krill", None),
    ("The answer is A whale", None),
    ("This is a", None),
    ("Answer: A large fish. I think it is C", "C"),
    ("A Zooplankton", "A"),
    ("A", "A"),
    ("A.", "A"),
]


@pytest.mark.parametrize(("answer", "letter"), VLMEVALKIT + OWN + ARTICLES)
def test_option_letter(answer, letter):
    assert extract_choice(answer, CHOICES) == letter


def test_a_choice_text_that_is_a_lone_letter_counts_only_beyond_the_options():
    assert extract_choice("x", ["x", "y", "z"]) == "A"
    assert extract_choice("B", ["B", "A"]) == "B"


def test_repeated_choice_text_names_no_option():
    assert extract_choice("2 m", ["2 m", "2 m", "3 m"]) is None


@pytest.mark.parametrize("pattern", ["{}", "({})", "{}.", "**{}**", "The answer is {}", "Reason. ### Answer: {}"])
def test_every_letter_reads_the_same_in_every_dress(pattern):
    choices = [f"choice number {i}" for i in range(26)]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert "".join(extract_choice(pattern.format(letter), choices) for letter in letters) == letters


@given(st.text(), st.lists(st.text(), max_size=30))
def test_the_letter_is_always_one_of_the_choices(answer, choices):
    letter = extract_choice(answer, choices)
    assert letter is None or "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter) < len(choices)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (r"\boxed{\frac{1}{2}} m", (r"\frac{1}{2}", "m")),
        (r"\boxed{1} or $\boxed {2}$", ("2", "$")),
        (r"\boxed{1", None),
        ("1", None),
    ],
)
def test_the_last_box_and_what_is_behind_it(text, parts):
    assert boxed(text) == parts


@pytest.mark.parametrize(
    ("answer", "inside"),
    [
        ("**42**", "42"),
        (r"$\boxed{42}$.", "42"),
        (r"**\boxed{42}**", "42"),
        ("**4** or **2**", "**4** or **2**"),
        (r"x = \boxed{42}", r"x = \boxed{42}"),
        (r"\boxed{4} apples", r"\boxed{4} apples"),
        ("4 * 2", "4 * 2"),
    ],
)
def test_only_what_is_wrapped_as_a_whole_is_unwrapped(answer, inside):
    assert undressed(answer) == inside
