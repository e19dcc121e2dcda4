"""Where metrics go: a CSV beside the artifact always, and wandb (offline unless told otherwise)."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import wandb
from pytorch_lightning.loggers import CSVLogger

from rationale.settings import Limit, typed
from rationale.training.dashboard import KEPT, WANDB_ID, Dashboard


@typed
def loggers(
    out: Path,
    project: str,
    group: str,
    name: str,
    mode: Literal["offline", "online", "disabled"],
    folder: str,
    stage: str = "",
    config: dict[str, Any] | None = None,
    artifacts: Literal[KEPT] = "manifest",
    table_rows: Limit = 0,
) -> list:
    """Loggers of one run of a stage. `mode` is wandb's: offline (no account needed), online or disabled.

    The CSV of a run that was cut off is set aside, for CSVLogger would start it anew; `close` joins the parts. `name`
    may be the artifact's path, of which what is below `folder` is shown. `stage` is its `_target_`, `config` what its
    run is known by, `artifacts` whether its manifest, its model too or none is logged, `table_rows` how many rows of
    an evaluation are.
    """
    earlier = _rows(_set_aside(out))
    found: list = [CSVLogger(out, name=None, version="metrics")]
    if mode != "disabled":
        if wandb.run is not None:  # of a stage that was called without the command, which finishes each
            wandb.finish()
        found.append(Dashboard(out, project, group, name, mode, folder, stage, config or {}, table_rows, earlier))
    return found


def dashboards(found: list) -> list[Dashboard]:
    """Those of a stage's loggers that show more than numbers."""
    return [logger for logger in found if isinstance(logger, Dashboard)]


def _set_aside(out: Path) -> list[Path]:
    """Every part that cut runs left, the last one's among them."""
    path = out / "metrics" / "metrics.csv"
    if path.exists():
        path.rename(path.with_name(f"part_{len(_parts(path.parent)):03d}.csv"))
    return _parts(path.parent)


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part_*.csv"))


def close(found: list, out: Path) -> None:
    """Finish the CSV; wandb's run stays open for the artifact's manifest, which is not yet written."""
    for logger in found:
        logger.finalize("success")
    (out / WANDB_ID).unlink(missing_ok=True)
    _join(out / "metrics")


def _rows(paths: Iterable[Path]) -> list[dict[str, str]]:
    """Rows of the parts of one CSV; a step that a resumed run repeated counts once, as it was last."""
    rows: list[dict[str, str]] = []
    for path in paths:
        with path.open(newline="", encoding="utf-8") as file:
            new = list(csv.DictReader(file))
        first = min((int(row["step"]) for row in new), default=0)
        rows = [row for row in rows if int(row["step"]) < first] + new
    return rows


def _join(folder: Path) -> None:
    """One metrics.csv from its parts."""
    parts, last = _parts(folder), folder / "metrics.csv"
    if parts:
        rows = _rows([*parts, *([last] if last.exists() else [])])  # cut after its last step: nothing new
        partial = folder / "metrics.partial"
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))  # in CSVLogger's order
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, last)
        for path in parts:
            path.unlink()
