"""Whatever rows, texts and numbers come in: read right, or refused by name before anything is written."""

import json
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import json_values, texts, torn

from rationale.journal import Journal
from rationale.pairing import PairingRule, pair_question
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
from rationale.sources.exchange import ROW_FORMS
from rationale.sources.incoming import Incoming, RowFiles
from rationale.tools import import_rows

KINDS = [Question, Rationale, Response, Pair, ResponseLogps, EvalRow]
VALUES = {"str": texts | torn, "float": st.floats() | st.integers(), "int": st.integers(), "bool": st.booleans()}
VALUES |= {
    "list[str]": st.lists(texts | torn, max_size=3),
    "list[float]": st.lists(st.floats(), max_size=3),
    "list[int]": st.lists(st.integers(), max_size=3),
}
VALUES |= {"str | None": st.none() | texts | torn, "dict[str, Any]": st.dictionaries(texts, json_values, max_size=2)}


@st.composite
def rows(draw, kind):
    """A row of a record's own fields, each mostly of its type and at times anything."""
    return {f.name: draw(VALUES[f.type] if draw(st.integers(0, 9)) else json_values) for f in fields(kind)}


def named(error: RowError, place: str) -> None:
    assert str(error).startswith(place)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150)
def test_a_row_is_read_and_written_back_or_refused_by_name(kind, data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any_rows.jsonl"
    row = data.draw(rows(kind))
    path.write_text(
        json.dumps(row) + "\n", encoding="utf-8"
    )  # lone surrogates as \ud800, NaN as NaN: what json.loads takes
    try:
        records = read_jsonl(path, kind)
    except RowError as error:
        named(error, f"{path}:1: ")
        return
    assert write_jsonl(path, records) == 1
    once = path.read_bytes()
    assert read_jsonl(path, kind) == records == [kind(**row)]
    write_jsonl(path, records)
    assert path.read_bytes() == once
    json.loads(once, parse_constant=pytest.fail)  # JSON that every reader takes: no NaN


@given(value=json_values)
@settings(max_examples=200)
def test_any_value_in_place_of_a_row_is_refused_by_name(value):
    with pytest.raises(RowError, match=r"^here: "):
        from_dict(Rationale, value, "here")


GOOD = '{"question_id": "q", "text": "%s", "predicted": null, "status": "kept", "score": %s, "teacher": "t"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD % ("\\ud83d", 1), "field 'text' cannot be written as JSON .*surrogates"),
        (GOOD % ("", "NaN"), "field 'score' of Rationale should be .*float.*, found nan"),
        (GOOD % ("", "1e999"), "field 'score' .* found inf"),
        (GOOD % ("", "1" + "0" * 400), "field 'score' .* found 1000"),
        (GOOD % ("", "1" + "0" * 5000), "not a whole JSON line"),
        (GOOD % ('a", "text": "b', 1), "a key occurs twice among .*'text'"),
        ("[" * 10**5, "nested too deep"),
    ],
)
def test_what_json_allows_and_a_record_does_not_is_named(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(RowError, match=rf"rows\.jsonl:1: .*{message}"):
        read_jsonl(tmp_path / "rows.jsonl", Rationale)
    with pytest.raises(RowError, match=rf"rows\.jsonl at byte 0: .*{message.replace('whole ', '')}"):
        Journal(tmp_path / "rows.jsonl", Rationale, 8)


@given(st.lists(st.tuples(st.sampled_from("abcd"), texts), max_size=8), st.data())
@settings(max_examples=150)
def test_a_journal_cut_at_any_byte_keeps_every_whole_row_once(tmp_path_factory, said, data):
    path = tmp_path_factory.getbasetemp() / "journal.jsonl"
    path.unlink(missing_ok=True)
    written = [Rationale(name, text, None, "kept", 1.0, "t") for name, text in said]
    cut = data.draw(st.integers(0, sum(len(to_line(r).encode()) for r in written)))

    def append(found):
        journal = Journal(path, Rationale, sync_every=64)
        for row in found:
            journal.append(row)
        journal.close()

    append(written)
    if written:
        path.write_bytes(path.read_bytes()[:cut])
    ends = [sum(len(to_line(r).encode()) for r in written[: n + 1]) for n in range(len(written))]
    whole = sum(end <= cut for end in ends)
    assert list(Journal(path, Rationale, 1).all()) == written[:whole]
    append(written[whole:])
    journal = Journal(path, Rationale, 1)
    assert list(journal.all()) == written
    assert all(journal[r.question_id] == r for r in {r.question_id: r for r in written}.values())


any_responses = st.lists(
    st.tuples(st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0]), texts, st.none() | texts, st.booleans()), max_size=12
)
any_rules = st.builds(
    PairingRule,
    low=st.just(0.0),
    high=st.just(1.0),
    max_pairs=st.integers(1, 4),
    deduplicate=st.booleans(),
    reuse=st.booleans(),
    partner=st.sampled_from(["random", "closest"]),
)


