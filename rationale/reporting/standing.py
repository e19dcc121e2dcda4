"""Whether what a report shows was made from what stands there now."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from rationale.artifacts import UserError
from rationale.hashes import read_manifest, remembered
from rationale.reporting.lineage import lineage

Stale = Literal["refuse", "mark"]
Part = TypeVar("Part")  # a Table or a Drawing
NUM_SHOWN = 5  # of a kind, in a message or a note


@dataclass(frozen=True, slots=True)
class Standing:
    """Of an artifact: what it was made from that is another now, as sentences; the command that mends that; and what
    it was made from that is not there to be compared."""

    changed: list[str]
    remedy: str
    missing: list[Path]


def standings(folders: Iterable[Path]) -> dict[Path, Standing]:
    """How each artifact stands, by all that it was made from; of a folder without a manifest nothing is known."""
    folders, found = list(folders), {}
    digest = remembered(next(iter(folders), Path()))
    for folder in folders:
        inputs = list(lineage(folder, digest))
        changed = [(way, one.place) for way, one in inputs if one.state == "changed"]
        sentences = [f"{way[0]} is made from {place}, which {_since(place)}" for way, place in changed]
        missing = list(dict.fromkeys(one.place for _, one in inputs if one.state == "missing"))
        found[folder] = Standing(sentences, _remedy([way for way, _ in changed]), missing)
    return found


def _since(place: Path) -> str:
    manifest = read_manifest(place) or read_manifest(place.parent) or {}
    when = manifest.get("started", "")[:16].replace("T", " ")
    return f"was made anew since ({when} UTC)" if when else "is another now"


def _remedy(ways: list[list[Path]]) -> str:
    """The commands that make anew what went stale, what others are made from first."""
    depth: dict[Path, int] = {}
    for way in ways:
        for place, path in enumerate(way):
            depth[path] = max(depth.get(path, 0), len(way) - place)
    return ", then ".join(map(command, sorted(depth, key=lambda path: -depth[path])))


def command(folder: Path) -> str:
    """What makes an artifact again: the command of an evaluation by a model of this process, or else a stage's name."""
    manifest = read_manifest(folder)
    given = manifest["arguments"]
    if manifest["stage"] != "evaluate" or not str(given["generator"]["_target_"]).endswith(".Local"):
        return f"stage={manifest['stage']} for {folder}"
    words = ["stage=evaluate", "checkpoint=model", f"model.path={given['model']['path']}", f"seed={given['seed']}"]
    how = given.get("evaluation", given)  # runs of before Evaluation have its fields among the arguments
    words += [f"evaluation.name={how['name']}", *["evaluation.blind=true"] * how["blind"]]
    words += [f"paths.benchmarks={given['questions']}", f"paths.eval={folder.parent}"]
    return f"rationale {shlex.join(words)}"


def checked(folders: Iterable[Path], stale: Stale) -> dict[Path, Standing]:
    """How each artifact stands; with `stale="refuse"` a UserError where one is stale: what changed, what mends it."""
    found = standings(folders)
    lines = [
        f"{folder}: {'; '.join(standing.changed)}\n    to mend: {standing.remedy}"
        for folder, standing in found.items()
        if standing.changed
    ]
    if lines and stale == "refuse":
        raise UserError(
            "\n  ".join([f"{len(lines)} artifacts that this report shows are stale", *some(lines)])
            + "\nRun these again with the settings that they were made with (an experiment's own command does all of"
            " it), or show them marked: report.stale=mark"
        )
    return found


def marked(label: str) -> str:
    """A label that says that its numbers are stale."""
    return f"{label} (stale)"


def shown(part: Part, found: Iterable[Standing]) -> Part:
    """A table or a drawing, marked in its title and in each row where any artifact behind it is stale, with notes."""
    found, table = list(found), hasattr(part, "rows")
    new = {"notes": [*part.notes, *notes(found)]} if table else {}
    if any(standing.changed for standing in found):
        new["title"] = marked(part.title)
        if table:
            new["rows"] = [[marked(row[0]), *row[1:]] for row in part.rows]
            new["records"] = [{**r, key: marked(r[key])} for r in part.records if (key := next(iter(r)))]
    return replace(part, **new)


def notes(found: Iterable[Standing]) -> list[str]:
    """What is to be said below a table of artifacts that stand so."""
    found = list(found)
    changed = some(sentence for standing in found for sentence in standing.changed)
    missing = some(str(place) for standing in found for place in standing.missing)
    said = [f"Stale: {'; '.join(changed)}."] if changed else []
    if missing:
        said.append(f"Gone since, so that nobody can say whether it is what was evaluated: {', '.join(missing)}.")
    return said


def some(texts: Iterable[str]) -> list[str]:
    """The first of several texts, each once, and how many more there are."""
    texts = list(dict.fromkeys(texts))
    return texts[:NUM_SHOWN] + [f"and {len(texts) - NUM_SHOWN} more"] * (len(texts) > NUM_SHOWN)
