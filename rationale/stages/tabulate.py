"""Tables 2 and 3 with intervals, the orderings, the verifier curve and the report, from whatever has been run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from rationale.artifacts import read_manifest
from rationale.reporting import figures
from rationale.reporting.load import facts, folders, load_candidates, load_metrics, load_runs, rows, seed_of, sources
from rationale.reporting.page import examples, neighbours, render
from rationale.reporting.scores import Scores, scores_of
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
from rationale.settings import Count, Limit, Side, typed
from rationale.stages.inputs import questions_by_id

FORMS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


@typed
def run(
    questions: str,
    trained_on: str,
    rationales: str,
    evals: str,
    candidates: str,
    logps: dict[Side, str],
    pairs: str,
    trainings: dict[Side, str],
    title: str,
    average: list[str],
    columns: list[Column],
    tables: dict[str, TableSpec | None],
    orderings: list[Claim],
    verifier: VoteSpec,
    compare: dict[str, str],
    num_examples: Limit,
    num_resamples: Count,
    out: Path,
) -> dict:
    """Write tables (md, tex, csv), figures (svg) and `index.html`; a part that was not run is left out and named.
    `sources.csv` leads from a row's name and seed to its evaluation, config, commit and hashes.

    `questions` are those that were evaluated, `trained_on` those of the rationales and pairs, often the same folder.
    `evals`, `candidates`, `logps`, `pairs` and `trainings` are glob patterns over the seeds of one experiment. A row of
    a table may be a list of rows. `compare` names two evaluations by label, before and after DPO.
    """
    tables = {  # a preset may drop another's table
        name: {**spec, "rows": [row for part in spec["rows"] for row in (part if isinstance(part, list) else [part])]}
        for name, spec in tables.items()
        if spec is not None
    }
    runs = load_runs(evals)
    asked = {folder: questions_by_id(folder) for folder in (questions, trained_on)}
    found = {i: q for folder in asked.values() for i, q in folder.items()}
    images = {i: Path(folder) / q.image for folder, known in asked.items() for i, q in known.items()}
    replies = rows(Path(rationales), Rationale) if Path(rationales).is_dir() else []
    kept = {r.question_id: r for r in replies if r.status == "kept"}
    sampled = load_candidates(candidates, logps)
    sft, dpo = (load_metrics(trainings[part]) for part in ("sft", "dpo"))
    paired = folders(pairs)

    made = [
        accuracy_table(name, spec, runs, columns, average=average, num_resamples=num_resamples)
        for name, spec in tables.items()
    ]
    made.append(orderings_table(orderings, runs, average, num_resamples))
    checked = None
    if sampled:
        style = sampled[0].responses[0].style
        greedy = {label: scores_of(runs, name, style) for label, name in compare.items()}
        checked = check(sampled, found, greedy, verifier, num_resamples)
        add_orderings(made[-1], checked)
        made.append(verifier_table(checked, verifier["num_subsets"], verifier["temperature"]))

    mean = next((c["label"] for c in columns if c["datasets"] == average), columns[0]["label"])
    drawings = [figures.overview_figure(made[: len(tables)], mean)]
    drawings += figures.lengths(kept.values(), found, runs, compare) + figures.trainings(sft, dpo)
    if checked:
        drawings.append(figures.verifier_figure(checked))
    for table in made:
        for suffix, form in FORMS.items():
            if suffix != "tex" or table.name in tables:
                (out / f"{table.name}.{suffix}").write_text(form(table), encoding="utf-8")
    (out / "sources.csv").write_text(to_csv(Table("sources", "", "", [], [], sources(evals))), encoding="utf-8")
    for drawing in drawings:
        figures.save(drawing, out / f"{drawing.name}.svg")

    parts = {row["name"]: f"evaluation {row['name']} ({row['label']})" for t in tables.values() for row in t["rows"]}
    missing = [text for name, text in parts.items() if name not in {run.name for run in runs}]
    missing += [
        f"{part}: nothing whole at {', '.join(places)}"
        for part, present, places in (
            ("verifier curve", sampled, (candidates, *logps.values())),
            ("rationales and what the filter kept", replies, (rationales,)),
            ("preference pairs", paired, (pairs,)),
            ("SFT loss", any(m for _, m in sft), (trainings["sft"],)),
            ("DPO rewards", any(m for _, m in dpo), (trainings["dpo"],)),
        )
        if not present
    ]
    counts = [filter_table(replies, found)] if replies else []
    counts += [pairs_table({seed_of(f): m["counts"] for f in paired if (m := read_manifest(f))})] if paired else []
    first = {p.question_id: p for p in reversed(rows(paired[0], Pair, "pairs.jsonl"))} if paired else {}
    shown = examples(images, found, kept, first, runs, compare=compare, num=num_examples)
    page = render(
        title=title, facts=facts(evals), missing=missing, tables=made, drawings=drawings, counts=counts, shown=shown,
        links=neighbours(out),
    )  # fmt: skip
    (out / "index.html").write_text(page, encoding="utf-8")
    return headline(made, mean) | {"missing": len(missing)}


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
