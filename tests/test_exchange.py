"""Rows of other projects in and out: nothing is lost on the way, and nothing is guessed."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path

import pytest
import pytorch_lightning as pl
from datasets import Dataset, List, load_dataset
from datasets import Image as ImageFeature
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rationale.artifacts import UserError
from rationale.models.vlm import load
from rationale.objectives.dpo import Objective
from rationale.prompts import SUFFIXES, prompt_text
from rationale.schema import Pair, Question, Rationale, RowError, read_jsonl, write_jsonl
from rationale.sources.exchange import MARK, ROW_FORMS, sharegpt_info
from rationale.sources.incoming import Incoming, RowFiles, parse_prompt
from rationale.sources.outgoing import pair_row, sft_rows, with_marks, without_marks
from rationale.sources.rowfiles import read_rows, write_rows
from rationale.stages import dpo, sft
from rationale.stages.inputs import kept_rationales, questions_by_id
from rationale.tools import export, import_rows
from rationale.training.loggers import loggers
from rationale.training.mixture import Mixture, sft_examples
from rationale.training.settings import DPOSettings, SFTSettings

COT_SHORT, DIRECT_CHOICE = SUFFIXES["cot", "short"], SUFFIXES["direct", "choice"]
COT_CHOICE, DIRECT_SHORT = SUFFIXES["cot", "choice"], SUFFIXES["direct", "short"]


def gathered(rows: list[dict], source: RowFiles, image: str | None = None):
    """Questions, rationales and pairs of raw rows, whose images are called as theirs or `image`."""
    incoming = Incoming()
    for number, raw in enumerate(rows):
        row = ROW_FORMS[source.form].read(raw, f"row {number}")
        incoming.add(row, source, [image or one for one in row.images], f"row {number}")
    return incoming.records()


def exported(form, questions, rationales, pairs, record=True) -> list[dict]:
    """Raw rows of ours, through JSON."""
    said = {r.question_id: r for r in rationales}
    asked = {q.question_id: q for q in questions}
    rows = [r for q in questions for r in sft_rows(form, q, said.get(q.question_id), ["cot", "direct"], record)]
    rows += [pair_row(form, asked[p.question_id], p, record) for p in pairs]
    return [json.loads(json.dumps(ROW_FORMS[form].write(row), ensure_ascii=False)) for row in rows]


# Texts that trip a careless form: marks, line ends, what looks like choices, suffixes and answers, other scripts.
TRICKY = st.sampled_from(
    [
        MARK,
        "(image)",
        "<image 1>",
        "<image 2>",
        "(image 2)",
        "\n",
        " ",
        "A. one\nB. two",
        f"\n{COT_SHORT}",
        "### Answer: 3",
        "\u2028",
        "\x00",
        "é😀",
        '"\\',
        ".",
    ]
)
TEXT = st.lists(TRICKY | st.text(st.characters(exclude_categories=["Cs"]), max_size=6), max_size=4).map("".join)
SOME = st.tuples(TEXT, st.sampled_from("xyz"), TEXT).map("".join)
META = st.dictionaries(TEXT, TEXT | st.integers() | st.booleans() | st.none() | st.lists(TEXT, max_size=2), max_size=2)
ENDS = st.sampled_from(["kept", "disagrees", "unparsed", "empty"])


@st.composite
def records(draw):
    """One question of any kind, perhaps with a rationale and pairs."""
    kind = draw(st.sampled_from(["short", "choice", "open"]))
    choices = draw(st.lists(TEXT, min_size=2, max_size=4, unique=True)) if kind == "choice" else []
    answers = [draw(st.sampled_from(choices))] if choices else draw(st.lists(TEXT, min_size=1, max_size=2))
    images = [f"images/{i}.png" for i in range(draw(st.integers(kind != "open", 3)))]
    question = Question("q", draw(TEXT), draw(TEXT), images, draw(SOME), answers, kind, draw(TEXT), choices, draw(META))
    score = st.floats(0, 1)
    rationale = Rationale("q", draw(TEXT), draw(TEXT | st.none()), draw(ENDS), draw(score), draw(TEXT), draw(TEXT))
    kept = kind != "open" and draw(st.booleans())
    numbers, flags = st.integers(0, 40), st.booleans()
    pairs = [
        Pair("q", i, draw(st.sampled_from(["cot", "direct"])), draw(TEXT), draw(TEXT), draw(numbers), draw(numbers),
             draw(TEXT | st.none()), draw(TEXT | st.none()), draw(flags), draw(flags))
        for i in range(draw(st.integers(0, 2)) if images else 0)
    ]  # fmt: skip
    return question, [rationale] if kept else [], pairs


@pytest.mark.parametrize("form", ROW_FORMS)
@given(found=records())
@settings(max_examples=100, deadline=None)
def test_our_rows_come_back_as_they_went(form, found):
    question, rationales, pairs = found
    back = gathered(exported(form, [question], rationales, pairs), RowFiles([], form, "elsewhere"))
    assert back == ([question], rationales, pairs)


@pytest.mark.parametrize("form", ["llava", "sharegpt"])
@given(found=records())
@settings(max_examples=50, deadline=None)
def test_the_marks_of_a_row_are_as_many_as_its_images(form, found):
    """LLaVA puts an image at each mark and LLaMA-Factory refuses a row whose marks and images differ in number."""
    question, rationales, pairs = found
    for row in exported(form, [question], rationales, pairs):
        texts = json.dumps({k: v for k, v in row.items() if k not in ("record", "id")}, ensure_ascii=False)
        assert texts.count(MARK) == len(question.images)


@given(TEXT)
def test_spelling_marks_out_is_undone(text):
    spelled, places = without_marks(text)
    assert MARK not in spelled
    assert with_marks(spelled, places) == text


@given(st.lists(st.dictionaries(TEXT, TEXT), max_size=3), st.sampled_from([".json", ".jsonl"]))
@settings(max_examples=30, deadline=None)
def test_a_file_of_rows_gives_them_back(tmp_path_factory, rows, suffix):
    path = tmp_path_factory.getbasetemp() / f"rows{suffix}"
    assert write_rows(path, rows) == len(rows)
    if rows:
        assert [row for _, row in read_rows(path)] == rows


by_id = attrgetter("question_id")


def released(asked: str, said: str, image: str = "chartqa/1.png", **more) -> dict:
    """A row in the form of Share4oReasoning/sft_data."""
    turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": said}]
    return {"id": "chartqa_1", "image": image, "conversations": turns, **more}


LYNX = "<image>\nSelect the animal.\nA. a lynx\nB. a goose\nC. a stone\n"
ROWS = [
    released(f"<image>\nHow many bars?\n{COT_SHORT}", "Two and one.\n### Answer: 3"),
    released(f"<image>\nHow many bars?\n{DIRECT_SHORT}", "3"),
    released(f"{LYNX}{COT_CHOICE}", "It flies.\n\n### Answer: B", source="sqa"),
    released(f"{LYNX}{DIRECT_CHOICE}.", "B. a goose"),
]
CHART = RowFiles([], "llava", "chartqa", scorer="relaxed_accuracy", teacher="gpt-4o")


def test_a_cot_row_and_a_direct_row_of_one_question_become_one():
    (bars, lynx), rationales, pairs = gathered(ROWS, CHART)
    assert (bars.question, bars.answers, bars.kind, bars.scorer) == (
        "How many bars?",
        ["3"],
        "short",
        "relaxed_accuracy",
    )
    assert (lynx.question, lynx.answers, lynx.choices) == (
        "Select the animal.",
        ["a goose"],
        ["a lynx", "a goose", "a stone"],
    )
    assert lynx.scorer == "multiple_choice"
    assert [(r.text, r.predicted, r.status, r.teacher) for r in rationales] == [
        ("Two and one.\n### Answer: 3", "3", "kept", "gpt-4o"), ("It flies.\n\n### Answer: B", "B", "kept", "gpt-4o"),
    ]  # fmt: skip
    assert pairs == []
    assert prompt_text(bars, "cot") == f"How many bars?\n{COT_SHORT}"


def test_the_order_of_rows_is_of_no_account():
    for one, other in zip(gathered(ROWS, CHART), gathered(ROWS[::-1], CHART), strict=True):
        assert sorted(one, key=by_id) == sorted(other, key=by_id)


def test_a_rationale_against_the_annotated_answer_is_not_kept():
    _, (rationale,), _ = gathered(
        [released(ROWS[0]["conversations"][0]["value"], "No.\n### Answer: 9"), ROWS[1]], CHART
    )
    assert (rationale.predicted, rationale.status) == ("9", "disagrees")


def test_a_question_that_comes_twice_is_trained_on_twice():
    again = released(ROWS[0]["conversations"][0]["value"], "One, two, three.\n### Answer: 3")
    questions, rationales, _ = gathered([ROWS[0], again, ROWS[1]], CHART)
    assert [q.question_id.endswith("-2") for q in questions] == [False, True]
    assert [r.question_id for r in rationales] == [q.question_id for q in questions]


SEVERAL = [
    released(f"<image>\n<image>\nWhich is first?\n{COT_SHORT}", "It.\n### Answer: 3", image=["a.png", "b.png"]),
    released(f"<image>\nIs it as in <image>?\n{COT_SHORT}", "It is.\n### Answer: yes", image=["b.png", "a.png"]),
    released(f"Is <image> as <image>?\n{COT_SHORT}", "It is.\n### Answer: no", image=["b.png", "a.png"]),
]


def test_their_rows_come_back_as_they_came():
    assert exported("llava", *gathered(ROWS, CHART), record=False) == ROWS
    assert exported("llava", *gathered(SEVERAL, CHART), record=False)[::2] == SEVERAL  # beside a direct row each


def test_images_of_a_row_stand_where_its_marks_are():
    questions, _, _ = gathered(SEVERAL, CHART)
    assert [(q.question, q.images) for q in questions] == [
        ("Which is first?", ["a.png", "b.png"]), ("Is it as in <image 2>?", ["b.png", "a.png"]),
        ("Is <image 1> as <image 2>?", ["b.png", "a.png"]),
    ]  # fmt: skip


@pytest.mark.parametrize("form", ROW_FORMS)
def test_images_go_out_in_the_order_in_which_a_prompt_shows_them(form):
    question = Question("q", "d", "train", ["a.png", "b.png", "c.png"], "Is <image 3> as <image 1>?", ["no"])
    (row,) = exported(form, [question], [], [], record=False)
    assert (row.get("images") or row["image"]) == ["b.png", "c.png", "a.png"]
    if form == "trl":
        kinds = [part["text"] or "image" for part in row["prompt"][0]["content"]]
        assert kinds == ["image", "Is ", "image", " as ", "image", f"?\n{DIRECT_SHORT}"]
    else:
        turn = (row.get("conversations") or row["messages"])[0]
        assert (turn.get("value") or turn["content"]) == f"<image>\nIs <image> as <image>?\n{DIRECT_SHORT}"


TRL_ROW = {
    "images": ["1.png"], "prompt": [{"role": "user", "content": f"How many?\n{COT_SHORT}"}],
    "chosen": [{"role": "assistant", "content": "Two.\n### Answer: 2"}],
    "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "None"}]}],
}  # fmt: skip
SHAREGPT_PAIR = {
    "conversations": [{"from": "human", "value": "<image>What is it?"}], "images": ["1.png"], "weight": 2,
    "chosen": {"from": "gpt", "value": "A chart."}, "rejected": {"from": "gpt", "value": "A dog."},
}  # fmt: skip
SHAREGPT_ROW = {
    "messages": [{"role": "user", "content": f"How many?\n{COT_SHORT}\n<image>"},
                 {"role": "assistant", "content": "Two.\n### Answer: 2"}],
    "images": ["1.png"],
}  # fmt: skip
RLAIF = {"ds_name": "RLAIF-V", "image": "1.jpg", "question": "What is it?", "chosen": "A chart.", "rejected": "A dog.",
         "origin_dataset": "COCO", "origin_split": '{"model": "x"}', "idx": "7", "image_path": "a/1.jpg"}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "prompts", "row"),
    [("sharegpt", "plain", SHAREGPT_PAIR), ("sharegpt", "suffixed", SHAREGPT_ROW), ("llava", "plain", RLAIF)],
)
def test_rows_of_other_forms_come_back_as_they_came(form, prompts, row):
    found = gathered([row], RowFiles([], form, "d", prompts=prompts), image=row.get("image") or row["images"][0])
    assert row in exported(form, *found, record=False)


def test_a_pair_of_judged_responses_says_what_each_answered():
    (question,), _, (pair,) = gathered([TRL_ROW], RowFiles([], "trl", "d"))
    assert (question.answers, question.kind, question.question) == (["2"], "short", "How many?")
    assert (pair.style, pair.chosen_answer, pair.rejected_answer) == ("cot", "2", None)


def test_pairs_without_a_suffix_are_open_questions_as_they_stand():
    (question,), _, pairs = gathered(
        [RLAIF, {**RLAIF, "rejected": "A cat.", "idx": "8"}], RowFiles([], "llava", "r", prompts="plain")
    )
    assert (question.kind, prompt_text(question, "direct")) == ("open", "What is it?")
    assert [(p.pair_id, p.chosen_id, p.rejected_id, p.rejected) for p in pairs] == [
        (0, 0, 1, "A dog."),
        (1, 0, 2, "A cat."),
    ]
    assert question.meta["source"]["rows"]["pair-1"]["rest"]["idx"] == "8"


COT = f"<image>\nHow many?\n{COT_SHORT}"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (released("<image>\nHow many?", "3"), "row 0: field 'conversations[0]' ends in none of the suffixes"),
        (released(COT, "Three."), "row 0: field 'conversations[1]' has no line '### Answer: '"),
        (released(f"<image>\nWhich?\nA) one\nB) two\n{DIRECT_CHOICE}", "A"), "[0]' asks for a letter, but"),
        (released(f"{LYNX}{DIRECT_CHOICE}", "a fish"), "row 0: field 'conversations[1]' names none of the choices"),
        (released(f"{LYNX}{DIRECT_CHOICE}", "D"), "row 0: field 'conversations[1]' names none of the choices"),
        (released(COT, ""), "row 0: field 'conversations[1]' is empty"),
        (released(f"<image>\n{COT}", "3"), "field 'conversations' should have <image> at its start or end, once"),
        (released(COT, "3", image=None), "row 0: field 'conversations' should have <image> not at all"),
        (released(f"<image>\n{COT}", "3", image=["a.png"] * 3), "should have <image> 3 times, found"),
        (released(f"<image>Is <image 1> in <image>?\n{COT_SHORT}", "3", image=["a.png"] * 2), "would show an image"),
        (released(COT, "3", image=7), "field 'image' should be the path of an image, found 7"),
        ({"image": "a.png", "question": "What?", "chosen": "x"}, "field 'rejected' should be text, found None"),
        ({**RLAIF, "question": f"Q\n{COT_SHORT}", "chosen": "### Answer: 1", "rejected": "### Answer: 1"}, "same"),
        ({"id": 1, "image": "a.png", "conversations": []}, "the turns human, gpt and no other, found none"),
        (
            released(COT, "3") | {"conversations": released(COT, "3")["conversations"] * 2},
            "the turns human, gpt and no other, found human, gpt, human, gpt",
        ),
        (released(f"Say it.\n{DIRECT_SHORT}", "3", image=None), "row 0: no image"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_named_with_its_field(row, message):
    with pytest.raises(RowError, match=re.escape(message)):
        gathered([row], CHART)


def test_a_row_of_ours_that_was_edited_is_refused():
    questions, rationales, pairs = gathered(ROWS, CHART)
    rows = exported("llava", questions, rationales, pairs)
    rows[1]["conversations"][1]["value"] = "4"
    with pytest.raises(RowError, match=r"row 1: the row of chartqa-\w+ says other than its record"):
        gathered(rows, CHART)


def test_choices_are_the_last_lettered_lines_only():
    asked = parse_prompt(f"A. is a letter.\nWhich?\nA. one\nB. A. two\n{COT_CHOICE}", "here")
    assert (asked.question, asked.choices) == ("A. is a letter.\nWhich?", ["one", "A. two"])


# ---- the stages


def lines(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.jsonl"))}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture
def pairs_dir(questions, rationales_dir, tmp_path) -> Path:
    """A preference for every second question that has a rationale."""
    said = read_jsonl(rationales_dir / "rows.jsonl", Rationale)[::2]
    pairs = [Pair(r.question_id, 0, "cot", r.text, "I see.\n### Answer: none", 3, 5, r.predicted, "none") for r in said]
    write_jsonl(made(tmp_path / "pairs") / "pairs.jsonl", pairs)
    return tmp_path / "pairs"


def out_and_in(form, questions_dir, rationales_dir, pairs_dir, tmp_path):
    sent, back = made(tmp_path / "sent"), made(tmp_path / "back")
    counts = export.run(
        str(questions_dir), str(rationales_dir), str(pairs_dir), form, ["cot", "direct"], None, record=True, out=sent
    )
    source = RowFiles([f"{kind}{ROW_FORMS[form].suffix}" for kind in ("sft", "dpo")], form, "unused")
    import_rows.run([source], str(sent), None, "error", back)
    return sent, back, counts


@pytest.mark.parametrize("form", ROW_FORMS)
def test_an_artifact_comes_back_byte_for_byte(form, questions_dir, rationales_dir, pairs_dir, tmp_path):
    sent, back, counts = out_and_in(form, questions_dir, rationales_dir, pairs_dir, tmp_path)
    for name, folder in (
        ("questions.jsonl", questions_dir),
        ("rows.jsonl", rationales_dir),
        ("pairs.jsonl", pairs_dir),
    ):
        assert (back / name).read_bytes() == (folder / name).read_bytes()
    images = {p.name: p.read_bytes() for p in (questions_dir / "images").iterdir()}
    for folder in (sent, back):
        assert {p.name: p.read_bytes() for p in (folder / "images").iterdir()} == images
    assert (counts["left_out"], counts["questions_with_marks_spelled_out"]) == (0, 0)


def test_what_no_row_carries_is_listed_with_the_reason(questions_dir, rationales_dir, questions, tmp_path):
    counts = export.run(
        str(questions_dir), str(rationales_dir), None, "llava", ["cot"], None, record=True, out=tmp_path
    )
    without = {q.question_id for q in questions} - {
        r.question_id for r in read_jsonl(rationales_dir / "rows.jsonl", Rationale)
    }
    left = [json.loads(line) for line in (tmp_path / "left_out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["question"]["question_id"] for line in left} == without
    assert counts["left_out"] == len(without) > 0


def test_llama_factory_finds_each_file_and_column(questions_dir, rationales_dir, pairs_dir, tmp_path):
    sent, _, _ = out_and_in("sharegpt", questions_dir, rationales_dir, pairs_dir, tmp_path)
    described = json.loads((sent / "dataset_info.json").read_text(encoding="utf-8"))
    assert described == sharegpt_info({"sft": "sft.json", "dpo": "dpo.json"})
    for entry in described.values():
        row = json.loads((sent / entry["file_name"]).read_text(encoding="utf-8"))[0]
        assert set(entry["columns"].values()) <= set(row)
        assert (sent / row["images"][0]).is_file()


@pytest.mark.slow
def test_trl_takes_the_rows(tiny, questions_dir, rationales_dir, pairs_dir, tmp_path):
    """Through `datasets` with decoded images, then TRL's own collators with a LLaVA processor."""
    pytest.importorskip("trl")
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    sent, _, _ = out_and_in("trl", questions_dir, rationales_dir, pairs_dir, tmp_path)
    for kind, collator, responses in (
        ("dpo", DataCollatorForVisionPreference(tiny.processor), 2),
        ("sft", DataCollatorForVisionLanguageModeling(tiny.processor, completion_only_loss=True), 1),
    ):
        rows = load_dataset(
            "json", data_files=str(sent / f"{kind}.jsonl"), split="train", cache_dir=str(tmp_path / kind)
        )
        rows = rows.map(lambda row: {"images": [str(sent / image) for image in row["images"]]})
        rows = rows.cast_column("images", List(ImageFeature()))
        batch = collator([rows[0], rows[1]])
        assert batch["input_ids"].shape[0] == 2 * responses
        assert batch["pixel_values"].shape[0] >= 2
        assert (batch["input_ids"] == tiny.processor.image_token_id).any(dim=1).all()


