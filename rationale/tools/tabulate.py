"""Tables 2 and 3 with intervals, the orderings, the verifier curve and the report, from whatever has been run."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath
from rationale.hashes import read_manifest
from rationale.reporting import figures, load, page, standing, tables
from rationale.reporting.specs import Report
from rationale.reporting.verifier import add_orderings, curves, verifier_table, verify
from rationale.schema import Pair, Rationale
from rationale.scoring.cells import SAMPLED, Run, scores_of
from rationale.settings import Side, typed
from rationale.stages.inputs import questions_by_id

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
    samples: InputPath,
    logps: dict[Side, InputPath],
    pairs: InputPath,
    artifacts: list[InputPath],
    report: Report,
    out: Path,
) -> dict:
    """Write tables (md, tex, csv), figures (svg) and `index.html`; a part that was not run is left out and named.
    `sources.csv` leads from a row's name and seed to its evaluation, config, commit and hashes.

    `questions` are those that were evaluated, `trained_on` those of the rationales and pairs, often the same folder.
    `evals`, `samples`, `logps` and `pairs` are glob patterns over the seeds of one experiment. `artifacts` are
    patterns of what it may be made from, so that a report is not up to date when one of them is made anew.
    """
    runs = load.load_runs(evals)
    known = {folder: questions_by_id(folder) for folder in (questions, trained_on)}
    asked = {i: q for found in known.values() for i, q in found.items()}
    candidates = [folder for folder in load.folders(samples) if folder.name == report.compare[0]]
    every = [*runs, *(load.load_samples(samples, asked) if report.prompts & {*SAMPLED} else [])]
    images = {i: q.files(Path(folder)) for folder, found in known.items() for i, q in found.items()}
    replies = load.rows(Path(rationales), Rationale) if Path(rationales).is_dir() else []
    kept = {r.question_id: r for r in replies if r.status == "kept"}
    sampled = load.load_candidates(candidates, logps)
    paired = load.once(load.folders(pairs), load.seed_of)
    first_pairs = load.rows(next(iter(paired.values())), Pair, "pairs.jsonl") if paired else []

    given = {
        "verifier": ([*map(str, candidates or [samples]), *logps.values()], sampled),
        "lengths": ([rationales], replies),
        "pairs": ([pairs], paired),
    }
    parts = {part: [f for p in places for f in load.folders(p)] for part, (places, found) in given.items() if found}
    names = report.named
    named = [run for run in every if run.name in names]
    stands = standing.checked([*(run.folder for run in named), *chain(*parts.values())], report.stale)
    of_part = {part: [stands[folder] for folder in places] for part, places in parts.items()}
    report = report.marked({run.name for run in named if stands[run.folder].changed})
    labels = report.labels
    compared = {labels.get(name, name): name for name in report.compare}

    made = [tables.accuracy_table(report, name, every) for name in report.tables]
    for table in made:
        rows = {row.name for row in report.tables[table.name].rows}
        table.notes.extend(standing.notes(stands[run.folder] for run in named if run.name in rows))
    made.append(tables.orderings_table(report, every))
    made[-1].notes.extend(standing.notes(stands[run.folder] for run in named))
    made[max(len(report.tables) - 1, 0)].notes.extend(
        f"Evaluated, and in no table of this run; to show it, add to the rows of a table of the report: {line}"
        for line in load.unnamed(runs, names, out)
    )
    trained = load.trainings_of(runs, labels)
    logged = {stage: [(label, values) for label, _, values in found] for stage, found in trained.items()}
    drawings = [figures.overview_figure(made[:-1], report.main_column)] if report.tables else []
    drawings += figures.lengths(kept.values(), asked, runs, compared) + figures.trainings(**logged)
    if sampled:
        greedy = {label: scores_of(runs, name, sampled[0].responses[0].style) for label, name in compared.items()}
        votes = verify(curves(sampled, asked, report.verifier), greedy, report.verifier.paper, report.num_resamples)
        add_orderings(made[-1], votes, stale=any(one.changed for one in of_part["verifier"]))
        made.append(standing.shown(verifier_table(votes, report.verifier), of_part["verifier"]))
        drawings.append(figures.verifier_figure(votes))
    drawings = [standing.shown(drawing, of_part.get(drawing.name, [])) for drawing in drawings]
    counts = [standing.shown(tables.filter_table(replies, asked), of_part["lengths"])] if replies else []
    if paired:
        by_seed = {seed: m["counts"] for seed, folder in paired.items() if (m := read_manifest(folder))}
        counts.append(standing.shown(tables.pairs_table(by_seed), of_part["pairs"]))

    results = tables.results(report, every)
    (out / "results.md").write_text("".join(f"- {line}\n" for line in results), encoding="utf-8")
    for table in made:
        tables.save(table, out, ["md", "csv", *["tex"] * (table.name in report.tables)])
    tables.save(tables.Table("sources", "", "", [], [], load.sources(every)), out, ["csv"])
    for drawing in drawings:
        figures.save(drawing, out / f"{drawing.name}.svg")
    absent = missing(runs, labels, {part: places for part, (places, found) in given.items() if not found}, trained)
    text = page.render(
        title=report.title, results=results, facts=load.facts(runs), missing=absent, tables=made, drawings=drawings,
        counts=counts,
        shown=page.examples(images, asked, kept, first_pairs, runs, compare=compared, num=report.num_examples),
        links=page.neighbours(out),
    )  # fmt: skip
    (out / "index.html").write_text(text, encoding="utf-8")
    number = sum(bool(one.changed) for one in stands.values())
    return headline(made, report.main_column) | {"missing": len(absent)} | ({"stale": number} if number else {})


def missing(
    runs: list[Run], labels: dict[str, str], absent: dict[str, list[str]], trained: dict[str, list[load.Training]]
) -> list[str]:
    """What is left out of a report: rows, parts that are `absent` from their places, curves."""
    evaluated = {run.name for run in runs}
    found = [f"evaluation {name} ({label})" for name, label in labels.items() if name not in evaluated]
    found += [f"{PARTS[part]}: nothing whole at {', '.join(places)}" for part, places in absent.items()]
    trainings = list(chain(*trained.values()))
    found += [f"curves of {label}: nothing logged in {folder}" for label, folder, values in trainings if not values]
    return found + ["curves of trainings: no manifest of an evaluation leads to one"] * (not trainings)


def headline(made: list[tables.Table], mean: str) -> dict[str, Any]:
    """The numbers that a log line should show: the column `mean` of every row, and verdicts."""
    records = [r for table in made for r in table.records]
    ours = [r for r in records if r.get("column") == mean and r["num"]]
    verdicts = Counter(r["verdict"] for r in records if "verdict" in r)
    shown = {f"{r['name']}/{r['prompt']}": round(r["value"], 1) for r in ours}
    return shown | {f"claims {verdict}": count for verdict, count in sorted(verdicts.items())}
