"""What files and folders hold, as digests. That of a file is kept, so that a second look reads nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
CARD = "README.md"  # says how an artifact was made, and is no part of what it is
# No part of any input: what this package keeps beside artifacts, and a version control's own files.
OWN = re.compile(r"\.(?:.+\.(?:lock|partial|copy|previous(?:_\d+)?)|hashes|git)")
SETTLED = 2_000_000_000  # ns; a file written later than that ago may change again within one tick of its clock


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Hashes:
    """`sha256_file` that remembers, in the file `kept`: one of the same name, inode, size and times is not read again.

    `kept` is written whole, by any number of processes. Where it is absent, broken, or nothing can be written, files
    are read again, and that is all.
    """

    def __init__(self, kept: Path):
        self.kept, self.new = kept, {}
        self.known = self._read()

    def __call__(self, path: Path) -> str:
        at = os.stat(path)
        place = f"{Path(path).name} {at.st_ino} {at.st_size} {at.st_mtime_ns} {at.st_ctime_ns}"
        if place in self.known:
            return self.known[place]
        found = sha256_file(path)
        if time.time_ns() - max(at.st_mtime_ns, at.st_ctime_ns) > SETTLED:
            self.known[place] = self.new[place] = found
        return found

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self.kept.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def save(self) -> None:
        """Add what was read to what any process has kept by now."""
        if not self.new:
            return
        partial = self.kept.with_name(f".{uuid.uuid4().hex}.partial")
        with suppress(OSError):  # no room or no right to write: the next look reads again
            partial.write_text(json.dumps(self._read() | self.new), encoding="utf-8")
            os.replace(partial, self.kept)
            self.new = {}
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def remembered(folder: Path) -> Hashes:
    """What is remembered of the files of a run that a folder is of: in the nearest `.hashes` above."""
    places = [above / ".hashes" for above in folder.absolute().parents]
    return Hashes(next((place for place in places if place.is_file()), places[0]))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a whole artifact, or None where there is none."""
    path = Path(folder) / MANIFEST
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def files(folder: Path, name: str = "", above: tuple[Path, ...] = ()) -> Iterator[tuple[str, Path]]:
    """Every file below a folder that is part of what it is, with its path there; links are followed.

    Hidden files are. Cards, what `OWN` names and, of each artifact in it, manifest (it holds times) and images (they
    are named by their contents) are not.
    """
    real = folder.resolve()
    if real in above:  # a link to a folder that holds it
        return
    skipped = {CARD} | ({MANIFEST, "images"} if _is_artifact(folder) else set())
    for path in sorted(folder.iterdir()):
        if path.name in skipped or OWN.fullmatch(path.name):
            continue
        if path.is_dir():
            yield from files(path, f"{name}{path.name}/", (*above, real))
        elif path.is_file():
            yield f"{name}{path.name}", path


def _is_artifact(folder: Path) -> bool:
    """Whether a folder's manifest is one of ours; data of others may hold a file of that name."""
    with suppress(ValueError):
        found = read_manifest(folder)
        return isinstance(found, dict) and {"stage", "key", "outputs"} <= found.keys()
    return False


def output_hashes(folder: Path, digest: Callable[[Path], str] = sha256_file) -> dict[str, str]:
    """SHA-256 of every file by its path in the folder, but for images, whose names tell their contents."""
    named = ((file.relative_to(folder), file) for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(name): digest(file) for name, file in named if name.parts[0] != "images"}


def fingerprint(path: Path, digest: Callable[[Path], str] = sha256_file, out: Path | None = None) -> str:
    """What an input is: the digest of a file, or that of a folder's `files`, names and contents.

    `out` is the artifact that is made from it: where it lies in the input, the input's own folder on the way to it is
    no part of it.
    """
    path = Path(path)
    if path.is_file():
        return digest(path)
    real, inner = path.resolve(), Path(out or "/").resolve()
    way = inner.relative_to(real).parts[0] if real in inner.parents else None
    found = {name: digest(file) for name, file in files(path) if Path(name).parts[0] != way}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