@pytest.fixture
def released_dir(tmp_path) -> Path:
    """A folder of released rows with their images."""
    root = tmp_path / "released"
    (root / "chartqa").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(root / "chartqa/1.png")
    Image.new("RGB", (64, 64), "blue").save(root / "chartqa/2.png")
    pair = {"idx": 0, "image": "chartqa/2.png", "question": f"<image>\nHow many?\n{COT_SHORT}",
            "chosen": "One.\n### Answer: 1", "rejected": "Two.\n### Answer: 2"}  # fmt: skip
    write_rows(root / "sft.jsonl", ROWS)
    write_rows(root / "dpo.jsonl", [pair, {**pair, "rejected": "Nine.\n### Answer: 9", "idx": 1}])
    return root


FILES = replace(CHART, rows=["sft.jsonl", "dpo.jsonl"])


def test_released_rows_become_what_sft_reads(released_dir, tmp_path):
    out = made(tmp_path / "out")
    counts = import_rows.run([FILES], str(released_dir), None, "error", out)
    assert {k: counts[k] for k in ("questions", "rationales", "pairs", "prompts_reworded", "targets_reworded")} == {
        "questions": 3, "rationales": 2, "pairs": 2, "prompts_reworded": 1, "targets_reworded": 1,
    }  # fmt: skip
    found = questions_by_id(str(out), "train")
    examples = sft_examples(found.values(), kept_rationales(str(out), found), out, Mixture("all", "all", 50), 1)
    assert [(e.prompt.split("\n")[-1], e.response) for e in examples] == [
        (COT_SHORT, "Two and one.\n### Answer: 3"), (COT_CHOICE, "It flies.\n\n### Answer: B"),
        (DIRECT_SHORT, "3"), (DIRECT_CHOICE, "B"),
    ]  # fmt: skip
    assert all(image.is_file() for e in examples for image in e.images)


