"""The command and trainings in processes of their own, and the settings of the command's smallest whole run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from forks import Fork

HERE = Path(__file__).resolve().parent

SMALL = ["experiment=mini_small", "logger=csv"]


def command(folder, *arguments):
    return [sys.executable, "-m", "rationale", f"root={folder}/runs", *arguments]


def run(folder, *arguments):
    done = begun(folder, *arguments).ended(1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def begun(folder, *arguments, **environment):
    """The command in a fork, which begins with its imports made."""
    return Fork(command(folder, *arguments)[1:], cwd=folder, env={**os.environ, **environment})


def in_processes(out: Path, processes: int, threads: int = 1, **settings: Any) -> subprocess.CompletedProcess:
    """A training by sharded.py in its own processes."""
    told = out / "settings.json"
    told.write_text(json.dumps({**settings, "processes": processes, "out": str(out)}), encoding="utf-8")
    return together([HERE / "sharded.py", told], processes, threads)


def together(arguments: list[Any], processes: int, threads: int = 1) -> subprocess.CompletedProcess:
    """A script in forks that are told what torchrun tells; the first of them that failed, or the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, "OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "0",
    }  # fmt: skip
    ranks = [Fork(arguments, env={**shared, "RANK": str(r), "LOCAL_RANK": str(r)}) for r in range(processes)]
    try:
        done = [rank.ended(300) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return max(done, key=lambda rank: rank.returncode != 0)
