"""The four mixtures of Figure 4 and the prompts of Figure D.1."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.prompts import prompt_text, with_answer
from rationale.schema import Question, Rationale, Response
from rationale.training.mixture import Mixture, Rejection, example_of, format_rows, rft_examples, sft_examples

ROOT = Path("questions")
COT = "Generate a reason first and then output a short answer"
DIRECT = "Answer the question with a short answer"


def question(dataset, number):
    return Question(f"{dataset}-{number:02d}", dataset, "train", ["images/a.png"], f"How many {number}?", [str(number)])


def rationale(q):
    return Rationale(q.question_id, with_answer("I count.", q.answer), q.answer, "kept", 1.0, "t")


# Nine data sets of 60 questions, as many data sets as the paper has: all is 540, format is 9 x 50 = 450.
QUESTIONS = [question(f"set{d}", number) for d in range(9) for number in range(60)]
RATIONALES = {q.question_id: rationale(q) for q in QUESTIONS}


def mixture(name, questions=QUESTIONS, rationales=RATIONALES, seed=1):
    """CoT and direct examples of the mixture that `ablation=name` asks for."""
    amounts = yaml.safe_load((CONF / "ablation" / f"{name}.yaml").read_text(encoding="utf-8"))["sft"]["mixture"]
    examples = sft_examples(questions, rationales, ROOT, Mixture(format_per_dataset=50, **amounts), seed)
    cot = [e for e in examples if e.prompt.endswith(f"\n{COT}")]
    direct = [e for e in examples if e.prompt.endswith(f"\n{DIRECT}")]
    assert len(cot) + len(direct) == len(examples)
    return cot, direct


@pytest.mark.parametrize(
    ("name", "num_cot", "num_direct"),
    [("format", 450, 450), ("direct", 450, 540), ("cot", 540, 450), ("both", 540, 540)],
)
def test_a_mixture_has_the_rows_of_figure_4(name, num_cot, num_direct):
    cot, direct = mixture(name)
    assert (len(cot), len(direct)) == (num_cot, num_direct)


def test_format_rows_are_fifty_of_each_data_set():
    for examples in mixture("format"):
        assert Counter(e.question_id[:4] for e in examples) == {f"set{d}": 50 for d in range(9)}


def test_no_row_is_in_a_mixture_twice():
    for name in ("format", "direct", "cot", "both"):
        for examples in mixture(name):
            assert len({e.question_id for e in examples}) == len(examples)


def test_a_cot_row_is_the_rationale_and_a_direct_row_the_bare_answer():
    cot, direct = mixture("both")
    assert (cot[7].question_id, cot[7].response) == ("set0-07", "I count.\n### Answer: 7")
    assert (direct[7].question_id, direct[7].response) == ("set0-07", "7")
    assert direct[7].images == (ROOT / "images" / "a.png",)


def test_both_kinds_cover_the_questions_whose_rationale_was_kept():
    kept = {i: r for i, r in RATIONALES.items() if not i.endswith("5")}
    for examples in mixture("both", rationales=kept):
        assert {e.question_id for e in examples} == set(kept)


def test_a_data_set_smaller_than_its_share_gives_all_it_has():
    assert len(format_rows(QUESTIONS[:30] + QUESTIONS[60:120], 50, seed=1)) == 80


def test_the_draw_changes_with_the_seed():
    drawn = [{q.question_id for q in format_rows(QUESTIONS, 50, seed)} for seed in (1, 2)]
    assert drawn[0] != drawn[1]


def test_the_draw_of_a_data_set_does_not_depend_on_the_others_or_on_order():
    alone = format_rows(QUESTIONS[60:120], 50, seed=1)
    among = format_rows(QUESTIONS[::-1], 50, seed=1)
    assert alone == [q for q in among if q.dataset == "set1"]


def test_an_open_question_is_in_no_mixture():
    described = Question("open", "set0", "train", ["a.png"], "Describe.", ["A chart."], kind="open")
    cot, direct = mixture("both", [*QUESTIONS, described], {**RATIONALES, "open": rationale(described)})
    assert (len(cot), len(direct)) == (540, 540)


def test_an_open_row_is_asked_as_it_stands():
    described = Question("open", "set0", "train", ["a.png"], "Describe.", ["A chart."], kind="open")
    example = example_of(described, ROOT)
    assert (example.prompt, example.response) == ("Describe.", "A chart.")


def test_an_unknown_amount_is_named_with_the_known_ones():
    with pytest.raises(ValidationError, match=r"cot\n *Input should be 'all', 'format' or 'none' .*'some'"):
        Mixture(cot="some", direct="all", format_per_dataset=50)


def test_no_kept_rationale_is_an_error():
    with pytest.raises(UserError, match="no training question has a kept rationale"):
        sft_examples(QUESTIONS, {}, ROOT, Mixture("all", "all", 50), 1)


SHORT = Question("q", "d", "train", ["a.png"], "How many food item is shown in the bar graph?", ["14"])
CHOICE = Question("q", "d", "train", ["a.png"], "Which?", ["dog"], "choice", "multiple_choice", ["cat", "dog"])


@pytest.mark.parametrize(
    ("asked", "style", "prompt"),
    [
        (SHORT, "direct", "How many food item is shown in the bar graph?\nAnswer the question with a short answer"),
        (
            SHORT,
            "cot",
            "How many food item is shown in the bar graph?\nGenerate a reason first and then output a short answer",
        ),
        (CHOICE, "direct", "Which?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly"),
        (CHOICE, "cot", "Which?\nA. cat\nB. dog\nGenerate a reason first and then output a letter answer"),
    ],
)
def test_a_prompt_is_the_question_its_choices_and_the_suffix_on_a_new_line(asked, style, prompt):
    assert prompt_text(asked, style) == prompt


def test_an_unknown_style_is_named():
    with pytest.raises(ValueError, match="q: no prompt for style 'short' and kind 'choice'"):
        prompt_text(CHOICE, "short")


def test_the_answer_stands_on_a_line_of_its_own():
    assert with_answer("7 + 7 = 14. \n", "14") == "7 + 7 = 14.\n### Answer: 14"


def rows_of(**amounts):
    found = sft_examples(QUESTIONS, RATIONALES, ROOT, Mixture(format_per_dataset=50, **amounts), 1)
    return Counter((e.question_id[:4], "reason" in e.prompt) for e in found)


def test_one_data_set_in_full_beside_format_rows_of_the_others():
    """Table F.1, one set's rationales: 60 of it, 50 of each other set; direct answers are format rows throughout."""
    found = rows_of(cot="format", direct="format", full={"cot": ["set3"]})
    assert {name for (name, cot), count in found.items() if cot and count == 60} == {"set3"}
    assert sum(found.values()) == 60 + 8 * 50 + 9 * 50


