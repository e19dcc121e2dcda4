"""Text is UTF-8 in every file of ours, whatever the locale."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import reports
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [path for part in ("rationale", "experiments", "tests") for path in sorted((ROOT / part).rglob("*.py"))]
OTHERS = ("Image", "os", "chromium", "tab")  # whose `open` opens no text
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
experiment = reports.experiment


def unstated(source: str) -> list[str]:
    """Calls that read or write text in the encoding of the locale.

    Ruff's PLW1514 finds 3 of the 198 that there were: it does not know what is a path.
    """
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name, _, method = ast.unparse(call.func).rpartition(".")
        given = {keyword.arg for keyword in call.keywords}
        modes = {ast.unparse(value) for value in [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]}
        opens = method == "open" and name not in OTHERS and not any(m.endswith("b'") for m in modes)
        if (method in ("read_text", "write_text") or opens) and "encoding" not in given:
            found.append(f"line {call.lineno}: {ast.unparse(call):.80}")
    return found


@pytest.mark.parametrize("source", ["path.read_text()", "Path(p).write_text(t)", "open(p)", "p.open('w', newline='')"])
def test_the_search_below_finds(source):
    assert len(unstated(source)) == 1


@pytest.mark.parametrize("source", ["p.read_text(encoding='utf-8')", "p.open('rb')", "Image.open(p)", "open(p, 'r+b')"])
def test_the_search_below_lets_pass(source):
    assert unstated(source) == []


def test_every_file_of_text_is_opened_in_a_stated_encoding():
    assert len(SOURCES) > 200
    found = {str(path.relative_to(ROOT)): unstated(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {path: calls for path, calls in found.items() if calls} == {}


def in_ascii(*command: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, encoding="ascii", timeout=300, check=False,
        env={**os.environ, **ASCII, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )  # fmt: skip


def test_a_report_is_made_and_shown_under_an_ascii_locale(experiment, tmp_path):
    script = "import sys, pathlib, reports; reports.tabulate(pathlib.Path(sys.argv[1]))"
    made = in_ascii("-c", script, str(experiment), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "④ both" in (experiment / "report/table_3.md").read_text(encoding="utf-8")
    shown = in_ascii("-m", "rationale.reporting", str(experiment / "report"), cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert r"\u2463 both" in shown.stdout


def test_a_refused_row_of_any_script_is_named_under_an_ascii_locale(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    row = {
        "id": "é",
        "question": "多少?",
        "answer": "二",
        "choices": ["二", "二"],
        "image": "red.png",
        "split": "train",
    }
    (tmp_path / "data.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    arguments = ["stage=prepare", "dataset=local", f"+data_root={tmp_path}", f"root={tmp_path}/runs"]
    said = in_ascii("-m", "rationale", *arguments, cwd=tmp_path)
    assert said.returncode == 1
    named = r"\xe9: choices repeat: ['\u4e8c', '\u4e8c']"
    assert named in said.stdout and named in said.stderr and "Traceback" not in said.stderr
