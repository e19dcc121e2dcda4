"""make gpu: a part that fails or hangs is told and leaves the others alone, and each part fails where it should."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from checking import page
from families import EVERY

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments/gpu"))

import parts
import run

from rationale.models import prefix
from rationale.models.vlm import load

CPU = torch.device("cpu")


def part(text, limit=60.0, lacks=None):
    return run.Part("some", "Something.", ["-c", text], limit, lacks)


def test_a_part_that_fails_is_told_with_its_last_lines_and_what_it_had_found(tmp_path):
    text = "import sys; open(sys.argv[1][7:], 'w').write('[{\"a\": 1}]'); print('so far'); sys.exit('no further')"
    found = run.run(part(text), tmp_path, 60)
    assert (found["outcome"], found["why"], found["rows"]) == ("failed", "ended with code 1", [{"a": 1}])
    assert found["last"] == ["so far", "no further"]


def test_a_part_that_hangs_ends_at_its_limit_with_what_it_began(tmp_path):
    text = "import os, time; p = os.fork(); p and print(p, flush=True); time.sleep(99)"
    found = run.run(part(text, limit=5), tmp_path, 60)
    assert (found["outcome"], found["why"]) == ("failed", "not through after 5 s")
    state = Path(f"/proc/{found['last'][0]}/stat")
    deadline = time.monotonic() + 30
    while state.exists() and state.read_text(encoding="utf-8").split()[2] != "Z" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not state.exists() or state.read_text(encoding="utf-8").split()[2] == "Z"


def test_what_is_not_there_is_not_run_and_does_not_fail(tmp_path):
    found = run.run(part("", lacks="trl is not installed"), tmp_path, 60)
    assert (found["outcome"], found["why"]) == ("not run", "trl is not installed")
    assert run.run(part(""), tmp_path, 0)["outcome"] == "failed"  # for want of time nothing was seen


def test_the_numbers_of_the_page_of_stage_check_are_read(tiny_dir, capsys):
    found = run.page(page(capsys, partial(load, str(tiny_dir))))
    assert found["greedy"] == "2 of 2" and found["tree"] < 1e-3 and found["tree gradients"] < 1e-3
    assert {"SFT s planned", "SFT peak GiB", "DPO s", "DPO GiB planned"} <= found.keys()


@pytest.mark.parametrize("dtype", run.LIMITS)
def test_a_family_whose_branches_see_one_another_is_over_the_limits(dtype, monkeypatch):
    def row():
        (found,) = parts.attempt(partial(parts.family, "llava", CPU, dtype))
        return found

    assert row()["failed"] is None
    whole = prefix.tree_inputs
    seen = {"branches": lambda mask: mask.clamp(max=1)}

    def blurred(model, batch):
        found = whole(model, batch)
        return {**found, "attention_mask": seen["branches"](found["attention_mask"])}

    monkeypatch.setattr("rationale.models.logps.tree_inputs", blurred)
    assert "tree over" in row()["failed"] and "gradients over" in row()["failed"]


def test_a_number_that_is_none_is_over_its_limit_and_an_error_is_a_row():
    (found,) = parts.attempt(lambda: ({"a": float("nan")}, {"a": 1.0}))
    assert found["failed"] == "a over 1"
    (found,) = parts.attempt(lambda: 1 / 0, family="llava")
    assert found == {"family": "llava", "failed": "ZeroDivisionError: division by zero"}


def test_every_family_is_tried_in_both_dtypes(monkeypatch, tmp_path):
    monkeypatch.setattr(parts, "family", lambda *_: ({}, {}))
    rows = list(parts.families(CPU, tmp_path, True))
    assert [(row["dtype"], row["family"]) for row in rows] == [(d, f) for d in run.LIMITS for f in EVERY]


@pytest.mark.slow
def test_no_forward_pass_of_a_part_stays_on_the_cpu(tmp_path):
    script = Path(__file__).resolve().parent / "parts_on_second.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert {name.split(" on ")[1] for name in found.pop("passes")} == {"second"}
    assert [row["failed"] for name in ("families", "memory") for row in found[name]] == [None] * 4
    assert found["machine"][0]["device"] == "second:0"


def test_the_page_says_that_no_gpu_was_there():
    machine = {"device": "cpu", "name": "cpu"}
    told = run.markdown({"date": "today", "commit": "abc", "machine": machine, "small": True, "parts": []})
    assert "**No GPU was there.**" in told
    told = run.markdown({"date": "", "commit": "", "machine": {"device": "cuda:0"}, "small": False, "parts": []})
    assert "No GPU" not in told
