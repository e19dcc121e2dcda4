"""Training in two processes: losses are those of one, whatever the strategy and the layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DDP = "ddp_find_unused_parameters_true"  # LLaVA's last vision layer is not read
HERE = Path(__file__).resolve().parent


def losses(folder: Path, processes: int, **settings: str) -> list[dict[str, float]]:
    """Of every step, from a run in its own processes."""
    out, told = folder / "losses.json", folder / "settings.json"
    told.write_text(json.dumps({**settings, "processes": processes, "out": str(out)}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, str(HERE / "sharded.py"), str(told)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def alone(tiny_dir, questions_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return losses(folder, 1, model=str(tiny_dir), questions=str(questions_dir), strategy="auto", layout="rows")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "layout"),
    [
        ("ddp_find_unused_parameters_true", "tree"),
        ("zero1", "tree"),
        ("zero2", "tree"),
        ("zero3", "tree"),
        ("zero3", "rows"),
    ],
)
def test_losses_in_two_processes_are_those_of_one(strategy, layout, alone, tiny_dir, questions_dir, tmp_path):
    found = losses(tmp_path, 2, model=str(tiny_dir), questions=str(questions_dir), strategy=strategy, layout=layout)
    assert len(found) == len(alone) == 6
    for own, one in zip(found, alone, strict=True):
        same = one.keys() - {"train/padding"}  # the layout's own
        assert {k: own[k] for k in same} == pytest.approx({k: one[k] for k in same}, abs=1e-4, rel=1e-4)
