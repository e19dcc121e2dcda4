"""Tables 2 and 3 with intervals, the orderings, the verifier curve and the report, from whatever has been run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath
from rationale.hashes import read_manifest
from rationale.reporting import figures, load, standing
from rationale.reporting.page import examples, neighbours, render
from rationale.reporting.specs import Report
from rationale.reporting.tables import (
    Table,
    accuracy_table,
    filter_table,
    orderings_table,
    pairs_table,
    to_csv,
    to_latex,
    to_markdown,
)
from rationale.reporting.verifier import add_orderings, curves, verifier_table, verify
from rationale.schema import Pair, Rationale
from rationale.scoring.cells import scores_of
from rationale.settings import Side, typed
from rationale.stages.inputs import questions_by_id

FORMS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}
PARTS = {  # of a report, that may be missing
    "verifier": "verifier curve",
    "lengths": "rationales and what the filter kept",
    "pairs": "preference pairs",
}


@typed
def run(
    questions: InputPath,
    trained_on: InputPath,
    rationales: InputPath,
    evals: InputPath,
    candidates: InputPath,
    logps: dict[Side, InputPath],
    pairs: InputPath,
    artifacts: list[InputPath],
    report: Report,
    out: Path,
) -> dict:
    """Write tables (md, tex, csv), figures (svg) and `index.html`; a part that was not run is left out and named.
    `sources.csv` leads from a row's name and seed to its evaluation, config, commit and hashes.

    `questions` are those that were evaluated, `trained_on` those of the rationales and pairs, often the same folder.
    `evals`, `candidates`, `logps` and `pairs` are glob patterns over the seeds of one experiment. `artifacts` are
    patterns of what it may be made from, so that a report is not up to date when one of them is made anew.
    """
    runs = load.load_runs(evals)
    known = {folder: questions_by_id(folder) for folder in (questions, trained_on)}
    asked = {i: q for found in known.values() for i, q in found.items()}
    images = {i: Path(folder) / q.image for folder, found in known.items() for i, q in found.items()}
    replies = load.rows(Path(rationales), Rationale) if Path(rationales).is_dir() else []
    kept = {r.question_id: r for r in replies if r.status == "kept"}
    sampled = load.load_candidates(candidates, logps)
    paired = load.once(load.folders(pairs), load.seed_of)

    named = report.named
    patterns = {"verifier": [candidates, *logps.values()], "lengths": [rationales], "pairs": [pairs]}
    present = {"verifier": bool(sampled), "lengths": bool(replies), "pairs": bool(paired)}
    parts = {name: [f for p in patterns[name] for f in load.folders(p) if there] for name, there in present.items()}
    shown = [run.folder for run in runs if run.name in named]
    stands = standing.checked([*shown, *chain(*parts.values())], report.stale)
    of_part = {name: [stands[folder] for folder in places] for name, places in parts.items()}
    report = report.marked({run.name for run in runs if run.name in named and stands[run.folder].changed})

    made = [accuracy_table(report, name, runs) for name in report.tables] + [orderings_table(report, runs)]
    for table in made:
        spec = report.tables.get(table.name)
        names = {row.name for row in spec.rows} if spec else named  # the claims are about any of them
        table.notes.extend(standing.notes(stands[run.folder] for run in runs if run.name in names))
    made[max(len(report.tables) - 1, 0)].notes.extend(
        f"Evaluated, and in no table of this run; to show it, add to the rows of a table of the report: {line}"
        for line in load.unnamed(runs, named, out)
    )
    labels = report.labels
    compared = {labels.get(name, name): name for name in report.compare}
    trained = load.trainings_of(runs, labels)
    logged = {stage: [(label, load.load_metrics(f)) for label, f in found] for stage, found in trained.items()}
    drawings = [figures.overview_figure(made[: len(report.tables)], report.main_column)]
    drawings += figures.lengths(kept.values(), asked, runs, compared) + figures.trainings(**logged)
    if sampled:
        greedy = {label: scores_of(runs, name, sampled[0].responses[0].style) for label, name in compared.items()}
        scores = curves(sampled, asked, report.verifier)
        votes = verify(scores, greedy, report.verifier.paper, report.num_resamples)
        add_orderings(made[-1], votes, stale=any(one.changed for one in of_part["verifier"]))
        made.append(standing.shown(verifier_table(votes, report.verifier), of_part["verifier"]))
        drawings.append(figures.verifier_figure(votes))
    drawings = [standing.shown(drawing, of_part.get(drawing.name, [])) for drawing in drawings]
    counts = [standing.shown(filter_table(replies, asked), of_part["lengths"])] if replies else []
    if paired:
        by_seed = {seed: m["counts"] for seed, folder in paired.items() if (m := read_manifest(folder))}
        counts.append(standing.shown(pairs_table(by_seed), of_part["pairs"]))

    evaluated = {run.name for run in runs}
    missing = [f"evaluation {name} ({label})" for name, label in labels.items() if name not in evaluated]
    missing += [f"{PARTS[n]}: nothing whole at {', '.join(patterns[n])}" for n, there in present.items() if not there]
    missing += [
        f"curves of {label}: nothing logged in {folder}"
        for stage, found in trained.items()
        for (label, folder), (_, values) in zip(found, logged[stage], strict=True)
        if not values
    ]
    if not any(trained.values()):
        missing.append("curves of trainings: no manifest of an evaluation leads to one")
    write(made, drawings, out, in_latex=report.tables.keys())
    (out / "sources.csv").write_text(to_csv(Table("sources", "", "", [], [], load.sources(runs))), encoding="utf-8")
    first = next((load.rows(folder, Pair, "pairs.jsonl") for folder in paired.values()), [])
    pair_of = {p.question_id: p for p in reversed(first)}
    page = render(
        title=report.title, facts=load.facts(runs), missing=missing, tables=made, drawings=drawings, counts=counts,
        shown=examples(images, asked, kept, pair_of, runs, compare=compared, num=report.num_examples),
        links=neighbours(out),
    )  # fmt: skip
    (out / "index.html").write_text(page, encoding="utf-8")
    number = sum(bool(one.changed) for one in stands.values())
    return headline(made, report.main_column) | {"missing": len(missing)} | ({"stale": number} if number else {})


def write(made: Iterable[Table], drawings: Iterable[figures.Drawing], out: Path, in_latex: Iterable[str]) -> None:
    """Tables in every form, but LaTeX only where named, and drawings."""
    for table in made:
        for suffix, form in FORMS.items():
            if suffix != "tex" or table.name in in_latex:
                (out / f"{table.name}.{suffix}").write_text(form(table), encoding="utf-8")
    for drawing in drawings:
        figures.save(drawing, out / f"{drawing.name}.svg")


def headline(made: list[Table], mean: str) -> dict[str, Any]:
    """The numbers that a log line should show: the column `mean` of every row, and verdicts."""
    records = [r for table in made for r in table.records]
    ours = [r for r in records if r.get("column") == mean and r["num"]]
    verdicts = Counter(r["verdict"] for r in records if "verdict" in r)
    shown = {f"{r['name']}/{r['prompt']}": round(r["value"], 1) for r in ours}
    return shown | {f"claims {verdict}": count for verdict, count in sorted(verdicts.items())}
