"""Questions from rows that others made: a data set of the hub, a local copy of one, or a folder with `data.jsonl`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from rationale.artifacts import InputPath, UserError
from rationale.schema import Question, RowError, Sourced, from_dict
from rationale.settings import Limit, Split
from rationale.sources.public_datasets import REASONS, ParsedRow, Unusable, plain
from rationale.sources.rowfiles import raised, read_rows, silent
from rationale.sources.rows import Origin, Rows, check_images, image_file, listed, suffix_of, table_of


@dataclass
class PublicDataset:
    """Questions of one data set, row by row; `counts` holds what was read and left out once all were yielded.

    `path`, `name` and `revision` are those of `datasets.load_dataset`; `local`, a folder with a copy of the same
    `columns`, takes their place; columns in `optional` are read where they are. `splits` maps our splits to the
    source's, one or several, of which those in `only` are read, if not all. `read` turns a row into ParsedRow by the
    `options` that change scores; with `skip` they stand in every question's `meta`. `scorers` names the scorer of each
    kind. Ids of questions begin with `ids`, or else `dataset`. A row that cannot be asked for a reason in `skip` is
    left out and counted, any other stops the run. Where no `limit` is set, the rows of a split must number as
    `expected`. `each` names a column whose items make a row each; `images` is the folder of images that rows name by
    path. Where `split_column` is set, `local` holds a table (`rows.table_of`) whose rows say their split and id.
    `about` (licence, what is evaluated) is for readers of the config and of the manifest.
    """

    dataset: str
    read: Callable[..., ParsedRow]
    scorers: Mapping[Literal["short", "choice"], str]
    splits: Mapping[Split, str | Sequence[str]] = field(default_factory=dict)
    path: InputPath | None = None
    name: str | None = None
    revision: str | None = None
    local: InputPath | None = None
    images: InputPath | None = None
    columns: Sequence[str] = ()
    optional: Sequence[str] = ()
    ids: str | None = None
    each: str | None = None
    split_column: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    skip: Sequence[str] = ()
    expected: Mapping[Split, Limit] | None = None
    only: Sequence[Split] | None = None
    limit: Mapping[Split, Limit] | None = None
    streaming: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict, init=False)
    refuse: Callable[[RowError], None] = field(init=False, repr=False)  # see question_checks.Refusals
    _origin: Origin = field(init=False, repr=False)
    _suffixes: dict[bytes, str] = field(default_factory=dict, init=False, repr=False)  # by the image's digest

    def __post_init__(self):
        self.refuse = raised
        self._origin = Origin(self.path, self.name, self.revision, self.local, self.streaming)
        try:
            inspect.signature(self.read).bind({}, **self.options)
        except TypeError as error:
            raise UserError(f"dataset.options of {self.dataset}: {error}") from error
        if unknown := sorted(set(self.skip) - set(REASONS)):
            raise UserError(f"dataset.skip: no reason is called {unknown}; there are {list(REASONS)}")
        for named in (self.only or (), self.limit or ()):
            if self.splits and (unknown := sorted(set(named) - set(self.splits))):
                raise UserError(f"dataset: {self.dataset} has no split {unknown}; it has {list(self.splits)}")
        for folder in (self.local, self.images):
            if folder is not None and not Path(folder).is_dir():
                raise UserError(f"{self.dataset}: there is no folder {folder}")

    def __iter__(self) -> Iterator[Sourced]:
        read, left_out = Counter(), Counter()
        parts = self._parts()
        self._check_images(parts)
        for split, key, where, item in self._items(parts, self.refuse, read):
            try:
                yield self._sourced(key, where, item, split)
            except RowError as error:
                self.refuse(error)
            except Unusable as fault:
                if fault.reason not in self.skip:
                    skip = f"dataset.skip=[{','.join([*self.skip, fault.reason])}]"
                    said = f"{where}: {fault}; mend the row, or have such rows left out and counted with {skip}"
                    self.refuse(RowError(said))
                    continue
                reason = f"{split}/{fault.reason}"
                if reason not in left_out:
                    print(f"{self.dataset}: left out {where}: {fault}; more of these are counted", flush=True)
                left_out[reason] += 1
        self._compare(read)
        self.counts = {"read": dict(read), "left_out": dict(left_out)}
        print(f"{self.dataset}: rows read {dict(read)}, left out {dict(left_out)}", flush=True)

    @property
    def wanted_splits(self) -> list[str]:
        """Those of `splits` that are read."""
        found = [split for split in self.splits if self.only is None or split in self.only]
        return [split for split in found if not self.limit or self.limit.get(split)]

    def _parts(self) -> list[tuple[str | None, Rows]]:
        """The rows of each part of the source, with the split of ours that it is of; None where rows say theirs.

        Where the source knows their number, it is compared here, before the long work.
        """
        if self.split_column:
            table = table_of(self._origin.folder)
            return [(None, Rows(partial(read_rows, table), None))]
        found = []
        for split in self.wanted_splits:
            parts = [self.splits[split]] if isinstance(self.splits[split], str) else self.splits[split]
            rows = [self._origin.split(part, self.columns, self.optional) for part in parts]
            if None not in (counts := [r.count for r in rows]):
                self._compare({split: sum(counts)})
            found += [(split, r) for r in rows]
        return found

    def _items(
        self, parts: Sequence[tuple[str | None, Rows]], refuse: Callable[[RowError], None], read: Counter[str]
    ) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
        """(split, number within it, place, row) of what the rows within `limit` hold: the row itself, or one for each
        item of `each`. `read` counts them by split."""
        for part_of, rows in parts:
            for where, row in rows.located(refuse):
                split = part_of or row.get(self.split_column)
                if not split or not isinstance(split, str):
                    wanted = f"{where}: no {self.split_column!r} in this row, or no text; add it or remove the row"
                    refuse(RowError(wanted))
                    continue
                index = read[split]
                if self.limit is not None and index >= self.limit.get(split, 0):
                    if part_of:
                        break
                    continue
                if self.each is None:
                    yield split, str(index), where, row
                elif not isinstance(row[self.each], list):
                    refuse(RowError(f"{where}: {self.each!r} is no list, found {row[self.each]!r:.80}; mend the row"))
                else:
                    for number, item in enumerate(row[self.each]):
                        yield split, f"{index}.{number}", f"{where}.{number}", {**row, self.each: item}
                read[split] += 1

    def _check_images(self, parts: Sequence[tuple[str | None, Rows]]) -> None:
        """Where rows name their images, see that all are there, and all rows, before the first is decoded."""
        if self._folder is None:
            return
        read: Counter[str] = Counter()

        def named() -> Iterator[tuple[str, list[Any]]]:
            for _, _, where, item in self._items(parts, silent, read):
                try:
                    images = self._parsed(where, item).images
                except (RowError, Unusable):  # named where the row is read again
                    continue
                yield where, listed(images)

        if check_images(named(), self._folder):
            self._compare(read)

    @property
    def _folder(self) -> Path | None:
        return Path(self.images or self.local) if self.images or self.local else None

    def _compare(self, found: Mapping[str, int]) -> None:
        """Raise where a split that was read whole has another number of rows than expected."""
        for split, wanted in (self.expected or {}).items():
            if self.limit is None and (self.split_column or split in found) and found.get(split, 0) != wanted:
                raise UserError(
                    f"{self.dataset}: split {split!r} of {self._origin} has {found.get(split, 0)} rows, expected "
                    f"{wanted}: another version or an incomplete copy. Mend it, or take it as it is with "
                    "dataset.expected=null"
                )

    def _parsed(self, where: str, row: Mapping[str, Any]) -> ParsedRow:
        try:
            return self.read(row, **self.options)
        except RowError as error:
            raise RowError(f"{where}: {error}") from error
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, SyntaxError, RecursionError) as error:
            said = f"{where}: no row of {self.dataset} ({type(error).__name__}: {error})"
            raise RowError(f"{said}; it has the columns {list(row)}") from error

    def _sourced(self, key: str, where: str, row: Mapping[str, Any], split: str) -> Sourced:
        """The question of a row and its images; raises Unusable, or an error that says where."""
        parsed = self._parsed(where, row)
        kind = parsed.kind or ("choice" if parsed.choices else "short")
        if not parsed.answers:
            raise Unusable("no_answer")
        if "repeated_choices" in self.skip and len({repr(c) for c in parsed.choices}) < len(parsed.choices):
            raise Unusable("repeated_choices")  # where it is not in `skip`, stage prepare names row and choices
        if not (images := listed(parsed.images)):
            raise Unusable("no_image")
        if "several_images" in self.skip and len(images) > 1:
            raise Unusable("several_images")
        if kind not in {**self.scorers, "open": None}:
            raise RowError(f"{where}: a question of kind {kind!r}, for which dataset.scorers names no scorer")
        named = key if parsed.key is None else parsed.key
        chosen = {**self.options, **({"skip": list(self.skip)} if self.skip else {})}
        record = {
            "question_id": named if self.split_column else f"{self.ids or self.dataset}-{split}-{named}",
            "dataset": self.dataset, "split": split, "images": [], "question": parsed.question,
            "answers": parsed.answers, "kind": kind, "choices": parsed.choices,
            "scorer": "exact" if kind == "open" else self.scorers[kind],
            "meta": {**parsed.meta, **({"options": chosen} if chosen else {})},
        }  # fmt: skip
        question = from_dict(Question, record, where)
        files = []
        for image in images:
            data, name = image_file(image, self._folder, where)
            digest = sha256(data).digest()
            if digest not in self._suffixes:
                self._suffixes[digest] = suffix_of(data, name, where)
            files.append((data, self._suffixes[digest]))
        return question, files


@dataclass
class PublicDatasets:
    """Several after one another, under the names that their settings are reached by: dataset.tasks.<name>."""

    tasks: Mapping[str, PublicDataset]

    def __post_init__(self):
        known: dict[str, str] = {}
        for name, task in self.tasks.items():
            for ids in (f"{task.ids or task.dataset}-{split}" for split in task.wanted_splits):
                if (other := known.setdefault(ids, name)) != name:
                    both = f"dataset.tasks: {other} and {name} both name their questions {ids}-..."
                    raise UserError(f"{both}; set dataset.tasks.{name}.ids={name}")

    def __iter__(self) -> Iterator[Sourced]:
        return chain.from_iterable(self.tasks.values())

    @property
    def refuse(self) -> Callable[[RowError], None]:
        return next(iter(self.tasks.values())).refuse

    @refuse.setter
    def refuse(self, refuse: Callable[[RowError], None]) -> None:
        for task in self.tasks.values():
            task.refuse = refuse

    @property
    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        return {name: task.counts for name, task in self.tasks.items()}


def folder(
    root: InputPath | None,
    dataset: str,
    scorer: str,
    images: InputPath | None = None,
    limit: dict[Split, Limit] | None = None,
    letters: bool = False,
    skip: Sequence[str] = (),
    expected: dict[Split, Limit] | None = None,
    question_id: str = "id",
    question: str = "question",
    answer: str = "answer",
    image: str = "image",
    split: str = "split",
    choices: str = "choices",
    rationale: str = "rationale",
) -> PublicDataset:
    """Questions of a local folder: a table (`data.jsonl`, .json, .csv, .tsv or .parquet) and the images that it names.

    `question_id` to `rationale` are what the table calls these fields; a recorded rationale travels in
    `meta["rationale"]`. `images` is the folder that images are below, where it is not `root`. `limit` caps the rows of
    a split. `letters`: where a row has choices, its answer is the letter of one, not its text.
    """
    if not root:
        raise UserError("no data_root: set data_root=<folder with data.jsonl and its images>")
    table_of(Path(root))
    names = {"question_id": question_id, "question": question, "answer": answer, "image": image, "split": split,
             "choices": choices, "rationale": rationale}  # fmt: skip
    return PublicDataset(
        dataset, partial(plain, names=names, letters=letters), {"short": scorer, "choice": "multiple_choice"},
        local=root, images=images, split_column=names["split"], skip=skip, expected=expected, limit=limit,
    )  # fmt: skip
