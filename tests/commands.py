"""The command in a process of its own, and the settings of its smallest whole run."""

from __future__ import annotations

import subprocess
import sys

SMALL = ["experiment=mini_small", "logger=csv"]


def command(folder, *arguments):
    return [sys.executable, "-m", "rationale", f"root={folder}/runs", *arguments]


def run(folder, *arguments):
    done = subprocess.run(
        command(folder, *arguments), cwd=folder, capture_output=True, encoding="utf-8", timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout
