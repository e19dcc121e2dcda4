"""Where metrics go: a CSV beside the artifact always, and wandb (offline unless told otherwise)."""

from __future__ import annotations

import csv
from pathlib import Path

import wandb
from pytorch_lightning.loggers import CSVLogger, WandbLogger


def loggers(out: Path, project: str, group: str, name: str, mode: str, folder: str) -> list:
    """Loggers of one training run. `mode` is wandb's: offline (no account needed), online or disabled.

    The CSV of a run that was cut off is set aside, for CSVLogger would start it anew; `close` joins the parts.
    """
    _set_aside(out)
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


def _set_aside(out: Path) -> None:
    path = out / "metrics" / "metrics.csv"
    if path.exists():
        path.rename(path.with_name(f"part_{len(list(path.parent.glob('part_*.csv'))):03d}.csv"))


def close(found: list, out: Path) -> None:
    """Finish every logger; the next stage of the same process starts a wandb run of its own."""
    for logger in found:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
    _join(out / "metrics")


def _join(folder: Path) -> None:
    """One metrics.csv from its parts; a step that a resumed run repeated counts once, as it was last."""
    parts = sorted(folder.glob("part_*.csv"))
    rows: list[dict[str, str]] = []
    for path in [*parts, folder / "metrics.csv"] if parts else []:
        with path.open(newline="") as file:
            new = list(csv.DictReader(file))
        first = min((int(row["step"]) for row in new), default=0)
        rows = [row for row in rows if int(row["step"]) < first] + new
    if parts:
        with (folder / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
        for path in parts:
            path.unlink()
