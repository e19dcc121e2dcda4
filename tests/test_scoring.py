"""The one judge: what it reads in a response, whatever its dress, and the score that the scorer gives it."""

import json
import os
import tracemalloc
from pathlib import Path
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.schema import Question
from rationale.scoring.dress import normal
from rationale.scoring.judge import SCORERS, Verdict, canonical, is_correct, judge

CHOICES = ["heart", "dentist", "beer", "water"]
# What some scorers need to know of a question besides its answers.
META = {"answer_type": "integer", "precision": 1, "dataset_name": "HME100k"}


def question(scorer, answers, choices=(), meta=None):
    kind = "choice" if choices else "short"
    return Question("q1", "toy", "val", ["a.png"], "?", list(answers), kind, scorer, list(choices), meta or META)


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
        (question("relaxed_accuracy", ["10"]), "Sum.\n### Answer: **10**", "cot", Verdict("10", 1.0)),
        (question("anls", ["new york"]), r"\boxed{New York}", "direct", Verdict("New York", 1.0)),
        (question("mmmu", ["2.5"]), "so x = 5/2\nThe result is 2.50", "direct", Verdict(ANY, 1.0)),
        (question("math", [r"$\frac{1}{2}$"]), "So ### Answer: 0.5", "cot", Verdict("0.5", 1.0)),
        (question("math", ["2"], ["1", "2"]), "### Answer: 2", "cot", Verdict("B", 1.0)),
        (question("math", ["2"], ["1", "2", "2.0"]), r"\boxed{2.00}", "direct", Verdict(None, 0.0)),
        (question("mathvista", ["3"]), "### Answer: 3 apples", "cot", Verdict("3", 1.0)),
        (question("mathvista", ["0"]), "0", "direct", Verdict("0", 1.0)),
        (question("mathvista", ["beer"], CHOICES), "### Answer: beers", "cot", Verdict("C", 1.0)),
        (question("mathvista", ["beer"], CHOICES), "### Answer: none", "cot", Verdict(None, 0.0)),
        (question("ocrbench", ["x^{2}"]), "### Answer: x ^ {2}", "cot", Verdict("x ^ {2}", 1.0)),
    ],
)
def test_judge(asked, text, style, verdict):
    assert judge(asked, text, style) == verdict


OPEN = ["exact", "relaxed_accuracy", "anls", "vqa_accuracy", "math", "mmmu"]
WRAPPED = [
    "**{}**",
    "*{}*",
    "__{}__",
    "`{}`",
    "${}$",
    r"\({}\)",
    r"\text{{{}}}",
    r"\boxed{{{}}}.",
    "**{}**.",
    "\u200b{}</s>",
]


@pytest.mark.parametrize("dress", WRAPPED)
@pytest.mark.parametrize("scorer", OPEN)
def test_dress_comes_off_before_the_official_rule(scorer, dress):
    asked = question(scorer, ["12"] * 10)
    for text, style in [(dress.format(12), "direct"), (f"Sum.\n### Answer: {dress.format(12)}", "cot")]:
        assert judge(asked, text, style) == Verdict("12", 1.0)
        assert judge(asked, text.replace("12", "78"), style) == Verdict("78", 0.0)


@pytest.mark.parametrize("scorer", OPEN)
@pytest.mark.parametrize(("said", "gold"), [("cafe\u0301", "caf\u00e9"), ("\u22125", "-5"), ("a\u00a0b", "a b")])
def test_one_text_in_two_unicode_forms_is_one_answer_on_either_side(scorer, said, gold):
    for answer, annotated in [(said, gold), (gold, said)]:
        assert judge(question(scorer, [annotated] * 10), f"### Answer: {answer}", "cot").score == 1


@pytest.mark.parametrize(("answer", "score"), [("$5", 0.0), ("12.", 2 / 3)])
def test_what_is_no_dress_is_left_to_the_official_rule(answer, score):
    assert judge(question("anls", ["12"]), answer, "direct").score == pytest.approx(score)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (question("bleu", ["5"]), r"q1: no scorer 'bleu'; known: \['anls'"),
        (question("exact", []), "q1: no accepted answer"),
        (question("multiple_choice", ["wine"], CHOICES), "q1: answer 'wine' is none of"),
        (question("mathvista", ["wine"], CHOICES), "q1: answer 'wine' is none of"),
        (question("mathvista", ["five"]), "q1: answer 'five' is no integer"),
        (question("mathvista", ["5"], meta={"answer_type": "number"}), r"q1: meta\['answer_type'\] is 'number'"),
        (question("mathvista", ["5"], meta={"answer_type": "float"}), r"q1: meta\['precision'\] is missing"),
        (question("ocrbench", ["5"], meta={"source": "svt"}), r"q1: meta\['dataset_name'\] is missing"),
    ],
)
def test_a_question_that_cannot_be_judged_is_named(asked, message):
    with pytest.raises(ValueError, match=message):
        judge(asked, "5" if asked.kind == "short" else "A", "direct")


