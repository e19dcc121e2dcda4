"""Rows that others made: where they are, how they are read, and the image files in them."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from PIL import Image

from rationale.artifacts import UserError
from rationale.images import as_seen, open_image, resolve
from rationale.schema import RowError
from rationale.sources.rowfiles import TEXTS, Located, num_rows, read_rows, silent
from rationale.sources.tasks import png_bytes

TABLES = ("data.jsonl", "data.json", "data.csv", "data.tsv", "data.parquet")  # of a person's own folder
SUFFIXES = (".parquet", ".arrow", *TEXTS)  # the first that is there is read
COPY = "{part}.parquet or {part}-*.parquet (or .arrow, .jsonl, .json, .csv, .tsv), or what `Dataset.save_to_disk` wrote"
STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")  # of files of images
DROP = "the splits that you need are named with dataset.only=[...]"


@dataclass(frozen=True)
class Rows:
    """Rows with where each stands, read again at every look; `count` says how many, where that is known beforehand."""

    located: Callable[[Callable[[RowError], None]], Iterator[Located]]  # its argument takes the error of a bad row
    count: int | None


@dataclass(frozen=True)
class Origin:
    """Where rows are: a data set of the hub as `datasets.load_dataset` names it, or the folder of a local copy."""

    path: str | None
    name: str | None
    revision: str | None
    local: str | None
    streaming: bool

    def __str__(self) -> str:
        return str(self.local or self.path)

    @property
    def folder(self) -> Path:
        return Path(self.local)

    def split(self, part: str, columns: Sequence[str], optional: Sequence[str] = ()) -> Rows:
        """The rows of one split with `columns`, and with those of `optional` that it has; images as files' bytes."""
        try:
            return self._found(part, columns, optional)
        except (UserError, RowError):
            raise
        except Exception as error:  # the hub's client, `datasets` and pyarrow each raise their own
            raise self._failed(part, columns, error) from error

    def _failed(self, part: str, columns: Sequence[str], error: Exception) -> UserError:
        said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return UserError(
            f"tried split {part!r} of {self} (name {self.name}, revision {self.revision}): {said}. Without a hub, "
            f"set dataset.local=<folder> to a copy: {COPY.format(part=part)}, with the columns {list(columns)}"
        )

    def _found(self, part: str, columns: Sequence[str], optional: Sequence[str]) -> Rows:
        import datasets  # takes a second or two, which drawn tasks need not wait for

        files = self._files(part) if self.local is not None else []
        if files and files[0].suffix.lower() in TEXTS:
            return self._texts(files, part, columns, optional)
        if files and files[0].suffix == ".arrow":
            rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path)) for path in files])
        elif files:
            # Streamed, since `datasets` would first copy what is here into its cache.
            rows = datasets.load_dataset("parquet", data_files=[str(p) for p in files], split="train", streaming=True)
        elif self.local is not None:
            rows = self._saved(part)
        else:
            rows = datasets.load_dataset(
                self.path, name=self.name, revision=self.revision, split=part, streaming=self.streaming
            )
        if rows.column_names is not None and columns:
            self._compare(part, columns, rows.column_names)
            rows = rows.select_columns([*columns, *(name for name in optional if name in rows.column_names)])
        as_file = datasets.Image(decode=False)
        for name, kind in (rows.features or {}).items():
            if isinstance(kind, datasets.Image):
                rows = rows.cast_column(name, as_file)
            elif isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.Image):
                rows = rows.cast_column(name, datasets.List(as_file))
        count = sum(map(num_rows, files)) if files and files[0].suffix == ".parquet" else None

        def located(refuse: Callable[[RowError], None]) -> Iterator[Located]:
            index = -1
            try:
                for index, row in enumerate(rows):
                    yield f"{self} {part}:{index}", row
            except Exception as error:  # as above: what is streamed fails while it is read
                raise self._failed(f"{part}, row {index + 1},", columns, error) from error

        return Rows(located, len(rows) if hasattr(rows, "__len__") else count)

    def _texts(self, files: Sequence[Path], part: str, columns: Sequence[str], optional: Sequence[str]) -> Rows:
        """Rows of files of text, where a column that a row leaves out is null."""
        first = next(chain.from_iterable(read_rows(path, silent) for path in files), None)
        if first is not None:
            self._compare(part, columns, list(first[1]))

        def located(refuse: Callable[[RowError], None]) -> Iterator[Located]:
            for where, row in chain.from_iterable(read_rows(path, refuse) for path in files):
                yield where, {name: row.get(name) for name in (*columns, *optional)} if columns else row

        return Rows(located, sum(map(num_rows, files)))

    def _compare(self, part: str, columns: Sequence[str], found: Sequence[str]) -> None:
        if missing := sorted(set(columns) - set(found)):
            raise UserError(f"{self} has no column {missing} in split {part!r}, only {list(found)}")

    def _saved(self, part: str) -> Any:
        """A dataset as `save_to_disk` wrote it."""
        import datasets

        if (self.folder / part / "state.json").is_file():
            return datasets.load_from_disk(str(self.folder / part))
        saved = datasets.load_from_disk(str(self.folder))
        if part not in saved:
            raise UserError(f"{self.folder} has no split {part!r}, only {list(saved)}; {DROP}")
        return saved[part]

    def _files(self, part: str) -> list[Path]:
        """The files that bear the split's name, below the folder of `name` where there is one; none of a saved set."""
        root = self.folder
        if (root / "dataset_dict.json").is_file() or (root / part / "state.json").is_file():
            return []
        below = root / self.name if self.name and (root / self.name).is_dir() else root
        there = sorted(p for p in below.rglob("*") if p.stem == part or p.stem.startswith(f"{part}-"))
        for suffix in SUFFIXES:
            if files := [p for p in there if p.suffix.lower() == suffix and p.is_file()]:
                return files
        table = next((f"; its {path.name} loads with dataset=local dataset.root={root}" for path in tables(root)), "")
        raise UserError(f"{below} has no {COPY.format(part=part)}{table}; {DROP}")


