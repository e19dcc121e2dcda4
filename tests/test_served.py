"""Teachers and generators behind an endpoint: each row ends once with its right status, whatever the endpoint does."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
from loopback import KEY, LASTING, PASSING, Loopback
from PIL import Image

from rationale.artifacts import UserError, produce
from rationale.endpoints import batches
from rationale.endpoints import client as served_module
from rationale.endpoints.batches import Batches
from rationale.endpoints.chat import ImageEncoding
from rationale.endpoints.client import RequestPolicy, retry_after
from rationale.endpoints.completions import read_replies
from rationale.endpoints.generator import Served
from rationale.endpoints.teacher import ServedTeacher
from rationale.journal import Journal
from rationale.models.batch import Example
from rationale.models.teachers import LocalTeacher, RecordedTeacher
from rationale.models.vlm import load
from rationale.replies import Budget, Reply
from rationale.schema import EvalRow, Question, Rationale, Response, read_jsonl, write_jsonl
from rationale.stages import distill, evaluate, sample

TRIES = 3
PICTURE = ImageEncoding(longest_side=32, format="PNG", quality=90, detail="auto")


def traffic(**changes):
    given = {
        "concurrency": 32, "requests_per_minute": None, "tokens_per_minute": None, "timeout": 10, "tries": TRIES,
        "first_wait": 0.02, "longest_wait": 0.1, "longest_pause": 60, "give_up_after": 20,
    }  # fmt: skip
    return RequestPolicy(**{**given, **changes})


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)


def teacher(server, budget=None, batches=None, **changes):
    return ServedTeacher(
        model_name="model", base_url=server.url, key_variable="TEST_KEY", options={"temperature": 1.0}, picture=PICTURE,
        traffic=traffic(**changes), budget=budget or Budget(), batches=batches,
    )  # fmt: skip


@pytest.fixture
def ask_dir(tmp_path):
    """Makes a folder with so many questions about one image; the answer of question 7 is 7."""

    def make(count):
        folder = tmp_path / f"questions_{count}"
        (folder / "images").mkdir(parents=True)
        Image.new("RGB", (64, 16), "red").save(folder / "images/red.png")
        rows = [Question(f"q{i}", "some", "train", ["images/red.png"], f"Number {i}?", [str(i)]) for i in range(count)]
        write_jsonl(folder / "questions.jsonl", rows)
        return folder

    return make


def number_of(text):
    return int(re.search(r"Number (\d+)\?", text)[1])


def run(questions, asked, out, **options):
    out.mkdir(exist_ok=True)
    counts = distill.run(str(questions), asked, "train", 8, out, **options)
    return counts, read_jsonl(out / "rows.jsonl", Rationale)


FAULTS = (*PASSING, *LASTING, "dead")
ENDS = {"json": "malformed", "empty": "malformed", "refusal": "refused", "filter": "refused", "400": "failed",
        "wrong": "disagrees", "long": "unparsed", "dead": "failed"}  # fmt: skip


def fault_of(row):
    """One row in five meets a fault, each kind in turn."""
    return FAULTS[row // 5 % len(FAULTS)] if row % 5 == 0 else None


def test_of_500_rows_with_a_fault_in_every_fifth_each_ends_once_with_its_status_and_is_asked_no_more_than_needed(
    ask_dir, tmp_path
):
    def fault(text, number):
        kind = fault_of(number_of(text))
        return "500" if kind == "dead" else kind if kind in LASTING or number == 1 else None

    with Loopback(fault, stall=6) as server:
        counts, rows = run(ask_dir(500), teacher(server, timeout=3), tmp_path / "out")
    assert [r.question_id for r in rows] == [f"q{i}" for i in range(500)]
    assert [r.status for r in rows] == [ENDS.get(fault_of(i), "kept") for i in range(500)]
    assert [r.question_id for r in read_jsonl(tmp_path / "out/replies.jsonl", Reply)] == [f"q{i}" for i in range(500)]
    needed = {i: TRIES if fault_of(i) == "dead" else 2 if fault_of(i) in PASSING else 1 for i in range(500)}
    assert {number_of(text): times for text, times in server.asked.items()} == needed
    assert counts["kept"] == 400 + sum(fault_of(i) in PASSING for i in range(0, 500, 5))
    assert all(bool(r.reason) == (r.status != "kept") for r in rows)
    assert KEY not in (tmp_path / "out/rows.jsonl").read_text(encoding="utf-8") + (
        tmp_path / "out/report.md"
    ).read_text(encoding="utf-8")


def test_the_report_counts_every_status_and_shows_what_was_dropped(ask_dir, tmp_path):
    kinds = {0: "json", 1: "refusal", 2: "wrong"}
    with Loopback(lambda text, _: kinds.get(number_of(text))) as server:
        run(ask_dir(6), teacher(server), tmp_path / "out")
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| some | 6 | 3 | 1 | 0 | 0 | 1 | 1 | 0 |" in report
    assert "## some, disagrees: q2" in report
    assert "reason: answered '31337', annotated '2'" in report
    assert "reply: I cannot help with that." in report


def test_a_retry_after_is_waited_for_by_the_whole_pass(ask_dir, tmp_path):
    def fault(text, number):
        return "429 1" if number_of(text) == 0 and number == 1 else None

    with Loopback(fault) as server:
        run(ask_dir(4), teacher(server, concurrency=1), tmp_path / "out")
    assert server.times[1] - server.times[0] >= 1
    assert sum(server.asked.values()) == 5


def test_a_retry_after_is_read_in_seconds_in_milliseconds_and_as_a_date():
    assert retry_after({"retry-after": "3"}) == 3
    assert retry_after({"retry-after": "3", "retry-after-ms": "250"}) == 0.25
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    assert 28 < retry_after({"retry-after": date}) <= 30
    assert retry_after({"retry-after": "soon"}) == retry_after({}) == 0


def test_no_more_requests_are_under_way_than_allowed(ask_dir, tmp_path):
    with Loopback(delay=0.03) as server:
        run(ask_dir(20), teacher(server, concurrency=4), tmp_path / "out")
    assert server.most_at_once == 4


@pytest.mark.parametrize("limit", [{"requests_per_minute": 600}, {"tokens_per_minute": 600 * 1100}])
def test_a_limit_per_minute_spaces_the_requests(limit, ask_dir, tmp_path):
    """600 requests a minute, or their tokens (1,100 a request): 0.1 s each."""
    with Loopback() as server:
        run(ask_dir(12), teacher(server, concurrency=1, **limit), tmp_path / "out")
    assert server.times[-1] - server.times[1] >= 0.95


def test_max_cost_stops_before_it_is_passed_and_a_higher_one_goes_on(ask_dir, tmp_path, capsys):
    questions, price = ask_dir(30), {"input_price": 1000.0, "output_price": 0.0}  # 1,000 tokens: a dollar a request
    with Loopback() as server:
        with pytest.raises(UserError, match=r"\$10.0000 are spent.*max_cost=10.5.*Every reply is kept; .* goes on"):
            run(questions, teacher(server, Budget(**price, max_cost=10.5), concurrency=4), tmp_path / "out")
        assert sum(server.asked.values()) == 10
        counts, rows = run(questions, teacher(server, Budget(**price, max_cost=30.0)), tmp_path / "out")
    assert len(rows) == counts["kept"] == 30
    assert counts["cost"] == 30.0
    shown = capsys.readouterr().err
    assert re.search(r"\$0\.00 of about \$\d", shown)  # the first estimate
    assert "$30.00 of about $30.00" in shown
    assert set(server.asked.values()) == {1}


def test_max_cost_without_prices_is_refused():
    with pytest.raises(UserError, match=r"needs budget\.input_price"):
        Budget(max_cost=1.0)


def test_a_meter_projects_from_the_first_estimate_and_then_from_what_came():
    meter = Budget(input_price=2.0, output_price=10.0, expected_output=100)
    meter.expected_input = 1000
    assert meter.projected(1000) == pytest.approx(1000 * (1000 * 2 + 100 * 10) / 1e6)  # $3.00
    meter.count([Reply("a", "", input_tokens=500, output_tokens=50)])
    assert meter.spent == pytest.approx(0.0015)
    assert meter.line(999) == "$0.00 of about $1.50"
    meter.count([Reply("b", "", "malformed")])  # no tokens stated: as many as the others had
    assert meter.spent == pytest.approx(0.0030)
    meter.count([Reply("c", "", "failed")])
    assert meter.spent == pytest.approx(0.0030)
    meter.factor = 0.5  # batch mode
    assert meter.spent == pytest.approx(0.0015)


def call(questions, out, server, **options):
    """Stage distill, filed as the command does."""
    budget = {"input_price": 1.0, "output_price": 1.0}
    work = partial(distill.run, str(questions), teacher(server, Budget(**budget)), "train", 8, **options)
    return produce("distill", {"questions": str(questions), "out": str(out), **options}, work)


def test_a_dry_run_prints_projection_and_three_prompts_and_asks_nothing(ask_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with Loopback() as server:
        call(ask_dir(1000), tmp_path / "out/rationales", server, dry_run=True)
    said = capsys.readouterr().out
    assert re.search(r"1000 questions to ask, about \d+ \+ 0 tokens, about \$\d\.\d\d", said)
    assert re.findall(r"--- (q\d+)", said) == ["q0", "q1", "q2"]
    assert said.count("# Reference answer") == 3
    assert not server.asked
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".rationales.lock"]


@pytest.mark.parametrize("kind", ["recorded", "local"])
def test_a_dry_run_of_a_teacher_of_this_machine_loads_and_asks_nothing(kind, ask_dir, tmp_path, capsys):
    local = LocalTeacher(lambda: pytest.fail("loaded"), 6, 1.0, 1.0, batch_size=5, seed=1)
    asked = local if kind == "local" else RecordedTeacher()
    assert distill.run(str(ask_dir(5)), asked, "train", 8, tmp_path, dry_run=True) is None
    assert f"{kind}: 5 questions" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_wait_that_is_longer_than_allowed_stops_the_run(ask_dir, tmp_path):
    with Loopback(lambda *_: "429 3600") as server, pytest.raises(UserError, match="asks to wait 3600 s"):
        run(ask_dir(4), teacher(server), tmp_path / "out")


def test_what_failed_is_asked_again_only_where_told(ask_dir, tmp_path, capsys):
    questions, ill = ask_dir(10), {1: "json", 2: "refusal", 3: "400", 4: "wrong"}
    with Loopback(lambda text, _: ill.get(number_of(text))) as server:
        out = call(questions, tmp_path / "out", server)
        call(questions, tmp_path / "out", server)
        assert "up to date" in capsys.readouterr().out
        ill.clear()
        call(questions, tmp_path / "out", server, retry_failed=True)
        call(questions, tmp_path / "out", server)
    assert "up to date" in capsys.readouterr().out.splitlines()[-1]
    assert {number_of(t): n for t, n in server.asked.items()} == {i: 2 if i in (1, 2, 3) else 1 for i in range(10)}
    assert [r.status for r in read_jsonl(out / "rows.jsonl", Rationale)] == ["kept"] * 4 + ["disagrees"] + ["kept"] * 5
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["counts"]["tokens"]["input"] == 11_000  # json and 400 stated none: eight, and three asked again


def test_a_key_that_is_refused_stops_at_once_and_is_not_told(ask_dir, tmp_path):
    with Loopback(lambda *_: "401") as server, pytest.raises(UserError, match="answered 401") as caught:
        run(ask_dir(50), teacher(server, concurrency=2), tmp_path / "out")
    assert KEY not in str(caught.value)
    assert sum(server.asked.values()) <= 2
    assert server.keys == {f"Bearer {KEY}"}


def test_an_endpoint_that_is_down_stops_the_run_instead_of_failing_every_row(ask_dir, tmp_path):
    with Loopback() as server:
        pass
    with pytest.raises(UserError, match=r"5 rows failed one after the other.*retry_failed=true"):
        run(ask_dir(50), teacher(server, concurrency=1, give_up_after=5), tmp_path / "out")


def test_a_missing_key_is_named(ask_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with Loopback() as server, pytest.raises(UserError, match="TEST_KEY is not set"):
        run(ask_dir(2), teacher(server), tmp_path / "out")


def test_a_password_in_the_address_is_refused():
    with pytest.raises(UserError, match="base_url holds a password"):
        teacher(SimpleNamespace(url="http://me:secret@host/v1"))


def test_the_image_is_sent_shrunk_and_the_reference_answer_is_in_the_prompt(ask_dir, tmp_path):
    with Loopback() as server:
        run(ask_dir(1), teacher(server), tmp_path / "out")
    image, text = server.bodies[0]["messages"][-1]["content"]
    kind, data = image["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (32, 8)
    assert "# Question\nNumber 0?" in text["text"]
    assert "# Reference answer\n0\n" in text["text"]
    assert server.bodies[0]["temperature"] == 1.0


def test_several_images_are_sent_each_where_the_prompt_shows_it(tmp_path):
    files = tuple(tmp_path / f"{width}.png" for width in (512, 10, 20))
    for file in files:
        Image.new("RGB", (int(file.stem), int(file.stem))).save(file)
    picture = ImageEncoding(longest_side=512, format="PNG", quality=90, detail="low")
    example = Example("q", files, "Is <image 3> as <image 1>?", "")
    (turn,) = picture.messages(example)

    def shown(part):
        if part["type"] == "text":
            return part["text"]
        return Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",")[1]))).width

    assert [shown(part) for part in turn["content"]] == [10, "Is ", 20, " as ", 512, "?"]
    assert picture.estimate(example) == 3 * 85 + len(example.prompt) / 4


@pytest.mark.parametrize(
    ("size", "tokens"),
    [((512, 512), 255), ((1024, 1024), 765), ((2048, 4096), 1105), ((10, 10), 255)],  # 85 + 170 a tile
)
def test_image_tokens_follow_the_tiles(size, tokens):
    assert ImageEncoding(longest_side=4096, format="PNG", quality=90, detail="high").tokens(*size) == tokens


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("[]", "malformed"),
        ("{}", "malformed"),
        ('{"choices": [{}]}', "malformed"),
        ('{"choices": [{"message": {"content": ["a"]}}]}', "malformed"),
        ('{"choices": [{"message": {"content": "a \\ud800"}, "finish_reason": "stop"}]}', "malformed"),
        ('{"choices": [{"message": {"content": null}, "finish_reason": "stop"}]}', "answered"),
    ],
)
def test_a_body_of_another_shape_is_told_from_an_answer(body, status):
    assert [r.status for r in read_replies("q", body)] == [status]


def test_the_half_line_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / "replies.jsonl"
    journal = Journal(path, Reply, 1)
    for name in ("a", "b"):
        journal.append(Reply(name, "é"))
    journal.close()
    path.write_bytes(path.read_bytes()[:-3])
    journal = Journal(path, Reply, 1)
    assert ("a" in journal, "b" in journal) == (True, False)
    journal.append(Reply("b", "again"))
    journal.close()
    assert [r.text for r in read_jsonl(path, Reply)] == ["é", "again"]


BATCHES = Batches(window="24h", max_requests=4, max_bytes=10**6, poll=0.01)


def test_batch_mode_gives_the_rows_of_live_mode(ask_dir, tmp_path):
    kinds = {1: "json", 2: "refusal", 3: "wrong", 4: "empty", 5: "400"}
    with Loopback(lambda text, _: kinds.get(number_of(text)) if "?" in text else None) as server:
        kinds.pop(1)  # a result file is valid JSON
        live, _ = run(ask_dir(10), teacher(server), tmp_path / "live")
        batched, _ = run(tmp_path / "questions_10", teacher(server, batches=BATCHES), tmp_path / "batched")
    assert len(server.batches) == 3  # of 4, 4 and 2 requests
    assert live == batched
    rows = [(tmp_path / name / "rows.jsonl").read_text(encoding="utf-8") for name in ("live", "batched")]
    assert rows[0] == rows[1]
    assert not (tmp_path / "batched/batch_input.jsonl").exists()


def test_a_row_that_a_batch_lost_has_failed_and_can_be_asked_again(ask_dir, tmp_path):
    lost = {"q2"}
    with Loopback(lambda text, number: "lost" if text in lost and number == 0 else None) as server:
        _, rows = run(ask_dir(4), teacher(server, batches=BATCHES), tmp_path / "out")
        assert [r.status for r in rows] == ["kept", "kept", "failed", "kept"]
        assert rows[2].reason == "the batch expired without this row"
        lost.clear()
        _, rows = run(tmp_path / "questions_4", teacher(server, batches=BATCHES), tmp_path / "out", retry_failed=True)
    assert [r.status for r in rows] == ["kept"] * 4
    assert len(server.batches) == 2


@pytest.mark.parametrize("id_lost", [False, True])
def test_a_run_cut_while_waiting_for_batches_waits_for_them_and_makes_none_again(
    id_lost, ask_dir, tmp_path, monkeypatch
):
    def cut(_):
        raise KeyboardInterrupt

    questions, state = ask_dir(6), tmp_path / "out/batches.json"
    with Loopback() as server:
        asked = teacher(server, batches=BATCHES)
        monkeypatch.setattr(batches.time, "sleep", cut)
        with pytest.raises(KeyboardInterrupt):
            run(questions, asked, tmp_path / "out")
        monkeypatch.undo()
        monkeypatch.setenv("TEST_KEY", KEY)
        assert len(server.batches) == 2
        if id_lost:  # as if killed between handing in and noting the id
            handed = json.loads(state.read_text(encoding="utf-8"))
            handed[-1]["id"] = None
            state.write_text(json.dumps(handed), encoding="utf-8")
        counts, _ = run(questions, teacher(server, batches=BATCHES), tmp_path / "out")
    assert counts["kept"] == 6
    assert len(server.batches) == 2
    assert set(server.asked.values()) == {1}


def served(server, **changes):
    given = {
        "model_name": "model", "base_url": server.url, "key_variable": None, "token_limit": "max_tokens", "options": {},
        "samples_per_request": 32, "at_once": 3, "picture": PICTURE, "traffic": traffic(), "budget": Budget(),
    }  # fmt: skip
    return partial(Served, **{**given, **changes})


def sampled(questions, generator, out):
    out.mkdir()
    sampling = sample.Sampling("train", None, [], "cot", 8, {"short": 0.7, "choice": 1.2}, 0.9, 50, 99)
    return sample.run(str(questions), None, generator, sampling, 1, out)


@pytest.mark.parametrize(("most", "requests"), [(8, 5), (1, 3 + 5 * 8)])
def test_a_served_model_gives_its_samples_in_one_request_or_one_by_one(most, requests, ask_dir, tmp_path):
    with Loopback() as server:
        server.most_choices = most
        counts = sampled(ask_dir(5), served(server), tmp_path / "out")
    rows = read_jsonl(tmp_path / "out/rows.jsonl", Response)
    assert counts["responses"] == 40
    assert Counter((r.question_id, r.sample_id) for r in rows) == Counter(
        (f"q{i}", k) for i in range(5) for k in range(8)
    )
    assert all(r.finished for r in rows)
    assert sum(server.asked.values()) == requests
    last = [body for body in server.bodies if body.get("n", 1) == min(most, 8)]
    assert len({body["seed"] for body in last}) == len(last)  # or an endpoint that honours seeds repeats itself
    assert {(b["temperature"], b["top_p"], b["max_tokens"]) for b in last} == {(0.7, 0.9, 50)}


def test_an_endpoint_that_gives_the_same_response_every_time_is_refused_as_a_sampler(ask_dir, tmp_path):
    with Loopback() as server, pytest.raises(UserError, match=r"15 prompts 8 times the same response.*does not sample"):
        sampled(ask_dir(15), served(server, at_once=15), tmp_path / "out")


def test_a_served_model_is_evaluated_and_what_the_limit_cut_is_marked(ask_dir, tmp_path):
    with Loopback(lambda text, _: "long" if number_of(text) == 2 else None) as server:
        evaluation = evaluate.Evaluation("api", "train", ["direct", "cot"], {"direct": 4, "cot": 8}, 99)
        evaluate.run(str(ask_dir(5)), None, served(server), evaluation, 1, tmp_path)
    rows = read_jsonl(tmp_path / "rows.jsonl", EvalRow)
    assert len(rows) == 10
    assert all(r.finished != (r.question_id == "q2") for r in rows)
    assert {(b["max_tokens"], b["temperature"]) for b in server.bodies} == {(4, 0.0), (8, 0.0)}
    assert {r.num_tokens for r in rows} == {100}


def test_a_served_model_that_answers_blind_is_sent_grey_pictures(ask_dir, tmp_path):
    with Loopback() as server:
        evaluation = evaluate.Evaluation("api", "train", ["direct"], {"direct": 4}, 99, blind=True)
        evaluate.run(str(ask_dir(2)), None, served(server), evaluation, 1, tmp_path)
    sent = {body["messages"][-1]["content"][0]["image_url"]["url"].split(",")[1] for body in server.bodies}
    pictures = [Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB") for data in sent]
    assert [picture.getcolors() for picture in pictures] == [[(32 * 8, (127, 127, 127))]]


def test_a_served_model_that_gives_no_answer_stops_the_stage_and_keeps_the_batches_before(ask_dir, tmp_path):
    ill = {4: "empty"}
    with Loopback(lambda text, _: ill.get(number_of(text))) as server:
        with pytest.raises(UserError, match=r"q4: model gave no response \(malformed: no choices\)"):
            sampled(ask_dir(6), served(server), tmp_path / "out")
        ill.clear()
        (tmp_path / "out/shards").rename(tmp_path / "shards")
        (tmp_path / "out").rmdir()
        (tmp_path / "again").mkdir()
        (tmp_path / "shards").rename(tmp_path / "again/shards")
        sampling = sample.Sampling("train", None, [], "cot", 8, {"short": 1.0}, 0.9, 50, 99)
        sample.run(str(tmp_path / "questions_6"), None, served(server), sampling, 1, tmp_path / "again")
    assert {number_of(t): n for t, n in server.asked.items()} == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2}


def test_a_served_generator_stops_before_a_batch_that_could_pass_max_cost(ask_dir, tmp_path):
    with Loopback() as server:
        budget = Budget(input_price=1000.0, output_price=0.0, max_cost=5.0)
        with pytest.raises(UserError, match=r"\$3.0000 are spent in this run.*max_cost=5.0"):
            sampled(ask_dir(6), served(server, budget=budget), tmp_path / "out")
    assert sum(server.asked.values()) == 3  # one batch of at_once


def test_a_local_teacher_cut_within_a_batch_ends_with_the_rows_of_an_uncut_one(
    questions_dir, tiny_dir, tmp_path, monkeypatch
):
    local = LocalTeacher(partial(load, str(tiny_dir)), 6, 1.0, 1.0, batch_size=5, seed=1)
    real, stored = Journal.append, []

    def append(journal, row):
        if len(stored) == 7:
            raise KeyboardInterrupt
        stored.append(real(journal, row))

    monkeypatch.setattr(Journal, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run(questions_dir, local, tmp_path / "cut")
    monkeypatch.undo()
    counts, _ = run(questions_dir, local, tmp_path / "cut")
    run(questions_dir, local, tmp_path / "uncut")
    assert counts["asked"] == 24
    for name in ("rows.jsonl", "replies.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "uncut" / name).read_bytes()


@contextmanager
def replicas(*faults, **options):
    """A server for each fault, None for none; `url` is the list of their addresses."""
    with ExitStack() as stack:
        made = [Loopback(fault, **options) if fault else Loopback(**options) for fault in faults]
        servers = [stack.enter_context(server) for server in made]
        yield SimpleNamespace(url=[server.url for server in servers], servers=servers)


def killed_at(number):
    """A server's fault: the number-th request kills it."""
    seen = []

    def fault(text, _):
        seen.append(text)
        return "killed" if len(seen) == number else None

    return fault


