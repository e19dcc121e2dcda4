"""What made an artifact: the code's commit, versions of packages, and the machine, as far as digits can hang on it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "tokenizers", "pytorch-lightning", "peft", "datasets", "deepspeed", "pillow")
ROOT = Path(__file__).resolve().parents[1]
# What this process has run models on, and how many processes shared its last stage.
USED: dict[str, Any] = {"devices": [], "processes": 1}


@cache
def git_commit(root: Path = ROOT) -> str:
    """Commit of the checkout whose top level is `root`, with a mark where it has uncommitted changes; else `unknown`
    and why, in brackets."""
    if not ((root / "pyproject.toml").is_file() and (root / ".git").exists()):
        return "unknown (the package does not run from a checkout of its own)"
    # Named outright, git neither looks for a repository further up nor asks who owns this one; it only reads.
    place = [f"--git-dir={root / '.git'}", f"--work-tree={root}"]
    describe = ["describe", "--always", "--exclude=*", "--dirty", "--abbrev=40"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # those of a hook
    try:
        run = subprocess.run(
            ["git", "--no-optional-locks", *place, *describe], check=False, cwd=root, env=own, capture_output=True,
            text=True,
        )  # fmt: skip
    except OSError as error:
        return f"unknown (git does not run: {error.strerror})"
    said = (run.stderr.strip().splitlines() or ["no commit"])[0].replace(str(root), ".")
    return run.stdout.strip() or f"unknown (git: {said})"


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the last digits of a result can hang on where torch took part: the vector instructions that its kernels are
    chosen by, threads, processes and the device."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    onednn = {"onednn": os.environ["ONEDNN_MAX_CPU_ISA"]} if "ONEDNN_MAX_CPU_ISA" in os.environ else {}
    return {
        "device": ", ".join(USED["devices"] or ["cpu"]),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(), **onednn, "threads": torch.get_num_threads(),
        "processes": torch.distributed.get_world_size() if distributed else USED["processes"],
    }  # fmt: skip
