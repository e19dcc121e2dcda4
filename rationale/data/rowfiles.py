"""Files of rows as other projects keep them: a JSON array, JSON lines, or parquet."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from rationale.data.rows import lines
from rationale.schema import RowError, decoded


def read_rows(path: Path) -> Iterator[tuple[str, dict]]:
    """(where, row) of a .json array, a .jsonl or a .parquet file."""
    if path.suffix == ".parquet":
        found = ((f"{path}, row {number}", row) for number, row in enumerate(_parquet(path)))
    elif path.suffix == ".json":
        found = ((f"{path}, row {number}", row) for number, row in enumerate(_array(path)))
    else:
        found = lines(path)
    for where, row in found:
        if not isinstance(row, dict):
            raise RowError(f"{where}: a row is a JSON object, found {type(row).__name__}")
        yield where, row


def _parquet(path: Path) -> Iterator[dict]:
    import pyarrow.parquet

    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(64):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise RowError(f"{path}: not a whole parquet file ({error}); get it again") from error


def _array(path: Path) -> list:
    try:
        rows = decoded(path.read_bytes())
    except ValueError as error:
        raise RowError(f"{path}: not JSON ({error}); name a file of one row a line .jsonl") from error
    if not isinstance(rows, list):
        raise RowError(f"{path}: a file of rows is an array, found {type(rows).__name__}")
    return rows


def write_rows(path: Path, rows: Iterable[dict]) -> int:
    """Rows one a line: an array where the file is .json, else bare lines; returns how many."""
    opening, between, closing = ("[\n", ",\n", "\n]\n") if path.suffix == ".json" else ("", "\n", "\n")
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(opening)
        for row in rows:
            file.write((between if count else "") + json.dumps(row, ensure_ascii=False))
            count += 1
        file.write(closing)
    return count


def link(source: Path, target: Path) -> None:
    """Put a file where `target` says, as a hard link or, on another file system, a copy; whole or not at all."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        partial = target.with_name(f".{target.name}.partial")
        shutil.copyfile(source, partial)
        os.replace(partial, target)
