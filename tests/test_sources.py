"""Rows of others: loaded from copies of each form, streamed, counted, and refused with the way out."""

import ast
import io
import json
from functools import partial

import datasets
import huggingface_hub
import pytest
from PIL import Image

from rationale.artifacts import UserError, produce
from rationale.images import content_name
from rationale.schema import Question, RowError, read_jsonl
from rationale.sources import public as sources
from rationale.sources import public_datasets
from rationale.sources.public import PublicDataset, PublicDatasets, folder
from rationale.sources.rows import image_file
from rationale.stages import prepare


def encoded(color, form="PNG", mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (2, 2), color).save(buffer, form)
    return buffer.getvalue()


RED, BLUE = encoded("red"), encoded("blue", "JPEG")
FEATURES = datasets.Features(
    questionId=datasets.Value("string"), question=datasets.Value("string"), image=datasets.Image(),
    answers=datasets.List(datasets.Value("string")), ocr=datasets.Value("string"),
)  # fmt: skip
WANTED = ["questionId", "question", "answers", "image"]


def rows(count=4):
    """Rows of DocVQA's card, and one column more; every second image is the same."""
    return [
        {"questionId": f"q{i}", "question": f"Question {i}?", "answers": [str(i)], "ocr": "",
         "image": {"bytes": RED if i % 2 else BLUE, "path": None}} for i in range(count)
    ]  # fmt: skip


def docvqa(**changes):
    """A source of DocVQA's rows; the options are those of conf/dataset/docvqa.yaml where they matter here."""
    given = {
        "path": "lmms-lab/DocVQA",
        "splits": {"val": "validation"},
        "columns": WANTED,
        "scorers": {"short": "anls"},
    }
    return PublicDataset("docvqa", changes.pop("read", public_datasets.docvqa), **{**given, **changes})


@pytest.fixture
def copy(tmp_path):
    """A local copy as files that bear the split's name, as the hub's are called."""
    root = tmp_path / "copy"
    root.mkdir()
    datasets.Dataset.from_list(rows(), FEATURES).to_parquet(root / "validation-00000-of-00001.parquet")
    return root


def saved(root):
    datasets.DatasetDict(validation=datasets.Dataset.from_list(rows(), FEATURES)).save_to_disk(root)


def saved_split(root):
    datasets.Dataset.from_list(rows(), FEATURES).save_to_disk(root / "validation")


def parquet(root):
    (root / "DocVQA").mkdir(parents=True)
    datasets.Dataset.from_list(rows(), FEATURES).to_parquet(root / "DocVQA" / "validation.parquet")


def arrow(root):
    datasets.Dataset.from_list(rows(), FEATURES).save_to_disk(root)
    (root / "data-00000-of-00001.arrow").rename(root / "validation.arrow")


def named_images(root):
    root.mkdir()
    (root / "red.png").write_bytes(RED)
    (root / "blue.jpg").write_bytes(BLUE)
    return [{**row, "image": "red.png" if i % 2 else "blue.jpg"} for i, row in enumerate(rows())]


def json_lines_and_images(root):
    lines = [json.dumps(row) + "\n" for row in named_images(root)]
    (root / "validation.jsonl").write_text("".join(lines), encoding="utf-8")


def json_array_and_images(root):
    text = json.dumps(named_images(root))
    (root / "validation.json").write_text(text, encoding="utf-8")


def object_by_id(root):
    rows = named_images(root)
    (root / "validation.json").write_text(json.dumps({row["questionId"]: row for row in rows}), encoding="utf-8")


def object_with_a_list(root):
    (root / "validation.json").write_text(json.dumps({"version": 1, "data": named_images(root)}), encoding="utf-8")


def utf16_lines_in_capitals(root):
    lines = [json.dumps(row) + "\r\n\r\n" for row in named_images(root)]
    (root / "validation.JSONL").write_bytes("".join(lines).encode("utf-16"))


def lines_under_another_suffix(root):
    lines = [json.dumps(row) + "\r" for row in named_images(root)]
    (root / "validation.json").write_text("".join(lines), encoding="utf-8", newline="")


