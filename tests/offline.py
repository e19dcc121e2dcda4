"""What wandb's offline runs hold, read back from the files that `wandb sync` uploads."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as proto

BLOCK, HEADER = 32768, struct.Struct("<IHB")  # LevelDB's log format: checksum, length, and which part of a record
WHOLE, LAST = 1, 4


@dataclass
class Offline:
    """One run; `artifacts` are by name and file."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, dict[str, Any]] = field(default_factory=dict)
    exit_code: int | None = None  # None where the run was not finished

    def values(self, metric: str) -> list[tuple[int, float]]:
        return [(row["trainer/global_step"], row[metric]) for row in self.history if metric in row]

    def stored(self, artifact: str, file: str) -> Path:
        """Where a file waits that an artifact holds."""
        return Path(self.artifacts[artifact][file].local_path)

    def stored_of_table(self, key: str, file: str) -> Path:
        return self.stored(f"run-{self.id}-{key}", file)

    def table(self, key: str) -> list[dict[str, Any]]:
        """Rows by column; an image is a dictionary, with its path in the table's artifact."""
        found = json.loads(self.stored_of_table(key, f"{key}.table.json").read_text(encoding="utf-8"))
        return [dict(zip(found["columns"], row, strict=True)) for row in found["data"]]


def records(path: Path) -> Iterator[proto.Record]:
    data, at, whole = path.read_bytes(), 7, b""  # after wandb's own header
    while at + HEADER.size <= len(data):
        if (left := BLOCK - at % BLOCK) < HEADER.size:
            at += left
            continue
        _, size, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        if at + size > len(data):
            return  # still being written
        whole, at = whole + data[at : at + size], at + size
        if kind in (WHOLE, LAST):
            yield proto.Record.FromString(whole)
            whole = b""


def put(into: dict[str, Any], items: Iterable[Any]) -> None:
    for item in items:
        *path, last = item.nested_key or [item.key]
        node = into
        for key in path:
            node = node.setdefault(key, {})
        node[last] = json.loads(item.value_json)


def read(file: Path) -> Offline:
    run = Offline(file.parent)
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            said = record.run
            run.id, run.name, run.group, run.job_type = said.run_id, said.display_name, said.run_group, said.job_type
            run.tags = list(said.tags)
            put(run.config, said.config.update)
        elif kind == "config":
            put(run.config, record.config.update)
        elif kind == "history":
            run.history.append({})
            put(run.history[-1], record.history.item)
        elif kind == "summary":
            put(run.summary, record.summary.update)
        elif kind == "artifact":
            run.artifacts[record.artifact.name] = {entry.path: entry for entry in record.artifact.manifest.contents}
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def runs(folder: Path) -> dict[str, Offline]:
    """The offline runs below a folder that holds `wandb`, by name; a name that occurs twice is an error.

    wandb's own process writes when it gets its turn, so an end that is not there yet is waited for.
    """
    until = time.monotonic() + 30
    while True:
        found = [read(file) for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb"))]
        if all(run.exit_code is not None for run in found) or time.monotonic() > until:
            break
        time.sleep(0.1)
    by_name = {run.name: run for run in found}
    assert len(by_name) == len(found), [run.name for run in found]
    return by_name