def test_one_data_set_alone():
    assert rows_of(cot="none", direct="none", full={"cot": ["set0"]}) == {("set0", True): 60}


def test_an_unknown_data_set_is_named():
    with pytest.raises(UserError, match=r"mixture\.full\.cot: no row with a kept rationale is of \['sett'\]"):
        rows_of(cot="format", direct="none", full={"cot": ["sett"]})


def response(question_id, number, text, score, finished=True):
    return Response(question_id, number, "cot", text, "1" if score is not None else None, score or 0.0, finished)


def imitated(responses, **settings):
    found = {q.question_id: q for q in QUESTIONS}
    seed = settings.pop("seed", 1)
    return rft_examples(responses, found, ROOT, Rejection(**{"per_question": 3, **settings}), seed)


def test_right_responses_alone_are_imitated_each_once():
    rows = [("a", 1.0), ("a", 1.0), ("b", 0.0), ("c", None), ("d", 1.0)]
    sampled = [response("set0-00", i, text, score) for i, (text, score) in enumerate(rows)]
    sampled.append(response("set0-00", 9, "e, cut", 1.0, finished=False))
    examples = imitated({"set0-00": sampled})
    assert sorted(e.response for e in examples) == ["a", "d"]
    assert {e.prompt for e in examples} == {f"How many 0?\n{COT}"}


def test_a_text_that_is_right_in_both_styles_is_imitated_in_both():
    sampled = [replace(response("set0-00", i, "5", 1.0), style=style) for i, style in enumerate(("cot", "direct"))]
    assert {e.prompt for e in imitated({"set0-00": sampled})} == {f"How many 0?\n{hint}" for hint in (COT, DIRECT)}


def test_no_more_than_so_many_responses_of_a_question_are_imitated():
    sampled = {q: [response(q, i, f"text {i}", 1.0) for i in range(9)] for q in ("set0-00", "set1-00")}
    assert len(imitated(sampled)) == 6
    assert len(imitated(sampled, datasets=["set1"])) == 3
    before = {e.response for e in imitated({"set0-00": sampled["set0-00"]})}
    assert before == {e.response for e in imitated(sampled) if e.question_id == "set0-00"}


def test_no_right_response_at_all_is_an_error():
    with pytest.raises(UserError, match="no right response to imitate"):
        imitated({"set0-00": [response("set0-00", 0, "a", 0.0)]})