@pytest.mark.slow
def test_stages_sft_and_dpo_train_on_released_rows(released_dir, tiny_dir, tmp_path):
    out = made(tmp_path / "out")
    import_rows.run([FILES], str(released_dir), None, "error", out)
    quiet = partial(pl.Trainer, accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False)
    given = {
        "model": partial(load, str(tiny_dir)), "seed": 1,
        "logger": partial(loggers, project="t", group="t", name="t", mode="disabled", folder=""),
    }  # fmt: skip
    training = {
        "optim": {"lr": 1e-3}, "batch": {"micro_batch_size": 2}, "layout": "tree", "trainer": quiet, "save_every": 5,
    }  # fmt: skip
    mixture = {"cot": "all", "direct": "all", "full": {}, "format_per_dataset": 2, "pretrain": 0, "rft": None}
    sft.run(
        questions=str(out), rationales=str(out), out=made(tmp_path / "sft"), **given,
        settings=SFTSettings(
            mixture=mixture, reduction="token", max_truncated=1.0, max_response_tokens=64, group_by="image", **training,
        ),
    )  # fmt: skip
    counts = dpo.run(
        questions=str(out), pairs=str(out), out=made(tmp_path / "dpo"), **given,
        settings=DPOSettings(
            objective=Objective(), reference="frozen", truncate={"words": 90, "tokens": 64, "eos": "uncut"},
            group_by="question", **training,
        ),
    )  # fmt: skip
    assert counts["pairs"] == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [("../secret.png", "leaves its folder"), ("chartqa/9.png", "is not in"), ("sft.jsonl", "is not a readable image")],
)
def test_an_image_outside_the_folder_or_none_is_refused(released_dir, tmp_path, image, message):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    write_rows(released_dir / "bad.jsonl", [{**ROWS[0], "image": image}])
    with pytest.raises(RowError, match=rf"bad\.jsonl:1: .*{message}"):
        import_rows.run([replace(CHART, rows=["bad.jsonl"])], str(released_dir), None, "error", made(tmp_path / "out"))


