"""The cores that a process was given: threads for these and no more, which do not keep a core while they wait."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# An OpenMP thread that waits spins, by default for milliseconds: two trainings beside each other stop each other.
# GNU's library, which torch brings on Linux, counts rounds; Intel's and LLVM's count milliseconds.
WAITS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
CGROUP = Path("/sys/fs/cgroup")


def wait_briefly() -> None:
    """What OpenMP reads when torch is loaded, here and in all that is started from here, unless the user set it."""
    if not os.environ.keys() & {"OMP_WAIT_POLICY", *WAITS}:
        os.environ.update(WAITS)


def quota() -> float:
    """Cores' worth of time that the container's control group grants (version 2, then 1); infinite without a limit."""
    with suppress(OSError, ValueError):
        limit, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
        return int(limit) / int(period)
    with suppress(OSError, ValueError):
        given = ((CGROUP / f"cpu/cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        limit, period = map(int, given)
        return limit / period if limit > 0 else float("inf")
    return float("inf")


def cores(processes: int = 1) -> int:
    """How many each of `processes` on this machine has: by their affinity, the container's quota and SLURM, which
    need not bind its tasks."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    here = min(affinity, quota())
    if per_task := os.environ.get("SLURM_CPUS_PER_TASK"):
        return max(1, int(min(here, int(per_task))))
    return max(1, int(min(here, int(os.environ.get("SLURM_CPUS_ON_NODE") or affinity)) // processes))


@contextmanager
def threads(processes: int = 1) -> Iterator[None]:
    """Within, this process and those it starts have threads for their cores, unless OMP_NUM_THREADS was set before."""
    if os.environ.get("OMP_NUM_THREADS"):
        yield
        return
    number = cores(processes)
    os.environ["OMP_NUM_THREADS"] = str(number)
    if "torch" in sys.modules:  # it has read the variable, for another stage
        sys.modules["torch"].set_num_threads(number)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