FORMS = [saved, saved_split, parquet, arrow, json_lines_and_images, json_array_and_images, object_by_id,
         object_with_a_list, utf16_lines_in_capitals, lines_under_another_suffix]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_local_copy_gives_the_same_questions(form, tmp_path):
    form(tmp_path / "copy")
    found = list(docvqa(local=str(tmp_path / "copy"), name="DocVQA"))
    assert [q.question_id for q, _ in found] == [f"docvqa-val-q{i}" for i in range(4)]
    assert [files for _, files in found] == [
        [(BLUE, ".jpg")],
        [(RED, ".png")],
    ] * 2  # the bytes as they were
    first = found[0][0]
    assert (first.dataset, first.split, first.kind, first.scorer, first.answers) == (
        "docvqa",
        "val",
        "short",
        "anls",
        ["0"],
    )


def test_a_copy_goes_through_prepare_with_each_image_once(copy, tmp_path):
    source = docvqa(local=str(copy), expected={"val": 4})
    out = produce("prepare", {"out": str(tmp_path / "questions")}, partial(prepare.run, source))
    found = read_jsonl(out / "questions.jsonl", Question)
    assert [q.images for q in found] == [
        [f"images/{content_name(BLUE, '.jpg')}"],
        [f"images/{content_name(RED, '.png')}"],
    ] * 2
    assert len(list((out / "images").iterdir())) == 2


def test_rows_past_the_limit_are_not_looked_at(copy):
    looked_at = []

    def read(row):
        looked_at.append(row["questionId"])
        return public_datasets.docvqa(row)

    source = docvqa(local=str(copy), read=read, limit={"val": 2}, expected={"val": 5349})
    assert len(list(source)) == 2
    assert set(looked_at) == {"q0", "q1"}


def test_several_splits_of_the_source_make_one_of_ours(copy):
    datasets.Dataset.from_list(rows(6)[4:], FEATURES).to_parquet(copy / "dev.parquet")
    source = docvqa(local=str(copy), splits={"val": ["dev", "validation"]}, expected={"val": 6})
    assert [q.question_id[-2:] for q, _ in source] == ["q4", "q5", "q0", "q1", "q2", "q3"]


def test_only_the_splits_asked_for_are_read(copy):
    source = docvqa(
        local=str(copy), splits={"train": "train", "val": "validation"}, only=["val"], expected={"train": 9, "val": 4}
    )
    assert {q.split for q, _ in source} == {"val"}
    assert source.counts["read"] == {"val": 4}


def test_several_sources_follow_one_another(copy):
    both = PublicDatasets({"one": docvqa(local=str(copy)), "two": docvqa(local=str(copy), limit={"val": 1}, ids="two")})
    assert [q.question_id for q, _ in both] == [f"docvqa-val-q{i}" for i in range(4)] + ["two-val-q0"]
    assert {name: counts["read"] for name, counts in both.counts.items()} == {"one": {"val": 4}, "two": {"val": 1}}


def test_sources_that_would_repeat_ids_are_named_before_anything_is_read(copy):
    with pytest.raises(
        UserError, match=r"one and two both name their questions docvqa-val-.*dataset\.tasks\.two\.ids=two"
    ):
        PublicDatasets({"one": docvqa(local=str(copy)), "two": docvqa(local=str(copy), limit={"val": 1})})


def test_the_options_stand_in_every_question(copy):
    def read(row, *, shout):
        return public_datasets.docvqa(row)

    source = docvqa(local=str(copy), read=read, options={"shout": False}, skip=["no_image"])
    assert {json.dumps(q.meta["options"]) for q, _ in source} == {'{"shout": false, "skip": ["no_image"]}'}


def test_a_picture_of_pillow_and_a_pair_of_bytes_and_path_are_files(copy):
    def as_picture(row):
        return public_datasets.docvqa({**row, "image": Image.open(io.BytesIO(row["image"]["bytes"]))})

    def as_bytes(row):
        return public_datasets.docvqa({**row, "image": row["image"]["bytes"]})

    assert {suffix for _, ((_, suffix),) in docvqa(local=str(copy), read=as_picture)} == {".png"}
    assert [data for _, ((data, _),) in docvqa(local=str(copy), read=as_bytes)] == [BLUE, RED] * 2


