"""What a training keeps: the newest states while it runs, and the weights that were best on held-out rows."""

from __future__ import annotations

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from fitting import beside, fit

from rationale.artifacts import UserError
from rationale.models.encode import Encoder
from rationale.models.logps import response_logps
from rationale.models.vlm import load
from rationale.training.optim import Optim
from rationale.training.plan import held_out, plan
from rationale.training.sft import SFTModule, sft_data


class Seen(pl.Callback):
    """The states on disk after every step, and every held-out loss."""

    def __init__(self, out):
        self.out, self.states, self.losses = out, [], {}

    def on_train_batch_end(self, *_):
        self.states.append(sorted(int(p.stem.removeprefix("step=")) for p in (self.out / "state").glob("*.ckpt")))

    def on_validation_end(self, trainer, module):
        self.losses[trainer.global_step] = trainer.callback_metrics["val/loss"].item()


def trained(vlm, examples, out, **settings):
    """Six of the eight examples, three a step, five epochs: ten steps of a rate that overshoots."""
    order = partial(plan, micro_batch=3, accumulate=1, epochs=5, seed=0)
    data = sft_data(Encoder(vlm.processor), examples[:6], order, held_out=examples[6:])
    module, seen = SFTModule(vlm, Optim(lr=3e-2), data.plan.num_steps), Seen(out)
    return fit(module, data, out, beside(seen), **settings), seen


def test_the_newest_states_stay_until_the_end(tiny, examples, tmp_path):
    _, seen = trained(tiny, examples, tmp_path, save_every=2, keep_last=3)
    assert seen.states == [[], [], [2], [2], [2, 4], [2, 4], [2, 4, 6], [2, 4, 6], [4, 6, 8], [4, 6, 8]]
    assert not (tmp_path / "state").exists()


def test_held_out_rows_are_measured_so_often(tiny, examples, tmp_path):
    _, seen = trained(tiny, examples, tmp_path, save_every=10, validation={"fraction": 0.25, "every": 0.2})
    assert list(seen.losses) == [2, 4, 6, 8, 10]


def test_the_best_weights_are_those_of_the_lowest_loss_on_held_out_rows(tiny, examples, tmp_path):
    counts, seen = trained(tiny, examples, tmp_path, save_every=10, validation={"fraction": 0.25, "every": 0.1})
    step, loss = min(seen.losses.items(), key=lambda item: item[1])
    assert (counts["best_step"], counts["best_loss"]) == (step, pytest.approx(loss, abs=1e-6))
    found = load(str(tmp_path / "best" / "model"))
    batch = Encoder(found.processor).batch(examples[6:])
    with torch.no_grad():
        again = -(response_logps(found.model.eval(), batch).sum() / batch.mask.sum())
    assert again.item() == pytest.approx(loss, abs=1e-5)


def test_without_held_out_rows_nothing_is_measured(tiny, examples, tmp_path):
    order = partial(plan, micro_batch=4, accumulate=1, epochs=1, seed=0)
    data, optim = sft_data(Encoder(tiny.processor), examples, order), Optim(lr=1e-3)
    counts = fit(SFTModule(tiny, optim, 2), data, tmp_path, save_every=1)
    assert "best_step" not in counts
    assert not (tmp_path / "best").exists()


def test_rows_of_one_key_are_on_one_side():
    keys = [f"q{i // 3}" for i in range(300)]
    train, held = held_out(keys, 0.2, seed=0)
    assert sorted(train + held) == list(range(300))
    assert not {keys[i] for i in train} & {keys[i] for i in held}
    assert 30 <= len(held) <= 90


def test_another_row_moves_no_row_to_the_other_side():
    keys = [f"q{i}" for i in range(100)]
    before, after = held_out(keys, 0.3, seed=1)[1], held_out(["new", *keys], 0.3, seed=1)[1]
    assert {keys[i] for i in before} == {(["new", *keys])[i] for i in after} - {"new"}


def test_a_share_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match=r"validation\.fraction=0\.001 of 2 leaves one side empty"):
        held_out(["a", "b"], 0.001, seed=0)
