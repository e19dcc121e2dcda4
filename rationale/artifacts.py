"""Artifacts: folders written beside their final name and renamed when whole, each with a manifest.

A stage writes into a working folder named by the key of its call (stage, arguments, inputs). The same call finds
its own half-done work and goes on; another call never sees it. The final folder appears in one rename.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from glob import glob
from importlib import metadata
from pathlib import Path
from typing import Any

from tqdm import tqdm

MANIFEST = "manifest.json"
CARD = "README.md"  # says how an artifact was made, and is no part of what it is
# Arguments that cannot change what is written: where to, and how (not what) an endpoint is asked.
UNKEYED = {"out", "logger", "workers", "chunk", "traffic", "budget", "batches", "dry_run", "retry_failed"}
WORDLESS = 60  # seconds that a process waits for the first one without a word
PACKAGES = ("torch", "transformers", "tokenizers", "pytorch-lightning", "peft", "datasets", "deepspeed", "pillow")


class UserError(ValueError):
    """Something the caller can mend; shown without a traceback."""


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a whole artifact, or None where there is none."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


def output_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file by its path in the folder, but for images, whose names tell their contents."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    named = {str(file.relative_to(folder)): file for file in files}
    return {name: sha256_file(file) for name, file in named.items() if Path(name).parts[0] != "images"}


def fingerprint(path: Path) -> str:
    """What an input is: digest of an artifact's outputs, of a file, or of a plain folder's names and rows."""
    manifest = read_manifest(path)
    if manifest is not None:
        outputs = {name: digest for name, digest in manifest["outputs"].items() if Path(name).name != CARD}
        return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and p.name != CARD):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        if file.suffix in {".json", ".jsonl", ".safetensors"}:
            digest.update(sha256_file(file).encode())
    return digest.hexdigest()


def find_inputs(node: Any, skip: frozenset[str] | set[str] = frozenset()) -> dict[str, str]:
    """Fingerprint of every existing path among the arguments; patterns with `*` count each match."""
    found: dict[str, str] = {}
    if isinstance(node, dict):
        for key, value in node.items():
            if key not in skip:
                found.update(find_inputs(value))
    elif isinstance(node, list):
        for value in node:
            found.update(find_inputs(value))
    elif isinstance(node, str) and "/" in node and "\n" not in node and len(node) < 1024:
        # `glob` passes over hidden names, so another run's lock or half-done folder is no input.
        paths = [Path(match) for match in sorted(glob(node))] if "*" in node else [Path(node)]
        found.update({str(path): fingerprint(path) for path in paths if os.path.exists(path)})
    return found


def call_key(stage: str, arguments: dict[str, Any], inputs: dict[str, str]) -> str:
    """Identity of a call. An input counts by its content, not by where it lies."""

    def by_content(node: Any) -> Any:
        if isinstance(node, dict):
            return {k: by_content(v) for k, v in node.items() if k not in UNKEYED}
        if isinstance(node, list):
            return [by_content(v) for v in node]
        return inputs.get(str(Path(node)), node) if isinstance(node, str) else node

    content = {"stage": stage, "arguments": by_content(arguments), "inputs": sorted(inputs.values())}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def git_commit() -> str | None:
    """Commit of the source tree, with a mark where it has uncommitted changes; None outside a checkout."""
    here = Path(__file__).resolve().parent
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"], check=False, cwd=here, capture_output=True, text=True
    )
    return run.stdout.strip() or None


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the artifact's lock; a second run on the same artifact waits, and says so."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{out}: another run is making it; waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
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


def follow(stage: str, arguments: dict[str, Any], work: Callable[[Path], dict], force: bool = False) -> Path:
    """`produce` in any process but the first: takes part in a training, and waits for the artifact that the first
    process writes."""
    if force:
        raise UserError("force=true is for one process: remove the artifact that is to be made again")
    out = Path(arguments["out"])
    key = call_key(stage, arguments, find_inputs(arguments, skip=UNKEYED))

    def made() -> bool:
        return (read_manifest(out) or {}).get("key") == key

    if not made() and "trainer" in arguments:
        partial = out.parent / f".{out.name}.{key[:12]}.partial"
        partial.mkdir(parents=True, exist_ok=True)
        work(partial)
    for turn in itertools.count():
        if made():
            return out
        if turn == 5 * WORDLESS:
            given = ", ".join(f"{name}={os.environ[name]}" for name in ranks() if name in os.environ)
            print(f"{out}: waiting for the first process; this is another by {given}, unset it if not so", flush=True)
        time.sleep(0.2)


def produce(stage: str, arguments: dict[str, Any], work: Callable[[Path], dict], force: bool = False) -> Path:
    """Make the artifact `arguments["out"]` by calling `work(folder)` unless its manifest already matches.

    `work` fills the folder, which may hold what an interrupted run of the same call left, and returns counts, or None
    where it only looked ahead. `retry_failed` among the arguments opens a finished artifact again. What stood under
    the final name is kept once as `.<name>.previous`. Of several processes the first does this and the others `follow`.
    """
    if not main_process():
        return follow(stage, arguments, work, force)
    out = Path(arguments["out"])
    with locked(out):
        inputs = find_inputs(arguments, skip=UNKEYED)
        key = call_key(stage, arguments, inputs)
        found = read_manifest(out)
        made = found is not None and found["key"] == key and not force
        partial = out.parent / f".{out.name}.{key[:12]}.partial"
        if made and not arguments.get("retry_failed"):
            print(f"{stage}: {out} is up to date", flush=True)
            return out
        if made and not partial.exists():
            copy_whole(out, partial)
        partial.mkdir(exist_ok=True)
        started, begun = time.monotonic(), datetime.now(UTC)
        (partial / MANIFEST).unlink(missing_ok=True)  # of a run cut off just before the rename
        counts = work(partial)
        if counts is None:
            if not any(partial.iterdir()):
                partial.rmdir()
            return out
        manifest = {
            "stage": stage, "key": key, "arguments": arguments, "inputs": inputs, "outputs": output_hashes(partial),
            "counts": counts, "versions": versions(), "commit": git_commit(), "started": begun.isoformat(),
            "wall_seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        write_json(partial / MANIFEST, manifest)
        if out.exists():
            previous = out.parent / f".{out.name}.previous"
            shutil.rmtree(previous, ignore_errors=True)
            os.rename(out, previous)
        os.rename(partial, out)
        shown = ", ".join(f"{k} {v}" for k, v in counts.items() if not isinstance(v, (dict, list)))
        print(f"{stage}: {out} ({manifest['wall_seconds']} s; {shown})", flush=True)
        return out


def in_shards(folder: Path, units: list[Any], work: Callable[[Any], list[str]], label: str = "") -> Path:
    """Lines of `work(unit)` for every unit, in order, as `rows.jsonl`; each unit is a shard renamed when whole.

    A run that is cut goes on with the first unit that has no shard, so no line is lost or written twice.
    """
    shards, rows = folder / "shards", folder / "rows.jsonl"
    if rows.exists():  # cut off after the last unit
        shutil.rmtree(shards, ignore_errors=True)
        return rows
    shards.mkdir(exist_ok=True)
    for index, unit in enumerate(tqdm(units, desc=label, unit="batch", mininterval=2)):
        shard = shards / f"{index:06d}.jsonl"
        if not shard.exists():
            partial = shard.with_suffix(".partial")
            partial.write_text("".join(work(unit)), encoding="utf-8")
            os.replace(partial, shard)
    partial = folder / "rows.partial"
    with partial.open("wb") as file:
        for index in range(len(units)):
            with (shards / f"{index:06d}.jsonl").open("rb") as shard:
                shutil.copyfileobj(shard, file)
    os.replace(partial, rows)
    shutil.rmtree(shards)
    return rows
