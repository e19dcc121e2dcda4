"""MathVista's second reading: what is asked, what is not, and what becomes of each row; against a loopback endpoint."""

from __future__ import annotations

import json
import re

import pytest
from loopback import KEY, Loopback
from PIL import Image

from rationale.artifacts import UserError, produce
from rationale.endpoints.client import RequestPolicy
from rationale.replies import Budget, Reply
from rationale.schema import EvalRow, Question, RowError, iter_jsonl, read_jsonl, write_jsonl
from rationale.scoring.judge import judge
from rationale.tools import extract
from rationale.tools.extract import Extraction, Extractor, quick

INTEGER = {"answer_type": "integer", "precision": 1.0}
FLOAT = {"answer_type": "float", "precision": 2.0}
TEXT = {"answer_type": "text", "precision": None}


class Reader(Loopback):
    """Answers each prompt with what `answers` holds for its last response."""

    def __init__(self, answers, *arguments, **options):
        super().__init__(*arguments, **options)
        self.answers = answers

    def completion(self, body, fault):
        status, answer = super().completion(body, fault)
        if fault is None:
            answer["choices"][0]["message"]["content"] = self.answers[response_of(text_of(body))]
        return status, answer


def text_of(body):
    return body["messages"][-1]["content"][0]["text"]


def response_of(text):
    return re.findall(r"Model response: (.*)\n\nExtracted answer:", text)[-1]


def extractor(server, **changes):
    traffic = {
        "concurrency": 1, "requests_per_minute": None, "tokens_per_minute": None, "timeout": 10, "tries": 2,
        "first_wait": 0.01, "longest_wait": 0.02, "longest_pause": 60, "give_up_after": 20,
    }  # fmt: skip
    options = {"temperature": 0.0, "max_tokens": 256}
    return Extractor(
        model_name="reader", base_url=server.url, key_variable="TEST_KEY", options=options,
        traffic=RequestPolicy(**{**traffic, **changes}), budget=Budget(),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


@pytest.fixture
def given(tmp_path):
    """Folders of questions and of their evaluation, from (answer, choices, meta, style, response) rows."""

    def make(*rows, scorer="mathvista"):
        questions, evaluation = tmp_path / "questions", tmp_path / "evaluation"
        (questions / "images").mkdir(parents=True)
        evaluation.mkdir()
        Image.new("RGB", (8, 8)).save(questions / "images/a.png")
        asked, said = [], []
        for i, (answer, choices, meta, style, text) in enumerate(rows):
            kind = "choice" if choices else "short"
            q = Question(
                f"q{i}", "mathvista", "test", ["images/a.png"], f"Number {i}?", [answer], kind, scorer, choices, meta
            )
            verdict = judge(q, text, style)
            asked.append(q)
            said.append(
                EvalRow(q.question_id, q.dataset, q.images, style, text, verdict.predicted, verdict.score, 9, True)
            )
        write_jsonl(questions / "questions.jsonl", asked)
        write_jsonl(evaluation / "rows.jsonl", said)
        return {"questions": str(questions), "evaluation": str(evaluation)}

    return make


def run(folders, model, out, **changes):
    out.mkdir(exist_ok=True)
    options = {"scorers": ["mathvista"], "after_marker": True, "chunk": 1, **changes}
    counts = extract.run(**folders, extractor=model, **options, out=out)
    return counts, read_jsonl(out / "rows.jsonl", Extraction)


def cell(out, name="direct/mathvista"):
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))["cells"][name]


def test_a_response_that_the_rule_cannot_read_is_read_by_the_extractor_and_the_rule_stands_as_evaluated(
    given, tmp_path
):
    response = "a dozen, less two"
    folders = given(("10", [], INTEGER, "direct", response))
    with Reader({response: " Extracted answer: 10\n"}) as server:
        counts, rows = run(folders, extractor(server), tmp_path / "out")
    assert rows == [Extraction("q0", "direct", None, 0.0, "10", 1.0, "extracted")]
    assert (counts["direct/mathvista rule"], counts["direct/mathvista extractor"]) == (0.0, 100.0)
    assert (counts["differ"], counts["unparsed"], counts["asked"], counts["quick"]) == (1, 1, 1, 0)
    assert cell(tmp_path / "out")["rule"] == 0.0


def test_a_wrong_extraction_counts_beside_the_rule(given, tmp_path):
    responses = ["it is 3", "it is 4", "it is 5", "it is 6"]
    folders = given(*((text[-1], [], INTEGER, "direct", text) for text in responses))
    with Reader(dict(zip(responses, ["3", "40", "5.9", "six"], strict=True))) as server:
        counts, rows = run(folders, extractor(server), tmp_path / "out")
    assert [r.score for r in rows] == [1.0, 1.0, 1.0, 1.0]
    assert [r.extracted_score for r in rows] == [1.0, 0.0, 1.0, 0.0]  # int(float("5.9")) is 5: the official cut
    assert (cell(tmp_path / "out")["rule"], cell(tmp_path / "out")["extractor"]) == (1.0, 0.5)
    assert counts["differ"] == 2


