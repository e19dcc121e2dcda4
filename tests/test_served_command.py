"""stage=distill as a user runs it against an endpoint: killed and resumed, its key told nowhere; and a real server."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from commands import begun
from loopback import KEY, PASSING, Loopback

from rationale.endpoints.chat import ImageEncoding
from rationale.endpoints.client import RequestPolicy
from rationale.endpoints.generator import Served
from rationale.models.batch import Example
from rationale.models.local import Local
from rationale.models.vlm import load
from rationale.prompts import prompt_text, teacher_text
from rationale.replies import Budget
from rationale.schema import EvalRow, Question, Rationale, read_jsonl
from rationale.stages import evaluate

pytestmark = pytest.mark.slow

DATA = Path(os.environ.get("RATIONALE_REAL_DATA", "")) / "chartqa_cot"
REAL = bool(os.environ.get("RATIONALE_REAL_DATA")) and DATA.is_dir()
FAULTS = ("429", "500", "cut", "json", "empty", "refusal", "400", "wrong")
ENVIRONMENT = {**os.environ, "TEST_KEY": KEY, "OMP_NUM_THREADS": "1"}


def run(folder, *arguments):
    done = begun(folder, *arguments, TEST_KEY=KEY).ended(1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


class Faults:
    """A fault for every third question, each kind in turn; those that pass are met once."""

    def __init__(self, questions):
        self.kinds = {teacher_text(q): FAULTS[i // 3 % len(FAULTS)] for i, q in enumerate(questions) if i % 3 == 0}

    def __call__(self, text, number):
        kind = self.kinds.get(text)
        return kind if number == 1 or kind not in PASSING else None


def statuses(path):
    return Counter(row.status for row in read_jsonl(path, Rationale))


def test_a_distillation_killed_half_way_and_resumed_gives_the_rows_of_an_uncut_one_and_never_tells_its_key(tmp_path):
    data = ["experiment=chartqa_real", f"data_root={DATA}", "dataset.limit={train: 60}"]
    data = data if REAL else ["experiment=mini_small", "dataset.images={train: 10, val: 0, test: 0}"]
    questions = f"paths.questions={tmp_path}/runs/questions"
    said = run(tmp_path, *data, "stage=prepare", questions)
    asked = read_jsonl(tmp_path / "runs/questions/questions.jsonl", Question)
    faults = Faults(asked)
    with Loopback(faults, delay=0.2) as server:
        asking = [
            *data, questions, "stage=distill", "teacher=openai", f"teacher.base_url={server.url}", "distill.chunk=1",
            "teacher.key_variable=TEST_KEY", "teacher.traffic.concurrency=4", "teacher.traffic.first_wait=0.02",
            "teacher.options.max_tokens=100",
        ]  # fmt: skip
        said += run(tmp_path, *asking, "name=uncut")
        server.asked.clear()

        process = begun(tmp_path, *asking, "name=cut", TEST_KEY=KEY)
        stored, deadline = [], time.monotonic() + 600
        while len(stored) < 20 and time.monotonic() < deadline:
            time.sleep(0.02)
            found = list(tmp_path.glob("runs/cut/.rationales.*/replies.jsonl"))
            stored = found[0].read_text(encoding="utf-8").splitlines() if found else []
        process.kill()
        done = process.ended(60)
        assert done.returncode == -signal.SIGKILL
        said += done.stdout + done.stderr
        stored = found[0].read_text(encoding="utf-8").splitlines(keepends=True)
        whole = sum(line.endswith("\n") for line in stored)
        assert 20 <= whole < len(asked)
        assert not (tmp_path / "runs/cut/rationales").exists()
        time.sleep(0.5)  # what was under way has arrived at the server
        before = sum(server.asked.values())
        said += run(tmp_path, *asking, "name=cut")

    uncut, cut = (tmp_path / f"runs/{name}/rationales" for name in ("uncut", "cut"))
    assert (cut / "rows.jsonl").read_bytes() == (uncut / "rows.jsonl").read_bytes()
    assert (cut / "report.md").read_bytes() == (uncut / "report.md").read_bytes()
    counts = statuses(cut / "rows.jsonl")
    assert counts.total() == len(asked)
    assert (counts["malformed"], counts["refused"], counts["failed"]) == (5, 2, 2)  # of 20: json 3, empty 2, ...
    assert counts["kept"] >= 40

    lines = (uncut / "replies.jsonl").read_text(encoding="utf-8").splitlines()
    again = sum(kind in PASSING for kind in faults.kinds.values())
    assert len(lines) == len(asked)
    assert 0 <= sum(server.asked.values()) - len(asked) - again <= 4  # at most what was under way
    assert before >= whole

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 10
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert KEY not in said
    assert server.keys == {f"Bearer {KEY}"}


SERVER = """
import sys
sys.modules["torchvision"] = None  # beside a CPU build of torch its wheel decodes no image; Pillow does
from transformers.cli.serve import Serve
Serve(sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), device="cpu", dtype="float32")
"""
NEEDED = ("fastapi", "uvicorn")
MODEL = Path(__file__).parent.parent / "experiments/mini_base/model"


@pytest.fixture
def transformers_serve(tmp_path):
    """Address of a `transformers serve` with the mini model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(MODEL), str(port)], env=ENVIRONMENT, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + 120
            while "Uvicorn running" not in (tmp_path / "server.log").read_text(encoding="utf-8"):
                assert server.poll() is None and time.monotonic() < deadline, (tmp_path / "server.log").read_text(
                    encoding="utf-8"
                )
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


