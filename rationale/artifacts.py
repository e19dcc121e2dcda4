"""Artifacts: folders written beside their final name and renamed when whole, each with a manifest.

A stage writes into a working folder named by the key of its call (stage, arguments, inputs). The same call finds
its own half-done work and goes on; another call never sees it. The final folder appears in one rename.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import itertools
import json
import os
import pkgutil
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from glob import glob
from inspect import signature
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from rationale.hashes import MANIFEST, Hashes, fingerprint, output_hashes, read_manifest, sha256_file
from rationale.provenance import git_commit, machine, versions

# In the signature of a stage, or of what a stage is given: an argument that names files or folders, so what lies there
# is an input. A word without a slash is one only where this says so: `split: train` is none beside a folder ./train.
InputPath = str
# Places among a stage's arguments that cannot change what is written: where to, how (not what) an endpoint is asked,
# which device computes and how many processes share the work, and what a training keeps while it runs.
NOT_IN_KEY = {
    "out", "logger", "workers", "processes", "chunk", "dry_run", "retry_failed", "save_every", "keep_last", "device",
    "model.device", "teacher.model.device", "trainer.accelerator", "trainer.devices", "trainer.num_nodes",
    "teacher.traffic", "teacher.budget", "teacher.batches", "generator.traffic", "generator.budget",
    "generator.processor", "extractor.traffic", "extractor.budget",
    "sampling.out", "evaluation.suffix",  # in manifests of earlier runs
}  # fmt: skip
# Addresses in a list are replicas of one model, which is part of the key by its name: they may come and go.
REPLICA = re.compile(r"(teacher|generator|extractor)\.base_url\.\d+")
UNSET = "not set"
NUM_CHANGES = 8  # that are named where an artifact is to be replaced
PREVIOUS = re.compile(r"\..+\.previous(_\d+)?")
RESUMED = ".resumed"  # in a working folder: how often its run was cut and went on
# What flock answers where a file system has none: Lustre mounted without it, NFS without its daemon.
NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
WORDLESS = 60  # seconds that a process waits for the first one without a word
PARENT = os.getppid()  # at the start
Taker = tuple[str, str]  # a callable by its dotted name, and one of its parameters


class UserError(ValueError):
    """Something the caller can mend; shown without a traceback."""


class OtherEnded(UserError):
    """Another process of this run has ended, so this one cannot go on."""


def leaves(node: Any, place: str = "", taker: Taker | None = None) -> Iterator[tuple[str, Any, Taker | None]]:
    """Each value below a node with its dotted place and what takes it; an empty list or dict is a value."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    if not items or not node:
        yield place, node, taker
    target = node.get("_target_") if isinstance(node, dict) else None
    for key, value in items:
        yield from leaves(value, f"{place}.{key}".lstrip("."), (str(target), key) if target else taker)


def keyed(arguments: dict[str, Any]) -> list[tuple[str, Any, Taker | None]]:
    """The leaves of a stage's arguments that are part of its key."""
    kept = [leaf for leaf in leaves(arguments) if not REPLICA.fullmatch(leaf[0])]
    # A training's trainer, workers and states are in its `settings`; they were arguments of their own.
    places = [f"{leaf[0].removeprefix('settings.')}." for leaf in kept]
    return [leaf for leaf, at in zip(kept, places, strict=True) if not any(at.startswith(f"{p}.") for p in NOT_IN_KEY)]


@cache
def path_parameters(target: str) -> set[str] | None:
    """The parameters of a callable that are annotated `InputPath`; None where it knows nothing of that."""
    try:
        parameters = signature(pkgutil.resolve_name(target)).parameters.values()
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    names = {one.name for one in parameters if re.search(r"\bInputPath\b", str(one.annotation))}
    return names if names or target.startswith("rationale.") else None


def is_path(text: str, taker: Taker | None) -> bool:
    """Whether text that names something on the disk is meant so: with a slash it is; without one, if its parameter is
    an `InputPath`, or belongs to others' code that does not use it: a run too many is better than a wrong result."""
    if "/" in text or taker is None:
        return "/" in text
    names = path_parameters(taker[0])
    return names is None or taker[1] in names


