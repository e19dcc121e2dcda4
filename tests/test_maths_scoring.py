"""Values in LaTeX and plain notation, and the rules of MathVision, MathVista and MMMU on them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.schema import Question
from rationale.scoring.maths import final_value, math_accuracy, value
from rationale.scoring.mathvista import mathvista, normalize, read
from rationale.scoring.mmmu import mmmu_open


def question(golds, choices, answer_type, precision=None):
    meta = {"answer_type": answer_type, "precision": precision}
    return Question("q1", "toy", "val", ["a.png"], "?", golds, scorer="mathvista", choices=choices, meta=meta)


VALUES = [
    ("12", 12),
    ("-3.5", -3.5),
    (".5", 0.5),
    ("3.", 3),
    ("1,234", 1234),
    (r"3\,000", 3000),
    ("10{,}000.5", 10000.5),
    ("\N{MINUS SIGN}2", -2),
    ("7/3", 7 / 3),
    ("8:5", 1.6),
    (r"\frac{1}{2}", 0.5),
    (r"\frac12", 0.5),
    (r"\frac1{20}", 0.05),
    (r"-\dfrac{3}{4}", -0.75),
    (r"2\frac{1}{2}", 2.5),
    ("2 1/2", 2.5),
    (r"\frac{3 \sqrt{6}}{2}", 1.5 * math.sqrt(6)),
    ("√41", math.sqrt(41)),
    ("sqrt(5)", math.sqrt(5)),
    (r"4\sqrt3", 4 * math.sqrt(3)),
    (r"\sqrt[3]{27}", 3),
    (r"$6 \sqrt{3}+4 \pi$", 6 * math.sqrt(3) + 4 * math.pi),
    ("π-2", math.pi - 2),
    ("2^{10}", 1024),
    ("-2^2", -4),
    ("4^{-1}", 0.25),
    ("(1+2)(3)", 9),
    (r"3 \times 4 \div 6", 2),
    ("10-4-3", 3),
    ("8/4/2", 1),
    (r"90^\circ", 90),
    (r"$\frac{90}{23}^{\circ}$", 90 / 23),
    (r"40\%", 40),
    ("$5", 5),
    (r"$48 \mathrm{~cm}^{2}$", 48),
    (r"12\text{ cm}", 12),
    ("90 cm²", 90),
    ("22 p", 22),
    ("12 square meters", 12),
    ("9 litres", 9),
    ("x = 5", 5),
    (r"\angle ABC = 30^{\circ}", 30),
    (r"m \approx 3.2", 3.2),
    (r"$\boxed{\frac{16}{7}}$", 16 / 7),
    (r"\frac{\frac{1}{2}}{\frac{3}{4}}", 2 / 3),
    ("2½", 2.5),
    ("¾", 0.75),
    ("12 000", 12000),
    ("1 234 567.5", 1234567.5),
    ("1.2e3", 1200),
    ("1.5×10⁻²", 0.015),
    (r"1.2 \times 10^{3}", 1200),
    ("3 x 10^2", 300),
    ("10 m²", 10),
    ("zero", 0),
    ("twenty-one", 21),
    ("Ninety nine", 99),
    ("one hundred", 100),
]


@pytest.mark.parametrize(("text", "number"), VALUES)
def test_value(text, number):
    assert value(text) == pytest.approx(number, rel=1e-12)


NO_VALUES = ["", "e", "d", "nan", "inf", "5 or 6", "5 6", "5x", r"2\pi r", "5 million", "3 and a half", "2x+3=7", "5!",
             "1.234.567", "1_000", "0x1F", "8//4", "twelve dozen",
             "1/0", "9^9^9^9", "(-8)^{1/3}", "(3", r"\frac{1}", "(" * 150, "-" * 150, "1" * 300]  # fmt: skip


@pytest.mark.parametrize("text", NO_VALUES)
def test_what_is_no_value_has_none(text):
    assert value(text) is None


expressions = st.recursive(
    st.integers(1, 99).map(lambda n: (str(n), float(n))),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda p: (f"{p[0][0]}+{p[1][0]}", p[0][1] + p[1][1])),
        st.tuples(inner, inner).map(lambda p: (rf"\frac{{{p[0][0]}}}{{{p[1][0]}}}", p[0][1] / p[1][1])),
        st.tuples(inner, inner).map(lambda p: (rf"({p[0][0]}) \cdot ({p[1][0]})", p[0][1] * p[1][1])),
        inner.map(lambda e: (rf"\sqrt{{{e[0]}}}", math.sqrt(e[1]))),
    ),
    max_leaves=6,
)


@given(expressions)
def test_what_latex_writes_is_read_back(expression):
    written, number = expression
    assert len(written) > 200 or value(f"${written}$") == pytest.approx(number)


@given(st.text(r"0123456789+-*/^(){}[].,\ acfiqrst$π%°:="))
def test_any_text_has_a_finite_value_or_none(text):
    assert value(text) is None or math.isfinite(value(text))


# mathllm/MATH-V `is_equal`: lower-case text, then tuples by member, then values to two decimals.
SAME = [("0.33", r"\frac{1}{3}"), ("2.24", "√5"), ("(3, -4)", "(3,-4)"), ("(0.5,2)", r"(\frac{1}{2},2)"), ("C", "c"),
        (r"\text{March}", "march"), (r"\frac{a^2}{2}", r"$\frac{a^{2}}{2}$"), ("0.004", "0")]  # fmt: skip
DIFFERENT = [("0.3", r"\frac{1}{3}"), ("(3,4)", "(3,-4)"), ("(3,-4)", "3"), ("C", "D"), ("e", "2.72"), ("5 6", "56")]


@pytest.mark.parametrize(("answer", "gold", "same"), [(*p, 1) for p in SAME] + [(*p, 0) for p in DIFFERENT])
def test_math_accuracy(answer, gold, same):
    assert math_accuracy(answer, [gold]) == math_accuracy(gold, ["other", answer]) == same


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"So 3 + 4 = 7, that is $\boxed{\frac{7}{1}}$ in all 12.", r"\frac{7}{1}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{}", None),
        ("12 cm", "12 cm"),
        ("The final answer is 42.", "42"),
        ("**Answer:** 12", "12"),
        ("The answer is 5 cm, since 2 + 3 = 5", "5"),
        ("The answer is 3? No, 2 fall away. The answer is 1.", "1"),
        ("First 2, then 3. So 2 + 3 = 5.", "5"),
        ("Luca needs $1.45 to buy it", "1.45"),
        ("There are 1,200 of them.", "1,200"),
        ("5 million", "5 million"),
        ("It was 1.5 million people then", None),
        ("There are 5 cats and 3 dogs", None),
        ("There are two cats and three dogs", None),
        ("There are three bars that lie below 6.", "three"),
        ("We count 1, 2, 3 bars.\n\nSo it is:\n\n3", "3"),
        ("First 2, then 3.\n\nThe value in 2010 is **7**.\n\nI hope this helps! Is there anything else?", "7"),
        ("It is 12 years, as one was born in 1950 and the other in 1962.", "12"),
        ("815 - 315 = 500\n\nThe difference between the two is 500.", "500"),
        ("About 1.5 × 10^3 m/s.", "1.5 × 10^3"),
        ("The sum is 2½ inches.", "2½"),
        ("The answer is 5!", "5!"),
        ("It is version 1.234.567 of it", None),
        ("We meet here at 10:30", None),
        ("a room with two large windows", None),
        ("The answer cannot be told", None),
        ("(3,-4)", "(3,-4)"),
        ("", None),
    ],
)
def test_final_value(text, answer):
    assert final_value(text) == answer


# lupantech/MathVista calculate_score.py `normalize_extracted_answer`, run on these.
ANIMALS = ["cat", "dog", "horse"]


@pytest.mark.parametrize(
    ("extraction", "choices", "answer_type", "precision", "normalized"),
    [
        ("B", ANIMALS, "text", None, "dog"),
        ("(c) horse", ANIMALS, "text", None, "horse"),
        ("horses", ANIMALS, "text", None, "horse"),
        ("b", ANIMALS, "text", None, "cat"),
        ("", ANIMALS, "text", None, "cat"),
        ("14", [], "integer", None, "14"),
        ("14.9", [], "integer", None, "14"),
        ("1e3", [], "integer", None, "1000"),
        ("inf", [], "integer", None, None),
        ("14 cats", [], "integer", None, None),
        ("0.649", [], "float", 1, "0.6"),
        ("1.4", [], "float", 2.0, "1.4"),
        ("half", [], "float", 1, None),
        ("[1, 2]", [], "list", None, "[1, 2]"),
        ("Yes ", [], "text", None, "Yes "),
    ],
)
def test_mathvista_normalizes_an_extracted_answer(extraction, choices, answer_type, precision, normalized):
    assert normalize(extraction, choices, answer_type, precision) == normalized


@pytest.mark.parametrize(
    ("answer", "gold", "answer_type", "precision", "score"),
    [
        ("0", "0", "integer", None, 1),
        ("0.3000000000000004", "0.3", "float", 1, 1),
        ("0.5", "0.50", "float", 2, 1),
        ("0.6", "0.5", "float", 1, 0),
        ("[1,2]", "[1, 2]", "list", None, 0),
        ("yes", "Yes", "text", None, 0),
    ],
)
def test_mathvista_compares_to_the_letter(answer, gold, answer_type, precision, score):
    assert mathvista(question([gold], [], answer_type, precision), answer) == score


# The five responses that MathVista's extractor is shown (prompts/ext_ans.py), and what it is to extract; the rule reads
# four of them and leaves the fourth, whose list is not written as one.
FRACTIONS = ["3/11", "8/11", "6/11", "3/5"]


@pytest.mark.parametrize(
    ("response", "choices", "answer_type", "extracted"),
    [
        ("The number missing in the sequence is 14.", [], "integer", "14"),
        ("The fraction of females facing the camera is 0.6, which means that six out of ten females in the group are"
         " facing the camera.", [], "float", "0.6"),
        ("Luca needs $1.45 to buy a sour apple candy and a butterscotch candy.", [], "float", "1.45"),
        ("The line graph saw its maximum peak between 2007 and 2008.", [], "list", None),
        ("The correct answer is (B) 8/11.", FRACTIONS, "text", "B"),
        ("x = 1,200 m", [], "integer", "1200"),
        ("N/A", ["Yes", "No"], "text", None),
        ("The answer is twenty-one.", [], "integer", "21"),
        (r"\frac{1}{4}", [], "float", "0.25"),
        ("Between 2007 and 2008: [2007,2008]", [], "list", "[2007, 2008]"),
        (r"\frac{8}{11}", FRACTIONS, "text", "B"),
        ("8/12", FRACTIONS, "text", None),
        ("horses", ANIMALS, "text", "C"),
        ("bat", ["cat", "hat"], "text", None),
        ("bird", ANIMALS, "text", None),
        ("I cannot see any fraction in it", FRACTIONS, "text", None),
    ],
)  # fmt: skip
def test_mathvista_reads_by_rule(response, choices, answer_type, extracted):
    assert read(question(["?"], choices, answer_type), response) == extracted


# MMMU eval_utils.py parse_open_response and eval_open, run on these.
@pytest.mark.parametrize(
    ("answer", "golds", "score"),
    [
        ("The answer is 3.14159.", ["3.14"], 1),
        ("The sum is 5, so the result is 7", ["5"], 0),
        ("The sum is 5\nso the result is 7", ["5"], 1),
        ("x = 1,000", ["1000"], 1),
        ("x = 4\ny = 6", ["4"], 0),
        ("12 of 30", ["30"], 1),
        ("-5", ["5"], 0),
        ("It could be Paris", ["paris"], 1),
        ("It could be in Paris, France", ["Paris"], 1),
        ("the answer is b", ["B"], 1),
        ("a b", ["B"], 1),
        ("ab", ["B"], 0),
        ("London", ["Paris", "London"], 1),
        ("nan", ["nan"], 0),
    ],
)
def test_mmmu_open(answer, golds, score):
    assert mmmu_open(answer, golds) == score
