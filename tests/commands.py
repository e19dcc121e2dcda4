"""The command in a process of its own, and the settings of its smallest whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

SMALL = ["experiment=mini_small", "logger=csv"]


def command(folder, *arguments):
    return [sys.executable, "-m", "rationale", f"root={folder}/runs", *arguments]


def run(folder, *arguments):
    done = subprocess.run(
        command(folder, *arguments), cwd=folder, capture_output=True, encoding="utf-8", timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def in_processes(out: Path, processes: int, **settings: str | int) -> subprocess.CompletedProcess:
    """A training in its own processes."""
    told = out / "settings.json"
    told.write_text(json.dumps({**settings, "processes": processes, "out": str(out)}), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, str(HERE / "sharded.py"), str(told)], capture_output=True, timeout=300, check=False,
        encoding="utf-8", env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
