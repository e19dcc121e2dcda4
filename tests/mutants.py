"""Runs tests on a copy of the package, broken in one place after another; started from test_mutations.py.

mutants.py SETTINGS.json    `package`: the copy; `out`: a folder for what became of each run; `runs`: by name
                            [tests, [file, old text, new text] or null]
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).resolve().parent


class Verdicts:
    """How many tests passed, and of those that did not: the test, its phase, the error and what it says."""

    def __init__(self) -> None:
        self.passed, self.failed = 0, []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> None:
        if call.excinfo:
            self.failed.append([item.nodeid, call.when, call.excinfo.typename, str(call.excinfo.value)[:300]])
        elif call.when == "call":
            self.passed += 1


def pytest_on(tests: list[str], *options: str, plugins: tuple = ()) -> int:
    plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts=--strict-markers"]
    return int(pytest.main([*plain, *options, *(str(HERE / test) for test in tests)], plugins=list(plugins)))


def warm_up(tests: list[str]) -> None:
    """Read all that the tests stand on, so that a fork need not; then forget the package and the tests themselves.

    No test is run: a process whose autograd has been at work cannot be forked.
    """
    if pytest_on(tests, "--collect-only"):
        raise SystemExit("the tests named for mutations are not all there")
    importlib.import_module("families").BUILDERS["llava"]()  # transformers reads a family when it is asked for
    for name, module in list(sys.modules.items()):
        of_tests = name != "__main__" and Path(getattr(module, "__file__", None) or "/").parent == HERE
        if of_tests or name.split(".")[0] == "rationale":
            del sys.modules[name]


def child(package: Path, tests: list[str], out: Path) -> None:
    """Tests on the package as it now is on disk; what became of them in `out`.json, their output in `out`.log."""
    sys.dont_write_bytecode = True  # the next child may find a source of the same size and second
    log = os.open(f"{out}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    seen = Verdicts()
    whole_files = not any("::" in test for test in tests)  # of tests that need no fixture, and so not all it stands on
    code = pytest_on(tests, f"--basetemp={out}", *["--noconftest"] * whole_files, plugins=(seen,))
    read = importlib.import_module("rationale").__file__
    found = {"code": code, "passed": seen.passed, "failed": seen.failed, "copy": Path(read).parent == package}
    Path(f"{out}.json").write_text(json.dumps(found), encoding="utf-8")


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    package, out = Path(settings["package"]), Path(settings["out"])
    sys.path.insert(0, str(package.parent))  # before the finder of an editable install, which is asked last
    # The first example that fails is enough.
    hypothesis.settings.register_profile("first", phases=[hypothesis.Phase.generate], report_multiple_bugs=False)
    hypothesis.settings.load_profile("first")
    warm_up(sorted({test for tests, _ in settings["runs"].values() for test in tests}))
    gc.freeze()  # or each child would copy what it only looks at
    for name, (tests, change) in settings["runs"].items():
        if change:
            file, old, new = package / change[0], *change[1:]
            whole = file.read_text(encoding="utf-8")
            file.write_text(whole.replace(old, new), encoding="utf-8")
        if os.fork() == 0:
            try:
                child(package, tests, out / name.replace(" ", "_"))
            finally:
                os._exit(0)
        os.wait()
        if change:
            file.write_text(whole, encoding="utf-8")


if __name__ == "__main__":
    main()
