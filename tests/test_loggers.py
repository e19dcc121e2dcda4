"""Metrics: a resumed run's CSV holds every step once; wandb works offline and is finished with its stage."""

from __future__ import annotations

import csv
import time

import wandb

from rationale.training.loggers import close, loggers


def log(out, values, mode="disabled"):
    found = loggers(out, "project", "group", "name", mode, str(out))
    for logger in found:
        for step, value in values:
            logger.log_metrics({"train/loss": value}, step=step)
    return found


def table(out):
    with (out / "metrics" / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(file)]


def test_a_resumed_run_keeps_the_steps_before_the_cut_and_counts_a_repeated_one_once(tmp_path):
    for logger in log(tmp_path, [(9, 3.0), (19, 2.0), (29, 1.5)]):
        logger.save()  # and then the power went, after a checkpoint at step 15
    close(log(tmp_path, [(19, 2.5), (29, 1.0)]), tmp_path)
    assert table(tmp_path) == [(9, 3.0), (19, 2.5), (29, 1.0)]
    assert [path.name for path in (tmp_path / "metrics").glob("*.csv")] == ["metrics.csv"]


def test_wandb_offline_holds_the_metrics_by_name_and_is_finished(tmp_path):
    close(log(tmp_path, [(9, 3.0), (19, 2.0)], mode="offline"), tmp_path)
    assert wandb.run is None
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    until = time.monotonic() + 20  # wandb's own process writes, when it gets its turn
    while b"train/loss" not in file.read_bytes():
        assert time.monotonic() < until
        time.sleep(0.1)
