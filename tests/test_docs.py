"""The pages of docs/: every block runs, or its commands compose and bind; every link leads somewhere.

A block that opens with a comment naming a file is written there, and the page's later blocks find it. What a python
block prints is the text block that follows it. A diff is applied to a copy of what it changes. A block marked
`bash run` is run as it stands, in a shell, with a smaller task.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from composing import check
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from rationale.command.cli import CONF
from rationale.command.jobs import jobs_of

ROOT = CONF.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [*PAGES, ROOT / "README.md", ROOT / "experiments" / "README.md"]
KNOWN = ("bash", "bash run", "python", "yaml", "diff", "text")
BLOCK = re.compile(r"^```(.*)\n((?:(?!```).*\n)*)```$", re.MULTILINE)
NAMED = re.compile(r"(?:# @package .*\n)?# (\S+\.(?:py|yaml))\n")  # Hydra reads its directive in the first line
SMALLER = "logger=csv dataset.images.train=8 dataset.images.test=2 sft.epochs=1 report.num_resamples=50"

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


class Block(NamedTuple):
    language: str
    text: str
    printed: str | None  # the text block that follows at once


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    follows = {
        i for i, (one, other) in enumerate(pairwise(found)) if (one.end() + 2, "text") == (other.start(), other[1])
    }
    return [Block(b[1], b[2], found[i + 1][2] if i in follows else None) for i, b in enumerate(found)]


def write_named(page: Path, folder: Path) -> None:
    """The files that a page names."""
    for block in blocks(page):
        if name := NAMED.match(block.text):
            path = folder / name[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")


def words_of(text: str) -> list[list[str]]:
    """The words of every command of a bash block."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@by_page
def test_every_block_is_closed_and_of_a_known_language(page):
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(blocks(page))
    assert {block.language for block in blocks(page)} <= set(KNOWN)


def patched(diff: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import a module as a diff changes it."""
    name = re.search(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)[1]
    copy = folder / name
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run(["git", "apply", "-"], input=diff, encoding="utf-8", cwd=folder, check=True)
    module = name.removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(module, copy)
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module, made)
    spec.loader.exec_module(made)


@by_page
def test_python_blocks_run_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    write_named(page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for block in blocks(page):
        if block.language == "diff":
            patched(block.text, tmp_path, monkeypatch)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as said:
                exec(compile(block.text, str(page), "exec"), {"__name__": page.stem})
            assert said.getvalue() == (block.printed or "")


def compose_command(words: list[str], folder: Path) -> None:
    """Compose and bind what the words after `rationale` ask for; of a sweep its last job."""
    own, sweep = [], "-m" in words
    words = [word for word in words if word != "-m"]
    if "--config-dir" in words:
        at = words.index("--config-dir")
        own, words = [f"hydra.searchpath=[file://{folder / words[at + 1]}]"], words[:at] + words[at + 2 :]
    if sweep:
        words = jobs_of(OverridesParser.create().parse_overrides(words), exact=True)[-1]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        check(compose("config", [*own, *words]))


@by_page
def test_commands_compose_and_bind(page, tmp_path, monkeypatch):
    write_named(page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for words in (w for b in blocks(page) if b.language.startswith("bash") for w in words_of(b.text)):
        if "rationale" in words:
            compose_command(words[words.index("rationale") + 1 :], tmp_path)
        elif words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        else:
            assert words[0] in ("bash", "export", "head", "python", "wandb"), words
            paths = [w for w in words if w.startswith(("tests/", "experiments/"))]
            assert all((ROOT / path).exists() for path in paths), words


@pytest.mark.slow
def test_a_task_of_ones_own_is_trained_on_and_stands_in_a_table(tmp_path):
    page = ROOT / "docs" / "extending.md"
    write_named(page, tmp_path)
    lines = [block.text for block in blocks(page) if block.language == "bash run"]
    script = "\n".join(["set -e", f'rationale() {{ command rationale "$@" {SMALLER}; }}', *lines])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True, encoding="utf-8", timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert re.search(r"^\| SFT +\| CoT +\| [\d.]+ \[.*\] n=4 ", done.stdout, re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http:", "https:"))]
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
