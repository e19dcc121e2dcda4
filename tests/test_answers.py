"""Answer extraction: the marker, the option letter, and the article that is no option."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.prompts import with_answer
from rationale.scoring.answers import extract_answer, extract_choice
from rationale.scoring.dress import boxed, normal, undressed

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


MARKERS = [
    "**### Answer:** 42", "**### Answer: 42**", "### **Answer: 42**", "__### Answer:__ 42", "*### Answer: 42*",
    "### answer: 42", "### ANSWER : 42", "###Answer\N{FULLWIDTH COLON}42", "### Final Answer: 42",
    "## The final answer: 42",
    "### Answer\n42", "### **Answer**\n\n**42**", "> ### Answer: 42", "`### Answer: 42`", '"### Answer: 42"',
    "### Answer: 42\n\n### Answer:", "### Answer: 42\n### Answer: <your answer>",
    "### Answer: 42\n(I wrote '### Answer: <answer>' because I was told to.)",
    "### Answer: 42\nThe line begins with `### Answer: x`.", "### Answer: 42\nI put ### Answer: before it.",
]  # fmt: skip


@pytest.mark.parametrize("text", MARKERS)
def test_a_marker_is_one_however_it_is_written_and_a_remark_on_it_is_none(text):
    assert extract_answer(f"It is so.\n{text}", "cot") == extract_answer(text, "direct") == "42"


@pytest.mark.parametrize(
    "text",
    ["### Answers differ: 42", "### Answer the question: 42", "The form is '### Answer: <answer>'.", "Answer: 42"],
)
def test_what_is_no_marker_gives_no_answer(text):
    assert extract_answer(text, "cot") is None


@pytest.mark.parametrize("token", ["</s>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "<end_of_utterance>", "<eos>",
                                   "<|end|>", "<end_of_turn>", "</s></s>", " <|eot_id|>\n</s>"])  # fmt: skip
def test_end_tokens_are_no_part_of_an_answer(token):
    assert extract_answer(f"### Answer: 42{token}", "cot") == extract_answer(f"42{token}", "direct") == "42"
    assert extract_answer(f"{token.strip()}42", "direct") == f"{token.strip()}42"


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


STATED = [
    ("The correct answer is (B). Answer choice (D) is incorrect, as whales are eaten by none.", "B"),
    ("B because answer A is too small", "B"),
    ("A is too small.\n\nAnswer: \\( B \\)", "B"),
    ("Answer: A\n\nNo, that was wrong.\n\nAnswer: \\( \\text{(B)} \\)", "B"),
    ("The answer is (A).\n\nSo on second thought the correct answer is (B).", "B"),
    ("The answer is (A).\n\nOption (B) is incorrect because it is eaten. Choice (C) is too small.", "A"),
    ("The answer to your question is (b).", "B"),
    ("The most reasonable answer among those given is:\n\nb) Krill\n\nIt is small.", "B"),
    ("A is wrong, C is wrong.\n\nB", "B"),
    ("(B) is the correct answer.", "B"),
    ("Option A is too small.", None),
    ("(B) is the wrong answer.", None),
    ("So the correct answer is not (D).", None),
    ("The answer is (C) Phytoplankton.\n\nQuestion: which?\nChoices:\n(A) Zooplankton\n(B) Krill", "C"),
    ("Give the correct option letter, e.g., A, B, C, D, at the end.", None),
    ("Final answer: b", "B"),
    ("Some reasons.\n\n**(b)**", "B"),
    ("option b", "B"),
    ("_B_", "B"),
    ("\N{FULLWIDTH LEFT PARENTHESIS}B\N{FULLWIDTH RIGHT PARENTHESIS}", "B"),
    ("krill\n\nIt is in the middle.", "B"),
    ("It is in the middle.\n\nkrill", "B"),
    ("It is in the middle. It is the krill.", "B"),
    ("The answer is the blue whale, since it is the largest.", "D"),
    ("The krill is larger than the zooplankton.", None),
]
SEVERAL = ["A, C", "(B), (C), and (D)", "Either A or B.", "Both A and C", "b & c", "A/C", "krill or phytoplankton"]
SEVERAL += [f"{cue} {said}" for cue in ("The answer is", "(A) and (C) hold.\nAnswer:") for said in SEVERAL]
NOTHING = [
    "N/A",
    "Not applicable (N/A).",
    "Q&A",
    "the I/O port",
    "A/C",
    "A: no. B: yes. C: no. D: no.",
    "see panel (B)",
]


@pytest.mark.parametrize("answer", SEVERAL + NOTHING)
def test_several_options_or_letters_of_something_else_are_no_option(answer):
    assert extract_choice(answer, CHOICES) is None


@pytest.mark.parametrize(
    ("answer", "choices", "letter"),
    [
        ("No, the line does not pass through point A.", ["Yes", "No"], "B"),
        ("The segment ends on the circle (A).\n\nNo", ["Yes", "No"], "B"),
        ("The line passes through point A.", ["Yes", "No"], None),
        ("False.\n\nThe lines do not cross.", ["True", "False"], "B"),
        ("To determine if the statement is true, we look.\n\nSo the statement is false.", ["True", "False"], "B"),
        ("The statement is false. They meet in A.", ["True", "False"], "B"),
        ("We look.\n\nTrue.\n\nFalse.", ["True", "False"], "B"),
        ("True or False?", ["True", "False"], None),
        ("The answer is the Pacific.", ["the Arctic", "the Pacific"], "B"),
        ("Pacific", ["the Arctic", "the Pacific"], "B"),
        ("It is an eagle.", ["a frog", "an eagle"], "B"),
        ("The length of AC is 5cm.", ["6cm", "5cm"], "B"),
        ("The ratio is 2:1.", ["1", "2"], None),
        ("cafe\u0301", ["bar", "caf\u00e9"], "B"),
        ("\u22125", ["5", "-5"], "B"),
    ],
)
def test_the_text_of_a_choice_is_read_where_it_is_said(answer, choices, letter):
    assert extract_choice(answer, choices) == letter


@pytest.mark.parametrize(("answer", "letter"), VLMEVALKIT + OWN + ARTICLES + STATED)
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
        ("*42*", "42"),
        ("__42__", "42"),
        ("`42`.", "42"),
        ("$42$", "42"),
        (r"\(42\)", "42"),
        (r"\[ 42 \]", "42"),
        (r"\text{(B)}", "(B)"),
        (r"**\(\mathrm{42}\)**.", "42"),
        ("<b>42</b>", "42"),
        ("42.", "42."),
        ("$5", "$5"),
        ("2*3", "2*3"),
        ("snake_case_name", "snake_case_name"),
        ("_snake_case_", "_snake_case_"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        ("**", "**"),
    ],
)
def test_only_what_is_wrapped_as_a_whole_is_unwrapped(answer, inside):
    assert undressed(answer) == inside
