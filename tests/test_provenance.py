"""Which commit made an artifact: that of the package's own checkout, or none and why."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from rationale.artifacts import produce
from rationale.hashes import read_manifest
from rationale.provenance import git_commit


@pytest.fixture
def checkout(tmp_path):
    """A checkout of one commit, with a tag."""
    root = tmp_path / "repo"
    root.mkdir()
    (root / "pyproject.toml").touch()
    for words in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm x", "tag v1"):
        subprocess.run(["git", *words.split()], cwd=root, check=True)
    git_commit.cache_clear()
    yield root
    git_commit.cache_clear()


def head(root):
    command = ["git", "-c", "safe.directory=*", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_the_checkouts_and_marked_where_files_changed(checkout):
    assert git_commit(checkout) == head(checkout)
    git_commit.cache_clear()
    (checkout / "pyproject.toml").write_text("changed", encoding="utf-8")
    assert git_commit(checkout) == f"{head(checkout)}-dirty"


def test_a_clone_inside_another_repository_does_not_record_that_ones(checkout):
    inner = checkout / "packages"
    inner.mkdir()
    (inner / "pyproject.toml").touch()
    assert git_commit(inner) == "unknown (the package does not run from a checkout of its own)"


def test_a_repository_that_a_hook_names_is_not_taken(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    assert re.fullmatch(r"[0-9a-f]{40}", git_commit(checkout))


@pytest.mark.skipif(os.getuid() != 0, reason="a file can be given away by root alone")
def test_a_clone_that_another_user_owns_is_recorded(checkout):
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 65534, 65534)
    assert git_commit(checkout) == head(checkout)


def test_without_git_artifacts_are_made_and_say_so(checkout, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    out = produce("stage", {"out": str(tmp_path / "made")}, lambda folder: {})
    assert read_manifest(out)["commit"].startswith("unknown (")


def test_what_git_says_is_the_reason(checkout):
    (checkout / ".git/HEAD").write_text("nonsense", encoding="utf-8")
    assert git_commit(checkout) == "unknown (git: fatal: not a git repository: './.git')"