@given(any_responses, any_rules, st.integers(0, 2**70))
@settings(max_examples=300)
def test_pairs_of_any_texts_set_right_against_wrong(found, rule, seed):
    responses = [Response("q", i, "cot", *row[1:3], row[0], row[3]) for i, row in enumerate(found)]
    pairs, _ = pair_question(responses, rule, seed)
    for pair in pairs:
        chosen, rejected = responses[pair.chosen_id], responses[pair.rejected_id]
        assert chosen.score >= 0.5 and chosen.predicted is not None
        assert rejected.score < 0.5 or rejected.predicted is None
        assert pair.chosen == chosen.text != rejected.text == pair.rejected
    assert len(pairs) <= rule.max_pairs
    assert pair_question(responses[::-1], rule, seed)[0] == pairs


@st.composite
def foreign_rows(draw, form):
    """A row of a project's form, of which one or two places hold anything."""
    row = ROW_FORMS[form].write(ROW_FORMS["llava"].read({"question": "a", "chosen": "b", "rejected": "c"}, "here"))
    if draw(st.booleans()):
        row = ROW_FORMS[form].write(
            ROW_FORMS["llava"].read(
                {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}, ""
            )
        )
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*row, "record", "image", "images", "more"]))
        row[name] = draw(json_values | st.just([{"from": "human", "value": draw(texts | torn)}]))
    return row


RECORDED = {"question": {}, "style": "cot", "marks": {}, "unkept": None, "pair": {"pair_id": 0}, "named": []}


@pytest.mark.parametrize("form", ROW_FORMS)
@given(data=st.data())
@settings(max_examples=200)
def test_a_foreign_row_is_taken_in_or_refused_by_name(form, data):
    raw = data.draw(foreign_rows(form))
    if data.draw(st.integers(0, 3)) == 0:
        record = {**RECORDED, **data.draw(st.dictionaries(st.sampled_from(sorted(RECORDED)), json_values, max_size=3))}
        raw["record"] = json.dumps(record)
    incoming = Incoming()
    try:
        row = ROW_FORMS[form].read(raw, "here")
        incoming.add(row, RowFiles([], form, "d", prompts="plain"), ["images/0.png"], "here")
    except RowError as error:
        named(error, "here")
        return
    for record in chain.from_iterable(incoming.records()):
        assert from_dict(type(record), json.loads(to_line(record).encode()), "back") == record


def test_a_row_that_cannot_be_written_stands_aside_as_it_came(tmp_path):
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    lines = [json.dumps({"conversations": turns}), json.dumps({"conversations": turns, "note": "half \ud83d"})]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    source = RowFiles(["rows.jsonl"], "llava", "d", prompts="plain")
    (tmp_path / "out").mkdir()
    assert import_rows.run([source], str(tmp_path), None, "aside", tmp_path / "out")["unfit"] == 1
    (aside,) = (tmp_path / "out/unfit.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(aside)["row"] == json.loads(lines[1])
    assert "rows.jsonl:2: field 'note' cannot be written as JSON" in json.loads(aside)["reason"]
    with pytest.raises(RowError, match=r"torn\.parquet: not a whole parquet file"):
        import_rows.run([replace(source, rows=["*.parquet"])], str(tmp_path), None, "error", tmp_path / "out")


def generated(session) -> dict[str, int]:
    """Examples of every property that was collected; a parametrised one counts for each of its parameters."""
    return {
        item.nodeid: item.obj._hypothesis_internal_use_settings.max_examples
        for item in session.items
        if getattr(item.obj, "is_hypothesis_test", False)
    }


def test_the_suite_generates_ten_thousand_cases(request):
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")}
    if {item.path.name for item in request.session.items} != files:
        pytest.skip("only a part of the suite was collected; make test collects all of it")
    assert sum(generated(request.session).values()) >= 10_000
