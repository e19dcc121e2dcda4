"""Whatever a model says about whatever question: read and scored, in a time that grows with its length alone."""

import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import NUMBERS, long_texts, said, texts
from tokenizers import Tokenizer

from rationale.prompts import extractor_text, prompt_text, teacher_text
from rationale.question_checks import check
from rationale.schema import LETTERS, Question, RowError
from rationale.scoring.answers import extract_answer, extract_choice
from rationale.scoring.dress import normal, undressed
from rationale.scoring.judge import SCORERS, canonical, judge


@st.composite
def questions(draw, scorers=tuple(SCORERS)):
    """Questions of any text that `check` lets pass."""
    scorer = draw(st.sampled_from(scorers))
    kind = draw(st.sampled_from(["short", "choice"])) if scorer in ("math", "mathvista") else "short"
    kind = "choice" if scorer == "multiple_choice" else kind
    choices = draw(st.lists(said, min_size=2, max_size=4, unique=True)) if kind == "choice" else []
    golds = st.sampled_from(choices) if choices else st.sampled_from(NUMBERS) | said
    answers = draw(st.lists(golds, min_size=1, max_size=1 if choices else 4))
    meta = {
        "answer_type": draw(st.sampled_from(["integer", "float", "list", "text"])),
        "precision": draw(st.sampled_from([None, 0, 1, 2.0])),
        "dataset_name": draw(st.sampled_from(["HME100k", "IIIT5K"])),
    }
    question = Question("q", "d", "train", ["i.png"], draw(said), answers, kind, scorer, choices, meta)
    try:
        check(question)
    except RowError:  # a gold that is no number where its rule wants one
        meta["answer_type"] = "text"
        check(question)
    return question


@given(questions(), texts, st.sampled_from(["direct", "cot"]))
@settings(max_examples=1500)
def test_every_scorer_judges_any_text(question, text, style):
    verdict = judge(question, text, style)
    assert 0 <= verdict.score <= 1  # NaN is not
    assert verdict.predicted is not None or verdict.score == 0
    assert 0 <= SCORERS[question.scorer].score(question, text) <= 1
    key = canonical(question, verdict.predicted)
    assert (key is None) == (verdict.predicted is None)


# Not in the list: the VQA rule and A-OKVQA's count annotators, OCRBench's and MMMU's look for a gold in the answer as
# others write it, and MathVista's reads a list or a number before it compares.
SELF = ["exact", "anls", "math", "multiple_choice", "relaxed_accuracy"]


@given(questions(SELF), st.sampled_from(["", " ", "\n", "\t ", "\u00a0", "\u3000"]))
@settings(max_examples=600)
def test_the_annotation_itself_scores_one_whatever_blanks_are_around_it(question, blank):
    gold = question.answer
    if extract_answer(gold, "direct") != gold or "\\boxed" in gold or "**" in gold:
        return
    if question.scorer == "math" and not question.choices and judge(question, gold, "direct").predicted != gold:
        return  # a gold that is neither a value nor a word or two: another value is read out of it, or none
    if question.scorer == "relaxed_accuracy" and gold.casefold() in ("nan", "inf", "-infinity", "1e999"):
        assert judge(question, gold, "direct").score == 0  # as the official rule has it: no distance is within 5 %
        return
    assert judge(question, f"{blank}{gold}{blank}", "direct").score == 1
    assert judge(question, f"{blank}{gold}{blank}", "direct") == judge(question, gold, "direct")


# (answer, gold, the scorers for which they are the same). Pix2struct's and VLMEvalKit's `relaxed_correctness` take what
# Python's `float` takes; the VQA evaluation drops commas; MathVision and MathVista compare values; ANLS and exact text.
NUMERIC = {"exact", "relaxed_accuracy", "anls", "vqa_accuracy", "math", "mathvista", "mmmu"}
SAME = [
    ("１２", "12", {"relaxed_accuracy", "math", "mathvista", "mmmu"}),
    ("1,000", "1000", {"vqa_accuracy", "math", "mathvista", "mmmu", "anls"}),
    ("12%", "0.12", {"relaxed_accuracy"}),
    ("12%", "12", {"math", "mathvista", "mmmu", "anls"}),
    ("1e3", "1000", {"relaxed_accuracy", "math", "mathvista", "mmmu"}),
    ("−5", "-5", NUMERIC),
    ("²", "2", set()),
]