def test_what_is_an_answer_as_it_stands_is_not_asked(given, tmp_path):
    folders = given(
        ("7", [], INTEGER, "direct", "7"),
        ("0.5", [], FLOAT, "direct", "0.50"),
        ("red", ["red", "blue"], TEXT, "direct", "blue"),
        ("12", [], INTEGER, "cot", "Ten and two.\n### Answer: 12"),
        ("red", ["red", "blue"], TEXT, "direct", ""),
    )
    with Reader({}) as server:
        counts, rows = run(folders, extractor(server), tmp_path / "out")
    assert server.asked.total() == 0
    assert [(r.extracted, r.extracted_score) for r in rows] == [
        ("7", 1.0), ("0.5", 1.0), ("blue", 0.0), ("12", 1.0), ("", 0.0),
    ]  # fmt: skip
    assert rows[-1].reason == "empty response"
    assert (counts["quick"], counts["asked"]) == (5, 0)


def test_nothing_to_ask_needs_no_key(given, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with Reader({}) as server:
        assert run(given(("7", [], INTEGER, "direct", "7")), extractor(server), tmp_path / "out")[0]["quick"] == 1


@pytest.mark.parametrize(
    ("response", "choices", "meta"),
    [("B", ["red", "blue"], TEXT), ("7.0", [], INTEGER), ("half", [], FLOAT), ("red", [], TEXT)],
)
def test_what_mathvista_asks_about_is_asked_about(response, choices, meta):
    q = Question("q", "mathvista", "test", ["a.png"], "?", ["red"], "short", "mathvista", choices, meta)
    assert quick(q, response) is None


def test_the_request_has_the_hint_the_choices_the_response_and_no_annotation(given, tmp_path):
    folders = given(
        ("0.75", [], FLOAT, "direct", "three fourths"), ("verdigris", ["ochre", "verdigris"], TEXT, "direct", "B")
    )
    with Reader({"three fourths": "0.75", "B": "B"}) as server:
        _, rows = run(folders, extractor(server), tmp_path / "out")
    first, second = (text_of(body).rpartition("Hint: ")[2] for body in server.bodies)
    assert first == (
        "the answer is a number with 2 decimal places, for example 1.25.\nQuestion: Number 0?\n\n"
        "Model response: three fourths\n\nExtracted answer:"
    )
    assert "Number 1?\nA. ochre\nB. verdigris\n\nModel response: B\n" in second
    assert (server.bodies[0]["temperature"], server.bodies[0]["model"]) == (0.0, "reader")
    assert [r.extracted_score for r in rows] == [1.0, 1.0]


@pytest.mark.parametrize(("after_marker", "handed"), [(True, "nine"), (False, "So. ### Answer: nine")])
def test_of_a_response_with_the_marker_the_part_behind_it_or_the_whole_is_handed_on(
    given, tmp_path, after_marker, handed
):
    folders = given(("9", [], INTEGER, "cot", "So. ### Answer: nine"))
    with Reader({handed: "9"}) as server:
        _, rows = run(folders, extractor(server), tmp_path / "out", after_marker=after_marker)
    assert [response_of(text) for text in server.asked] == [handed]
    assert rows[0].extracted_score == 1.0


FAULTS = {"json": "malformed", "empty": "malformed", "long": "malformed", "refusal": "refused", "filter": "refused",
          "400": "failed", "500": "failed"}  # fmt: skip


def test_every_fault_ends_as_a_row_with_its_reason_and_no_file_holds_the_key(given, tmp_path):
    responses = [f"it is {i}" for i in range(len(FAULTS))] + ["blank"]
    folders = given(*(("1", [], INTEGER, "direct", text) for text in responses))
    kinds = dict(zip(responses, [*FAULTS, None], strict=True))
    with Reader({"blank": " "}, lambda text, _: kinds[response_of(text)]) as server:
        asked = {
            **folders, "extractor": extractor(server), "scorers": ["mathvista"], "after_marker": True, "chunk": 1,
        }  # fmt: skip
        shown = {**folders, "extractor": {"key_variable": "TEST_KEY", "base_url": server.url}}
        out = produce(
            "extract", {**shown, "out": str(tmp_path / "out")}, lambda folder: extract.run(**asked, out=folder)
        )
        assert server.keys == {f"Bearer {KEY}"}
    rows = read_jsonl(out / "rows.jsonl", Extraction)
    assert [r.status for r in rows] == [*FAULTS.values(), "malformed"]
    assert all(r.reason and r.extracted is None and r.extracted_score == 0.0 for r in rows)
    assert (rows[1].score, rows[1].predicted) == (1.0, "1")
    assert cell(out)["failed"] == 2
    assert len(read_jsonl(out / "replies.jsonl", Reply)) == len(rows)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_a_cut_run_goes_on_without_asking_twice_and_ends_as_an_uncut_one(given, tmp_path):
    responses = [f"it is {i}" for i in range(6)]
    folders = given(*((text[-1], [], INTEGER, "direct", text) for text in responses))
    answers = {text: text[-1] for text in responses}
    with Reader(answers) as server:
        run(folders, extractor(server), tmp_path / "uncut")
    down = True

    def fault(text, _):
        return "401" if down and response_of(text) == "it is 3" else None

    with Reader(answers, fault) as server:
        with pytest.raises(UserError, match="answered 401"):
            run(folders, extractor(server), tmp_path / "cut")
        assert [r.question_id for r in read_jsonl(tmp_path / "cut/replies.jsonl", Reply)] == [
            f"direct/q{i}" for i in range(3)
        ]
        with (tmp_path / "cut/replies.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"question_id": "direct/q4", "te')  # killed while writing
        down = False
        run(folders, extractor(server), tmp_path / "cut")
    assert {response_of(text): times for text, times in server.asked.items()} == {
        text: 2 if text == "it is 3" else 1 for text in responses
    }
    for name in ("rows.jsonl", "replies.jsonl", "summary.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "uncut" / name).read_bytes()


def test_retry_failed_asks_again_only_where_a_reply_gave_no_extraction(given, tmp_path):
    responses = ["it is 1", "it is 2", "it is 3"]
    folders = given(*((text[-1], [], INTEGER, "direct", text) for text in responses))

    def fault(text, number):
        return {"it is 2": "long", "it is 3": "400"}.get(response_of(text)) if number == 1 else None

    with Reader({text: text[-1] for text in responses}, fault) as server:
        _, rows = run(folders, extractor(server), tmp_path / "out")
        assert [r.status for r in rows] == ["extracted", "malformed", "failed"]
        _, rows = run(folders, extractor(server), tmp_path / "out", retry_failed=True)
        _, again = run(folders, extractor(server), tmp_path / "out", retry_failed=True)
    assert [r.status for r in rows] == ["extracted"] * 3
    assert again == rows
    assert [server.asked[text] for text in server.asked] == [1, 2, 2]


def test_rows_of_other_scorers_are_counted_and_can_be_chosen(given, tmp_path):
    folders = given(("7", [], {}, "direct", "perhaps 7"), scorer="exact")
    with Reader({"perhaps 7": "7"}) as server:
        with pytest.raises(UserError, match=r"none of 1 rows has a scorer of extractor.scorers=\['mathvista'\]"):
            run(folders, extractor(server), tmp_path / "none")
        assert server.asked.total() == 0
        _, rows = run(folders, extractor(server), tmp_path / "out", scorers=["exact"])
    assert [(r.score, r.extracted_score) for r in rows] == [(0.0, 1.0)]


def test_both_styles_of_a_question_are_read_and_summed_apart(given, tmp_path):
    folders = given(("7", [], INTEGER, "direct", "seven"))
    path = tmp_path / "evaluation/rows.jsonl"
    row = next(iter_jsonl(path, EvalRow))
    write_jsonl(path, [row, EvalRow("q0", row.dataset, row.images, "cot", "VII", None, 0.0, 9, True)])
    with Reader({"seven": "7", "VII": "8"}) as server:
        _, rows = run(folders, extractor(server), tmp_path / "out")
    assert [(r.style, r.extracted_score) for r in rows] == [("direct", 1.0), ("cot", 0.0)]
    assert [cell(tmp_path / "out", f"{s}/mathvista")["extractor"] for s in ("direct", "cot")] == [1.0, 0.0]


def test_what_cannot_be_scored_is_met_before_anything_is_asked(given, tmp_path):
    folders = given(("7", [], INTEGER, "direct", "seven"), ("0.5", [], FLOAT, "direct", "half"))
    path = tmp_path / "questions/questions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"precision": 2.0', '"precision": null'), encoding="utf-8")
    with Reader({}) as server:
        with pytest.raises(RowError, match=r"q1: meta\['precision'\] is missing"):
            run(folders, extractor(server), tmp_path / "out")
        assert server.asked.total() == 0


def test_a_prediction_evaluated_twice_is_an_error_that_names_it(given, tmp_path):
    folders = given(("7", [], INTEGER, "direct", "seven"))
    path = tmp_path / "evaluation/rows.jsonl"
    path.write_text(path.read_text(encoding="utf-8") * 2, encoding="utf-8")
    with Reader({}) as server, pytest.raises(RowError, match="'q0' occurs twice in style 'direct'"):
        run(folders, extractor(server), tmp_path / "out")