def tables(root: Path) -> list[Path]:
    """The files of a folder of a person's own that hold its rows."""
    return sorted(p for p in root.iterdir() if p.name.lower() in TABLES and p.is_file()) if root.is_dir() else []


def table_of(root: Path) -> Path:
    """The one file of such a folder."""
    found = tables(root)
    if not found:
        needed = f"set data_root to a folder with one of {list(TABLES)} and its images"
        raise RowError(f"{root}: no {TABLES[0]} there; {needed}")
    if len(found) > 1:
        raise RowError(f"{root}: {[path.name for path in found]} are there; leave the one with the rows")
    return found[0]


class _File(io.BytesIO):
    """An image file's bytes under a name that messages can say."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name

    def __repr__(self) -> str:
        return self.name


def listed(value: Any) -> list[Any]:
    """The images of a row's field, which holds none, one, or a list of them."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if one not in (None, "")]


def unwrapped(value: Any, where: str) -> Any:
    """An image as a row holds it, out of its wrapping: a path, bytes, or a picture of Pillow.

    Text may be a data: URL or base64 of a file. `datasets` stores {"bytes", "path"}.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path", value)
    if not isinstance(value, str):
        return value
    if value.startswith(("http://", "https://")):
        raise RowError(f"{where}: image {value!r:.120} is a web address; download the images and name their files")
    head, comma, body = value.partition(",") if value.startswith("data:") else ("", "", value)
    if comma and not head.endswith(";base64"):
        raise RowError(f"{where}: an image of the form {head!r:.80}; write data:image/png;base64,...")
    if not comma and not re.fullmatch(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*", value):
        return value
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        if not comma:
            return value
        raise RowError(f"{where}: the text behind {head!r} is no base64 ({error}); mend the row") from error
    return data if comma or data.startswith(STARTS) else value  # or a path of letters and digits


def image_file(value: Any, root: Path | None, where: str) -> tuple[bytes, str]:
    """The bytes of an image file, as they were made wherever they are at hand, and a name for messages.

    `value` is in any form that `unwrapped` takes; a path is below `root`, and a picture of Pillow is encoded as PNG.
    """
    value = unwrapped(value, where)
    if isinstance(value, bytes):
        return value, "the row's image"
    if isinstance(value, Image.Image):
        keeps = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # what PNG can hold
        try:
            return png_bytes(value if value.mode in keeps else as_seen(value)), "the row's image"
        except ValueError as error:
            raise RowError(f"{where}: the row's image has {error}; save it with 8 bits a channel") from error
    path = image_path(value, root, where)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise RowError(f"{where}: {path} cannot be read ({error}); mend the file or remove the row") from error


def image_path(value: Any, root: Path | None, where: str) -> Path:
    """Where the image is that a row names."""
    if root is None:
        found = f"{where}: the row holds only a path, {value!r:.80}"
        raise RowError(f"{found}; name the folder it is in with dataset.images=<folder>")
    return resolve(root, value, where)


def check_images(named: Iterable[tuple[str, Sequence[Any]]], root: Path | None, shown: int = 5) -> bool:
    """See that every image that rows name is there; one error counts those that are not and names the first `shown`.

    `named` are places and the images that each names. False where one is no path, so that nothing more was looked at.
    """
    there: set[str] = set()
    absent: list[RowError] = []
    rows = 0
    for where, held in named:
        rows += 1
        try:
            for image in (unwrapped(one, where) for one in held):
                if not isinstance(image, str | None):
                    return False
                if image and image not in there:
                    image_path(image, root, where)
                    there.add(image)
        except RowError as error:
            absent.append(error)
    if len(absent) == 1:
        raise absent[0]
    if absent:
        first = "\n".join(map(str, absent[:shown]))
        raise RowError(f"{len(absent)} of {rows} rows name an image that cannot be used; the first:\n{first}")
    return True


def suffix_of(data: bytes, name: str, where: str) -> str:
    """What kind of file an image is, by its content; raises RowError where it cannot be decoded."""
    open_image(_File(data, name), where)
    with Image.open(io.BytesIO(data)) as image:
        return {"JPEG": ".jpg", "MPO": ".jpg"}.get(image.format, f".{image.format.lower()}")
