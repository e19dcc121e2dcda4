"""Jobs of a sweep: a process for each, a record of how it ended, and no two that would write the same artifact."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError, call_key, main_process, write_json
from rationale.hashes import read_manifest

OBJECTIVE = "objective.json"  # in the folder of a job
Call = tuple[str, dict[str, Any]]  # a stage and its arguments
GRACE = 120  # seconds between asking processes to end and killing them: a training saves its state


@dataclass(frozen=True)
class Job:
    """One job of a sweep: its number, the sweep's folder and its own, and what composes its config again."""

    num: int
    sweep: Path
    folder: Path
    overrides: list[str]
    own: list[str]  # overrides of Hydra's node
    added: list[str]  # folders that --config-dir names
    calls: list[Call]  # what it runs, where no earlier look at the whole sweep could tell

    @property
    def command(self) -> list[str]:
        """What runs this job alone, in its own folder."""
        own = [override for override in self.own if not override.startswith("hydra.mode=")]
        folder = str(self.folder).replace("'", r"\'")
        command = [sys.executable, "-m", "rationale", *self.overrides, *own, f"hydra.run.dir='{folder}'"]
        return command + [part for path in self.added for part in ("--config-dir", path)]


def run_job(job: Job, in_place: Callable[[], str | None] | None) -> str | None:
    """Run one job of a sweep and record it; how it failed, or None.

    A job is a process of its own, started here, so one that dies takes none along, unless `in_place` runs it.
    """
    if main_process():
        record(job, "did not return")
    if failed := taken(job):
        job = replace(job, calls=[])  # it writes nothing
    else:
        failed = run_apart(job.command) if in_place is None else in_place()
    if main_process():
        record(job, failed)
    return failed


def taken(job: Job) -> str | None:
    """Why a job must not run: another of its sweep writes one of its artifacts with different arguments."""
    own = writes(job)
    for other in records(job.sweep):
        for out, key in other["writes"].items():
            if own.get(out, key) != key:
                return f"would write {out}, which job {other['num']} writes with different arguments; set variant"
    return None


def writes(job: Job) -> dict[str, str]:
    """The key of each artifact's call, by where it is written."""
    made = (call for call in job.calls if "out" in call[1])
    return {arguments["out"]: call_key(stage, arguments, {}) for stage, arguments in made}


def record(job: Job, failed: str | None) -> None:
    """Note below the sweep's folder how a job stands; before it begins, too, in case it never returns."""
    (job.sweep / "jobs").mkdir(parents=True, exist_ok=True)
    standing = {"num": job.num, "overrides": job.overrides, "failed": failed, "writes": writes(job)}
    write_json(job.sweep / "jobs" / f"{job.num}.json", standing)


def records(sweep: Path) -> list[dict[str, Any]]:
    """The records of a sweep, in the order of its jobs."""
    jobs = [json.loads(path.read_text(encoding="utf-8")) for path in (sweep / "jobs").glob("*.json")]
    return sorted(jobs, key=lambda job: job["num"])


def summary(sweep: Path, planned: int | None) -> tuple[str, bool]:
    """What a sweep's records say in a few lines, and whether all went well. `planned` is None where a sweeper decides
    as it goes."""
    jobs = records(sweep)
    failed = [job for job in jobs if job["failed"]]
    total = planned or len(jobs)
    if jobs and not failed and len(jobs) == total:
        return f"rationale: all {total} jobs are done", True
    lines = [f"rationale: {len(failed)} of {total} jobs failed"]
    if len(jobs) < total:
        lines[0] += f" and {total - len(jobs)} did not begin"
    lines += [f"  job {job['num']} ({shown(job['overrides'])}): {job['failed']}" for job in failed]
    return "\n".join([*lines, "The same command again runs only what is missing."]), False


def shown(overrides: list[str]) -> str:
    """Overrides in a line. A sweeper puts a backslash before the braces and colons of an interpolation."""
    return re.sub(r"\\([{}:])", r"\1", " ".join(overrides))


