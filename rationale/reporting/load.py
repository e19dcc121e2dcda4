"""What the seeds of one experiment left behind, found by glob patterns."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from rationale.artifacts import UserError
from rationale.hashes import read_manifest
from rationale.reporting.lineage import sources_of
from rationale.reporting.specs import flat
from rationale.reporting.verifier import Candidates, sequence_sums
from rationale.schema import EvalRow, Question, Record, Response, ResponseLogps, read_jsonl
from rationale.scoring.cells import PASS, SAMPLED, Run
from rationale.scoring.judge import canonical, is_correct
from rationale.scoring.votes import majority, pass_at
from rationale.stages.inputs import grouped, need


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
    return read_jsonl(need(str(folder), file), kind)


def load_runs(pattern: str) -> list[Run]:
    """Every evaluation, by the name and seed of its summary."""
    runs: dict[tuple[str, int], Run] = {}
    for folder in folders(pattern):
        found = rows(folder, EvalRow)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        key = summary["name"], summary["seed"]
        if key in runs:
            raise UserError(f"{folder}: {key[0]} with seed {key[1]} was evaluated twice; keep one of the two folders")
        runs[key] = Run(*key, found, folder)
    if not runs:
        raise UserError(f"{pattern}: no evaluation to tabulate; run stage=evaluate first")
    return list(runs.values())


def load_candidates(candidates: Iterable[Path], logps: dict[str, str]) -> list[Candidates]:
    """Those of the folders of candidates whose seed both sides have scored."""
    sides = {side: once(folders(pattern), seed_of) for side, pattern in logps.items()}
    loaded = []
    for seed, folder in once(sorted(candidates), seed_of).items():
        if all(seed in found for found in sides.values()):
            sums = {side: sequence_sums(rows(found[seed], ResponseLogps)) for side, found in sides.items()}
            loaded.append(Candidates(seed, rows(folder, Response), **sums))
    return loaded


def load_samples(pattern: str, questions: dict[str, Question]) -> list[Run]:
    """Every artifact of samples as rows of the prompts in `SAMPLED`, by its folder's name and seed: one of each
    response, one of the majority and one of pass@k of each question."""
    runs = []
    for folder in folders(pattern):
        by_question = grouped(need(str(folder), "rows.jsonl"), Response, questions)
        made = [row for i, responses in by_question.items() for row in sampled_rows(questions[i], responses)]
        runs.append(Run(folder.name, seed_of(folder), made, folder))
    return runs


def sampled_rows(question: Question, responses: list[Response]) -> Iterator[EvalRow]:
    """The responses to a question as rows of an evaluation; pass@k where there are k of them."""
    sampled, voted, passed = SAMPLED

    def row(style: str, response: Response, score: float) -> EvalRow:
        return EvalRow(
            question.question_id, question.dataset, question.images, style, response.text, response.predicted, score,
            len(response.token_ids), response.finished,
        )  # fmt: skip

    yield from (row(sampled, response, response.score) for response in responses)
    chosen = responses[majority([canonical(question, r.predicted) for r in responses])]
    yield row(voted, chosen, chosen.score)
    if len(responses) >= PASS:
        yield row(passed, chosen, pass_at(PASS, len(responses), sum(is_correct(r.score) for r in responses)))


def once(found: list[Path], key: Callable[[Path], Any]) -> dict[Any, Path]:
    """Folders by what tells them apart; two that it does not are an error."""
    kept: dict[Any, Path] = {}
    for folder in found:
        if (other := kept.setdefault(key(folder), folder)) != folder:
            raise UserError(f"{folder} and {other} are both of {key(folder)}; name one of them in the report's config")
    return kept


Logged = dict[str, tuple[tuple[int, ...], tuple[float, ...]]]  # steps and values of each quantity
Training = tuple[str, Path, Logged]  # label, folder, what was logged


def trainings_of(runs: Iterable[Run], labels: dict[str, str]) -> dict[str, list[Training]]:
    """By stage (sft, dpo): the trainings whose models were evaluated for the rows that `labels` names, each once and
    under its row's label. An evaluation leads to them by its manifest's inputs."""
    found: dict[Path, tuple[str, str]] = {}
    for name, label in labels.items():
        for run in runs:
            for source, made in sources_of(run.folder) if run.name == name else ():
                found.setdefault(source, (made["stage"], label))
    return {
        stage: [(label, path, load_metrics(path)) for path, (made_by, label) in found.items() if made_by == stage]
        for stage in ("sft", "dpo")
    }


def load_metrics(folder: Path) -> Logged:
    """What a training logged."""
    path = folder / "metrics" / "metrics.csv"
    logged = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []
    kept = {k: [(int(r["step"]), float(r[k])) for r in logged if r[k]] for k in (logged[0] if logged else {})}
    return {k: tuple(zip(*points, strict=True)) for k, points in kept.items() if points}


def unnamed(runs: Iterable[Run], named: set[str], out: Path) -> list[str]:
    """Evaluations, with their seeds, that neither `named` nor another report beside the one in `out` has a row of; each
    with the line to add to the rows of a table."""
    known = set(named)
    for folder in folders(f"{out.parent}/*"):
        manifest = read_manifest(folder) or {}
        if manifest.get("stage") == "tabulate" and folder.name != own_name(out):
            asked = manifest["arguments"]
            tables = asked.get("report", asked)["tables"]  # earlier versions had no report there, and tables of null
            known |= {row["name"] for table in tables.values() if table for row in flat(table["rows"])}
    seeds: dict[str, list[int]] = {}
    for one in runs:
        if one.name not in known:
            seeds.setdefault(one.name, []).append(one.seed)
    dumped = partial(yaml.safe_dump, default_flow_style=True, sort_keys=False, width=1000)
    return [
        f"{name} (seeds {', '.join(map(str, found))}): - {dumped({'label': name, 'name': name, 'paper': None}).strip()}"
        for name, found in sorted(seeds.items())
    ]


def own_name(out: Path) -> str:
    """The name of an artifact that is being made in `.<name>.<key>.partial`."""
    return out.name.removeprefix(".").rsplit(".", 2)[0]


def sources(runs: Iterable[Run]) -> list[dict[str, str]]:
    """Where the rows of any table come from: for each evaluation with a manifest its folder (whose manifest holds the
    whole config), key, commit, and the hash of every input."""
    found = []
    for run in runs:
        if (manifest := read_manifest(run.folder)) is not None:
            inputs = "; ".join(f"{path} {digest}" for path, digest in manifest["inputs"].items())
            about = {"name": run.name, "seed": run.seed, "folder": str(run.folder), "inputs": inputs}
            found.append({**about, **{name: manifest[name] for name in ("key", "commit", "started")}})
    return found


def facts(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """What was run, from the evaluations' manifests."""
    manifests = [m for run in runs if (m := read_manifest(run.folder))]
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
