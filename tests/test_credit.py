"""Per-token credit: rewards and words by hand, first wrong steps in each world, the number, the pictures, the stage."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from transformers import AutoTokenizer

from rationale.artifacts import UserError
from rationale.reporting.credit import Credited, centred, credit_table, credited, measures, token_words
from rationale.reporting.credit_page import END, drawn, kind_of, words_of
from rationale.schema import Question, Response, ResponseLogps, RowError, write_jsonl
from rationale.scoring.judge import is_correct, judge
from rationale.sources.tasks import mini
from rationale.tools.credit import run
from rationale.worlds.teacher import ProgramTeacher
from rationale.worlds.truth import first_wrong_step, free_words, way_of, word_steps, wordings

ASKED = [q for q, _ in mini({"test": 8}, 3, 2, 0)]
CHART = Question(
    "chart", "mini_chart", "test", ["a.png"], "How far apart are red and blue?", ["5"],
    meta={
        "task": "mini_chart", "template": "difference", "args": {"a": "red", "b": "blue"},
        "world": {"kind": "bar", "items": [{"color": "red", "value": 7}, {"color": "blue", "value": 12}]},
    },
)  # fmt: skip
SCENE = Question(
    "scene", "mini_scene", "test", ["b.png"], "How many objects are red?", ["1"], kind="choice",
    scorer="multiple_choice", choices=["0", "1", "2", "3"],
    meta={
        "task": "mini_scene", "template": "count_color", "args": {"c": "red"},
        "world": {
            "objects": [
                {"color": "red", "shape": "circle", "row": 1, "column": 1},
                {"color": "blue", "shape": "square", "row": 2, "column": 3},
            ]
        },
    },
)  # fmt: skip
FORM = Question(
    "form", "mini_form", "test", ["c.png"], "What is the receipt number?", ["417"],
    meta={
        "task": "mini_form", "template": "number", "args": {},
        "world": {"number": 417, "items": [{"name": "tea", "price": 5}], "ink": 0},
    },
)  # fmt: skip
BARS = "The bars show red 7, blue 12. Here red 7 and blue 12. So blue 12 - red 7 = 5. Hence 5.\n### Answer: 5"
I_SEE = "I see row 1 red circle 1, row 2 blue square 3. Count red, row 1 red circle 1 is 1, row 2 blue square 3 not 1."
COUNTED = f"{I_SEE} The count is 1. That gives 1.\n### Answer: B"
NUMBER = "On receipt 417 I read tea 5. The number stands in the first line. Hence 417.\n### Answer: 417"


# Credit.


def test_credit_is_the_log_ratio_less_its_mean():
    assert centred([-1.0, -2.0, -3.0], [-1.0, -1.0, -4.0]) == [0.0, -1.0, 1.0]  # ratios 0, -1, 1
    assert centred([-1.0, -3.0], [-2.0, -2.0]) == [1.0, -1.0]
    assert centred([-1.0, -1.0], [-3.0, -2.0]) == [0.5, -0.5]  # ratios 2, 1


def test_a_token_belongs_to_the_word_that_it_begins_in_and_space_to_the_next():
    text = "ab cd\nef gh"
    offsets = [(0, 1), (1, 2), (2, 5), (5, 6), (6, 7), (7, 10), (10, 11)]  # a, b, " cd", "\n", e, "f g", h
    assert token_words(text, offsets) == [0, 0, 1, 2, 2, 2, 3]
    assert token_words("ab ", [(0, 2), (2, 3)]) == [0, 0]
    assert token_words("", []) == []


def test_the_tokens_of_a_word_spell_it(tiny):
    for text in (BARS, COUNTED, NUMBER, "naïve “quotes” 5 €\n\n 17%  x"):
        encoded = tiny.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        owners = token_words(text, encoded["offset_mapping"])
        assert owners == sorted(owners)
        for number, word in enumerate(text.split()):
            ids = [i for i, owner in zip(encoded["input_ids"], owners, strict=True) if owner == number]
            assert tiny.tokenizer.decode(ids).strip() == word


def made(text, rewards, wrong_step, words=None, finished=True, score=0.0, question=CHART) -> Credited:
    """A response with a token a word, and one for its end."""
    spans = [m.span() for m in re.finditer(r"\S+", text)]
    steps = word_steps(text)
    response = Response(question.question_id, 0, "cot", text, None, score, finished)
    owners = words or list(range(len(spans) + finished))
    return Credited(question, response, rewards, spans, owners, steps + steps[-1:] * finished, wrong_step)


@pytest.mark.parametrize("finished", [True, False])
def test_the_end_token_is_a_word_of_its_own_in_the_last_step_where_a_response_ended_by_itself(finished):
    text, num = "Hence 5.\n### Answer: 5", 5 + finished
    response = Response("chart", 0, "cot", text, "5", 1.0, finished)
    scored = ResponseLogps(*response.key[:4], [-1.0] * num, "seen")
    sides = {side: {scored.key: scored} for side in ("dpo", "sft")}
    found = credited(CHART, response, [m.span() for m in re.finditer(r"\S+", text)], sides)
    assert found.token_words == [0, 1, 2, 3, 4, 5][:num]
    assert found.steps == [0, 0, 1, 1, 1, 1][:num]
    assert found.wrong_step == 0


def test_the_credit_of_a_word_is_the_sum_of_its_tokens_and_the_end_token_is_a_word_of_its_own():
    found = made("so it\nis", [1.0, 2.0, -4.0, -2.0, 3.0], 1, words=[0, 0, 1, 2, 3])
    assert found.word_credit == [3.0, -4.0, -2.0, 3.0]
    shown = words_of(found)
    assert [w.text for w in shown] == ["so", "it", "is", END]
    assert [w.shade for w in shown] == [0.75, -1.0, -0.5, 0.75]
    assert [w.broken for w in shown] == [False, False, True, False]
    assert [w.wrong for w in shown] == [False, False, True, True]
    assert shown[1].said == "−4.000"


# The first wrong step.


def test_a_step_is_a_sentence_or_a_line():
    assert word_steps("Let me read it. The bars show red 7. Hence 7.\n### Answer: 7") == [
        *[0] * 4, *[1] * 5, *[2] * 2, *[3] * 3
    ]  # fmt: skip
    assert word_steps("Hence 7\n### Answer: 7") == [0, 0, 1, 1, 1]
    assert word_steps("") == [0]


@pytest.mark.parametrize("question", [CHART, SCENE, FORM], ids=lambda q: q.question_id)
def test_every_choice_of_words_is_enumerated_once(question):
    texts = wordings(question)
    assert len(texts) == len(set(texts)) == 2 * 4 * 2 * 4  # ways, openings, listings, closings


@pytest.mark.parametrize(
    ("question", "text", "old", "new", "step"),
    [
        (CHART, BARS, "red 7, blue 12.", "red 7, blue 11.", 0),
        (CHART, BARS, "The bars", "The points", 0),
        (CHART, BARS, " Here red 7 and blue 12. So blue 12 - red 7 = 5.", "", None),  # the working left out
        (CHART, BARS, "Here red 7", "Here red 8", 1),
        (CHART, BARS, "= 5. Hence 5", "= 6. Hence 6", 2),
        (CHART, BARS, "Hence 5", "Hence 6", 3),
        (CHART, BARS, "Answer: 5", "Answer: 6", 4),
        (CHART, BARS, "The bars show", "Let me read it. The bars show", None),
        (CHART, BARS, "The bars show", "Let me read it. The bars hide", 1),
        (CHART, BARS, "Hence 5.\n### Answer: 5", "Hence 5.", 3),  # the answer line is missing
        (CHART, BARS, "Hence 5.\n", "Hence 5. ", 4),  # the answer has no line of its own
        (CHART, BARS, "Answer: 5", "Answer: 5 or 6", 4),
        (CHART, BARS, BARS, "5", 0),
        (CHART, BARS, BARS, "", 0),
        (SCENE, COUNTED, "square 3. Count", "square 2. Count", 0),
        (SCENE, COUNTED, "square 3 not 1", "square 3 is 2", 1),
        (SCENE, COUNTED, "The count is 1", "The count is 2", 2),
        (SCENE, COUNTED, "Answer: B", "Answer: C", 4),
        (SCENE, COUNTED, "I see", "First I note what is there. The objects by row and column are", None),
        (FORM, NUMBER, "receipt 417 I", "receipt 411 I", 0),
        (FORM, NUMBER, "stands in", "stands on", 1),
        (FORM, NUMBER, "Hence 417", "Hence 471", 2),
        (FORM, NUMBER, "Hence", "So the answer is", None),
    ],
)
def test_the_first_wrong_step_is_that_of_the_first_word_that_departs(question, text, old, new, step):
    assert first_wrong_step(question, text) is None
    assert old in text
    assert first_wrong_step(question, text.replace(old, new, 1)) == step


def test_style_is_free_where_true_wordings_that_begin_alike_go_on_differently():
    opening, way, closing = 0, BARS.split().index("Here"), BARS.split().index("Hence")
    assert free_words(CHART, BARS) == {opening, way, closing}
    assert free_words(CHART, BARS.replace("Here red 7", "Here red 8")) == {opening, way}
    assert free_words(SCENE, f"Let me read it. {COUNTED}") == {
        0,
        4,
        len(f"Let me read it. {I_SEE.partition(' Count')[0]}".split()),
        len(f"Let me read it. {I_SEE} The count is 1.".split()),
    }


def test_no_teacher_that_does_not_slip_has_a_wrong_step():
    assert {q.meta["task"] for q in ASKED} == {"mini_chart", "mini_scene", "mini_form"}
    teachers = [ProgramTeacher(seed=seed, terse=terse) for seed, terse in ((0, 0.0), (1, 0.5), (2, 1.0))]
    assert all(first_wrong_step(q, teacher(q)) is None for q in ASKED for teacher in teachers)


def test_the_way_of_a_text_is_that_in_which_the_teacher_wrote_it():
    teacher = ProgramTeacher(slip=0.5, terse=0.5)
    assert {teacher.way(q) for q in ASKED} == {"worked", "terse"}
    assert all(way_of(teacher(q)) == teacher.way(q) for q in ASKED)


def test_a_share_of_terse_rationales_changes_no_other():
    plain, mixed = ProgramTeacher(slip=0.5), ProgramTeacher(slip=0.5, terse=0.5)
    assert all(mixed(q) == plain(q) for q in ASKED if mixed.way(q) == "worked")


def test_a_teacher_that_misread_goes_wrong_where_it_lists_what_it_sees():
    teacher, wrong = ProgramTeacher(slip=1.0), 0
    for q in ASKED:
        text = teacher(q)
        if not is_correct(judge(q, text, "cot").score):
            opened = text.startswith(("I look", "Let me", "First I"))
            assert first_wrong_step(q, text) == int(opened), text
            wrong += 1
    assert wrong > 20


# The number.


def test_shares_and_their_chance_level_by_hand():
    # Steps: "a b." "c d." "e" and the end. The variance is 1.6, so below -2 * 1.26 there is the fourth token alone.
    found = made("a b. c d. e", [0.6, 0.6, 0.6, -2.8, 0.6, 0.4], 1)
    values = measures(found, threshold=2.0, seed=0)
    assert values["strong"] == (1.0, None)
    assert values["until_step"] == (1.0, pytest.approx(4 / 6))
    assert values["in_step"] == (1.0, pytest.approx(2 / 6))
    assert values["credit_before"][0] == pytest.approx(0.6)
    assert values["credit_in"][0] == pytest.approx(-1.1)
    assert values["credit_after"][0] == pytest.approx(0.5)
    assert values["worst_step_of_all"] == (1.0, pytest.approx(1 / 3))


def test_a_strongly_negative_token_before_the_wrong_step_is_of_style_or_not():
    text = BARS.replace("Here red 7", "Here red 8")
    rewards = [0.1] * len([*text.split(), END])
    for at, is_style in ((0, 1.0), (3, 0.0)):
        told = measures(made(text, [*rewards[:at], -3.0, *rewards[at + 1 :]], 1), threshold=2.0, seed=0)
        assert told["of_style"] == (is_style, pytest.approx(1 / 7))  # of the seven words of the listing, the first
        assert told["in_step"][0] == 0.0


def test_a_response_without_a_strongly_negative_token_is_in_no_share_of_it():
    values = measures(made("a b. c d", [1.0, -1.0, 1.0, -1.0, 0.0], 0), threshold=2.0, seed=0)
    assert values["strong"] == (0.0, None)
    assert not {"until_step", "in_step", "credit_before"} & values.keys()


def test_chance_is_what_all_shuffles_give():
    rewards, wrong = [-3.0, -2.5, 1.5, 1.0, 2.0, 1.0], 1
    steps = [0, 0, 1, 2, 2, 2]
    told = [measures(made("a b. c. d e", list(p), wrong), 1.0, 0) for p in permutations(rewards)]
    for name, tolerance in (("until_step", 1e-9), ("in_step", 1e-9), ("worst_step", 0.01)):
        observed, chance = np.array([m[name] for m in told]).T
        assert observed.mean() == pytest.approx(chance.mean(), abs=tolerance), name
    assert made("a b. c. d e", rewards, wrong).token_steps == steps


def test_only_wrong_responses_whose_first_wrong_step_is_known_count():
    flat = [1.0, -1.0, 0.0]
    found = [made("a. b", flat, 0), made("a. b", flat, None), made("a. b", flat, 0, score=1.0)]
    (first, *_) = credit_table(found, 2.0, 0, 50).records
    assert (first["data"], first["quantity"], first["num"]) == ("all", "strong", 1)
    assert credit_table(found[1:], 2.0, 0, 50) is None


# The stage.


@pytest.fixture
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(str(tiny_dir))


@pytest.fixture
def call(questions, questions_dir, tiny_dir, tokenizer, tmp_path):
    """Arguments of the stage: a true and three misread responses to each test question; preference training took 5 nats
    from every token of the first wrong step, and nothing from the others."""
    asked = [q for q in questions if q.split == "test"]
    teachers = [ProgramTeacher(), *(ProgramTeacher(slip=1.0, seed=seed) for seed in range(3))]
    texts = {q.question_id: [t(q) for t in teachers] for q in asked}
    rows = [
        Response(q.question_id, i, "cot", text, None, judge(q, text, "cot").score, True)
        for q in asked
        for i, text in enumerate(texts[q.question_id])
    ]
    store(tmp_path / "candidates", rows)
    sft, dpo = [], []
    for q in asked:
        for text in dict.fromkeys(texts[q.question_id]):
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            steps = [word_steps(text)[word] for word in token_words(text, encoded["offset_mapping"])]
            rng, wrong = Random(text), first_wrong_step(q, text)
            before = [-rng.random() for _ in [*steps, "end"]]
            after = [b - 5 * (wrong is not None and s == wrong) for b, s in zip(before, [*steps, None], strict=True)]
            sft.append(ResponseLogps(q.question_id, "cot", text, True, before, "seen"))
            dpo.append(ResponseLogps(q.question_id, "cot", text, True, after, "seen"))
    logps = {"sft": str(store(tmp_path / "sft", sft)), "dpo": str(store(tmp_path / "dpo", dpo))}
    return {
        "questions": str(questions_dir), "candidates": str(tmp_path / "candidates"), "logps": logps,
        "model": str(tiny_dir), "num_examples": 9, "threshold": 1.0, "seed": 3, "num_resamples": 50, "stale": "refuse",
    }  # fmt: skip


def store(folder: Path, rows: list, file: str = "rows.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / file, rows)
    return folder


def lines(path: str) -> list[str]:
    return (Path(path) / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)


def into(tmp_path, call, name="out", **changes):
    out = tmp_path / name
    out.mkdir()
    return run(**{**call, **changes}, out=out), out


def test_planted_credit_is_found_where_it_was_planted(call, tmp_path):
    counts, out = into(tmp_path, call)
    assert counts["wrong"] == counts["wrong_with_first_wrong_step"] > 8
    assert counts["responses"] == counts["right"] + counts["wrong"] == len(lines(call["candidates"]))
    cells = {
        (r["data"], r["quantity"], r["of"]): float(r["mean"])
        for r in csv.DictReader((out / "credit.csv").open(encoding="utf-8"))
    }
    assert cells["all", "worst_step", "value"] == 100.0
    assert cells["all", "in_step", "value"] == cells["all", "until_step", "value"] == 100.0
    assert cells["all", "in_step", "chance"] < 70 and cells["all", "worst_step_of_all", "chance"] < 40
    assert cells["all", "credit_in", "value"] < 0 < cells["all", "credit_after", "value"]
    assert (out / "credit.md").read_text(encoding="utf-8").startswith("**Credit and the first wrong step**")


def test_the_page_and_the_picture_show_the_responses_that_were_drawn(call, tmp_path):
    counts, out = into(tmp_path, call)
    page = (out / "credit.html").read_text(encoding="utf-8")
    assert counts["shown"] == page.count("<img ") == page.count(">⟨end⟩</span>") == 9
    assert page.count(" in the first wrong step") > 10
    width, height = Image.open(out / "credit.png").size
    assert width == 1500 and height >= 2 * 300


def test_the_page_fetches_nothing_and_the_same_rows_give_the_same_files(call, tmp_path):
    one, two = (into(tmp_path, call, name)[1] for name in ("one", "two"))
    page = (one / "credit.html").read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert addresses and all(a.startswith(("#", "data:")) for a in addresses)
    assert "default-src 'none'" in page and not re.search(r"@import|url\(", page)
    names = sorted(p.name for p in one.iterdir())
    assert names == ["credit.csv", "credit.html", "credit.md", "credit.png"]
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_credit_of_stale_candidates_is_refused_or_marked(call, tmp_path):
    source = tmp_path / "model"
    source.write_text("second", encoding="utf-8")
    about = {"stage": "sample", "arguments": {"out": call["candidates"]}, "inputs": {str(source): "of the first"}}
    Path(call["candidates"], "manifest.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(UserError, match=f"{call['candidates']} is made from {source}, which is another now"):
        into(tmp_path, call)
    _, out = into(tmp_path, call, "marked", stale="mark")
    assert "Stale: " in (out / "credit.html").read_text(encoding="utf-8")
    assert (out / "credit.md").read_text(encoding="utf-8").startswith("**Credit and the first wrong step (stale)**")


@pytest.fixture
def unknown(questions, questions_dir, tokenizer, call, tmp_path):
    """The same arguments for charts that nobody drew, with a text from hell."""
    evil = "</p><script>alert(1)</script> $x_1^ & “5” \n### Answer: 6"
    asked = [replace(q, meta={}, question=f"{evil} {q.question}") for q in questions if q.split == "test"][:3]
    folder = store(tmp_path / "unknown", asked, "questions.jsonl")
    shutil.copytree(questions_dir / "images", folder / "images")
    rows = [Response(q.question_id, i, "cot", evil, "6", float(i), i == 1) for q in asked for i in (0, 1)]
    store(tmp_path / "candidates", rows)
    num = len(tokenizer(evil, add_special_tokens=False)["input_ids"])
    for side, value in (("sft", -1.0), ("dpo", -2.0)):
        values = [value * (j % 3) for j in range(num + 1)]
        both = [(False, values[:-1]), (True, values)]  # cut at the limit, and ended
        store(tmp_path / side, [ResponseLogps(q.question_id, "cot", evil, *v, "seen") for q in asked for v in both])
    return {**call, "questions": str(folder)}


def test_without_a_world_the_number_is_left_out_and_said_so(unknown, tmp_path):
    counts, out = into(tmp_path, unknown)
    assert (counts["wrong"], counts["wrong_with_first_wrong_step"], counts["shown"]) == (3, 0, 3)
    assert sorted(p.name for p in out.iterdir()) == ["credit.html", "credit.png"]
    page = (out / "credit.html").read_text(encoding="utf-8")
    assert "Left out: no wrong response here has a known first wrong step" in page
    assert "in the first wrong step" not in page.split('<h2 id="responses">')[1]


def test_texts_from_data_stay_text(unknown, tmp_path):
    page = (into(tmp_path, unknown)[1] / "credit.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and page.count("&lt;script&gt;") >= 3


def test_a_text_that_was_cut_and_one_that_ended_keep_their_own_log_probs(unknown, tmp_path):
    page = (into(tmp_path, unknown)[1] / "credit.html").read_text(encoding="utf-8")
    assert 0 < page.count(">⟨end⟩</span>") < page.count("<img ")


def test_drawing_takes_each_kind_alike_and_no_question_twice():
    def one(i, wrong_step, score):
        question = replace(CHART, question_id=f"q{i}")
        return made("a. b. c", [2.0, -3.0, 1.0, 0.0], wrong_step, score=score, question=question)

    found = [one(i, 1, 0.0) for i in range(20)] + [one(i, 0, 0.0) for i in range(20, 22)]
    found += [one(i, None, 1.0) for i in range(60)]
    shown, counts = drawn(found, 11, seed=0)
    assert counts == {"found": 20, "elsewhere": 2, "right": 60}
    kinds = [kind for kind, _ in shown]
    assert {kind: kinds.count(kind) for kind in kinds} == {"found": 5, "elsewhere": 2, "right": 4}
    assert kinds == sorted(kinds, key=["found", "elsewhere", "unknown", "right"].index)
    assert len({c.question.question_id for _, c in shown}) == 11
    assert all(kind_of(c) == kind for kind, c in shown)
    assert shown == drawn(found, 11, seed=0)[0] != drawn(found, 11, seed=1)[0]


# What is refused.


def test_sides_of_different_length_are_refused(call, tmp_path):
    first, *rest = lines(call["logps"]["dpo"])
    (tmp_path / "dpo/rows.jsonl").write_text(
        re.sub(r'"logps": \[[^,]*, ', '"logps": [', first) + "".join(rest), encoding="utf-8"
    )
    with pytest.raises(RowError, match=r"response 0 has \d+ log-probs under dpo and \d+ under sft"):
        into(tmp_path, call)


def test_log_probs_of_another_tokenizer_are_refused(call, tmp_path):
    for side in ("sft", "dpo"):
        longer = [line.replace('"logps": [', '"logps": [-1.0, ') for line in lines(call["logps"][side])]
        (tmp_path / side / "rows.jsonl").write_text("".join(longer), encoding="utf-8")
    with pytest.raises(RowError, match=r"is \d+ tokens long and has \d+ log-probs; `model` must be the one"):
        into(tmp_path, call)


def test_a_response_that_a_side_did_not_score_is_refused(call, tmp_path):
    (tmp_path / "sft/rows.jsonl").write_text("".join(lines(call["logps"]["sft"])[1:]), encoding="utf-8")
    with pytest.raises(
        RowError, match="response 0 has no log-probs under sft; re-run stage=score score=verifier checkpoint=sft"
    ):
        into(tmp_path, call)


def test_sides_that_saw_different_images_or_prompts_are_refused(call, tmp_path):
    text = "".join(lines(call["logps"]["sft"])).replace('"seen"', '"other"')
    (tmp_path / "sft/rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(RowError, match="was scored after another image or prompt under dpo than under sft"):
        into(tmp_path, call)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"threshold": 0.0}, "threshold\n *Input should be greater than 0"),
        ({"model": "runs/nothing/model"}, "no model there"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(changes, named, call, tmp_path):
    with pytest.raises(ValueError, match=named):
        into(tmp_path, call, **changes)
