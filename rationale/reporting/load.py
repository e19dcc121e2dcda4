"""What the seeds of one experiment left behind, found by glob patterns."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError, read_manifest
from rationale.reporting.scores import Run
from rationale.reporting.verifier import Candidates, sequence_sums
from rationale.schema import EvalRow, Record, Response, ResponseLogps, read_jsonl


def folders(pattern: str) -> list[Path]:
    """Folders that a glob pattern names, without hidden ones (locks, half-written and previous artifacts)."""
    root, relative = (Path("/"), pattern.lstrip("/")) if pattern.startswith("/") else (Path(), pattern)
    return sorted(p for p in root.glob(relative) if p.is_dir() and not p.name.startswith("."))


def seed_of(folder: Path) -> int:
    """The seed in an artifact's path: `.../seed_3/pairs` is 3."""
    found = re.search(r"seed_(\d+)", str(folder.parent))
    if found is None:
        raise UserError(f"{folder}: no seed_<number> in its path, so it belongs to no seed")
    return int(found[1])


def rows(folder: Path, kind: type[Record], file: str = "rows.jsonl") -> list[Record]:
    """The rows of an artifact that a pattern found."""
    if not (folder / file).is_file():
        raise UserError(f"{folder} has no {file}; remove the folder or re-run the stage that makes it")
    return read_jsonl(folder / file, kind)


def load_runs(pattern: str) -> list[Run]:
    """Every evaluation, by the name and seed of its summary."""
    runs: dict[tuple[str, int], Run] = {}
    for folder in folders(pattern):
        found = rows(folder, EvalRow)
        summary = json.loads((folder / "summary.json").read_text())
        key = summary["name"], summary["seed"]
        if key in runs:
            raise UserError(f"{folder}: {key[0]} with seed {key[1]} was evaluated twice; keep one of the two folders")
        runs[key] = Run(*key, found)
    if not runs:
        raise UserError(f"{pattern}: no evaluation to tabulate; run stage=evaluate first")
    return list(runs.values())


def load_candidates(candidates: str, logps: dict[str, str]) -> list[Candidates]:
    """Candidates of every seed that both sides have scored."""
    sides = {side: once(folders(pattern), lambda f: f.parent) for side, pattern in logps.items()}
    scored = [f for f in folders(candidates) if all(f.parent in found for found in sides.values())]
    loaded = []
    for seed, folder in once(scored, seed_of).items():
        sums = {side: sequence_sums(rows(found[folder.parent], ResponseLogps)) for side, found in sides.items()}
        loaded.append(Candidates(seed, rows(folder, Response), **sums))
    return loaded


def once(found: list[Path], key: Callable[[Path], Any]) -> dict[Any, Path]:
    """Folders by what tells them apart; two that it does not are an error."""
    kept: dict[Any, Path] = {}
    for folder in found:
        if (other := kept.setdefault(key(folder), folder)) != folder:
            raise UserError(f"{folder} and {other} are both of {key(folder)}; name one of them in the report's config")
    return kept


def load_metrics(pattern: str) -> list[tuple[str, dict[str, tuple]]]:
    """Name of every training, and (steps, values) of each quantity it logged."""
    loaded = []
    for folder in folders(pattern):
        path = folder / "metrics" / "metrics.csv"
        logged = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
        kept = {k: [(int(r["step"]), float(r[k])) for r in logged if r[k]] for k in (logged[0] if logged else {})}
        loaded.append((folder.name, {k: tuple(zip(*points, strict=True)) for k, points in kept.items() if points}))
    return loaded


def sources(evals: str) -> list[dict[str, str]]:
    """Where the rows of any table come from: for each evaluation with a manifest its folder (whose manifest holds the
    whole config), key, commit, and the hash of every input."""
    found = []
    for folder in folders(evals):
        manifest = read_manifest(folder)
        if manifest is not None:
            summary = json.loads((folder / "summary.json").read_text())
            inputs = "; ".join(f"{path} {digest}" for path, digest in manifest["inputs"].items())
            about = {"name": summary["name"], "seed": summary["seed"], "folder": str(folder), "inputs": inputs}
            found.append({**about, **{name: manifest[name] for name in ("key", "commit", "started")}})
    return found


def facts(evals: str) -> list[tuple[str, str]]:
    """What was run, from the evaluations' manifests."""
    manifests = [m for folder in folders(evals) if (m := read_manifest(folder))]
    if not manifests:
        return [("provenance", "not recorded: the evaluations carry no manifest")]
    started = sorted(m["started"][:16].replace("T", " ") for m in manifests)
    versions = {f"{name} {version}" for m in manifests for name, version in m["versions"].items()}
    return [
        ("evaluated", f"{started[0]} to {started[-1]} UTC, {len(manifests)} evaluations"),
        ("seeds", ", ".join(map(str, sorted({m["arguments"]["seed"] for m in manifests})))),
        ("commit", ", ".join(sorted({m["commit"] or "outside a checkout" for m in manifests}))),
        ("versions", ", ".join(sorted(v for v in versions if not v.endswith("not installed")))),
    ]
