"""Where metrics go: a CSV beside the artifact always, and wandb (offline unless told otherwise)."""

from __future__ import annotations

from pathlib import Path

import wandb
from pytorch_lightning.loggers import CSVLogger, WandbLogger


def loggers(out: Path, project: str, group: str, name: str, mode: str, folder: str) -> list:
    """Loggers of one training run. `mode` is wandb's: offline (no account needed), online or disabled."""
    found: list = [CSVLogger(out, name=None, version="metrics")]
    if mode != "disabled":
        silent = wandb.Settings(silent=True)
        Path(folder).mkdir(parents=True, exist_ok=True)
        found.append(
            WandbLogger(
                project=project, group=group, name=name, save_dir=folder, offline=mode == "offline", settings=silent
            )
        )
    return found


def close(found: list) -> None:
    """Finish every logger; the next stage of the same process starts a wandb run of its own."""
    for logger in found:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
