"""Remove what artifacts were before they were made anew."""

from __future__ import annotations

import shutil
from pathlib import Path

from rationale.artifacts import UserError, earlier


def run(run: str) -> None:
    """Remove every earlier version of an artifact below `run`, and say which they were."""
    if not Path(run).is_dir():
        raise UserError(f"run={run}: no such folder; give the folder of a run, such as runs/mini")
    found = earlier(Path(run))
    for path, size in found:
        shutil.rmtree(path)
        print(f"removed {path} ({size / 1e6:.1f} MB)", flush=True)
    print(f"{run}: {len(found)} earlier versions removed, {sum(size for _, size in found) / 1e6:.1f} MB", flush=True)
