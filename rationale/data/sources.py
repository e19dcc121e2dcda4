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

from rationale.artifacts import UserError
from rationale.data.columns import REASONS, Fields, Unusable, plain
from rationale.data.rows import ROWS, Located, Origin, image_file, lines, raised, suffix_of
from rationale.data.tasks import Sourced
from rationale.schema import Question, RowError, from_dict
from rationale.settings import Limit, Split


@dataclass
class Source:
    """Questions of one data set, row by row; `counts` holds what was read and left out once all were yielded.

    `path`, `name` and `revision` are those of `datasets.load_dataset`; `local`, a folder with a copy of the same
    `columns`, takes their place. `splits` maps our splits to the source's, one or several, of which those in `only`
    are read, if not all. `read` turns a row into Fields by the `options` that change scores; with `skip` they stand in
    every question's `meta`. `scorers` names the scorer of each kind. A row that cannot be asked for a reason in `skip`
    is left out and counted, any other stops the run. Where no `limit` is set, the rows of a split must number as
    `expected`. `each` names a column whose items make a row each; `images` is the folder of images that rows name by
    path. Where `split_column` is set, `local` holds a `data.jsonl` whose rows say their split and id. `about` (licence,
    what is evaluated) is for readers of the config and of the manifest.
    """

    dataset: str
    read: Callable[..., Fields]
    scorers: Mapping[Literal["short", "choice"], str]
    splits: Mapping[Split, str | Sequence[str]] = field(default_factory=dict)
    path: str | None = None
    name: str | None = None
    revision: str | None = None
    local: str | None = None
    images: str | None = None
    columns: Sequence[str] = ()
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
    refuse: Callable[[RowError], None] = field(default_factory=lambda: raised, init=False)  # see data.check.Refusals
    _origin: Origin = field(init=False, repr=False)
    _suffixes: dict[bytes, str] = field(default_factory=dict, init=False, repr=False)  # by the image's digest

    def __post_init__(self):
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
            if folder is not None and not Path(folder).expanduser().is_dir():
                raise UserError(f"{self.dataset}: there is no folder {folder}")

    def __iter__(self) -> Iterator[Sourced]:
        read: Counter[str] = Counter()
        left_out: Counter[str] = Counter()
        for part_of, part in self._parts():
            for where, row in self._rows(part_of, part):
                split = part_of or row.get(self.split_column)
                if not split or not isinstance(split, str):
                    self.refuse(
                        RowError(f"{where}: no {self.split_column!r} in this row, or no text; add it or remove the row")
                    )
                    continue
                if self.limit is not None and read[split] >= self.limit.get(split, 0):
                    if part_of:
                        break
                    continue
                for key, place, item in self._items(read[split], where, row):
                    try:
                        yield self._sourced(key, place, item, split)
                    except RowError as error:
                        self.refuse(error)
                    except Unusable as fault:
                        reason = f"{split}/{fault.reason}"
                        if fault.reason not in self.skip:
                            self.refuse(
                                RowError(
                                    f"{place}: {fault}; mend the row, or have such rows left out and counted with "
                                    f"dataset.skip=[{','.join([*self.skip, fault.reason])}]"
                                )
                            )
                            continue
                        if reason not in left_out:
                            print(f"{self.dataset}: left out {place}: {fault}; more of these are counted", flush=True)
                        left_out[reason] += 1
                read[split] += 1
        for split, wanted in (self.expected or {}).items():
            if self.limit is None and (self.only is None or split in self.only):
                self._compare(split, read[split], wanted)
        self.counts = {"read": dict(read), "left_out": dict(left_out)}
        print(f"{self.dataset}: rows read {dict(read)}, left out {dict(left_out)}", flush=True)

    def _parts(self) -> Iterator[tuple[str | None, str]]:
        """Each split of the source that is wanted, with the split of ours that it is of; None where rows say theirs."""
        if self.split_column:
            yield None, ROWS
        for split, parts in self.splits.items():
            if (self.only is None or split in self.only) and (self.limit is None or self.limit.get(split, 0)):
                yield from ((split, part) for part in ([parts] if isinstance(parts, str) else parts))

    def _rows(self, split: str | None, part: str) -> Iterator[Located]:
        if split is None:
            yield from lines(self._origin.folder / ROWS, self.refuse)
            return
        rows = self._origin.split(part, self.columns)
        whole = self.limit is None and isinstance(self.splits[split], str)
        if whole and hasattr(rows, "__len__") and split in (self.expected or {}):
            self._compare(split, len(rows), self.expected[split])  # where it can be known before the long work
        for index, row in enumerate(rows):
            yield f"{self._origin} {part}:{index}", row

    def _compare(self, split: str, found: int, wanted: int) -> None:
        if found != wanted:
            raise UserError(
                f"{self.dataset}: split {split!r} of {self._origin} has {found} rows, expected {wanted}: another "
                "version or an incomplete copy. Mend it, or take it as it is with dataset.expected=null"
            )

    def _items(self, index: int, where: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """What a row holds as (number within the split, place, row): the row itself, or one for each item."""
        if self.each is None:
            yield str(index), where, row
        elif not isinstance(row[self.each], list):
            self.refuse(RowError(f"{where}: {self.each!r} is no list, found {row[self.each]!r:.80}; mend the row"))
        else:
            for number, item in enumerate(row[self.each]):
                yield f"{index}.{number}", f"{where}.{number}", {**row, self.each: item}

    def _sourced(self, key: str, where: str, row: Mapping[str, Any], split: str) -> Sourced:
        """The question of a row and its image; raises Unusable, or an error that says where."""
        try:
            fields = self.read(row, **self.options)
        except RowError as error:
            raise RowError(f"{where}: {error}") from error
        except UserError:
            raise
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, SyntaxError, RecursionError) as error:
            raise RowError(
                f"{where}: no row of {self.dataset} ({type(error).__name__}: {error}); it has the columns {list(row)}"
            ) from error
        kind = fields.kind or ("choice" if fields.choices else "short")
        if not fields.answers:
            raise Unusable("no_answer")
        if "repeated_choices" in self.skip and len({repr(c) for c in fields.choices}) < len(fields.choices):
            raise Unusable("repeated_choices")  # where it is not in `skip`, stage prepare names row and choices
        if fields.image is None or fields.image == "":
            raise Unusable("no_image")
        if kind not in {**self.scorers, "open": None}:
            raise RowError(f"{where}: a question of kind {kind!r}, for which dataset.scorers names no scorer")
        named = key if fields.key is None else fields.key
        chosen = {**self.options, **({"skip": list(self.skip)} if self.skip else {})}
        question = from_dict(
            Question,
            {
                "question_id": named if self.split_column else f"{self.dataset}-{split}-{named}",
                "dataset": self.dataset, "split": split, "image": "", "question": fields.question,
                "answers": fields.answers, "kind": kind, "choices": fields.choices,
                "scorer": "exact" if kind == "open" else self.scorers[kind],
                "meta": {**fields.meta, **({"options": chosen} if chosen else {})},
            },
            where,
        )  # fmt: skip
        folder = self.images or self.local
        data, name = image_file(fields.image, Path(folder).expanduser() if folder else None, where)
        digest = sha256(data).digest()
        if digest not in self._suffixes:
            self._suffixes[digest] = suffix_of(data, name, where)
        return question, data, self._suffixes[digest]


@dataclass
class Sources:
    """Several sources after one another, under the names that their settings are reached by: dataset.tasks.<name>."""

    tasks: Mapping[str, Source]

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
    root: str | None,
    dataset: str,
    scorer: str,
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
) -> Source:
    """Questions of a local folder: `data.jsonl` rows and the images they name.

    `question_id` to `rationale` are what the folder calls these fields; a recorded rationale travels in
    `meta["rationale"]`. `limit` caps the rows of a split. `letters`: where a row has choices, its
    answer is the letter of one, not its text.
    """
    if not root:
        raise UserError("no data_root: set data_root=<folder with data.jsonl and its images>")
    if not (Path(root).expanduser() / ROWS).is_file():
        raise RowError(f"{root}: no {ROWS} there; set data_root to a folder with {ROWS} and its images")
    names = {"question_id": question_id, "question": question, "answer": answer, "image": image, "split": split,
             "choices": choices, "rationale": rationale}  # fmt: skip
    return Source(
        dataset, partial(plain, names=names, letters=letters), {"short": scorer, "choice": "multiple_choice"},
        local=root, split_column=names["split"], skip=skip, expected=expected, limit=limit,
    )  # fmt: skip
