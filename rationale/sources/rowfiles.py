"""Files of rows as other projects and people keep them: JSON lines, a JSON array or object, CSV, or parquet."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from rationale.schema import RowError, decoded

Located = tuple[str, Mapping[str, Any]]  # where a row stands, for messages, and the row
TEXTS = (".jsonl", ".json", ".csv", ".tsv")  # read here; parquet too
csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a cell may hold an image as base64 text


def raised(error: RowError) -> None:
    """What becomes of a bad row where none are gathered."""
    raise error


def silent(error: RowError) -> None:
    """What becomes of a bad row where it is looked at before it is read, and named then."""


def read_rows(path: Path, refuse: Callable[[RowError], None] = raised) -> Iterator[Located]:
    """Rows of a .json, .jsonl, .csv, .tsv or .parquet file, with where each stands.

    Text may be UTF-8, UTF-16 or UTF-32, with or without a byte order mark, its lines ended in any way. `refuse` takes
    the error of a row that is none; one of the file as a whole is raised.
    """
    readers = {".parquet": _parquet, ".json": _json, ".csv": _csv, ".tsv": _csv}
    try:
        for where, row in readers.get(path.suffix.lower(), _lines)(path, refuse):
            if isinstance(row, dict):
                yield where, row
            else:
                refuse(RowError(f"{where}: a row is a JSON object, found {type(row).__name__}"))
    except UnicodeDecodeError as error:
        raise RowError(f"{path}: {error}; save the file as UTF-8") from error


def num_rows(path: Path) -> int:
    """How many rows `read_rows` meets, good or bad; of parquet and of lines without reading them."""
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_metadata(path).num_rows
    if path.suffix.lower() == ".jsonl":
        with _opened(path) as file:
            return sum(not line.isspace() for line in file)
    bad: list[RowError] = []
    return sum(1 for _ in read_rows(path, bad.append)) + len(bad)


def _opened(path: Path, newline: str | None = None) -> TextIO:
    """A text file in the encoding that its first bytes tell; what is not UTF-8 is found by `_checked`."""
    with path.open("rb") as file:
        encoding = json.detect_encoding(file.read(4))
    return path.open(encoding=encoding, errors="surrogateescape", newline=newline)


def _checked(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = f"byte {ord(text[error.start]) & 0xFF:#x} after {text[: error.start][-30:]!r}"
        raise RowError(f"{where}: {found} is not UTF-8; save the file as UTF-8") from error
    return text


def _lines(path: Path, refuse: Callable[[RowError], None]) -> Iterator[tuple[str, Any]]:
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            where = f"{path}:{number}"
            try:
                row = decoded(_checked(line, where))
            except RowError as error:
                refuse(error)
            except ValueError as error:
                refuse(RowError(f"{where}: not a whole JSON line ({error}); mend or remove the line"))
            else:
                yield where, row


def _json(path: Path, refuse: Callable[[RowError], None]) -> Iterator[tuple[str, Any]]:
    """An array of rows; an object of rows by their ids (MathVista) or with one list of them (TextVQA, DocVQA)."""
    try:
        rows = decoded(path.read_bytes())
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        if getattr(error, "msg", None) != "Extra data":
            raise RowError(f"{path}: not JSON ({error}); mend the file, or get it again") from error
        yield from _lines(path, refuse)  # one row a line under another suffix
        return
    if isinstance(rows, dict):
        lists = [value for value in rows.values() if isinstance(value, list)]
        if rows and all(isinstance(value, dict) for value in rows.values()):
            yield from ((f"{path}, row {key!r}", row) for key, row in rows.items())
            return
        rows = lists[0] if len(lists) == 1 and all(isinstance(row, dict) for row in lists[0]) else rows
    if not isinstance(rows, list):
        raise RowError(f"{path}: a file of rows is an array or an object of them, found {type(rows).__name__}")
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows))


def _csv(path: Path, refuse: Callable[[RowError], None]) -> Iterator[Located]:
    """Cells are text, an empty one None; what separates them is what the header has most of."""
    with _opened(path, newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.DictReader(file, delimiter=max("\t;,", key=header.count))
        try:
            for row in reader:
                where = f"{path}:{reader.line_num}"
                if None in row or None in row.values():
                    cells = len(reader.fieldnames)
                    refuse(RowError(f"{where}: not the {cells} cells of the header; mend or remove the row"))
                    continue
                for name, cell in row.items():
                    _checked(name, path)
                    _checked(cell, where)
                yield where, {name.strip(): cell or None for name, cell in row.items()}
        except csv.Error as error:
            raise RowError(f"{path}:{reader.line_num}: no CSV ({error}); mend the file") from error


def _parquet(path: Path, _: Callable[[RowError], None]) -> Iterator[Located]:
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(64)
        rows = (row for batch in batches for row in batch.to_pylist())
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(rows))
    except (pyarrow.ArrowException, OSError) as error:
        raise RowError(f"{path}: not a whole parquet file ({error}); get it again") from error


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