# The article of E6: VLMEvalKit's can_infer takes the "A" of the prose for an option and gives up.
PROSE = "A whale is bigger than a krill. I think that both A and B are wrong."
DRESSES = ["C", "C.", "(C)", "**C**", r"\boxed{C}", r"$\boxed{\text{(C)}}$", "c", "(c)", "C) beer", "C. beer", "beer"]
SENTENCES = ["The answer is (C) because it is one", "The correct answer is **C**.", r"So it is $\boxed{C}$."]


@pytest.mark.parametrize("scorer", ["multiple_choice", "math", "mathvista"])
@pytest.mark.parametrize("answer", DRESSES + SENTENCES)
def test_a_letter_reads_the_same_in_every_dress_behind_the_marker(scorer, answer):
    asked = question(scorer, ["beer"], CHOICES)
    assert judge(asked, f"{PROSE}\n### Answer: {answer}", "cot") == Verdict("C", 1.0)
    assert judge(asked, answer, "direct") == Verdict("C", 1.0)


@pytest.mark.parametrize("scorer", ["multiple_choice", "math", "mathvista"])
@pytest.mark.parametrize("text", [PROSE, "It is A or B", r"\boxed{E}", "The correct answer is E", "unclear", "7"])
def test_no_letter_is_guessed(scorer, text):
    assert judge(question(scorer, ["beer"], CHOICES), text, "direct") == Verdict(None, 0.0)


@given(st.sampled_from(sorted(SCORERS)), st.text(), st.text(), st.text(), st.sampled_from(["direct", "cot"]))
def test_judge_scores_any_text(scorer, reasoning, answer, gold, style):
    gold = "3" if scorer == "mathvista" else gold  # an integer there
    asked = question(scorer, [gold], [gold, "other"] if scorer == "multiple_choice" else ())
    verdict = judge(asked, f"{reasoning}### Answer:{answer}", style)
    assert 0 <= verdict.score <= 1
    assert verdict.predicted is not None or verdict.score == 0
    assert isinstance(canonical(asked, verdict.predicted), str) or verdict.predicted is None


@given(st.sampled_from(sorted(SCORERS)), st.text(r"ABC()*\{}boxed 12.,$/").map(lambda text: " ".join(text.split())))
def test_both_styles_give_an_answer_the_same_verdict(scorer, answer):
    choices = ["A", "12", "B"] if scorer in ("multiple_choice", "math", "mathvista") else []
    asked = question(scorer, ["12"], choices)
    assert judge(asked, answer, "direct") == judge(asked, f"Why.\n### Answer: {answer}", "cot")


# InternVL's check_answer takes the first for right and the second for wrong.
@pytest.mark.parametrize(("gold", "answer", "right"), [("12", "qwertyuiop", 0), ("march 5 1999", "march 5, 1999", 1)])
def test_anls_decides_right_and_wrong_as_it_should(gold, answer, right):
    assert is_correct(judge(question("anls", [gold]), answer, "direct").score) == right


@given(st.sampled_from(["exact", "anls"]), st.text().filter(normal))  # a soft hyphen alone is no answer
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
        ("math", r"$\frac{1}{2}$", "0.5"),
        ("math", "x = 0.50 cm", "0.5"),
    ],
)
def test_canonical(scorer, predicted, key):
    assert canonical(question(scorer, ["x"]), predicted) == key


def test_choices_of_every_scorer_vote_by_letter():
    asked = [question(scorer, ["beer"], CHOICES) for scorer in ("multiple_choice", "math", "mathvista")]
    assert [canonical(q, judge(q, "### Answer: (c)", "cot").predicted) for q in asked] == ["C", "C", "C"]


def varied(num):
    """Responses of a hundred words to `num` questions that go through all scorers, one at a time."""
    for i in range(num):
        scorer = sorted(SCORERS)[i % len(SCORERS)]
        golds, choices = [str(i)], []
        if scorer == "vqa_accuracy":
            golds = [f"{i} {k}" for k in range(10)]
        if scorer == "multiple_choice":
            choices = [str(i), f"{i} m", f"{i} s"]
        reasoning = f"word{i} " * 100
        yield question(scorer, golds, choices), f"{reasoning}\n### Answer: {i}", "cot"


def peak_memory(num):
    tracemalloc.start()
    try:
        assert sum(judge(*row).predicted is not None for row in varied(num)) == num
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows():
    # The texts of the further 6,000 rows are 5 MB; the caches, which are bounded, hold less than 1.
    assert peak_memory(8000) - peak_memory(2000) < 2_000_000


CASES = Path(os.environ.get("RATIONALE_CASES", "absent")) / "answers.jsonl"


@pytest.mark.skipif(
    not CASES.is_file(), reason="RATIONALE_CASES names no folder with answers.jsonl; set it to read them"
)
def test_collected_answers_are_read_as_a_careful_reader_reads_them():
    wrong = []
    for row in map(json.loads, CASES.read_text(encoding="utf-8").splitlines()):
        golds = row["answers"] * (10 if row["scorer"] == "vqa_accuracy" else 1)
        asked = question(row["scorer"], golds, row["choices"], {"answer_type": row.get("answer_type"), "precision": 1})
        verdict = judge(asked, row["text"], row["style"])
        states = row["reads"] is not None or row["scorer"] == "multiple_choice"
        if (states and verdict.predicted != row["reads"]) or row["score"] not in (None, verdict.score):
            wrong.append((row["id"], verdict))
    assert wrong == []
