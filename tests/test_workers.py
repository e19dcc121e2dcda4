"""Processes that build batches, started in each of the ways that Python starts processes, train the same weights."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch
from fitting import fit, furthest, preference, weights

from rationale.models.encode import Encoder
from rationale.models.vlm import load
from rationale.training.optim import Optim
from rationale.training.plan import Plan
from rationale.training.sft import SFTModule, sft_data


@pytest.fixture(params=["forkserver", "spawn"])  # Linux's from Python 3.14 on, macOS's
def started(request):
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def supervised(vlm, examples):
    data = sft_data(Encoder(vlm.processor), examples[:2], lambda _: Plan([[0], [1]], 1), held_out=examples[2:3])
    return SFTModule(vlm, Optim(lr=1e-2), data.plan.num_steps), data


def preferred(vlm, examples):
    return preference(vlm, examples, "scored", stored=lambda example: [-1.0] * len(own_tokens(vlm, example)))


def own_tokens(vlm, example):
    return Encoder(vlm.processor).responses([example])[0]


def test_what_keeps_workers_from_starting_is_the_error_that_is_raised(started, tiny, examples, tmp_path):
    module, data = supervised(tiny, examples)
    data.collate = lambda *_: None
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        fit(module, data, tmp_path, workers=1)


@pytest.mark.slow
@pytest.mark.parametrize(("started", "kind"), [("forkserver", supervised), ("spawn", preferred)], indirect=["started"])
def test_batches_are_built_in_a_process_that_is_not_forked(started, kind, tiny_dir, examples, tmp_path, monkeypatch):
    monkeypatch.setattr("rationale.training.dpo.DPOModule._check_start", lambda *_: None)  # drawn log-probs
    found = []
    for workers in (0, 1):
        torch.manual_seed(0)
        vlm = load(str(tiny_dir))
        module, data = kind(vlm, examples)
        fit(module, data, tmp_path / str(workers), workers=workers)
        found.append(weights(vlm))
    assert furthest(*found) == 0
