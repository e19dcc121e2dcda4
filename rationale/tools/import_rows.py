"""Rows released by others, in their own forms, as questions, rationales and pairs that every stage reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Literal

from tqdm import tqdm

from rationale.artifacts import InputPath, UserError
from rationale.hashes import sha256_file
from rationale.images import open_image, resolve, store
from rationale.question_checks import Refusals
from rationale.schema import Question, RowError, write_jsonl
from rationale.settings import typed
from rationale.sources.exchange import ROW_FORMS
from rationale.sources.incoming import Incoming, RowFiles
from rationale.sources.rowfiles import link, read_rows, silent
from rationale.sources.rows import check_images, suffix_of


@typed
def run(
    sources: list[RowFiles],
    root: InputPath | None,
    images: InputPath | None,
    unfit: Literal["error", "aside"],
    out: Path,
) -> dict:
    """Write `questions.jsonl` with `images/`, and where there are any `rows.jsonl` (rationales) and `pairs.jsonl`: the
    folder serves as questions, as rationales and as pairs.

    `root` holds the files of `sources`, `images` (or `root`) the images that rows name. A row that cannot be used stops
    the stage (`unfit` error; up to 20 are named, images that are not there before any is opened), or stands in
    `unfit.jsonl` with the reason (aside).
    """
    files = files_of(sources, root)
    store = ImageStore(Path(images or root), out / "images")
    incoming, aside, refusals = Incoming(), 0, Refusals()
    if unfit == "error":
        check_images(named_images(files), store.root)
    # Half of a surrogate pair, for which a row may be unfit, goes into the file as JSON's own escape.
    with (out / "unfit.jsonl").open("w", encoding="utf-8", errors="backslashreplace") as refused:
        for source, path in files:
            for where, raw in tqdm(read_rows(path, refusals.add), desc=path.name, unit="row", mininterval=2):
                try:
                    row = ROW_FORMS[source.form].read(raw, where)
                    incoming.add(row, source, [store.keep(image, where) for image in row.images], where)
                except RowError as error:
                    if unfit == "error":
                        refusals.add(error)
                        continue
                    aside += 1
                    line = {"reason": str(error), "row": raw}
                    refused.write(json.dumps(line, ensure_ascii=False, default=_shown) + "\n")
    refusals.stop()
    if not aside:
        (out / "unfit.jsonl").unlink()
    questions, rationales, pairs = incoming.records()
    if not questions:
        raise UserError(f"none of {aside} rows can be used; look at the reasons with exchange.unfit=error")
    write_jsonl(out / "questions.jsonl", questions)
    for name, rows in (("rows.jsonl", rationales), ("pairs.jsonl", pairs)):
        if rows:
            write_jsonl(out / name, rows)
    return {
        "questions": len(questions), "rationales": len(rationales), "pairs": len(pairs), "unfit": aside,
        **reworded(questions),
        "by_split": dict(sorted(Counter(f"{q.dataset}/{q.split}" for q in questions).items())),
        "by_status": dict(sorted(Counter(r.status for r in rationales).items())),
    }  # fmt: skip


def _shown(value: object) -> str:
    """What JSON has no form for, as a parquet row may hold it: an image's bytes, a date."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def files_of(sources: list[RowFiles], root: str | None) -> list[tuple[RowFiles, Path]]:
    """Every file of every source; one that is not there is an error before any row is read."""
    if not root:
        raise UserError("no exchange.root: set exchange.root=<folder with the files of the rows>")
    found = []
    for source in sources:
        for pattern in source.rows:
            paths = sorted(glob(str(Path(root) / pattern)))
            if not paths:
                raise UserError(f"exchange: no file {pattern} in {root}; get it, or leave it out of exchange.sources")
            found += [(source, Path(path)) for path in paths]
    if not found:
        raise UserError("exchange.sources is empty; choose exchange=<one of conf/exchange> or name sources")
    return found


def reworded(questions: list[Question]) -> dict[str, int]:
    """How many rows will be trained on in other words than theirs: a suffix without its full stop, a letter alone."""
    rows = [row for q in questions for row in q.meta.get("source", {}).get("rows", {}).values()]
    return {"prompts_reworded": sum("ending" in r for r in rows), "targets_reworded": sum("target" in r for r in rows)}


def named_images(files: list[tuple[RowFiles, Path]]) -> Iterator[tuple[str, list[str | bytes]]]:
    """The places and paths of the images that rows name; what is wrong with a row is said where it is taken in."""
    for source, path in files:
        for where, raw in read_rows(path, silent):
            try:
                images = ROW_FORMS[source.form].read(raw, where).images
            except RowError:
                continue
            if any(isinstance(image, bytes) for image in images):
                break  # a file whose rows carry their images, which would take long to read twice
            yield where, images


class ImageStore:
    """Images named by their content, each read and checked once."""

    def __init__(self, root: Path, folder: Path):
        self.root, self.folder = root, folder
        self.known: dict[Path | bytes, str] = {}  # by path, or by the digest of bytes
        folder.mkdir(exist_ok=True)

    def keep(self, image: str | bytes, where: str) -> str:
        """Where an image stands below the artifact."""
        embedded = isinstance(image, bytes)
        key = hashlib.sha256(image).digest() if embedded else resolve(self.root, image, where)
        if key not in self.known and embedded:
            self.known[key] = store(image, suffix_of(image, "the row's image", where), self.folder)
        elif key not in self.known:
            open_image(key, where)
            self.known[key] = sha256_file(key)[:20] + PurePosixPath(image).suffix.lower()
            link(key, self.folder / self.known[key])
        return f"images/{self.known[key]}"
