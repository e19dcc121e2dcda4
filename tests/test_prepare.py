"""Where outside data comes in: each bad row stops the stage by name, and what comes out is whole."""

import base64
import json
from functools import partial

import pytest
from PIL import Image

from rationale.artifacts import UserError, produce
from rationale.images import content_name
from rationale.models.teachers import RecordedTeacher
from rationale.schema import Question, Rationale, RowError, read_jsonl, write_jsonl
from rationale.scoring.judge import is_correct
from rationale.sources.public import folder
from rationale.stages import distill, prepare
from rationale.stages.inputs import check_known, grouped, kept_rationales, need, questions_by_id

RED = "red.png"


def row(number, **changes):
    """A good row; a field set to None is left out."""
    good = {"id": f"r{number}", "question": "How many?", "answer": "2", "image": RED, "split": "train"}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


@pytest.fixture
def source(tmp_path):
    """A folder with a red and a blue image, and a second file of the same red bytes."""
    root = tmp_path / "source"
    root.mkdir()
    Image.new("RGB", (2, 2), "red").save(root / RED)
    Image.new("RGB", (2, 2), "blue").save(root / "blue.png")
    (root / "again.png").write_bytes((root / RED).read_bytes())
    return root


def prepared(source, rows, scorer="exact", **options):
    """What stage=prepare makes of rows (or of raw lines), filed as the command does."""
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (source / "data.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    task = folder(str(source), "chartqa", scorer, **options)
    return produce("prepare", {"out": str(source.parent / "questions")}, partial(prepare.run, task))


BAD = {
    "missing image": (row(2, image="absent.png"), r"data\.jsonl:2: image 'absent\.png' is not in"),
    "image that leaves the folder": (row(2, image="../red.png"), r"data\.jsonl:2: .* leaves its folder"),
    "image that is a number": (row(2, image=7), r"data\.jsonl:2: 7 is no path of an image"),
    "unreadable image": (row(2, image="data.jsonl"), r"data\.jsonl:2: .* is not a readable image"),
    "empty answer": (row(2, answer=""), r"data\.jsonl:2: no 'answer' in this row"),
    "blank answer": (row(2, answer="  "), "r2: empty answer"),
    "blank among the answers": (row(2, answer=["2", ""]), "r2: empty answer"),
    "no question": (row(2, question=None), r"data\.jsonl:2: no 'question' in this row"),
    "blank question": (row(2, question=" "), "r2: empty question"),
    "no id": (row(2, id=None), r"data\.jsonl:2: no 'id' in this row"),
    "no split": (row(2, split=None), r"data\.jsonl:2: no 'split' in this row"),
    "question of another type": (row(2, question=["Why?"]), r"data\.jsonl:2: column 'question' should be text"),
    "duplicate id": (row(1), "r1: this question_id occurs twice"),
    "answer that is no choice": (row(2, choices=["1", "3"]), r"r2: answer '2' is none of \['1', '3'\]"),
    "duplicate choices": (row(2, choices=["2", "3", "3"]), "r2: choices repeat"),
    "more choices than letters": (row(2, choices=[str(i) for i in range(27)]), "r2: 27 choices"),
    "choices of another type": (
        row(2, choices=[["2"]]),
        r"data\.jsonl:2: column 'choices' should be text, found \['2'",
    ),
    "choices that are no list": (row(2, choices="2 or 3"), r"data\.jsonl:2: column 'choices' should be a list"),
    "an answer of null": (row(2, answer=["2", None]), r"data\.jsonl:2: column 'answer' should be text, found None"),
    "an answer of true": (row(2, answer=True), r"data\.jsonl:2: column 'answer' should be text, found True"),
    "truncated line": (json.dumps(row(2))[:20], r"data\.jsonl:2: not a whole JSON line"),
    "line that is no object": ('"r2"', r"data\.jsonl:2: a row is a JSON object, found str"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_a_bad_row_is_named_before_anything_final_exists(source, bad, message):
    with pytest.raises(RowError, match=message):
        prepared(source, [row(1), bad, row(3)])
    assert not (source.parent / "questions").exists()


def test_an_unknown_scorer_is_named_with_the_known_ones(source):
    with pytest.raises(RowError, match=r"r1: scorer 'exakt' is none of \[.*'exact'"):
        prepared(source, [row(1)], scorer="exakt")


def test_an_unknown_column_is_named(source):
    with pytest.raises(TypeError, match="unexpected keyword argument 'anwser'"):
        prepared(source, [row(1)], anwser="label")


def test_a_folder_without_rows_says_what_to_set(tmp_path):
    with pytest.raises(RowError, match=r"no data\.jsonl there; set data_root"):
        next(folder(str(tmp_path), "chartqa", "exact"))


def test_a_task_that_yields_nothing_is_an_error(source):
    with pytest.raises(RowError, match="no question; check its split, limit and folder"):
        prepared(source, [row(1)], limit={"test": 5})


ACCENTED = row(1, question="Combien là?")
LINES = json.dumps(ACCENTED, ensure_ascii=False) + "\n"


def table(separator, ends="\r\n", **more):
    """A CSV of one row."""
    said = {**ACCENTED, **more}
    return ends.join([separator.join(said), separator.join(said.values()), ""])


OWN_FILES = {
    "UTF-16": ("data.jsonl", LINES.encode("utf-16")),
    "UTF-16 without a mark": ("data.jsonl", LINES.encode("utf-16-le")),
    "UTF-8 with a mark": ("data.jsonl", LINES.encode("utf-8-sig")),
    "blank lines": ("data.jsonl", f"\n \r\n{LINES}\n\n".encode()),
    "suffix in capitals": ("DATA.JSONL", LINES.encode()),
    "an array": ("data.json", f"[{LINES}]".encode("utf-16")),
    "CSV": ("data.csv", table(",").encode()),
    "CSV as a spreadsheet saves it": ("data.csv", table(";").encode("utf-8-sig")),
    "CSV of Unicode text": ("data.csv", table("\t").encode("utf-16")),
    "CSV with lines that end in CR": ("data.csv", table(";", "\r").encode()),
}


@pytest.mark.parametrize(("name", "data"), OWN_FILES.values(), ids=OWN_FILES)
def test_a_file_as_people_have_them_is_read(source, name, data):
    (source / name).write_bytes(data)
    ((question, _),) = folder(str(source), "mine", "exact")
    assert (question.question_id, question.question, question.answers) == ("r1", "Combien là?", ["2"])


def test_lines_that_end_in_cr_alone_are_lines(source):
    (source / "data.jsonl").write_bytes((LINES + LINES).replace("\n", "\r").encode())
    assert len(list(folder(str(source), "mine", "exact"))) == 2


def test_choices_in_a_cell_are_a_list(source):
    (source / "data.csv").write_text(table(";", choices="['2', '3']"), encoding="utf-8")
    ((question, _),) = folder(str(source), "mine", "exact")
    assert (question.choices, question.answer) == (["2", "3"], "A")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "data.jsonl",
            LINES.encode("latin-1"),
            r"data\.jsonl:1: byte 0xe0 after '.*Combien l' is not UTF-8; save the file",
        ),
        (
            "data.csv",
            table(";").encode("latin-1"),
            r"data\.csv:2: byte 0xe0 after 'Combien l' is not UTF-8; save the file",
        ),
        ("data.csv", (table(";") + "r2;?\r\n").encode(), r"data\.csv:3: not the 5 cells of the header"),
        ("data.json", b'{"id": 1}', r"data\.json: a file of rows is an array or an object of them, found dict"),
        ("data.json", LINES.encode()[:9], r"data\.json: not JSON \("),
        ("data.tsv", table("\t", choices="2 or 3").encode(), r"data\.tsv:2: column 'choices' should be a list"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_its_own_words(source, name, data, message):
    (source / name).write_bytes(data)
    with pytest.raises(RowError, match=message):
        list(folder(str(source), "mine", "exact"))


def test_two_tables_in_a_folder_are_named(source):
    for name in ("data.csv", "data.jsonl"):
        (source / name).write_bytes(b"")
    with pytest.raises(RowError, match=r"\['data\.csv', 'data\.jsonl'\] are there; leave the one with the rows"):
        folder(str(source), "mine", "exact")


def in_text(source):
    return base64.b64encode((source / RED).read_bytes()).decode()


IMAGES = {
    "list of one": lambda source: [RED],
    "pair of datasets": lambda source: {"bytes": None, "path": RED},
    "base64": in_text,
    "data URL": lambda source: f"data:image/png;base64,{in_text(source)}",
    "absolute path below": lambda source: str(source / RED),
    "dot": lambda source: f".\\{RED}",
}


@pytest.mark.parametrize("held", IMAGES.values(), ids=IMAGES)
def test_an_image_in_any_wrapping_is_read(source, held):
    out = prepared(source, [row(1, image=held(source))])
    assert [p.name for p in (out / "images").iterdir()] == [content_name((source / RED).read_bytes(), ".png")]


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([RED, "absent.png"], "image 'absent.png' is not in"),
        ("https://example.org/a.png", r"'https://example\.org/a\.png' is a web address; download the images"),
        ("data:image/png;base64,@@", "the text behind 'data:image/png;base64' is no base64"),
        ("data:image/svg+xml,<svg/>", r"an image of the form 'data:image/svg\+xml'"),
        ({"file": RED}, "{'file': 'red.png'} is no path of an image but dict"),
        ("da39a3ee5e6b4b0d3255bfef95601890afd80709" * 2, "image 'da39.*' is not in"),
    ],
)
def test_an_image_in_another_wrapping_is_refused_by_row(source, held, message):
    with pytest.raises(RowError, match=rf"data\.jsonl:1: .*{message}"):
        prepared(source, [row(1, image=held)])


def test_several_images_of_a_row_are_one_question_s_in_their_order(source):
    out = prepared(source, [row(1, image=[RED, "blue.png"]), row(2, image=["blue.png"])])
    first, second = read_jsonl(out / "questions.jsonl", Question)
    red, blue = (f"images/{content_name((source / name).read_bytes(), '.png')}" for name in (RED, "blue.png"))
    assert (first.images, second.images) == ([red, blue], [blue])


def test_images_may_be_in_a_folder_of_their_own(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (source / RED).rename(tmp_path / "elsewhere" / RED)
    there = str(tmp_path / "elsewhere" / RED)
    with pytest.raises(RowError, match=r"leaves its folder .* name the folder .*dataset\.images"):
        prepared(source, [row(1, image=there)])
    assert prepared(source, [row(1), row(2, image=there)], images=str(tmp_path / "elsewhere"))


def test_a_number_as_id_answer_or_choice_is_its_text(source):
    out = prepared(source, [row(1, id=7, answer=2, choices=[2, 3.5])])
    (question,) = read_jsonl(out / "questions.jsonl", Question)
    assert (question.question_id, question.answers, question.choices) == ("7", ["2"], ["2", "3.5"])


def test_a_renamed_column_is_named_as_the_folder_has_it(source):
    with pytest.raises(RowError, match=r"data\.jsonl:1: column 'text' should be text, found \['Why\?'\]"):
        prepared(source, [{**row(1), "text": ["Why?"]}], question="text")


def test_a_good_folder_comes_out_in_order_with_hashed_images(source):
    out = prepared(source, [row(1), row(2, image="blue.png", answer=["3", "three"]), row(3, choices=["1", "2"])])
    red, blue = (content_name((source / name).read_bytes(), ".png") for name in (RED, "blue.png"))
    first, second, third = read_jsonl(out / "questions.jsonl", Question)
    assert [q.images for q in (first, second, third)] == [[f"images/{name}"] for name in (red, blue, red)]
    assert (first.kind, first.scorer, first.answers) == ("short", "exact", ["2"])
    assert second.answers == ["3", "three"]
    assert (third.kind, third.scorer, third.answer) == ("choice", "multiple_choice", "B")


def test_the_same_picture_is_stored_once(source):
    out = prepared(source, [row(1), row(2, image="again.png"), row(3, image="blue.png")])
    assert len(list((out / "images").iterdir())) == 2


def test_columns_can_be_called_otherwise(source):
    other = {"uid": "r1", "q": "How many?", "label": 0, "file": RED, "part": "test", "why": "None is left."}
    names = {"question_id": "uid", "question": "q", "answer": "label", "image": "file", "split": "part"}
    out = prepared(source, [other], rationale="why", **names)
    (question,) = read_jsonl(out / "questions.jsonl", Question)
    assert (question.answers, question.split, question.meta) == (["0"], "test", {"rationale": "None is left."})


def test_limit_takes_the_first_rows_of_each_split(source):
    rows = [row(i, split="test" if i % 2 else "train") for i in range(6)]
    out = prepared(source, rows, limit={"train": 2, "test": 1})
    assert [q.question_id for q in read_jsonl(out / "questions.jsonl", Question)] == ["r0", "r1", "r2"]


def rationale(question_id, status="kept"):
    return Rationale(question_id, "1 + 1 = 2\n### Answer: 2", "2", status, 1.0, "t")


def test_a_rationale_whose_question_is_absent_is_named(source, tmp_path):
    questions = questions_by_id(str(prepared(source, [row(1)])))
    write_jsonl(tmp_path / "rows.jsonl", [rationale("r1"), rationale("r9")])
    with pytest.raises(RowError, match=r"rows\.jsonl: 1 rows without their question, first 'r9'"):
        kept_rationales(str(tmp_path), questions)


def test_only_kept_rationales_are_taught(source, tmp_path):
    questions = questions_by_id(str(prepared(source, [row(1), row(2)])))
    write_jsonl(tmp_path / "rows.jsonl", [rationale("r1"), rationale("r2", status="disagrees")])
    assert list(kept_rationales(str(tmp_path), questions)) == ["r1"]


def test_two_kept_rationales_of_one_question_are_refused(source, tmp_path):
    questions = questions_by_id(str(prepared(source, [row(1)])))
    write_jsonl(tmp_path / "rows.jsonl", [rationale("r1", status="disagrees"), rationale("r1"), rationale("r1")])
    with pytest.raises(RowError, match=r"rows\.jsonl: two kept rationales of 'r1'; keep one"):
        kept_rationales(str(tmp_path), questions)


def test_rows_are_grouped_by_question_in_file_order(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [rationale("b"), rationale("a"), rationale("b", status="empty")])
    found = grouped(tmp_path / "rows.jsonl", Rationale, {"a": None, "b": None})
    assert {i: [r.status for r in rows] for i, rows in found.items()} == {"b": ["kept", "empty"], "a": ["kept"]}
    with pytest.raises(RowError, match="first 'b'"):
        check_known(tmp_path / "rows.jsonl", found, {"a": None})


@pytest.mark.parametrize(
    "stage", [lambda path, out: distill.run(path, None, "train", 8, out), lambda path, _: need(path, "x")]
)
def test_a_missing_artifact_is_named_with_the_way_out(tmp_path, stage):
    with pytest.raises(UserError, match="absent is not there; run the stage that makes it"):
        stage(str(tmp_path / "absent"), tmp_path)
    (tmp_path / "absent").mkdir()
    with pytest.raises(UserError, match=r"absent has no \w+"):
        stage(str(tmp_path / "absent"), tmp_path)


def test_an_image_lost_after_prepare_is_named(source):
    out = prepared(source, [row(1)])
    next((out / "images").iterdir()).unlink()
    with pytest.raises(RowError, match=r"questions\.jsonl: r1: image .* is not in"):
        questions_by_id(str(out))


def test_a_split_without_questions_is_named(source):
    with pytest.raises(RowError, match="no question of split 'tset'"):
        questions_by_id(str(prepared(source, [row(1)])), split="tset")


def test_recorded_rationales_are_filtered_by_the_annotation(source, tmp_path):
    texts = {1: "It shows 2 bars.", 2: "It shows 12 bars.", 3: "Three.\n### Answer: 3", 4: "Two.\n###Answer: 2", 5: ""}
    questions = prepared(source, [row(i, rationale=text) for i, text in texts.items()])
    counts = distill.run(str(questions), RecordedTeacher(), "train", 2, tmp_path)
    found = read_jsonl(tmp_path / "rows.jsonl", Rationale)
    assert [r.status for r in found] == ["kept", "unparsed", "disagrees", "kept", "empty"]
    assert all(is_correct(r.score) == (r.status == "kept") for r in found)
    assert (counts["asked"], counts["kept"], counts["disagrees"], counts["unparsed"], counts["empty"]) == (
        5,
        2,
        1,
        1,
        1,
    )


def text_row(kind):
    """A task of one question without an image."""
    question = Question("t1", "text", "train", [], "What is 2 + 3?", ["5"], kind, "exact")
    return [(question, [])]


def test_a_row_of_text_alone_is_kept_as_one(tmp_path):
    out = produce("prepare", {"out": str(tmp_path / "q")}, partial(prepare.run, text_row("open")))
    assert questions_by_id(str(out))["t1"].images == []


def test_a_question_to_be_scored_needs_an_image(tmp_path):
    with pytest.raises(RowError, match="t1: a question of kind short without an image"):
        produce("prepare", {"out": str(tmp_path / "q")}, partial(prepare.run, text_row("short")))
