"""Is a finished run what its manifests say, and which of its figures rest on whole artifacts?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError, call_key, earlier
from rationale.hashes import CARD, MANIFEST, fingerprint, output_hashes, read_manifest, sha256_file
from rationale.images import content_name
from rationale.reporting.lineage import Digest, inputs_of
from rationale.reporting.standing import some
from rationale.schema import Question, iter_jsonl

REPORTS = ("tabulate", "credit")  # stages whose outputs are figures
SHOWN = {".md", ".csv", ".svg", ".html", ".png"}


@dataclass(slots=True)
class Artifact:
    """One artifact: what is wrong with it, and which others of the run it was made from."""

    path: Path
    manifest: dict[str, Any]
    faults: list[str]
    sources: list[Path] = field(default_factory=list)


def run(run: str) -> None:
    """Hash every artifact below `run` again and print which are whole, and which figures they support; UserError where
    any is not.

    An artifact is whole where its files are those that its manifest counts, its images have the names of their
    contents, its key is that of its arguments and inputs, and each input is still what it was made from. A figure is
    supported where its report, and all that it was made from, is whole. A run that was moved is found by where its
    artifacts lie to each other. What artifacts were before they were made anew is listed with its size.
    """
    root, digest = Path(run), cache(sha256_file)
    found = {path: checked(path, digest) for path in artifacts(root)}
    if not found:
        raise UserError(f"run={run}: no finished artifact below it; give the folder of a run, such as runs/mini")
    altered = {path for path in found if found[path].faults}
    for artifact in found.values():
        trace(artifact, found, altered, digest)
    broken = {path: why for path in found if (why := weakness(path, found)) is not None}
    print("\n".join(lines(root, found, broken, digest)), flush=True)
    if broken:
        raise UserError(
            f"{len(broken)} of {len(found)} artifacts are not whole or rest on one that is not; remove those whose "
            "files were altered and run the commands that made them again"
        )


def artifacts(root: Path) -> list[Path]:
    """Folders with a manifest below `root`, without what is hidden: half done, or replaced."""
    found = (path.parent for path in root.rglob(MANIFEST))
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def checked(path: Path, digest: Digest) -> Artifact:
    """An artifact with what its own files tell against it."""
    manifest = read_manifest(path)
    expected, now = manifest["outputs"], output_hashes(path, digest)
    names = {name for name in expected.keys() | now.keys() if Path(name).name != CARD} - {MANIFEST}
    faults = [
        f"{name} {'is missing' if name not in now else 'was changed' if name in expected else 'was added'}"
        for name in names
        if expected.get(name) != now.get(name)
    ]
    if call_key(manifest["stage"], manifest["arguments"], manifest["inputs"]) != manifest["key"]:
        faults.append(f"{MANIFEST}: arguments or inputs are not those of its key")
    return Artifact(path, manifest, sorted(faults) + list(image_faults(path)))


def image_faults(path: Path) -> Iterable[str]:
    """Images whose content is not what their name says, and rows of questions whose image is not there."""
    for image in sorted((path / "images").glob("*")):
        named = re.fullmatch(r"[0-9a-f]{20}", image.stem)
        if named and content_name(image.read_bytes(), image.suffix) != image.name:
            yield f"images/{image.name} was changed"
    questions = path / "questions.jsonl"
    if questions.is_file():
        named = {image for question in iter_jsonl(questions, Question) for image in question.images}
        yield from (f"{image} is missing" for image in sorted(named) if not (path / image).is_file())


def trace(artifact: Artifact, found: dict[Path, Artifact], altered: set[Path], digest: Digest) -> None:
    """Look up each input where it is now; note what is absent or another than it was, but for what says so itself:
    `altered` artifacts, of `found`."""
    for one in inputs_of(artifact.path, artifact.manifest, digest):
        sources = [path for path in found if path in (one.place, *one.place.parents)]
        if one.state == "missing":
            artifact.faults.append(f"its input {one.name} is not there")
        elif one.state == "changed" and not altered.intersection(sources):
            artifact.faults.append(f"its input {one.name} is another now")
        artifact.sources += sources


def weakness(path: Path, found: dict[Path, Artifact]) -> str | None:
    """Why nothing should rest on an artifact: its own fault, or the first among what it was made from; else None."""
    if found[path].faults:
        return found[path].faults[0]
    reasons = ((source, weakness(source, found)) for source in found[path].sources)
    return next((f"made from {source}: {reason}" for source, reason in reasons if reason), None)


def lines(root: Path, found: dict[Path, Artifact], broken: dict[Path, str], digest: Digest) -> Iterable[str]:
    """What is said: every artifact, then every report with its figures and what they rest on, then what is kept."""
    yield f"{root}: {len(found)} artifacts, {len(found) - len(broken)} whole and made from whole ones"
    for path, artifact in found.items():
        if path in broken:
            yield f"  {path.relative_to(root)} ({artifact.manifest['stage']}): {broken[path]}"
            yield from (f"    {fault}" for fault in some(artifact.faults)[1:])
    for path, artifact in found.items():
        if artifact.manifest["stage"] in REPORTS:
            shown = ", ".join(sorted(name for name in artifact.manifest["outputs"] if Path(name).suffix in SHOWN))
            state = f"NOT supported ({broken[path]})" if path in broken else f"supported: {shown}"
            yield f"figures of {path.relative_to(root)} {state}"
            chain = [found[p] for p in sorted(ancestors(path, found))]
            commits = sorted({re.sub(r"^(\w{10})\w+", r"\1", str(a.manifest["commit"])) for a in chain})
            data = [f"{a.path.relative_to(root)} {fingerprint(a.path, digest)[:12]}" for a in chain if not a.sources]
            yield f"  rest on {len(chain)} artifacts, of commits {', '.join(commits)}; data: {', '.join(data)}"
    kept = earlier(root)
    for path, size in kept:
        yield f"earlier version {path.relative_to(root)} ({size / 1e6:.1f} MB)"
    if kept:
        yield f"stage=clean run={root} removes these"


def ancestors(path: Path, found: dict[Path, Artifact]) -> set[Path]:
    """The artifact and all that it was made from."""
    return {path}.union(*(ancestors(source, found) for source in found[path].sources))