def there(value: Any) -> list[str]:
    """What a value names on the disk: a path, or all that a pattern with `*` matches."""
    if not isinstance(value, str) or "\n" in value or not 0 < len(value) < 1024:
        return []
    # `glob` passes over hidden names, so another run's lock or half-done folder is no input.
    return [path for path in (sorted(glob(value)) if "*" in value else [value]) if os.path.exists(path)]


def find_inputs(arguments: dict[str, Any], digest: Callable[[Path], str] = sha256_file) -> dict[str, str]:
    """Fingerprint of every existing path among a stage's arguments; of a pattern, of each match."""
    fingerprints: dict[str, str] = {}
    for place, value, taker in keyed(arguments):
        for path in there(value):
            if is_path(value, taker):
                try:
                    fingerprints[str(Path(path))] = fingerprint(Path(path), digest, arguments.get("out"))
                except OSError as error:
                    raise UserError(f"{place}={value}: {error.filename} cannot be read ({error.strerror})") from error
    return fingerprints


def settings(arguments: dict[str, Any], inputs: dict[str, str]) -> dict[str, Any]:
    """What a call hangs on, by dotted place. An input counts by its content, not by where it lies."""

    def by_content(value: Any, taker: Taker | None) -> Any:
        named = isinstance(value, str) and str(Path(value)) in inputs and is_path(value, taker)
        return inputs[str(Path(value))] if named else value

    return {place: by_content(value, taker) for place, value, taker in keyed(arguments)}


def call_key(stage: str, arguments: dict[str, Any], inputs: dict[str, str]) -> str:
    """Identity of a call: its stage, what it hangs on, and its inputs."""
    content = {"stage": stage, "arguments": settings(arguments, inputs), "inputs": sorted(inputs.values())}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def changes(manifest: dict[str, Any], stage: str, arguments: dict[str, Any], inputs: dict[str, str]) -> list[str]:
    """What makes a call another than that of a manifest: `place: old -> new`, and inputs that changed, came or went."""
    sides = ((manifest["stage"], manifest["arguments"], manifest["inputs"]), (stage, arguments, inputs))
    one, other = ({"stage": name, **settings(node, paths)} for name, node, paths in sides)
    old, new = ({"stage": name, **{place: value for place, value, _ in leaves(node)}} for name, node, _ in sides)
    places = [p for p in {**one, **other} if _differ(p, one, other) and _differ(p, old, new)]
    changed = [f"{place}: {old.get(place, UNSET)} -> {new.get(place, UNSET)}" for place in places]
    before, named = manifest["inputs"], {str(value) for place in places for value in (old.get(place), new.get(place))}
    differ = (path for path in sorted(before.keys() | inputs.keys()) if before.get(path) != inputs.get(path))
    words = {(True, True): "changed", (True, False): "is gone", (False, True): "is new"}
    return changed + [f"{path} {words[path in before, path in inputs]}" for path in differ if path not in named]


