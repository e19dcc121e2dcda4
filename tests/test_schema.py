"""Records on disk: nothing is lost on the way there and back, and a bad line is named by file and number."""

import json
from dataclasses import asdict, fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.schema import (
    EvalRow,
    Pair,
    Question,
    Rationale,
    Response,
    ResponseLogps,
    RowError,
    from_dict,
    read_jsonl,
    to_line,
    write_jsonl,
)

KINDS = [Question, Rationale, Response, Pair, ResponseLogps, EvalRow]
score = st.floats(0, 1)
maybe = st.none() | st.text()
count = st.integers(0, 2**40)
RECORDS = {
    Question: st.builds(
        Question,
        *[st.text()] * 3,
        images=st.lists(st.text()),
        question=st.text(),
        answers=st.lists(st.text()),
        kind=st.text(),
        scorer=st.text(),
        choices=st.lists(st.text()),
        meta=st.dictionaries(st.text(), st.none() | st.text() | count | st.lists(count)),
    ),
    Rationale: st.builds(Rationale, st.text(), st.text(), maybe, st.text(), score, st.text()),
    Response: st.builds(Response, st.text(), count, st.text(), st.text(), maybe, score, st.booleans()),
    Pair: st.builds(Pair, st.text(), count, st.text(), st.text(), st.text(), count, count, maybe, maybe),
    ResponseLogps: st.builds(ResponseLogps, *[st.text()] * 3, st.booleans(), st.lists(st.floats(-1e30, 0)), st.text()),
    EvalRow: st.builds(
        EvalRow, *[st.text()] * 2, st.lists(st.text()), *[st.text()] * 2, maybe, score, count, st.booleans()
    ),
}
RATIONALE = {"question_id": "q7", "text": "2 + 3 = 5", "predicted": "5", "status": "kept", "score": 1.0, "teacher": "t"}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_record_comes_back_from_its_line_as_it_was(kind, data):
    record = data.draw(RECORDS[kind])
    assert from_dict(kind, json.loads(to_line(record)), "here") == record


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_a_line_has_every_field_in_the_order_of_the_class(kind, data):
    line = to_line(data.draw(RECORDS[kind]))
    assert list(json.loads(line)) == [field.name for field in fields(kind)]


@given(text=st.text())
def test_a_record_is_one_line_whatever_its_text_breaks(text):
    line = to_line(Rationale("q", text + "\n\r\u2028\x85", None, "empty", 0.0, "t"))
    assert line.encode().count(b"\n") == 1


def test_records_come_back_from_a_file_in_order(tmp_path):
    records = [Rationale(f"q{i}", "naïve ≤ 5 %\n### Answer: 图", None, "unparsed", 0.0, "t") for i in range(3)]
    assert write_jsonl(tmp_path / "rows.jsonl", iter(records)) == 3
    assert read_jsonl(tmp_path / "rows.jsonl", Rationale) == records


EARLIER = '{"question_id": "q", "dataset": "d", "split": "test", "image": %s, "question": "?", "answers": ["3"]}'
EARLIER_ROW = (
    '{"question_id": "q", "dataset": "d", "image": "images/a.png", "style": "cot", "text": "3", "predicted": "3", '
    '"score": 1.0, "num_tokens": 2, "finished": true, "options": {}}'
)


def test_rows_of_earlier_versions_which_held_one_image_or_none_are_read():
    found = [from_dict(Question, json.loads(EARLIER % said), "here") for said in ('"images/a.png"', '""')]
    assert found == [Question("q", "d", "test", images, "?", ["3"]) for images in (["images/a.png"], [])]
    row = from_dict(EvalRow, json.loads(EARLIER_ROW), "here")
    assert (row.images, row.shown) == (["images/a.png"], "images/a.png")


def second_line(tmp_path, line):
    """A file whose first line is good and whose second is `line`."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(RATIONALE).encode() + b"\n" + line)
    return path


def test_a_truncated_line_is_named(tmp_path):
    path = second_line(tmp_path, json.dumps(RATIONALE).encode()[:-9])
    with pytest.raises(RowError, match=r"rows\.jsonl:2: not a whole JSON line"):
        read_jsonl(path, Rationale)


def test_a_line_that_is_no_utf8_is_named(tmp_path):
    with pytest.raises(RowError, match=r"rows\.jsonl:2: not a whole JSON line"):
        read_jsonl(second_line(tmp_path, b'{"text": "\xff"}'), Rationale)


def test_a_line_that_is_no_object_is_named(tmp_path):
    with pytest.raises(RowError, match=r"rows\.jsonl:2: a Rationale is a JSON object, found list"):
        read_jsonl(second_line(tmp_path, b"[1, 2]"), Rationale)


@pytest.mark.parametrize(
    ("name", "value"),
    [("text", 5), ("text", None), ("predicted", ["5"]), ("score", "1.0"), ("score", True), ("status", {})],
)
def test_a_wrong_type_is_named_with_its_field(tmp_path, name, value):
    line = json.dumps({**RATIONALE, name: value}).encode()
    with pytest.raises(RowError, match=rf"rows\.jsonl:2: field '{name}' of Rationale"):
        read_jsonl(second_line(tmp_path, line), Rationale)


@pytest.mark.parametrize("logps", [[0.5, "x"], [None], [True], 0.5])
def test_every_item_of_a_list_is_checked(logps):
    row = {"question_id": "q", "style": "cot", "text": "a", "finished": True, "logps": logps, "context": ""}
    with pytest.raises(RowError, match="field 'logps'"):
        from_dict(ResponseLogps, row, "here")


def test_an_unknown_field_is_named_beside_the_known_ones(tmp_path):
    line = json.dumps({**RATIONALE, "raitonale": "?"}).encode()
    with pytest.raises(RowError, match=r"rows\.jsonl:2: Rationale has no field \['raitonale'\]; .*'question_id'"):
        read_jsonl(second_line(tmp_path, line), Rationale)


@pytest.mark.parametrize("name", list(RATIONALE))
def test_a_missing_field_is_named(tmp_path, name):
    line = json.dumps({k: v for k, v in RATIONALE.items() if k != name}).encode()
    with pytest.raises(RowError, match=rf"rows\.jsonl:2: a Rationale needs \['{name}'\]"):
        read_jsonl(second_line(tmp_path, line), Rationale)


def test_a_question_teaches_its_letter_or_its_first_answer():
    short = Question("q", "d", "train", ["i.png"], "How many?", ["two", "2"])
    choice = Question(
        "q", "d", "train", ["i.png"], "Which?", ["fox"], "choice", "multiple_choice", ["cat", "dog", "fox"]
    )
    assert (short.answer, choice.answer) == ("two", "C")


def test_an_integer_passes_for_a_float():
    assert from_dict(Rationale, {**RATIONALE, "score": 1}, "here") == Rationale(**RATIONALE)
    assert asdict(from_dict(Rationale, RATIONALE, "here")) == {**RATIONALE, "reason": "", "way": ""}
