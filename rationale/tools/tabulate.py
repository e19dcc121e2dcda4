"""Tables 2 and 3 with intervals, the orderings, the verifier curve and the report, from whatever has been run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rationale.artifacts import InputPath
from rationale.hashes import read_manifest
from rationale.reporting import figures, standing
from rationale.reporting.load import (
    facts,
    folders,
    load_candidates,
    load_metrics,
    load_runs,
    rows,
    rows_of,
    seed_of,
    sources,
    trainings_of,
    unnamed,
)
from rationale.reporting.page import examples, neighbours, render
from rationale.reporting.specs import Claim, Column, TableSpec, VoteSpec
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
from rationale.reporting.verifier import Candidates, Verifier, add_orderings, curves, verifier_table, verify
from rationale.schema import Pair, Question, Rationale
from rationale.scoring.cells import Scores, scores_of
from rationale.settings import Count, Limit, Side, typed
from rationale.stages.inputs import questions_by_id

FORMS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


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
    stale: standing.Stale,
    title: str,
    average: list[str],
    columns: list[Column],
    tables: dict[str, TableSpec | None],
    orderings: list[Claim],
    verifier: VoteSpec,
    compare: list[str],
    num_examples: Limit,
    num_resamples: Count,
    out: Path,
) -> dict:
    """Write tables (md, tex, csv), figures (svg) and `index.html`; a part that was not run is left out and named.
    `sources.csv` leads from a row's name and seed to its evaluation, config, commit and hashes.

    `questions` are those that were evaluated, `trained_on` those of the rationales and pairs, often the same folder.
    `evals`, `candidates`, `logps` and `pairs` are glob patterns over the seeds of one experiment. A row of a table may
    be a list of rows. `compare` names evaluations, before and after DPO. What was made from a model or data that are
    another now is refused by `stale`, or marked; `artifacts` are patterns of what it may be made from, so that a report
    is not up to date when one of them is made anew.
    """
    tables = {k: {**spec, "rows": rows_of({k: spec})} for k, spec in tables.items() if spec is not None}
    runs = load_runs(evals)
    claimed = {claim[side][0] for claim in orderings for side in ("better", "worse")}
    named = {row["name"] for row in rows_of(tables)}.union(compare, claimed)
    asked = {folder: questions_by_id(folder) for folder in (questions, trained_on)}
    found = {i: q for folder in asked.values() for i, q in folder.items()}
    images = {i: Path(folder) / q.image for folder, known in asked.items() for i, q in known.items()}
    replies = rows(Path(rationales), Rationale) if Path(rationales).is_dir() else []
    kept = {r.question_id: r for r in replies if r.status == "kept"}
    sampled = load_candidates(candidates, logps)
    paired = folders(pairs)

    parts = {
        "evaluations": [run.folder for run in runs if run.name in named],
        "verifier": [f for pattern in (candidates, *logps.values()) for f in folders(pattern)] if sampled else [],
        "lengths": [Path(rationales)] if replies else [],
        "pairs": paired,
    }
    stands = standing.checked([folder for part in parts.values() for folder in part], stale)
    old = {run.name for run in runs if run.name in named and stands[run.folder].changed}
    tables, orderings = marked(tables, orderings, old)
    of_part = {part: [stands[folder] for folder in places] for part, places in parts.items()}

    labels: dict[str, str] = {}
    for row in rows_of(tables):  # a model that stands in two tables has the first's label
        labels.setdefault(row["name"], row["label"])
    compared = {labels.get(name, name): name for name in compare}
    trained = trainings_of(runs, labels)
    curves_of = {stage: [(label, load_metrics(path)) for label, path in places] for stage, places in trained.items()}

    made = [
        accuracy_table(name, spec, runs, columns, average=average, num_resamples=num_resamples)
        for name, spec in tables.items()
    ]
    made.append(orderings_table(orderings, runs, average, num_resamples))
    for name, table in zip([*tables, None], made, strict=True):  # the last are the claims, about any of them
        among = {row["name"] for row in tables[name]["rows"]} if name else named
        table.notes.extend(standing.notes(stands[run.folder] for run in runs if run.name in among))
    made[max(len(tables) - 1, 0)].notes.extend(
        f"Evaluated, and in no table of this run; to show it, add to the rows of a table in conf/report: {line}"
        for line in unnamed(runs, named, out)
    )
    checked = None
    if sampled:
        style = sampled[0].responses[0].style
        greedy = {label: scores_of(runs, name, style) for label, name in compared.items()}
        checked = check(sampled, found, greedy, verifier, num_resamples)
        add_orderings(made[-1], checked, stale=any(one.changed for one in of_part["verifier"]))
        votes = verifier_table(checked, verifier["num_subsets"], verifier["temperature"])
        made.append(standing.shown(votes, of_part["verifier"]))

    mean = next((c["label"] for c in columns if c["datasets"] == average), columns[0]["label"])
    drawings = [figures.overview_figure(made[: len(tables)], mean)]
    drawings += figures.lengths(kept.values(), found, runs, compared) + figures.trainings(**curves_of)
    if checked:
        drawings.append(figures.verifier_figure(checked))
    drawings = [standing.shown(drawing, of_part.get(drawing.name, [])) for drawing in drawings]
    for table in made:
        for suffix, form in FORMS.items():
            if suffix != "tex" or table.name in tables:
                (out / f"{table.name}.{suffix}").write_text(form(table), encoding="utf-8")
    (out / "sources.csv").write_text(to_csv(Table("sources", "", "", [], [], sources(evals))), encoding="utf-8")
    for drawing in drawings:
        figures.save(drawing, out / f"{drawing.name}.svg")

    evaluated = {run.name for run in runs}
    missing = [f"evaluation {name} ({label})" for name, label in labels.items() if name not in evaluated]
    missing += [
        f"{part}: nothing whole at {', '.join(places)}"
        for part, present, places in (
            ("verifier curve", sampled, (candidates, *logps.values())),
            ("rationales and what the filter kept", replies, (rationales,)),
            ("preference pairs", paired, (pairs,)),
        )
        if not present
    ]
    missing += [
        f"curves of {label}: nothing logged in {path}"
        for stage, places in trained.items()
        for (label, path), (_, logged) in zip(places, curves_of[stage], strict=True)
        if not logged
    ]
    if not any(trained.values()):
        missing.append("curves of trainings: no manifest of an evaluation leads to one")
    counts = [standing.shown(filter_table(replies, found), of_part["lengths"])] if replies else []
    if paired:
        by_seed = {seed_of(f): m["counts"] for f in paired if (m := read_manifest(f))}
        counts.append(standing.shown(pairs_table(by_seed), of_part["pairs"]))
    first = {p.question_id: p for p in reversed(rows(paired[0], Pair, "pairs.jsonl"))} if paired else {}
    page = render(
        title=title, facts=facts(evals), missing=missing, tables=made, drawings=drawings, counts=counts,
        shown=examples(images, found, kept, first, runs, compare=compared, num=num_examples), links=neighbours(out),
    )  # fmt: skip
    (out / "index.html").write_text(page, encoding="utf-8")
    number = sum(bool(one.changed) for one in stands.values())
    return headline(made, mean) | {"missing": len(missing)} | ({"stale": number} if number else {})


def marked(tables: dict[str, dict], orderings: list[dict], old: set[str]) -> tuple[dict[str, dict], list[dict]]:
    """The same, where the rows and claims about evaluations in `old` say that they are stale."""

    def row(one: dict) -> dict:
        return {**one, "label": standing.marked(one["label"])} if one["name"] in old else one

    def claim(one: dict) -> dict:
        stale = {one["better"][0], one["worse"][0]} & old
        return {**one, "claim": standing.marked(one["claim"])} if stale else one

    rows = {name: {**spec, "rows": [row(one) for one in spec["rows"]]} for name, spec in tables.items()}
    return rows, [claim(one) for one in orderings]


def check(
    sampled: list[Candidates],
    questions: dict[str, Question],
    greedy: dict[str, Scores],
    spec: VoteSpec,
    num_resamples: int,
) -> Verifier:
    """Votes among the candidates, and the greedy answers to the same questions."""
    scores = curves(sampled, questions, spec["num_subsets"], spec["temperature"])
    return verify(scores, greedy, spec["paper"], num_resamples)


def headline(made: list[Table], mean: str) -> dict[str, Any]:
    """The numbers that a log line should show: the column `mean` of every row, and verdicts."""
    records = [r for table in made for r in table.records]
    ours = [r for r in records if r.get("column") == mean and r["num"]]
    verdicts = Counter(r["verdict"] for r in records if "verdict" in r)
    shown = {f"{r['name']}/{r['prompt']}": round(r["value"], 1) for r in ours}
    return shown | {f"claims {verdict}": count for verdict, count in sorted(verdicts.items())}