def test_rows_set_aside_are_listed_with_the_reason(released_dir, tmp_path):
    write_rows(released_dir / "mixed.jsonl", [ROWS[0], released("<image>\nHow many?", "3")])
    out = made(tmp_path / "out")
    counts = import_rows.run([replace(CHART, rows=["mixed.jsonl"])], str(released_dir), None, "aside", out)
    (line,) = [json.loads(line) for line in (out / "unfit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (counts["questions"], counts["unfit"]) == (1, 1)
    assert line["row"] == released("<image>\nHow many?", "3")
    assert "mixed.jsonl:2: field 'conversations[0]' ends in none of the suffixes" in line["reason"]


def test_parquet_rows_carry_their_image(released_dir, tmp_path):
    data = (released_dir / "chartqa/1.png").read_bytes()
    rows = [{**RLAIF, "image": {"bytes": data, "path": None}}]
    Dataset.from_list(rows).to_parquet(released_dir / "rlaif.parquet")
    source, out = RowFiles(["*.parquet"], "llava", "rlaif_v", prompts="plain"), made(tmp_path / "out")
    import_rows.run([source], str(released_dir), None, "error", out)
    (question,) = read_jsonl(out / "questions.jsonl", Question)
    assert question.files(out)[0].read_bytes() == data
    rest = {k: v for k, v in RLAIF.items() if k not in ("image", "question", "chosen", "rejected")}
    assert question.meta["source"]["rows"]["pair-0"]["rest"] == rest


def test_a_file_that_is_not_there_stops_before_any_row_is_read(released_dir, tmp_path):
    with pytest.raises(UserError, match=r"no file none\.jsonl"):
        import_rows.run([replace(CHART, rows=["sft.jsonl", "none.jsonl"])], str(released_dir), None, "error", tmp_path)
    assert not (tmp_path / "unfit.jsonl").exists()


def test_a_line_cut_short_is_named(released_dir, tmp_path):
    (released_dir / "sft.jsonl").write_text('{"id": "1", "ima', encoding="utf-8")
    with pytest.raises(RowError, match=r"sft\.jsonl:1: not a whole JSON line"):
        import_rows.run([replace(CHART, rows=["sft.jsonl"])], str(released_dir), None, "aside", tmp_path)


def test_images_that_are_missing_are_counted_before_any_is_opened(released_dir, tmp_path, monkeypatch):
    rows = [released(f"<image>\nHow many?\n{COT_SHORT}", "### Answer: 3", image=f"{i}.png") for i in range(1, 8)]
    (released_dir / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-16")
    monkeypatch.setattr(import_rows, "open_image", lambda *_: pytest.fail("an image was opened"))
    with pytest.raises(RowError) as refused:
        import_rows.run([replace(CHART, rows=["sft.jsonl"])], str(released_dir), None, "error", tmp_path)
    first, *named = str(refused.value).splitlines()
    assert first == "7 of 7 rows name an image that cannot be used; the first:"
    assert len(named) == 5 and "sft.jsonl:1: image '1.png' is not in" in named[0]


def test_an_image_in_the_rows_text_is_stored(released_dir, tmp_path):
    data = (released_dir / "chartqa/1.png").read_bytes()
    asked = released(f"<image>\nHow many?\n{COT_SHORT}", "### Answer: 3", image=base64.b64encode(data).decode())
    (released_dir / "sft.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    import_rows.run([replace(CHART, rows=["sft.jsonl"])], str(released_dir), None, "error", tmp_path)
    (question,) = read_jsonl(tmp_path / "questions.jsonl", Question)
    assert question.files(tmp_path)[0].read_bytes() == data
