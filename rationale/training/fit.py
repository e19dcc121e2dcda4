"""One training run from a planned order to a saved model, resumable from its last checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from pytorch_lightning.callbacks import TQDMProgressBar

from rationale.artifacts import main_process
from rationale.shards import STARTED
from rationale.stopping import deferred_signals
from rationale.training.checkpoints import Best, ResumeCheckpoints
from rationale.training.checks import FrozenUnchanged, GradientCheck, check_master_copies
from rationale.training.loggers import close
from rationale.training.nonfinite import FOLDER
from rationale.training.plan import PlannedData
from rationale.training.settings import Training
from rationale.training.step import StepModule
from rationale.training.strategy import Weights, check_place


def fit(module: StepModule, data: PlannedData, settings: Training, logger: Callable[[Path], list], out: Path) -> dict:
    """Train to the end of the plan in `out` and save a plain transformers folder as `model/`; a run cut off goes on
    from its last state there.

    `logger` makes the loggers for a folder. Returns counts. Held-out rows of `data` are measured every
    `validation.every` of the steps, and the weights of the lowest loss on them are saved in `best/`. Told to stop by a
    signal, it writes a state at the end of the step and raises `stopping.Stopped`.
    """
    trainer, data.workers = settings.trainer, settings.workers
    states = ResumeCheckpoints(out / "state", settings.save_every, settings.keep_last)
    weights, best = Weights(), Best(module.vlm, out / "best")
    callbacks = [GradientCheck(), FrozenUnchanged(), weights, best, states]
    if getattr(trainer, "keywords", {}).get("enable_progress_bar", True):
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    run = trainer(
        max_epochs=1, max_steps=settings.stop_after or -1, gradient_clip_val=settings.optim.clip, callbacks=callbacks,
        logger=logger(out) if main_process() else False, default_root_dir=str(out), num_sanity_val_steps=0,
        use_distributed_sampler=False, enable_model_summary=False, log_every_n_steps=10, enable_checkpointing=False,
        limit_val_batches=1.0 if data.held_out else 0, inference_mode=False,
    )  # fmt: skip
    check_place(run, trainer)
    check_master_copies(run, module)
    run.accumulate_grad_batches = data.accumulate(run.world_size)
    run.val_check_interval = (
        max(1, round(settings.validation.every * data.plan.num_steps)) * run.accumulate_grad_batches
    )
    states.check(run.world_size)
    if main_process():
        states.clear()
    with deferred_signals() as states.signals:
        try:
            run.fit(module, datamodule=data, ckpt_path=states.newest(), weights_only=True)
        except RuntimeError as error:
            # Lightning fails to tear down loaders that never began: what kept them from it is the error before.
            if "iter(combined_loader)" not in str(error) or error.__context__ is None:
                raise
            raise error.__context__ from None
    STARTED.extend(getattr(run.strategy.launcher, "procs", ()))
    if main_process():
        close(run.loggers, out)
    steps = settings.stop_after or data.plan.num_steps
    if run.global_step != steps:
        raise RuntimeError(f"trained {run.global_step} of {steps} steps; run the same command again to go on")
    if main_process():
        module.vlm.save(out / "model", weights.found)
        for folder in (states.folder, *out.glob(f"{FOLDER}*")):  # of an earlier attempt
            shutil.rmtree(folder, ignore_errors=True)
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in module.policy.parameters()]
    counts = {
        "steps": run.global_step,
        **data.plan.counts(run.global_step),
        "parameters": sum(size for size, _ in sizes),
        "trainable": sum(size for size, trains in sizes if trains),
    }
    return counts | ({"best_step": best.step, "best_loss": round(best.loss, 6)} if data.held_out else {})