@pytest.mark.parametrize(("answer", "gold", "scorers"), SAME)
def test_ways_to_write_a_number_are_the_same_where_the_official_rule_has_it(answer, gold, scorers):
    meta = {"answer_type": "float", "precision": 2}
    found = {
        scorer
        for scorer in NUMERIC
        if judge(Question("q", "d", "t", ["i"], "?", [gold], "short", scorer, [], meta), answer, "direct").score > 0
    }
    assert found == scorers


@given(texts, st.sampled_from(["direct", "cot"]))
@settings(max_examples=1000)
def test_an_extracted_answer_is_a_piece_of_the_text(text, style):
    answer = extract_answer(text, style)
    assert answer is None or (answer in normal(text) and answer == answer.strip() != "")


@given(texts, said)
@settings(max_examples=500)
def test_the_answer_is_the_first_line_behind_the_last_marker(text, answer):
    first = next((line.strip() for line in normal(answer).splitlines() if line.strip()), None)
    found = extract_answer(f"{text}\n### Answer: {answer}", "cot")
    assert first is None or found == undressed(first) or "###" in answer


@given(texts, st.lists(texts, max_size=30))
@settings(max_examples=300)
def test_a_choice_is_a_letter_of_the_choices(text, choices):
    letter = extract_choice(text, choices)
    assert letter is None or letter in LETTERS[: len(choices)]


BOUND = 5  # seconds, of what takes a third of one: the square of its length would be hours
STUTTERS = ["answer ", "B ", "B/", "A cat ", "1", "1e", "$ ", "is 1\n", "[", "###", "(1,", "\\boxed{"]
STUTTERS += ["### Answer:\n", "The answer is A or ", "option A ", "is (A) ", "</s>", "**", "answer to ", "two "]
STUTTERS += ["1 000 ", "½", "\\text{", "{", "answer is\n", "No, ", "there are "]


@given(questions(), long_texts, st.sampled_from(["direct", "cot"]))
@settings(max_examples=50)
def test_a_hundred_kilobytes_are_judged_in_seconds(question, text, style):
    text = text if style == "direct" else f"### Answer: {text}"
    started = time.process_time()
    judge(question, text, style)
    assert time.process_time() - started < BOUND


@pytest.mark.parametrize("scorer", sorted(SCORERS))
def test_a_stutter_of_a_hundred_kilobytes_is_judged_in_seconds(scorer):
    choices = ["cat", "dog", "3"] if scorer in ("multiple_choice", "mathvista") else []
    meta = {"answer_type": "text", "precision": 1, "dataset_name": "HME100k"}
    question = Question("q", "d", "t", ["i"], "?", ["3"], "choice" if choices else "short", scorer, choices, meta)
    for piece in STUTTERS:
        text = piece * (100_000 // len(piece)) + "x"
        for score in (partial(judge, question, text, "direct"), partial(SCORERS[scorer].score, question, text)):
            started = time.process_time()
            score()
            assert time.process_time() - started < BOUND, piece


@given(questions(), texts)
@settings(max_examples=200)
def test_a_prompt_of_any_question_holds_its_text(question, response):
    for style in ("direct", "cot"):
        prompt = prompt_text(question, style)
        assert prompt.startswith(question.question) and all(choice in prompt for choice in question.choices)
    assert question.question in teacher_text(question)
    if question.meta["answer_type"] != "float" or question.meta["precision"] is not None or question.choices:
        assert response.rstrip() in extractor_text(question, response)


TOKENIZER = Path(__file__).parents[1] / "experiments/mini_base/model/tokenizer.json"


@given(texts | long_texts.map(lambda text: text[:2000]))
@settings(max_examples=300)
def test_any_text_has_token_ids(mini_tokenizer, text):
    ids = mini_tokenizer.encode(text, add_special_tokens=False).ids
    assert all(0 <= i < mini_tokenizer.get_vocab_size() for i in ids)
    assert bool(ids) == bool(text)


@pytest.fixture(scope="module")
def mini_tokenizer():
    return Tokenizer.from_file(str(TOKENIZER))