def _differ(place: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.get(place, UNSET) != other.get(place, UNSET)


def why(manifest: dict[str, Any] | None, stage: str, arguments: dict[str, Any], inputs: dict[str, str]) -> str:
    """Why an artifact with a `manifest` is made anew, in a line."""
    if manifest is None:
        return "it has no manifest"
    if manifest["key"] == call_key(stage, arguments, inputs):
        return "force=true"
    reasons = changes(manifest, stage, arguments, inputs) or ["made by an earlier version of this package"]
    more = [f"and {len(reasons) - NUM_CHANGES} more"] if len(reasons) > NUM_CHANGES else []
    return "; ".join([*reasons[:NUM_CHANGES], *more])


def flock_works(folder: Path) -> bool:
    """Whether the file system of a folder has locks that end with the process that holds them."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_FLOCK:
                return False
            raise
    return True


@contextmanager
def locked(out: Path) -> Iterator[bool]:
    """Hold the artifact's lock; a second run on the same artifact waits, and says so. Yields whether it did.

    Where the file system has no flock the lock is a file that is there while it is held, with its holder's process and
    machine; filelock takes one over whose process is gone on this machine.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        soft = not flock_works(out.parent)
        lock = (SoftFileLock if soft else FileLock)(out.parent / f".{out.name}{'.soft' if soft else ''}.lock")
        waited = False
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waited = True
            print(f"{out}: another run is making it; waiting{holder(Path(lock.lock_file)) if soft else ''}", flush=True)
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise UserError(
            f"{out}: cannot be made ({error.strerror}: {error.filename}); set root= to a folder of your own, or have "
            "what several users share made writable for their group (umask 002)"
        ) from error
    try:
        yield waited
    finally:
        lock.release()


def holder(lock: Path) -> str:
    """Who holds a lock that is a file, and what to do where they are gone."""
    try:
        process, host = lock.read_text(encoding="utf-8").split()[:2]
    except (OSError, ValueError):
        return ""
    return f" for process {process} on {host}; if that has ended, remove {lock}"


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def copy_whole(folder: Path, copy: Path) -> None:
    """Copy a folder whole or not at all."""
    begun = copy.with_name(f"{copy.name}.copy")
    shutil.rmtree(begun, ignore_errors=True)
    shutil.copytree(folder, begun)
    os.rename(begun, copy)


def main_process() -> bool:
    """Whether this is the first or the only process of a run, by what torchrun, SLURM and Lightning set."""
    return not any(map(_rank, ranks()))


def ranks() -> list[str]:
    """The variables that say which of a run's processes this is, as Lightning takes them."""
    if "RANK" in os.environ:  # torchrun's, which under srun need not begin on SLURM's first node
        return ["RANK"]
    # Inherited by a shell, SLURM_PROCID says nothing: srun sets SLURM_NTASKS with it.
    srun = "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")
    return [*(["SLURM_PROCID"] if srun else []), "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"]


def _rank(name: str) -> int:
    given = os.environ.get(name, "0")
    if not given.isdigit():
        raise UserError(f"{name}={given!r} is no number of a process; unset it, or start by srun or torchrun")
    return int(given)


def identity(stage: str, arguments: dict[str, Any], hashes: Hashes) -> tuple[str, dict[str, str]]:
    """The key of a call, and its inputs as they are now."""
    inputs = find_inputs(arguments, hashes)
    hashes.save()
    return call_key(stage, arguments, inputs), inputs


def begin(partial: Path) -> int:
    """How often the run of a working folder was cut before this time, noted there: in its size, which no cut breaks."""
    (partial / MANIFEST).unlink(missing_ok=True)  # of a run cut off just before the rename
    with (partial / RESUMED).open("a", encoding="utf-8") as count:
        if len(list(partial.iterdir())) > 1:  # one that had done nothing yet was none
            count.write("1")
    return (partial / RESUMED).stat().st_size


def next_previous(out: Path) -> Path:
    """Where what stands under an artifact's name goes: `.<name>.previous_<number>`, the first after those there are."""
    prefix = f".{out.name}.previous_"
    numbers = [path.name.removeprefix(prefix) for path in out.parent.iterdir() if path.name.startswith(prefix)]
    return out.parent / f"{prefix}{1 + max((int(n) for n in numbers if n.isdigit()), default=0)}"


def earlier(root: Path) -> list[tuple[Path, int]]:
    """What artifacts below a folder were before they were made anew, and how many bytes each has."""
    folders = sorted(path for path in root.rglob(".*") if PREVIOUS.fullmatch(path.name) and path.is_dir())
    return [(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())) for path in folders]


def put_in_place(partial: Path, out: Path, previous: Path, outputs: dict[str, str], hashes: Hashes) -> None:
    """Give a whole artifact its name; what had it goes to `previous`, and away where it is the same."""
    if out.exists():
        there = output_hashes(out, hashes)
        os.rename(out, previous)
        os.rename(partial, out)
        if {name: digest for name, digest in there.items() if name != MANIFEST} == outputs:
            shutil.rmtree(previous)
    else:
        os.rename(partial, out)


class PartDone(BaseException):
    """This process, not the first, has done its part of a stage. No Exception, for those Hydra would wrap."""


def processes_of(arguments: dict[str, Any]) -> tuple[int | str, int]:
    """`devices` and `num_nodes` of a stage's trainer or shards.Processes."""
    given = {**arguments, **(arguments.get("settings") or {})}
    shared = given.get("trainer") or given.get("processes") or {}
    return shared.get("devices", 1), shared.get("num_nodes", 1)