def test_transparency_of_a_picture_is_kept_for_whoever_opens_it(copy):
    def clear(row):
        return public_datasets.docvqa({**row, "image": Image.new("RGBA", (2, 2), (255, 0, 0, 0))})

    (_, ((data, _),)), *_ = docvqa(local=str(copy), read=clear)
    assert Image.open(io.BytesIO(data)).getpixel((0, 0)) == (255, 0, 0, 0)


def broken(**change):
    """A reader that sees the second row otherwise."""
    return lambda row: public_datasets.docvqa({**row, **change} if row["questionId"] == "q1" else row)


def test_a_row_that_cannot_be_asked_stops_the_run_by_name(copy):
    with pytest.raises(RowError, match=r"copy validation:1: the row has no image.*dataset\.skip=\[no_image\]"):
        list(docvqa(local=str(copy), read=broken(image=None)))


def test_a_row_left_out_is_named_and_counted(copy, capsys):
    source = docvqa(local=str(copy), read=broken(image=None), skip=["no_image"], expected={"val": 4})
    assert len(list(source)) == 3
    assert source.counts == {"read": {"val": 4}, "left_out": {"val/no_image": 1}}
    said = capsys.readouterr().out
    assert "validation:1: the row has no image" in said
    assert "left out {'val/no_image': 1}" in said


def test_a_row_without_an_answer_is_refused(copy):
    with pytest.raises(RowError, match=r"validation:1: the row states no answer"):
        list(docvqa(local=str(copy), read=broken(answers=[])))


def test_repeated_choices_are_left_out_by_name(copy):
    def read(row):
        choices = ["1", "2", "2"] if row["questionId"] == "q2" else ["1", "2", "3"]
        return public_datasets.ParsedRow(row["question"], ["1"], row["image"], choices=choices)

    source = docvqa(local=str(copy), read=read, scorers={"choice": "multiple_choice"}, skip=["repeated_choices"])
    assert [q.question_id for q, _ in source] == ["docvqa-val-0", "docvqa-val-1", "docvqa-val-3"]
    assert source.counts["left_out"] == {"val/repeated_choices": 1}


def test_rows_of_several_images_come_in_unless_they_are_to_be_left_out(copy):
    def several(row):
        return public_datasets.docvqa({**row, "image": [row["image"], {"bytes": RED, "path": None}]})

    assert [len(files) for _, files in docvqa(local=str(copy), read=several)] == [2] * 4
    source = docvqa(local=str(copy), read=several, skip=["several_images"], expected={"val": 4})
    assert list(source) == []
    assert source.counts["left_out"] == {"val/several_images": 4}


def test_an_image_that_cannot_be_decoded_names_its_row(copy):
    with pytest.raises(RowError, match=r"validation:1: the row's image is not a readable image"):
        list(docvqa(local=str(copy), read=broken(image=b"no image")))


def test_a_path_without_its_folder_says_what_to_set(tmp_path):
    with pytest.raises(RowError, match=r"here: the row holds only a path, 'geo/1\.png'; .*dataset\.images=<folder>"):
        image_file("geo/1.png", None, "here")


def test_a_kind_without_a_scorer_is_named(copy):
    with pytest.raises(
        RowError, match=r"validation:0: a question of kind 'short', for which dataset\.scorers names no scorer"
    ):
        list(docvqa(local=str(copy), scorers={"choice": "multiple_choice"}))