serves = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED),
    reason="`transformers serve` needs fastapi and uvicorn: pip install fastapi uvicorn",
)


@serves
def test_the_mini_model_behind_transformers_serve_answers_as_it_does_here(transformers_serve, questions_dir, tmp_path):
    """A server that is not of our making: greedy responses, their lengths and their ends are those of the embedded
    model, and where it samples the samples of a prompt differ."""
    served = partial(
        Served, model_name=str(MODEL), base_url=transformers_serve, key_variable=None, token_limit="max_tokens",
        options={}, samples_per_request=8, at_once=8, picture=ImageEncoding(2048, "PNG", 90, "auto"),
        traffic=RequestPolicy(4, None, None, 60, 2, 0.1, 1, 60, 5), budget=Budget(),
    )  # fmt: skip
    rows = []
    for name, generator in (("served", served), ("local", Local)):
        (tmp_path / name).mkdir()
        evaluation = evaluate.Evaluation(name, "test", ["direct", "cot"], {"direct": 8, "cot": 40}, 8)
        evaluate.run(str(questions_dir), partial(load, str(MODEL)), generator, evaluation, 1, tmp_path / name)
        rows.append(read_jsonl(tmp_path / name / "rows.jsonl", EvalRow))
    assert len(rows[0]) > 10
    assert {r.finished for r in rows[0]} == {True, False}
    assert [(r.question_id, r.style, r.text, r.finished) for r in rows[0]] == [
        (r.question_id, r.style, r.text, r.finished) for r in rows[1]
    ]
    asked = [Example(q.question_id, q.files(questions_dir), prompt_text(q, "cot"), "") for q in some(questions_dir)]
    sampling = {"generation_config": json.dumps({"do_sample": True})}
    drawn = served(None, options=sampling)(asked, 12, num_samples=4, temperature=1.0, seed=1)
    assert [len(responses) for responses in drawn] == [4, 4]
    assert any(len({r.text for r in responses}) > 1 for responses in drawn)


@serves
def test_stage_check_compares_a_server_that_takes_no_logprobs_by_prompt_tokens_and_texts(transformers_serve, tmp_path):
    said = run(
        tmp_path, "stage=check", "generator=server", f"generator.model_name={MODEL}",
        f"generator.base_url={transformers_serve}", "check.max_new_tokens=12",
    )  # fmt: skip
    assert re.search(r"served, prompt tokens: \d+, \d+, \d+, \d+, as here\n", said)
    assert "served, log p: the server gives none, so prompt tokens and texts alone are compared\n" in said
    assert "served, greedy: 4 of 4 texts are this model's\n" in said


def some(questions_dir):
    return read_jsonl(questions_dir / "questions.jsonl", Question)[:2]