def check_parent() -> None:
    """Stop where what started this process is gone. The first may outlive the shell that it came from."""
    if not main_process() and os.getppid() != PARENT:
        raise OtherEnded("the process that started this one has ended")


def wait_for_main_process(
    stage: str, arguments: dict[str, Any], work: Callable[[Path], dict], force: bool = False, kept: Path | None = None
) -> Path:
    """`produce` in any process but the first: takes part where a stage is one of several processes, and waits for the
    artifact that the first writes."""
    if force:
        raise UserError("force=true is for one process: remove the artifact that is to be made again")
    out = Path(arguments["out"])
    key, _ = identity(stage, arguments, Hashes(kept or out.parent / ".hashes"))

    def made() -> bool:
        return (read_manifest(out) or {}).get("key") == key

    if not made() and processes_of(arguments) != (1, 1):
        partial = out.parent / f".{out.name}.{key[:12]}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        with suppress(PartDone):
            work(partial)
    for turn in itertools.count():
        if made():
            return out
        if turn == 5 * WORDLESS:
            given = ", ".join(f"{name}={os.environ[name]}" for name in ranks() if name in os.environ)
            print(f"{out}: waiting for the first process; this is another by {given}, unset it if not so", flush=True)
        check_parent()
        time.sleep(0.2)


def produce(
    stage: str, arguments: dict[str, Any], work: Callable[[Path], dict], force: bool = False, kept: Path | None = None
) -> Path:
    """Make the artifact `arguments["out"]` by calling `work(folder)` unless its manifest already matches.

    `work` fills the folder, which may hold what an interrupted run of the same call left, and returns counts, or None
    where it only looked ahead. `retry_failed` among the arguments opens a finished artifact again. What stood under
    the final name stays as `.<name>.previous_<number>`, if it is another. `kept` is where digests of files are
    remembered, if not beside the artifact. Of several processes the first does this, the others
    `wait_for_main_process`.
    """
    if not main_process():
        return wait_for_main_process(stage, arguments, work, force, kept)
    out = Path(arguments["out"])
    hashes = Hashes(kept or out.parent / ".hashes")
    key, inputs = identity(stage, arguments, hashes)

    def up_to_date() -> bool:
        matches = (read_manifest(out) or {}).get("key") == key and not force and not arguments.get("retry_failed")
        if matches:
            print(f"{stage}: {out} is up to date", flush=True)
        return matches

    if up_to_date():  # needs no lock, nor the right to write one
        return out
    commit = git_commit()
    with locked(out) as waited:
        if waited:
            key, inputs = identity(stage, arguments, hashes)
        if up_to_date():
            return out
        before = read_manifest(out)
        made = before is not None and before["key"] == key
        partial, previous = out.parent / f".{out.name}.{key[:12]}.partial", next_previous(out)
        looks = bool(arguments.get("dry_run"))
        if made and not force and not partial.exists():
            copy_whole(out, partial)
        elif out.exists() and (force or not made) and not looks:
            reason = why(before, stage, arguments, inputs)
            print(f"{stage}: {out} is to be replaced: {reason}. What is there stays as {previous.name} if the new one "
                  "differs; name= or variant= keep both in view", flush=True)  # fmt: skip
        partial.mkdir(exist_ok=True)
        resumed = 0 if looks else begin(partial)
        started, begun = time.monotonic(), datetime.now(UTC)
        counts = work(partial)
        if counts is None:
            if not any(partial.iterdir()):
                partial.rmdir()
            return out
        (partial / RESUMED).unlink(missing_ok=True)
        manifest = {
            "stage": stage, "key": key, "arguments": arguments, "inputs": inputs,
            "outputs": output_hashes(partial, hashes), "counts": counts, "versions": versions(), "commit": commit,
            "machine": machine(), "resumed": resumed, "started": begun.isoformat(),
            "wall_seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        write_json(partial / MANIFEST, manifest)
        put_in_place(partial, out, previous, manifest["outputs"], hashes)
        hashes.save()
        shown = ", ".join(f"{k} {v}" for k, v in counts.items() if not isinstance(v, (dict, list)))
        print(f"{stage}: {out} ({manifest['wall_seconds']} s; {shown})", flush=True)
        return out
