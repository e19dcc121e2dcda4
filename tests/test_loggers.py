"""Metrics: a resumed run holds every step once, in its CSV and in wandb, which works offline."""

from __future__ import annotations

import csv
import os
import subprocess

import pytest
import wandb
from commands import command
from offline import runs

from rationale.artifacts import produce
from rationale.command.runs import caches
from rationale.training import dashboard
from rationale.training.loggers import close, loggers


def log(out, values, mode="disabled", **more):
    found = loggers(out, "project", "group", "name", mode, str(out), **more)
    for logger in found:
        for step, value in values:
            logger.log_metrics({"train/loss": value}, step=step)
    return found


def cut(found, *, mode="disabled"):
    """What a kill leaves, as far as it was written."""
    for logger in found:
        logger.save()
    if mode != "disabled":
        wandb.finish(exit_code=137)


def table(out):
    with (out / "metrics" / "metrics.csv").open(encoding="utf-8") as file:
        return [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_a_resumed_run_keeps_the_steps_before_the_cut_and_counts_a_repeated_one_once(tmp_path, mode):
    cut(log(tmp_path, [(9, 3.0), (19, 2.0), (29, 1.5)], mode), mode=mode)  # after a checkpoint at step 15
    close(log(tmp_path, [(19, 2.5), (29, 1.0)], mode), tmp_path)
    assert table(tmp_path) == [(9, 3.0), (19, 2.5), (29, 1.0)]
    assert [path.name for path in (tmp_path / "metrics").glob("*.csv")] == ["metrics.csv"]
    if mode == "offline":
        wandb.finish()
        run = runs(tmp_path)["name"]
        assert run.values("train/loss") == [(9, 3.0), (19, 2.5), (29, 1.0)]
        assert run.exit_code == 0
        assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1


def test_a_run_cut_after_its_last_step_keeps_its_csv(tmp_path):
    cut(log(tmp_path, [(9, 3.0)]))
    close(log(tmp_path, []), tmp_path)
    assert table(tmp_path) == [(9, 3.0)]


def test_the_csv_of_a_cut_run_is_that_of_an_uncut_one(tmp_path):
    logged = [(7, "val/loss"), (9, "train/loss"), (15, "val/loss")]
    for name, parts in (("uncut", [logged]), ("cut", [logged[:1], logged[1:]])):
        for part in parts:
            (found,) = loggers(tmp_path / name, "project", "group", "name", "disabled", "")
            for step, metric in part:
                found.log_metrics({metric: 1.0}, step=step)
            found.save()
        close([found], tmp_path / name)
    one, other = ((tmp_path / name / "metrics/metrics.csv").read_bytes() for name in ("uncut", "cut"))
    assert one == other


def test_a_run_ends_where_the_next_begins(tmp_path):
    log(tmp_path / "one", [(9, 3.0)], "offline")
    log(tmp_path / "two", [(9, 2.0)], "offline")
    wandb.finish()
    one, two = (runs(tmp_path / part)["name"] for part in ("one", "two"))
    assert one.values("train/loss") == [(9, 3.0)]
    assert two.values("train/loss") == [(9, 2.0)]
    assert one.id != two.id


def test_a_setting_that_is_none_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"Input should be 'offline', 'online' or 'disabled' .*'on'"):
        log(tmp_path, [], "on")
    with pytest.raises(ValueError, match=r"Input should be 'manifest', 'model' or 'none' .*'all'"):
        log(tmp_path, [], "offline", artifacts="all")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A home directory that is not there and cannot be made, by any user: below a file."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file/home"))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "HF_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def filed(folder):
    """An artifact whose stage logs to wandb, filed as the command does."""
    given = {"out": str(folder / "made"), "logger": {"artifacts": "manifest"}}
    out = produce("sft", given, lambda partial: close(log(partial, [(9, 1.0)], "offline"), partial) or {})
    dashboard.finish(out)


def test_wandb_writes_nothing_below_a_home_that_is_not_there(homeless):
    filed(homeless)
    assert wandb.run is None


def test_where_the_user_has_wandbs_caches_they_stay(tmp_path, monkeypatch):
    monkeypatch.setitem(dashboard.GIVEN, "WANDB_CACHE_DIR", str(tmp_path / "own"))
    filed(tmp_path)
    assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "own") and (tmp_path / "own").is_dir()


def test_caches_go_below_the_root_where_home_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path / "file/home"), "TRITON_CACHE_DIR": "mine"})
    caches(tmp_path / ".cache")
    found = {name: os.environ[name] for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR")}
    at = str(tmp_path / ".cache")
    assert found == {"XDG_CACHE_HOME": at, "MPLCONFIGDIR": f"{at}/matplotlib", "TRITON_CACHE_DIR": "mine"}


def test_checkpoints_in_a_home_that_can_only_be_read_stay_in_use(tmp_path, monkeypatch):
    (tmp_path / ".cache/huggingface/hub").mkdir(parents=True)
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    monkeypatch.setattr(os, "access", lambda *_: False)
    caches(tmp_path / "runs/.cache")
    assert os.environ["HF_HUB_CACHE"] == str(tmp_path / ".cache/huggingface/hub")
    assert "HF_TOKEN_PATH" not in os.environ


def test_a_home_that_can_be_written_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": str(tmp_path)})
    caches(tmp_path / ".cache")
    assert os.environ == {"HOME": str(tmp_path)}


@pytest.mark.slow
def test_stages_end_well_without_a_home(homeless):
    """In processes of their own, in which libraries look for it as they are loaded."""
    for stage in (["stage=prepare"], ["stage=evaluate", "checkpoint=base", "evaluation.batch_size=32"]):
        words = command(homeless, "experiment=mini_small", *stage)
        done = subprocess.run(words, cwd=homeless, capture_output=True, encoding="utf-8", timeout=1200, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
