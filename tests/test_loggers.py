"""Metrics: a resumed run holds every step once, in its CSV and in wandb, which works offline."""

from __future__ import annotations

import csv

import pytest
import wandb
from offline import runs

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
    with (out / "metrics" / "metrics.csv").open() as file:
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
    with pytest.raises(ValueError, match=r"mode\n *Input should be 'offline', 'online' or 'disabled' .*'on'"):
        log(tmp_path, [], "on")
    with pytest.raises(ValueError, match=r"artifacts\n *Input should be 'manifest', 'model' or 'none' .*'all'"):
        log(tmp_path, [], "offline", artifacts="all")
    assert not list(tmp_path.iterdir())
