"""Told to stop by a signal, a training writes its state at the end of the step and exits with the code for `again`."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

import pytest
from fitting import fit, furthest, sft, weights

from rationale.command import cli
from rationale.models.encode import Encoder
from rationale.models.vlm import load
from rationale.stopping import ENDS, REQUEUE, WARNS, Stopped, deferred_signals, listen
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data


@pytest.fixture(autouse=True)
def as_before():
    """Signals as they were, whatever a test does."""
    before = {number: signal.getsignal(number) for number in (*ENDS, *WARNS)}
    yield
    Stopped.last = None
    for number, handler in before.items():
        signal.signal(number, handler)


def told_at(vlm, examples, out, number, batch, epochs=4, held_out=(), accumulate=1, every=0.1):
    """Two steps an epoch, saved each hundredth; the signal comes while the given batch is built."""
    optim, order = (
        Optim(lr=1e-2),
        partial(plan, micro_batch=4 // accumulate, accumulate=accumulate, epochs=epochs, seed=0),
    )
    data = sft_data(Encoder(vlm.processor), examples, order, held_out=held_out)
    collate, calls = data.collate, iter(range(100))

    def with_signal(*args):
        if next(calls) == batch:
            os.kill(os.getpid(), number)
        return collate(*args)

    data.collate = with_signal
    module = SFTModule(vlm, optim, data.plan.num_steps)
    fit(module, data, out, save_every=100, validation={"fraction": 0.0, "every": every})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_the_state_of_the_step_is_kept_and_the_rest_is_as_in_an_uncut_run(number, tiny_dir, examples, tmp_path):
    uncut = sft(load(str(tiny_dir)), examples, tmp_path / "uncut", micro=4, epochs=4)
    with pytest.raises(Stopped) as stopped:
        told_at(load(str(tiny_dir)), examples, tmp_path / "cut", number, batch=4)
    assert stopped.value.code == REQUEUE == 75
    (state,) = (tmp_path / "cut/state").iterdir()
    assert 4 <= int(state.stem.removeprefix("step=")) <= 6  # the loader builds a batch or two ahead
    vlm = load(str(tiny_dir))
    told_at(vlm, examples, tmp_path / "cut", number, batch=-1)
    assert furthest(uncut, weights(vlm)) == 0


@pytest.mark.parametrize(
    ("batch", "accumulate", "every"), [(9, 1, 0.1), (10, 1, 0.25), (11, 1, 0.25), (18, 2, 0.25), (21, 2, 0.1)]
)
def test_what_was_logged_and_measured_about_the_cut_is_in_the_metrics(
    batch, accumulate, every, tiny_dir, examples, tmp_path
):
    """Twelve steps: the tenth is logged, each or every third measured."""
    told = {"examples": examples, "number": signal.SIGTERM, "epochs": 6, "held_out": examples[:2]}
    told |= {"accumulate": accumulate, "every": every}
    told_at(load(str(tiny_dir)), out=tmp_path / "uncut", batch=-1, **told)
    with pytest.raises(Stopped):
        told_at(load(str(tiny_dir)), out=tmp_path / "cut", batch=batch, **told)
    told_at(load(str(tiny_dir)), out=tmp_path / "cut", batch=-1, **told)
    uncut, cut = ((tmp_path / run / "metrics/metrics.csv").read_text(encoding="utf-8") for run in ("uncut", "cut"))
    assert uncut.count("\n") > 5
    assert cut == uncut


def test_who_listened_before_has_its_turn_once_the_state_is_kept(tiny_dir, examples, tmp_path):
    seen = []
    signal.signal(signal.SIGUSR1, lambda *_: seen.extend(path.name for path in (tmp_path / "state").iterdir()))
    with pytest.raises(Stopped):
        told_at(load(str(tiny_dir)), examples, tmp_path, signal.SIGUSR1, batch=2)
    assert len(seen) == 1 and seen[0].endswith(".ckpt")


def test_a_signal_that_found_no_good_moment_stops_at_the_end():
    with pytest.raises(Stopped, match="75"), deferred_signals():
        signal.raise_signal(signal.SIGTERM)


def test_afterwards_signals_are_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with deferred_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_a_training_a_signal_stops_at_once():
    listen()
    with pytest.raises(Stopped) as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.name == "SIGTERM"


def test_an_error_of_what_was_interrupted_is_no_failure_of_the_command(monkeypatch, capsys):
    """As OmegaConf's, whose cleaning up fails where a config is half composed."""

    def interrupted():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise AttributeError("half composed")

    monkeypatch.setattr(cli, "_main", interrupted)
    monkeypatch.setattr(sys, "argv", ["rationale"])
    with pytest.raises(SystemExit, match="75"):
        cli.main()
    assert "told to stop by SIGTERM" in capsys.readouterr().err


def test_a_second_signal_does_not_disturb_a_job_that_is_leaving(monkeypatch):
    """As SLURM's, once submitit had the job queued again and exits."""
    listen()

    def cut(_):
        raise SystemExit(-1)

    monkeypatch.setattr(cli, "run", cut)
    with pytest.raises(SystemExit, match="-1"):
        cli.run_in_place(None)
    signal.raise_signal(signal.SIGTERM)


def test_a_job_whose_cleaning_up_fails_was_told_to_stop_all_the_same(monkeypatch):
    def interrupted(_):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise ConnectionResetError("wandb's process")

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(Stopped):
        cli.run_in_place(None)


def test_a_hangup_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    listen()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_warning_that_another_listens_to_stays_its_own():
    def other(*_):
        pass

    signal.signal(signal.SIGUSR1, other)
    listen()
    assert signal.getsignal(signal.SIGUSR1) is other
