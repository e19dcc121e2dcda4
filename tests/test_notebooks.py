"""The notebooks: run from top to bottom on a small run, stripped of outputs, readers of artifacts and nothing else."""

from __future__ import annotations

import ast
import contextlib
import csv
import io
import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import rationale

FOLDER = Path(rationale.__file__).parents[1] / "notebooks"
NOTEBOOKS = [FOLDER / f"{name}.ipynb" for name in (
    "1_rationales", "2_pairs_and_rewards", "3_tables_and_curves", "4_token_credit",
)]  # fmt: skip
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def finished(small_run):
    return small_run / "runs/mini_small"


def cells_of(path, kind="code"):
    return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def execute(path):
    """What each code cell shows: printed text, the HTML of its last expression, open figures."""
    plt.switch_backend("Agg")
    space = {"__name__": "__main__"}
    for cell in cells_of(path):
        body = ast.parse("".join(cell["source"])).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(ast.Module(body, []), cell["id"], "exec"), space)
            value = eval(compile(ast.Expression(last.value), cell["id"], "eval"), space) if last else None
        html = value._repr_html_() if hasattr(value, "_repr_html_") else ""
        figures = len(plt.get_fignums())
        plt.close("all")
        yield cell["id"], printed.getvalue(), html, figures


def printed_by(name):
    return "".join(text for _, text, _, _ in execute(FOLDER / f"{name}.ipynb"))


@pytest.fixture
def of_run(monkeypatch):
    """Point the notebooks at a run, and stand where they stand."""
    monkeypatch.chdir(FOLDER)
    return lambda folder: monkeypatch.setenv("RATIONALE_RUN", str(folder))


def files_of(folder):
    """All but what a command of another test may write there meanwhile."""
    found = (p for p in folder.rglob("*") if p.is_file() and "hydra" not in p.parts and not p.name.startswith("."))
    return {str(p): p.stat().st_mtime_ns for p in found}


def test_the_folder_holds_these_notebooks_alone():
    assert sorted(FOLDER.rglob("*.ipynb")) == NOTEBOOKS


@pytest.mark.slow
@every
def test_every_cell_runs_and_shows_something_and_writes_nothing(path, finished, of_run):
    of_run(finished)
    before = files_of(finished), files_of(FOLDER)
    first, *others = execute(path)
    assert first[1:] == ("", "", 0)
    assert others
    for name, printed, html, figures in others:
        assert printed.strip() or html or figures, name
    assert before == (files_of(finished), files_of(FOLDER))


@pytest.mark.slow
def test_the_tables_are_those_of_the_report(finished, of_run):
    of_run(finished)
    printed = printed_by("3_tables_and_curves")
    for name in ("table_2", "table_3"):
        assert (finished / f"report/{name}.md").read_text(encoding="utf-8") in printed


@pytest.mark.slow
def test_what_the_filter_did_is_what_stage_distill_counted(finished, of_run):
    of_run(finished)
    lines = [line.replace("|", " ").split() for line in printed_by("1_rationales").splitlines() if line[:1] == "|"]
    (_, *statuses), _, *of_datasets = lines
    shown = {f"{d}/{s}": int(n) for d, *ns in of_datasets for s, n in zip(statuses, ns, strict=True) if n != "0"}
    assert (
        shown == json.loads((finished / "rationales/manifest.json").read_text(encoding="utf-8"))["counts"]["by_dataset"]
    )


@pytest.mark.slow
def test_the_rewards_are_those_that_dpo_logged(finished, of_run):
    of_run(finished)
    with (finished / "seed_1/dpo/metrics/metrics.csv").open(encoding="utf-8") as file:
        first = next(csv.DictReader(file))
    (line,) = [line for line in printed_by("2_pairs_and_rewards").splitlines() if line.startswith("rewards/margins")]
    assert line.split()[1:5] == ["first", f"{float(first['rewards/margins']):.4f}", "(step", f"{first['step']})"]


@every
def test_outputs_are_stripped_and_the_format_is_valid(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    for cell in cells_of(path):
        assert set(cell) == {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}
        assert (cell["outputs"], cell["execution_count"], cell["metadata"]) == ([], None, {})


@every
def test_a_sentence_stands_before_every_cell(path):
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert kinds == ["markdown", "code"] * (len(kinds) // 2)
    first = "".join(cells_of(path, "markdown")[0]["source"])
    assert "make mini" in first and "rationale experiment=mini" in first and "RATIONALE_RUN" in first


@every
def test_it_defines_nothing_and_imports_the_package_and_what_that_depends_on(path):
    nodes = [node for cell in cells_of(path) for node in ast.walk(ast.parse("".join(cell["source"])))]
    assert not [n for n in nodes if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    imported = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
    imported |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= {"rationale", "matplotlib", *sys.stdlib_module_names}


@every
def test_a_run_that_is_not_there_is_answered_with_the_command_that_makes_it(path, tmp_path, of_run):
    of_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"none/questions is no finished .*run `make mini` or `rationale"):
        next(execute(path))


@every
def test_a_run_that_is_not_whole_is_told_by_its_first_missing_part(path, tmp_path, of_run):
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions/manifest.json").write_text("{}", encoding="utf-8")
    of_run(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"(rationales|seed_1/[\w/]+|report) is no finished artifact"):
        next(execute(path))
