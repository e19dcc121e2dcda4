"""Processes that begin with the imports of a stage already made: forks of one that made them, seconds less for each.

forks.py    reads from stdin what to begin, or the process id of what may have ended, and answers on stdout: JSON lines

A fork runs as `python -m module ...` or `python script.py ...` does, in a folder and an environment of its own, to
Python's ordinary end. All have one order of sets, which tests/test_bounds.py compares with another, and none reads
PYTHONPATH or what a library reads of the environment when it is loaded.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import count
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryDirectory
from typing import Any

from rationale.command.threads import WAITS

HERE = Path(__file__).resolve().parent
FAMILY = ("llava.modeling_llava", "llama.modeling_llama", "clip.modeling_clip")  # which transformers reads late
SAID = TemporaryDirectory(prefix="forks_")  # what forks write, by their number
NUMBERS = count()


class Fork:
    """A process that was begun, the leader of a group of its own."""

    def __init__(self, arguments: Sequence[Any], cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self.arguments, self.returncode = [*map(str, arguments)], None
        self.said = [Path(SAID.name) / f"{next(NUMBERS)}.{name}" for name in ("out", "err")]
        environment = dict(os.environ if env is None else env)
        self.pid = answer([self.arguments, str(cwd or Path.cwd()), environment, [*map(str, self.said)]])

    def poll(self) -> int | None:
        """The exit code, as subprocess has it; None while it runs."""
        if self.returncode is None:
            self.returncode = answer(self.pid)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)

    def ended(self, timeout: float) -> subprocess.CompletedProcess:
        """What became of it."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                raise subprocess.TimeoutExpired(self.arguments, timeout)
            time.sleep(0.02)
        out, err = (path.read_text(encoding="utf-8") for path in self.said)
        return subprocess.CompletedProcess(self.arguments, self.returncode, out, err)


@cache
def server() -> subprocess.Popen:
    """The process that forks, one for each that asks."""
    here = {**os.environ, **WAITS, "OMP_NUM_THREADS": "1"}  # threads do not live on in a fork
    begun = subprocess.Popen(
        [sys.executable, str(HERE / "forks.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        env={**here, "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    atexit.register(begun.communicate)
    return begun


def answer(asked: Any) -> Any:
    """The server's, to one question."""
    process = server()
    process.stdin.write(json.dumps(asked) + "\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def read_all() -> None:
    """Import what stages stand on, and run none of it: a process whose autograd was at work cannot be forked."""
    package = import_module("rationale")
    for module in walk_packages(package.__path__, "rationale."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of what an extra brings; a fork that needs it says so
                import_module(module.name)
    for name in FAMILY:
        import_module(f"transformers.models.{name}")
    gc.collect()
    gc.freeze()  # or each fork would copy what it only looks at


def serve() -> list[Any] | None:
    """Fork for each question that asks it; in a fork, what it is to be. None at the end."""
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            pid, status = os.waitpid(asked, os.WNOHANG)
            found = os.waitstatus_to_exitcode(status) if pid else None
        else:
            found = os.fork()
            if found == 0:
                return asked
        print(json.dumps(found), flush=True)
    return None


def become(arguments: list[str], folder: str, environment: dict[str, str], said: list[str]) -> None:
    """Run as `python *arguments` in a folder."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(said, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], folder
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    read_all()
    told = serve()
    if told is not None:
        become(*told)