def run_apart(command: list[str]) -> str | None:
    """Run a command in a process group of its own; how it failed, or None.

    Where it fails, or this process is told to end, the whole group ends: ranks that a training started go with it.
    """
    child = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    code = None
    try:
        code = child.wait()
    except BaseException:
        os.killpg(child.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        raise
    finally:
        if code != 0:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}" if code else None


def jobs_of(overrides: list[Any], exact: bool) -> list[list[str]]:
    """Overrides of each job, where `exact`: every combination, as the basic sweeper makes them. Of a sweeper that
    proposes values as it goes: the ends of its ranges, one changed at a time."""
    values = list({o.get_key_element(): texts(o) for o in overrides}.values())
    if exact:
        return [list(job) for job in itertools.product(*values)]
    first = [texts[0] for texts in values]
    return [first] + [[*first[:i], text, *first[i + 1 :]] for i, texts in enumerate(values) for text in texts[1:]]


def texts(override: Any) -> list[str]:
    """A parsed override of Hydra's once for each value that it sweeps; for an interval, its ends."""
    if not override.is_sweep_override():
        values = [override.get_value_element_as_str()]
    elif override.is_interval_sweep():
        values = [override.value().start, override.value().end]
    else:
        values = list(override.sweep_string_iterator())
    return [f"{override.get_key_element()}={value}" for value in values]


def first_clash(jobs: Iterable[tuple[int, list[Call]]]) -> tuple[int, int, str] | None:
    """The first two jobs that would write one artifact with different arguments, and where; None where none would."""
    writers: dict[str, tuple[str, int]] = {}
    for job, calls in jobs:
        for stage, arguments in (call for call in calls if "out" in call[1]):
            key = call_key(stage, arguments, {})
            other, first = writers.setdefault(arguments["out"], (key, job))
            if other != key and first != job:
                return first, job, arguments["out"]
    return None


def clash_message(first: list[str], second: list[str], out: str, by_variant: bool, name: str, groups: set[str]) -> str:
    """What to do about two jobs, given by their overrides, that would both write `out`.

    `by_variant`: whether `variant` is part of that path. `name` is the run's, `groups` those of the config.
    """
    own = [[o for o in one if o not in other] for one, other in ((first, second), (second, first))]
    keys = [override.split("=")[0].lstrip("+") for override in own[0] if not override.startswith("variant=")]
    values = {key: f"hydra:runtime.choices.{key}" if key in groups else key for key in keys}
    text = "_".join(f"{key.split('.')[-1]}_${{{value}}}" for key, value in values.items())
    way = f"variant='{text}'" if by_variant else f"name='{name}_{text}', or a path of its own among paths.*"
    return (
        f"two jobs would write {out} with different arguments, each replacing the other's:\n"
        f"  {shown(own[0])}\n  {shown(own[1])}\n"
        f"Give each an artifact of its own, for example: {way}"
    )


def objective_of(out: Path, counts: list[str]) -> float:
    """Mean of the numbers of an artifact that any of the patterns `counts` names: an evaluation's accuracies in points
    (cot/chartqa), unrounded, or another manifest's counts."""
    numbers = dict((read_manifest(out) or {}).get("counts", {}))
    if (out / "summary.json").is_file():
        cells = json.loads((out / "summary.json").read_text(encoding="utf-8"))["cells"]
        numbers = {cell: 100 * values["accuracy"] for cell, values in cells.items()}
    absent = [pattern for pattern in counts if not any(fnmatch(name, pattern) for name in numbers)]
    if absent or not counts:
        raise UserError(f"{out}: objective.counts names {absent or 'nothing'}; there are {', '.join(numbers)}")
    named = [value for name, value in numbers.items() if any(fnmatch(name, pattern) for pattern in counts)]
    return sum(map(float, named)) / len(named)
