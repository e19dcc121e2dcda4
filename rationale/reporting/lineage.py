"""What an artifact was made from, and whether that is still what stands there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationale.hashes import MANIFEST, fingerprint, read_manifest

Digest = Callable[[Path], str]  # of a file


@dataclass(frozen=True, slots=True)
class Input:
    """One input: its name in the manifest, where it lies now, and whether it is the same, changed or missing."""

    name: str
    place: Path
    state: str


def moved(path: Path, folder: Path, manifest: dict[str, Any]) -> Path:
    """Where a path lies now that was at `path` when the artifact in `folder` was at its manifest's `out`."""
    then, now = Path(manifest["arguments"]["out"]), folder
    while then.name == now.name and then.name:
        then, now = then.parent, now.parent
    return now / path.relative_to(then) if path.is_relative_to(then) else path


def inputs_of(folder: Path, manifest: dict[str, Any], digest: Digest) -> Iterator[Input]:
    """The inputs of an artifact as they are now; a run that was moved is found by where they lie to each other."""
    for name, expected in manifest["inputs"].items():
        place = moved(Path(name), folder, manifest)
        state = "missing"
        if place.exists():
            state = "same" if fingerprint(place, digest, folder) == expected else "changed"
        yield Input(name, place, state)


def sources_of(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The artifacts, with their manifests, that the inputs of an artifact lie in, whether or not the inputs are there.

    Only those that stand where they were made, seen from `folder`: one that was brought from elsewhere, as a base
    checkpoint is, is taken as it is.
    """
    manifest = read_manifest(folder) or {"inputs": {}}
    for name in manifest["inputs"]:
        place = moved(Path(name), folder, manifest)
        source = next((p for p in (place, *place.parents) if (p / MANIFEST).is_file()), None)
        found = source and read_manifest(source)
        if found and "inputs" in found and moved(Path(found["arguments"]["out"]), folder, manifest) == source:
            yield source, found


def lineage(folder: Path, digest: Digest) -> Iterator[tuple[list[Path], Input]]:
    """Every input of an artifact and of all that it was made from, the nearest first, each with the artifacts on the
    way: the one that it went into, what was made of that, and so on to `folder`."""
    ways, seen = [[folder]], {folder}
    for way in ways:
        manifest = read_manifest(way[0]) or {"inputs": {}}
        yield from ((way, found) for found in inputs_of(way[0], manifest, digest))
        new = dict.fromkeys(source for source, _ in sources_of(way[0]) if source not in seen)
        seen.update(new)
        ways += [[source, *way] for source in new]
