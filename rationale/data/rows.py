"""Rows that others made: where they are, how they are read, and the image files in them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rationale.artifacts import UserError
from rationale.data.images import open_image, resolve
from rationale.data.tasks import png_bytes
from rationale.schema import RowError, decoded

ROWS = "data.jsonl"
FORMS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json"}  # the first that is there is read
COPY = "{part}.parquet or {part}-*.parquet (or .arrow, .jsonl, .json), or what `Dataset.save_to_disk` wrote"
DROP = "the splits that you need are named with dataset.only=[...]"
Located = tuple[str, Mapping[str, Any]]  # where a row stands, for messages, and the row


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
        return Path(self.local).expanduser()

    def split(self, part: str, columns: Sequence[str]) -> Iterable[Mapping[str, Any]]:
        """The rows of one split of the source with those columns; images as their files' bytes."""
        import datasets  # takes a second or two, which drawn tasks need not wait for

        try:
            if self.local is not None:
                rows = self._local(part)
            else:
                rows = datasets.load_dataset(
                    self.path, name=self.name, revision=self.revision, split=part, streaming=self.streaming
                )
        except UserError:
            raise
        except Exception as error:  # the hub's client, `datasets` and pyarrow each raise their own
            said = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise UserError(
                f"tried split {part!r} of {self} (name {self.name}, revision {self.revision}): {said}. Without a hub, "
                f"set dataset.local=<folder> to a copy: {COPY.format(part=part)}, with the columns {list(columns)}"
            ) from error
        if rows.column_names is not None and columns:
            if missing := sorted(set(columns) - set(rows.column_names)):
                raise UserError(f"{self} has no column {missing} in split {part!r}, only {rows.column_names}")
            rows = rows.select_columns(list(columns))
        for name, kind in (rows.features or {}).items():
            if isinstance(kind, datasets.Image):
                rows = rows.cast_column(name, datasets.Image(decode=False))
            elif isinstance(kind, datasets.List) and isinstance(kind.feature, datasets.Image):
                rows = rows.cast_column(name, datasets.List(datasets.Image(decode=False)))
        return rows

    def _local(self, part: str) -> Iterable[Mapping[str, Any]]:
        """A saved dataset, or the files that bear the split's name, below the folder of `name` where there is one."""
        import datasets

        root = self.folder
        if (root / "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(str(root))
            if part not in saved:
                raise UserError(f"{root} has no split {part!r}, only {list(saved)}; {DROP}")
            return saved[part]
        if (root / part / "state.json").is_file():
            return datasets.load_from_disk(str(root / part))
        below = root / self.name if self.name and (root / self.name).is_dir() else root
        for suffix, form in FORMS.items():
            files = sorted(p for p in below.rglob(f"*{suffix}") if p.stem == part or p.stem.startswith(f"{part}-"))
            if files:
                # Streamed, since `datasets` would first copy what is here into its cache.
                return datasets.load_dataset(form, data_files=[str(p) for p in files], split="train", streaming=True)
        plainly = f"; its {ROWS} loads with dataset=local dataset.root={root}" if (root / ROWS).is_file() else ""
        raise UserError(f"{below} has no {COPY.format(part=part)}{plainly}; {DROP}")


def raised(error: RowError) -> None:
    """What becomes of a bad row where none are gathered."""
    raise error


def lines(path: Path, refuse: Callable[[RowError], None] = raised) -> Iterator[Located]:
    """JSON objects of a file, one a line, with file and line number; `refuse` takes the error of any other line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            try:
                row = decoded(line)
            except ValueError as error:
                refuse(RowError(f"{where}: not a whole JSON line ({error}); mend or remove the line"))
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                refuse(RowError(f"{where}: a row is a JSON object, found {type(row).__name__}"))


class _File(io.BytesIO):
    """An image file's bytes under a name that messages can say."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name

    def __repr__(self) -> str:
        return self.name


def image_file(value: Any, root: Path | None, where: str) -> tuple[bytes, str]:
    """The bytes of an image file, as they were made wherever they are at hand, and a name for messages.

    `value` is bytes, a {"bytes", "path"} pair as `datasets` stores images, a path below `root`, or a picture of Pillow,
    which is encoded as PNG.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value, "the row's image"
    if isinstance(value, Image.Image):
        keeps = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")  # what PNG can hold
        return png_bytes(value if value.mode in keeps else value.convert("RGB")), "the row's image"
    if root is None:
        raise RowError(
            f"{where}: the row holds only a path, {value!r:.80}; name the folder it is in with dataset.images=<folder>"
        )
    path = resolve(root, value, where)
    try:
        return path.read_bytes(), str(path)
    except OSError as error:
        raise RowError(f"{where}: {path} cannot be read ({error}); mend the file or remove the row") from error


def suffix_of(data: bytes, name: str, where: str) -> str:
    """What kind of file an image is, by its content; raises RowError where it cannot be decoded."""
    open_image(_File(data, name), where)
    with Image.open(io.BytesIO(data)) as image:
        return {"JPEG": ".jpg", "MPO": ".jpg"}.get(image.format, f".{image.format.lower()}")
