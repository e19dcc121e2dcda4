"""Rows appended as they arrive, so that a killed run has lost none of those that came."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from rationale.schema import RowError, decoded, from_dict, to_line

Row = TypeVar("Row")


class Journal(Generic[Row]):
    """A JSON-lines file of rows with a `question_id`; of several rows with one id the last counts.

    Each row reaches the operating system before the next is asked for, and the disk every `sync_every` rows. The half
    line of a run that was killed while writing is dropped. Only places are held in memory, not rows.
    """

    def __init__(self, path: Path, kind: type[Row], sync_every: int):
        self.path, self.kind, self.sync_every = path, kind, sync_every
        self.places: dict[str, list[int]] = {}
        self.end, self.unsynced, self.file = 0, 0, None
        for row, start, end in self._scan():
            self.places.setdefault(row.question_id, []).append(start)
            self.end = end

    def _scan(self) -> Iterator[tuple[Row, int, int]]:
        if not self.path.exists():
            return
        start = 0
        with self.path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield self._row(line, start), start, start + len(line)
                start += len(line)

    def _row(self, line: bytes, start: int) -> Row:
        where = f"{self.path} at byte {start}"
        try:
            found = decoded(line)
        except ValueError as error:
            raise RowError(f"{where}: not a JSON line ({error}); remove that line and run again") from error
        return from_dict(self.kind, found, where)

    def all(self) -> Iterator[Row]:
        """Every row in the file's order, also those that a later one replaces."""
        return (row for row, _, _ in self._scan())

    def __contains__(self, question_id: Any) -> bool:
        return question_id in self.places

    def __getitem__(self, question_id: str) -> Row:
        with self.path.open("rb") as file:
            file.seek(self.places[question_id][-1])
            return self._row(file.readline(), self.places[question_id][-1])

    def append(self, row: Row) -> None:
        """Store one row."""
        if self.file is None:
            self.file = self.path.open("r+b" if self.path.exists() else "w+b")
            self.file.truncate(self.end)
            self.file.seek(self.end)
        line = to_line(row).encode()
        self.file.write(line)
        self.file.flush()
        self.places.setdefault(row.question_id, []).append(self.end)
        self.end += len(line)
        self.unsynced += 1
        if self.unsynced >= self.sync_every:
            os.fsync(self.file.fileno())
            self.unsynced = 0

    def close(self) -> None:
        """Bring all to the disk."""
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.file.close()
            self.file = None

    def sort(self, order: Iterable[str]) -> None:
        """Rewrite the file in the order of the given ids, so that it does not tell which arrived first."""
        self.close()
        partial = self.path.with_suffix(".partial")
        places: dict[str, list[int]] = {}
        end = 0
        with self.path.open("rb") as old, partial.open("wb") as new:
            for question_id in order:
                for place in self.places[question_id]:
                    old.seek(place)
                    places.setdefault(question_id, []).append(end)
                    end += new.write(old.readline())
        os.replace(partial, self.path)
        self.places, self.end = places, end