def left_out(caplog, url):
    return [r.getMessage() for r in caplog.records if f"{url} is left out" in r.getMessage()]


def test_of_three_servers_one_is_killed_and_one_hangs_and_the_rows_are_those_of_one_server(
    ask_dir, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(served_module, "LOOK", 0.05)
    questions = ask_dir(60)
    with Loopback() as server:
        run(questions, teacher(server), tmp_path / "one")
    with replicas(killed_at(5), lambda *_: "stall", None, delay=0.01, stall=60) as several:
        asked = teacher(several, concurrency=4, give_up_after=3, timeout=100)
        run(questions, asked, tmp_path / "three")
        killed, hanging, well = several.servers
    for name in ("rows.jsonl", "replies.jsonl"):
        assert (tmp_path / "three" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert len(left_out(caplog, killed.url)) == len(left_out(caplog, hanging.url)) == 1
    assert "the last with: connection: " in left_out(caplog, killed.url)[0]
    assert "the last with: slow: " in left_out(caplog, hanging.url)[0]
    assert not left_out(caplog, well.url)
    assert sum(killed.asked.values()) <= 12  # four before the fifth killed it, and what was under way there
    assert sum(well.asked.values()) >= 60 - 8


def test_samples_of_a_question_do_not_depend_on_which_server_gave_them(ask_dir, tmp_path, caplog):
    class Seeded(Loopback):
        def completion(self, body, fault):
            status, answer = super().completion(body, fault)
            for choice in answer["choices"]:
                choice["message"]["content"] += f" {body['seed']} {choice['index']}"
            return status, answer

    questions = ask_dir(12)
    with Seeded() as server:
        sampled(questions, served(server), tmp_path / "one")
    with Seeded(killed_at(3)) as killed, Seeded() as well:
        several = SimpleNamespace(url=[killed.url, well.url])
        sampled(questions, served(several, traffic=traffic(give_up_after=1, longest_wait=60)), tmp_path / "two")
    assert (tmp_path / "two/rows.jsonl").read_bytes() == (tmp_path / "one/rows.jsonl").read_bytes()
    assert len(left_out(caplog, killed.url)) == 1  # of four calls, for as many batches
    assert 0 < sum(killed.asked.values()) <= 4


def test_work_goes_to_the_server_that_is_free_and_a_limit_of_what_is_under_way_is_that_of_each(ask_dir, tmp_path):
    with replicas(None, None) as several:
        slow, quick = several.servers
        slow.delay, quick.delay = 0.2, 0.01
        run(ask_dir(40), teacher(several, concurrency=4), tmp_path / "out")
    assert max(slow.most_at_once, quick.most_at_once) <= 4 < slow.most_at_once + quick.most_at_once
    assert 0 < sum(slow.asked.values()) < sum(quick.asked.values())


def test_fewer_requests_than_there_is_room_for_are_shared_out(ask_dir, tmp_path):
    with replicas(None, None, delay=0.3) as several:
        run(ask_dir(8), teacher(several, concurrency=32), tmp_path / "out")
    assert all(sum(server.asked.values()) > 1 for server in several.servers)


def test_a_server_that_asks_to_wait_holds_up_no_other_and_is_not_left_out(ask_dir, tmp_path, caplog):
    with replicas(lambda *_: "429 10", None, delay=0.01) as several:
        counts, _ = run(ask_dir(20), teacher(several, concurrency=2, give_up_after=2), tmp_path / "out")
        waiting, _ = several.servers
    assert counts["kept"] == 20
    assert 0 < sum(waiting.asked.values()) <= 2
    assert not left_out(caplog, waiting.url)


def test_where_all_servers_are_dead_an_error_names_each_and_what_was_stored_is_gone_on_from(ask_dir, tmp_path):
    questions = ask_dir(40)
    dead = pytest.raises(UserError, match=r"none of 3 addresses answers: .*What was stored is kept")
    with replicas(*(killed_at(n) for n in (3, 4, 5)), delay=0.01) as several, dead as caught:
        run(questions, teacher(several, concurrency=2, give_up_after=3), tmp_path / "out")
    assert all(f"{url} (connection: " in str(caught.value) for url in several.url)
    stored = {reply.question_id for reply in read_jsonl(tmp_path / "out/replies.jsonl", Reply)}
    assert 0 < len(stored) < 40
    with Loopback() as server:
        counts, _ = run(questions, teacher(server), tmp_path / "out")
    assert counts["kept"] == 40
    assert sum(server.asked.values()) == 40 - len(stored)


def test_a_server_that_is_left_out_is_tried_again_and_taken_back(ask_dir, tmp_path, caplog):
    ill = []

    def fault(text, _):
        ill.append(text)
        return "500" if len(ill) <= 4 else None

    with replicas(fault, None, delay=0.02) as several:
        asked = teacher(several, concurrency=2, give_up_after=2, longest_wait=0.05)
        counts, _ = run(ask_dir(60), asked, tmp_path / "out")
        back, _ = several.servers
    assert counts["kept"] == 60
    assert len(left_out(caplog, back.url)) == 1
    assert sum(back.asked.values()) > 10


def test_a_request_that_fails_everywhere_is_asked_at_each_server_and_none_is_left_out_for_it(ask_dir, tmp_path, caplog):
    def fault(text, _):
        return "500" if number_of(text) == 3 else None

    with replicas(fault, fault, fault) as several:
        _, rows = run(ask_dir(10), teacher(several, concurrency=2, give_up_after=2, tries=6), tmp_path / "out")
        counts = [sum(n for text, n in s.asked.items() if number_of(text) == 3) for s in several.servers]
    assert [r.status for r in rows] == ["kept"] * 3 + ["failed"] + ["kept"] * 6
    assert sum(counts) == 6 and min(counts) > 0
    assert "is left out" not in caplog.text


def test_a_server_of_another_model_is_named(ask_dir, tmp_path):
    with replicas(None, lambda *_: "401") as several, pytest.raises(UserError, match="answered 401") as caught:
        run(ask_dir(10), teacher(several, concurrency=1), tmp_path / "out")
    assert several.url[1] in str(caught.value)


def test_batch_mode_takes_one_address():
    with replicas(None, None) as several, pytest.raises(UserError, match="batch mode is of one provider"):
        teacher(several, batches=BATCHES)