@pytest.mark.parametrize("streaming", [True, False])
def test_without_a_hub_the_error_says_what_was_tried_and_what_to_set(streaming, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    source = docvqa(name="DocVQA", revision="278bbe6", streaming=streaming)
    with pytest.raises(UserError) as caught:
        list(source)
    for part in ("'validation' of lmms-lab/DocVQA", "name DocVQA", "revision 278bbe6", "ConnectionError",
                 "dataset.local=<folder>", "validation-*.parquet", "questionId"):  # fmt: skip
        assert part in str(caught.value)


def test_a_wrong_number_of_rows_is_an_error(copy):
    with pytest.raises(UserError, match=r"split 'val' of .*copy has 4 rows, expected 5: .*dataset\.expected=null"):
        list(docvqa(local=str(copy), expected={"val": 5}))


def test_where_the_number_of_rows_is_known_it_is_compared_first(tmp_path):
    saved(tmp_path / "copy")
    with pytest.raises(UserError, match="has 4 rows, expected 5"):
        next(iter(docvqa(local=str(tmp_path / "copy"), expected={"val": 5})))


@pytest.mark.parametrize("form", [parquet, arrow, json_lines_and_images, object_by_id])
def test_an_incomplete_copy_is_refused_before_a_row_is_read(form, tmp_path):
    form(tmp_path / "copy")
    source = docvqa(local=str(tmp_path / "copy"), expected={"val": 5}, read=lambda row: pytest.fail("a row was read"))
    with pytest.raises(UserError, match="has 4 rows, expected 5"):
        next(iter(source))


def test_images_that_are_missing_are_counted_and_named_before_any_is_decoded(tmp_path, monkeypatch):
    json_lines_and_images(tmp_path / "copy")
    (tmp_path / "copy/red.png").unlink()
    monkeypatch.setattr(sources, "suffix_of", lambda *_: pytest.fail("an image was decoded"))
    with pytest.raises(RowError) as refused:
        next(iter(docvqa(local=str(tmp_path / "copy"))))
    first, *named = str(refused.value).splitlines()
    assert first == "2 of 4 rows name an image that cannot be used; the first:"
    assert [line.split(" is not in")[0].rpartition("copy/")[2] for line in named] == [
        f"validation.jsonl:{number}: image 'red.png'" for number in (2, 4)
    ]


def test_a_copy_cut_short_is_named(copy):
    (path,) = copy.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"tried split 'validation' of .*copy.*Arrow"):
        list(docvqa(local=str(copy)))


def test_a_split_that_the_copy_lacks_is_named(copy):
    with pytest.raises(UserError, match=r"no train\.parquet or train-\*\.parquet.*dataset\.only"):
        list(docvqa(local=str(copy), splits={"train": "train"}))


def test_a_column_that_the_copy_lacks_is_named(copy):
    with pytest.raises(UserError, match=r"has no column \['question_id'\] in split 'validation', only \['questionId'"):
        list(docvqa(local=str(copy), columns=["question_id"]))


def test_rows_of_another_form_are_named(copy):
    with pytest.raises(
        RowError, match=r"validation:0: no row of docvqa \(KeyError: 'human_or_machine'\); it has the columns"
    ):
        list(docvqa(local=str(copy), read=public_datasets.chartqa))


def test_a_list_that_cannot_be_read_names_its_row(copy):
    with pytest.raises(RowError, match=r"validation:1: no row of docvqa \(ValueError: malformed"):
        list(
            docvqa(
                local=str(copy),
                read=lambda row: (
                    public_datasets.docvqa({**row, "answers": ast.literal_eval("['1', b]")})
                    if row["questionId"] == "q1"
                    else public_datasets.docvqa(row)
                ),
            )
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": {"hint": True}}, r"dataset\.options of docvqa: got an unexpected keyword argument 'hint'"),
        ({"skip": ["no_images"]}, r"no reason is called \['no_images'\]; there are \['no_image'"),
        ({"only": ["vla"]}, r"docvqa has no split \['vla'\]; it has \['val'\]"),
        ({"limit": {"test": 3}}, r"docvqa has no split \['test'\]; it has \['val'\]"),
        ({"local": "/absent/copy"}, "there is no folder /absent/copy"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_is_read(changes, message):
    with pytest.raises(UserError, match=message):
        docvqa(**changes)


def test_a_plain_folder_given_as_a_copy_says_how_it_loads(tmp_path):
    (tmp_path / "data.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"its data\.jsonl loads with dataset=local dataset\.root="):
        list(docvqa(local=str(tmp_path)))


def test_letters_of_a_plain_folder_name_choices(tmp_path):
    (tmp_path / "red.png").write_bytes(RED)
    row = {
        "id": "r1",
        "question": "Which?",
        "answer": "B",
        "choices": ["one", "two"],
        "image": "red.png",
        "split": "val",
    }
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    ((question, _),) = folder(str(tmp_path), "mathvision", "math", letters=True, expected={"val": 1})
    assert (question.question_id, question.answers, question.answer) == ("r1", ["two"], "B")
