"""stage=verify: a run is whole or what is wrong with it is named, and figures that rest on it are told."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from commands import run as command
from PIL import Image

from rationale.artifacts import UserError, produce
from rationale.hashes import MANIFEST
from rationale.images import store
from rationale.schema import Question, write_jsonl
from rationale.scoring.cells import SAMPLED
from rationale.tools import verify


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A run of three artifacts: questions with an image, an evaluation of them, a report on it."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (4, 4)).save("drawn.png")

    def questions(folder):
        (folder / "images").mkdir()
        image = store(Path("drawn.png").read_bytes(), ".png", folder / "images")
        write_jsonl(folder / "questions.jsonl", [Question("q", "d", "test", [f"images/{image}"], "?", ["1"])])
        return {}

    def writes(name):
        return lambda folder: (folder / name).write_text("1\n", encoding="utf-8") and {}

    produce("prepare", {"out": "runs/a/questions", "task": 1}, questions)
    produce("evaluate", {"out": "runs/a/eval", "questions": "runs/a/questions"}, writes("rows.jsonl"))
    produce("tabulate", {"out": "runs/a/report", "evals": "runs/a/ev*"}, writes("table_2.md"))
    return tmp_path / "runs/a"


def test_a_whole_run_supports_its_figures(made, capsys):
    verify.run("runs/a")
    said = capsys.readouterr().out
    assert "3 artifacts, 3 whole" in said
    assert "figures of report supported: table_2.md\n  rest on 3 artifacts" in said


def alter(path):
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("where", "change", "word"),
    [
        ("eval/rows.jsonl", alter, r"eval \(evaluate\): rows.jsonl was changed"),
        ("eval/rows.jsonl", Path.unlink, r"rows.jsonl is missing"),
        ("eval/more.jsonl", Path.touch, r"more.jsonl was added"),
        ("questions/images/*.png", alter, r"images/\w+.png was changed"),
        ("questions/images/*.png", Path.unlink, r"images/\w+.png is missing"),
    ],
)
def test_a_file_that_was_altered_is_named_and_so_is_what_rests_on_it(made, where, change, word, capsys):
    path = next(made.glob(where)) if "*" in where else made / where
    change(path)
    with pytest.raises(UserError, match="artifacts are not whole"):
        verify.run("runs/a")
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if re.search(word, line)]
    assert "figures of report NOT supported (made from" in said


@pytest.mark.parametrize(("part", "value"), [("arguments", {"out": "runs/a/eval", "questions": "b"}), ("inputs", {})])
def test_a_manifest_whose_config_was_edited_is_named(made, part, value, capsys):
    path = made / "eval" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), part: value}), encoding="utf-8")
    with pytest.raises(UserError):
        verify.run("runs/a")
    assert "arguments or inputs are not those of its key" in capsys.readouterr().out


def test_an_input_that_was_made_anew_since_is_named(made, capsys):
    produce(
        "prepare",
        {"out": "runs/a/questions", "task": 2},
        lambda f: (f / "questions.jsonl").write_text("", encoding="utf-8") or {},
    )
    with pytest.raises(UserError):
        verify.run("runs/a")
    assert "eval (evaluate): its input runs/a/questions is another now" in capsys.readouterr().out


def test_an_input_that_is_gone_is_named(made, capsys):
    shutil.rmtree(made / "questions")
    with pytest.raises(UserError):
        verify.run("runs/a")
    assert "its input runs/a/questions is not there" in capsys.readouterr().out


def test_a_run_that_was_moved_is_still_whole(made, tmp_path, capsys):
    made.rename(tmp_path / "elsewhere")
    verify.run(str(tmp_path / "elsewhere"))
    assert "rest on 3 artifacts" in capsys.readouterr().out


def test_what_is_half_done_or_replaced_is_no_part_of_a_run(made, capsys):
    shutil.copytree(made / "eval", made / ".eval.previous")
    alter(made / ".eval.previous/rows.jsonl")
    verify.run("runs/a")
    assert "3 artifacts, 3 whole" in capsys.readouterr().out


def test_a_folder_without_artifacts_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished artifact below it"):
        verify.run(str(tmp_path))


@pytest.mark.slow
def test_the_command_finds_a_whole_run_whole_and_makes_nothing(small_run):
    before = {path for path in (small_run / "runs/mini_small").rglob("*") if "hydra" not in path.parts}
    said = command(small_run, "stage=verify", f"run={small_run}/runs/mini_small")
    assert "figures of report supported: dpo.svg" in said
    assert {path for path in (small_run / "runs/mini_small").rglob("*") if "hydra" not in path.parts} == before


@pytest.mark.slow
def test_every_row_of_a_table_leads_to_a_manifest(small_run):
    report = small_run / "runs/mini_small/report"
    sources = list(csv.DictReader((report / "sources.csv").read_text(encoding="utf-8").splitlines()))
    tables = [report / "table_2.csv", report / "table_3.csv"]
    rows = [row for table in tables for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
    for row in rows:
        place = "/samples/" if row["prompt"] in SAMPLED else "/eval/"
        (source,) = [s for s in sources if s["name"] == row["name"] and place in s["folder"]]
        manifest = json.loads((small_run / source["folder"] / MANIFEST).read_text(encoding="utf-8"))
        assert manifest["key"] == source["key"] and manifest["arguments"]["seed"] == int(source["seed"])
        assert all(f"{path} {digest}" in source["inputs"] for path, digest in manifest["inputs"].items())
