"""Scoring rules on the official scorers' own cases, and the one judge built on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.metrics.scoring import (
    SCORERS,
    Verdict,
    anls,
    aokvqa_direct,
    canonical,
    evalai_text,
    exact_match,
    is_correct,
    judge,
    multiple_choice,
    relaxed_accuracy,
    vqa_accuracy,
)
from rationale.schema import Question

CHOICES = ["heart", "dentist", "beer", "water"]


def question(scorer, answers, choices=()):
    kind = "choice" if choices else "short"
    return Question("q1", "toy", "val", "a.png", "?", list(answers), kind, scorer, list(choices))


# (gold, answer, right); lmms-eval 0.7.3, VLMEvalKit and pix2struct agree on all.
RELAXED = [
    ("100", "95", 1),
    ("100", "105", 1),
    ("100", "94.9", 0),
    ("96%", "100%", 1),
    ("0.96", "100%", 1),
    ("94%", "100%", 0),
    ("2010", "2008", 1),
    ("5", "5%", 0),
    ("0", "0.0", 0),
    ("0", "0", 1),
    ("1,000", "1000", 0),
    ("1000", "1,000", 0),
    ("Yes", "yes", 1),
    ("Yes", "yes.", 0),
    ("[A, B]", "[a, b]", 1),
    ("-5", "-5.2", 1),
    ("nan", "nan", 0),
    ("inf", "inf", 0),
    ("12", "12 million", 0),
    ("$5", "5", 0),
]
# lmms-eval 0.7.3 `chartqa_reasoning` gives the first four 1 and the others the opposite too.
OPTION_LETTER_TRAP = [
    ("Canada", "China", 0),
    ("Denmark", "Djibouti", 0),
    ("Blue", "Black", 0),
    ("Favorable", "False", 0),
    ("10", "10.2", 1),
    ("Canada", "canada", 1),
    ("50%", "50", 0),
]
UNITXT_RELAXED = [("14", "10", 0), ("30", "30", 1)]


@pytest.mark.parametrize(("gold", "answer", "right"), RELAXED + OPTION_LETTER_TRAP + UNITXT_RELAXED)
def test_relaxed_accuracy(gold, answer, right):
    assert relaxed_accuracy(answer, [gold]) == right


# (golds, answer, score); lmms-eval 0.7.3, VLMEvalKit and the official script agree.
ANLS = [
    (["abc"], "Abc", 1),
    (["hello world"], "hello  world", 1),
    (["hello"], "helo", 0.8),
    (["abcd"], "ab", 0.5),
    (["abcd"], "abxy", 0.5),
    (["abcde"], "abxyz", 0),
    ([""], "", 1),
    (["12"], "12.", 2 / 3),
    (["12", "twelve"], "Twelve", 1),
    (["New York City"], "new york", 8 / 13),
    (["10"], "The answer is 10", 0),
]
UNITXT_ANLS = [(["B"], "A", 0), (["A"], "B", 0), (["C"], "C", 1)]
# InternVL's check_answer(mode=["anls"]) gives 1 and 0.
INTERNVL = [(["12"], "qwertyuiop", 0), (["march 5 1999"], "march 5, 1999", 12 / 13)]


@pytest.mark.parametrize(("golds", "answer", "score"), ANLS + UNITXT_ANLS + INTERNVL)
def test_anls(golds, answer, score):
    assert anls(answer, golds) == pytest.approx(score, abs=1e-12)


PIX2STRUCT_PREDICTIONS = ["abc", "abc", "Abc", "100%", "100%", "100%", "100%", "Don't"]
PIX2STRUCT_TARGETS = ["abc", "Abc", "abc", "96%", "94%", "0.96", "0.94", "Won't"]


# Exact match is 12.5 there; ours ignores case, which adds "abc" for "Abc" and "Abc" for "abc".
@pytest.mark.parametrize(("rule", "percent"), [(anls, 47.5), (relaxed_accuracy, 62.5), (exact_match, 37.5)])
def test_pix2struct_metrics(rule, percent):
    scores = [rule(p, [t]) for p, t in zip(PIX2STRUCT_PREDICTIONS, PIX2STRUCT_TARGETS, strict=True)]
    assert 100 * sum(scores) / len(scores) == pytest.approx(percent)


LMMS_EVAL_AND_MMF = {
    "1,000": "1000",
    "A.": "",
    "U.S.A": "usa",
    "pepsi-cola": "pepsi cola",
    "$3.50": "$3.50",
    "none": "0",
    "10:30": "10:30",
    "the": "",
    "dr. pepper": "dr pepper",
    "3.": "3",
    "1/2": "1 2",
    "50%": "50%",
    "mcdonald's": "mcdonald 's",
}
MMF_TEST_PROCESSORS = {
    "two": "2",
    "a building": "building",
    "snow, mountain": "snow mountain",
    "isnt": "isn't",
    "the two mountain's \t \n   ": "2 mountain 's",
}


@pytest.mark.parametrize(("text", "processed"), [*LMMS_EVAL_AND_MMF.items(), *MMF_TEST_PROCESSORS.items()])
def test_evalai_text(text, processed):
    assert evalai_text(text) == processed


# allenai/aokvqa counts all ten against the answer, the VQA rule nine at a time.
@pytest.mark.parametrize(
    ("k", "vqa", "aokvqa"), [(0, 0, 0), (1, 0.3, 1 / 3), (2, 0.6, 2 / 3), (3, 0.9, 1), (4, 1, 1), (10, 1, 1)]
)
def test_k_of_ten_annotators(k, vqa, aokvqa):
    golds = ["red"] * k + [f"other {i}" for i in range(10 - k)]
    assert vqa_accuracy("The red", golds) == vqa
    assert aokvqa_direct("red", golds) == aokvqa


def test_a_single_gold_needs_no_second_annotator():
    assert vqa_accuracy("2", ["two"]) == 1


@pytest.mark.parametrize(
    ("answer", "score"), [("B", 1), ("(b)", 1), ("Dentist", 1), ("A", 0), ("E", 0), ("a dentist's", 0)]
)
def test_multiple_choice(answer, score):
    assert multiple_choice(answer, CHOICES, "dentist") == score


def test_either_of_two_choices_that_read_the_same_is_right():
    assert [multiple_choice(letter, ["2", "2", "3"], "2") for letter in "ABC"] == [1, 1, 0]


@pytest.mark.parametrize(("answer", "score"), [("new  york.", 1), ("12", 1), ("12.0", 0), ("york", 0)])
def test_exact_match(answer, score):
    assert exact_match(answer, ["New York", "12"]) == score


@pytest.mark.parametrize(
    ("asked", "text", "style", "verdict"),
    [
        (question("relaxed_accuracy", ["Canada"]), "### Answer: China", "cot", Verdict("China", 0.0)),
        (question("relaxed_accuracy", ["10"]), "Sum.\n### Answer: 10.2", "cot", Verdict("10.2", 1.0)),
        (question("relaxed_accuracy", ["10"]), "10.2", "direct", Verdict("10.2", 1.0)),
        (question("anls", ["10"]), "so 10", "cot", Verdict(None, 0.0)),
        (question("multiple_choice", ["beer"], CHOICES), "A man. ### Answer: C", "cot", Verdict("C", 1.0)),
        (question("multiple_choice", ["beer"], CHOICES), "Beer", "direct", Verdict("C", 1.0)),
        (question("multiple_choice", ["beer"], CHOICES), "### Answer: E", "cot", Verdict(None, 0.0)),
        (question("exact", [""]), "", "direct", Verdict(None, 0.0)),
    ],
)
def test_judge(asked, text, style, verdict):
    assert judge(asked, text, style) == verdict


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (question("bleu", ["5"]), r"q1: no scorer 'bleu'; known: \['anls'"),
        (question("exact", []), "q1: no accepted answer"),
        (question("multiple_choice", ["wine"], CHOICES), "q1: answer 'wine' is none of"),
    ],
)
def test_a_question_that_cannot_be_judged_is_named(asked, message):
    with pytest.raises(ValueError, match=message):
        judge(asked, "A", "direct")


@given(st.sampled_from(sorted(SCORERS)), st.text(), st.text(), st.text(), st.sampled_from(["direct", "cot"]))
def test_judge_scores_any_text(scorer, reasoning, answer, gold, style):
    asked = question(scorer, [gold], [gold, "other"] if scorer == "multiple_choice" else ())
    verdict = judge(asked, f"{reasoning}### Answer:{answer}", style)
    assert 0 <= verdict.score <= 1
    assert verdict.predicted is not None or verdict.score == 0
    assert isinstance(canonical(asked, verdict.predicted), str) or verdict.predicted is None


@given(st.sampled_from(["exact", "anls"]), st.text().filter(str.strip))
def test_the_gold_itself_is_right(scorer, gold):
    assert judge(question(scorer, ["other", gold]), gold, "direct").score == 1 or "###" in gold


@pytest.mark.parametrize(("score", "right"), [(0.3, False), (0.4999, False), (0.5, True), (0.6, True)])
def test_is_correct(score, right):
    assert is_correct(score) is right


@pytest.mark.parametrize(
    ("scorer", "predicted", "key"),
    [
        ("anls", " New\n York ", "new york"),
        ("anls", "12.0", "12"),
        ("anls", "12.", "12"),
        ("anls", "1,000", "1000"),
        ("anls", "0.50", "0.5"),
        ("anls", ".5", "0.5"),
        ("anls", "-0.0", "0"),
        ("anls", "+007", "7"),
        ("anls", "50.0%", "50%"),
        ("anls", "1,00", "1,00"),
        ("anls", ".", "."),
        ("anls", "٣", "٣"),
        ("multiple_choice", "c", "C"),
        ("anls", None, None),
    ],
)
def test_canonical(scorer, predicted, key):
    assert canonical(question(scorer, ["x"]), predicted) == key
