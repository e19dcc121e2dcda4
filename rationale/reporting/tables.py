"""Tables of the paper with intervals, its own numbers beside ours, and the orderings it claims."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rationale.artifacts import UserError
from rationale.markdown import in_markdown
from rationale.markdown import table as table_lines
from rationale.reporting.specs import Report, Row
from rationale.schema import Question, Rationale
from rationale.scoring.cells import SAMPLED, Cell, Run, difference, scores_of, summary

Value = str | Cell
MISSING = "–"
PROMPTS = {"direct": "direct", "cot": "CoT", "mean": "mean of both", "best": "better of both"}
PROMPTS |= dict(zip(SAMPLED, ("CoT, sampled", "CoT, majority", f"CoT, {SAMPLED[-1]}"), strict=True))


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people (`header`, `rows` of text and cells, `notes` below) and for programs (`records`, one dict a
    cell)."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[Value]]
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def number(value: float, signed: bool = False) -> str:
    """One decimal, with a true minus sign and never "-0.0"."""
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return {"-0.0": "0.0", "+0.0": "0.0"}.get(text, text).replace("-", "−")


def interval_text(cell: Cell) -> str:
    """The interval as `[low, high]`."""
    return f"[{number(cell.interval.low)}, {number(cell.interval.high)}]"


def record(cell: Cell, **keys: Any) -> dict[str, Any]:
    """A cell with its keys as one CSV row; numbers keep four decimals."""
    i = cell.interval
    numbers = dict.fromkeys(("value", "low", "high", "num", "num_images"))
    if i is not None:
        numbers = {"value": round(i.mean, 4), "low": round(i.low, 4), "high": round(i.high, 4)}
        numbers |= {"num": i.num, "num_images": i.num_clusters}
    by_seed = " ".join(f"{seed}:{value:.4f}" for seed, value in cell.by_seed.items())
    return {**keys, **numbers, "by_seed": by_seed, "paper": cell.paper}


def paper_cells(path: Path) -> dict[tuple[str, str, str], float]:
    """The paper's numbers by (row, prompt, column) from a `paper.csv`."""
    if not path.is_file():
        raise UserError(f"{path} is not there; a table's `paper` names the CSV of the paper's own cells")
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    keys = ("row", "prompt")
    return {(r["row"], r["prompt"], c): float(v) for r in rows for c, v in r.items() if c not in keys and v}


def accuracy_table(report: Report, name: str, runs: list[Run]) -> Table:
    """One table of a report: a row for each model and prompt, a cell for each column.

    Unparsed answers and response lengths are means over the data sets of the report's average.
    """
    spec = report.tables[name]
    paper = paper_cells(Path(spec.paper)) if spec.paper else {}
    columns = spec.columns or report.columns
    rows, records = [], []
    for row in spec.rows:
        for style in spec.prompts:
            scores = scores_of(runs, row.name, style)
            cells = [
                summary(scores, c.datasets, report.num_resamples, paper.get((row.paper, style, c.paper)))
                for c in columns
            ]
            unparsed, tokens = (
                summary(scores_of(runs, row.name, style, value), report.average, 1, scale=scale)
                for value, scale in ((lambda r: float(r.predicted is None), 100), (lambda r: r.num_tokens, 1))
            )
            keys = {"model": row.label, "name": row.name, "prompt": style}
            records += [record(cell, **keys, column=c.label) for c, cell in zip(columns, cells, strict=True)]
            told = (unparsed, Cell(None, {}) if style in SAMPLED else tokens)  # samples do not say their tokens
            plain = [MISSING if c.interval is None else number(c.interval.mean) for c in told]
            rows.append([row.label, PROMPTS[style], *cells, *plain])
    header = ["model", "prompt", *(c.label for c in columns), "unparsed %", "tokens"]
    return Table(name, spec.title, f"{spec.caption} {seeds_text(runs, spec.rows)}", header, rows, records)


def seeds_text(runs: Iterable[Run], rows: list[Row]) -> str:
    """How many seeds stand behind the rows, and which rows are absent."""
    seeds = {row.name: sorted({run.seed for run in runs if run.name == row.name}) for row in rows}
    kinds = {tuple(found) for found in seeds.values() if found}
    if len(kinds) == 1:
        (found,) = kinds
        text = f"{len(found)} {'seed' if len(found) == 1 else 'seeds'} ({', '.join(map(str, found))})."
    else:
        text = "Seeds: " + "; ".join(f"{name} {found}" for name, found in seeds.items() if found) + "."
    absent = [row.label for row in rows if not seeds[row.name]]
    return text + (f" Not evaluated yet: {', '.join(absent)}." if absent else "")


def verdict(cell: Cell, at_least: float) -> str:
    """holds, fails or open: where the whole interval lies against the margin that was claimed."""
    if cell.interval is None:
        return "not run"
    return "holds" if cell.interval.low > at_least else "fails" if cell.interval.high < at_least else "open"


def ordering(claim: str, cell: Cell, better: str, worse: str, at_least: float) -> tuple[list[Value], dict[str, Any]]:
    """A paired difference as a row of the orderings and as its record."""
    found = verdict(cell, at_least)
    seeds = " ".join(number(value, signed=True) for value in cell.by_seed.values()) or MISSING
    keys = {"claim": claim, "better": better, "worse": worse, "at_least": at_least, "verdict": found}
    return [claim, f"> {at_least:g}", cell, seeds, found], record(cell, **keys)


def orderings_table(report: Report, runs: list[Run]) -> Table:
    """The claims of a report about pairs of models, each as a paired difference with a verdict."""
    rows, records = [], []
    for claim in report.orderings:
        paired = difference(scores_of(runs, *claim.better), scores_of(runs, *claim.worse))
        cell = summary(paired, claim.datasets or report.average, report.num_resamples, claim.paper)
        row, found = ordering(claim.claim, cell, "/".join(claim.better), "/".join(claim.worse), claim.at_least)
        rows.append(row)
        records.append(found)
    caption = (
        "Points of accuracy, better minus worse on the same question and seed, averaged over the data sets of Avg or "
        "of the claim; 95% bootstrap interval over images. A claim holds if the whole interval lies above the margin, "
        "fails if it lies below, and is open otherwise. The interval covers the choice of test images; the spread of "
        "training is in the differences by seed."
    )
    header = ["claim", "margin", "difference", "by seed", "verdict"]
    return Table("orderings", "What the paper claims, tested", caption, header, rows, records)


def results(report: Report, runs: list[Run]) -> list[str]:
    """A sentence for each claim that `says` one and was run on both sides."""
    said = []
    for claim in (claim for claim in report.orderings if claim.says):
        better, worse = scores_of(runs, *claim.better), scores_of(runs, *claim.worse)
        paired, datasets = difference(better, worse), claim.datasets or report.average
        gain = summary(paired, datasets, report.num_resamples)
        if gain.interval:
            one, other = (summary({k: side[k] for k in paired}, datasets, 1).interval.mean for side in (better, worse))
            text = f"{number(gain.interval.mean, signed=True)} {interval_text(gain)}"
            said.append(claim.says.format(difference=text, better=number(one), worse=number(other)))
    return said


def filter_table(replies: list[Rationale], questions: dict[str, Question]) -> Table:
    """How many of the teacher's replies the answer filter kept, and why it dropped the others."""
    counts = Counter((questions[r.question_id].dataset, r.status) for r in replies)
    states = sorted({status for _, status in counts}, key=lambda status: (status != "kept", status))
    rows = [[d, *(str(counts[d, s]) for s in states)] for d in sorted({d for d, _ in counts})]
    return Table("filter", "Teacher's rationales by the answer filter", "", ["data", *states], rows)


def pairs_table(counts: dict[int, dict[str, int]]) -> Table:
    """Pairs of each seed, and its questions by what became of them."""
    names = list(dict.fromkeys(name for found in counts.values() for name in found))
    rows = [[str(seed), *(str(found.get(name, 0)) for name in names)] for seed, found in sorted(counts.items())]
    caption = "too_hard and too_easy: the share of correct responses lies outside the pairing rule's range."
    header = ["seed", *(name.removeprefix("questions_") for name in names)]
    return Table("pairs", "Preference pairs, and questions by what became of them", caption, header, rows)


def cell_text(cell: Cell) -> str:
    """`61.2 [58.0, 64.4] n=1500 / 70.2`: ours, its interval, questions x seeds, and the paper's."""
    paper = "" if cell.paper is None else f" / {number(cell.paper)}"
    i = cell.interval
    return (MISSING if i is None else f"{number(i.mean)} {interval_text(cell)} n={i.num}") + paper


_LEGEND = " Cells: ours [95% interval] n = questions × seeds / the paper's."


def legend(table: Table) -> str:
    """The caption, with how to read a cell where there are any."""
    return table.caption + (_LEGEND if any(isinstance(value, Cell) for row in table.rows for value in row) else "")


def to_markdown(table: Table) -> str:
    """GitHub markdown, padded so that it also reads as plain text."""

    def plain(value: Value) -> str:
        return in_markdown(cell_text(value) if isinstance(value, Cell) else value)

    head, *rows = ([plain(value) for value in row] for row in [table.header, *table.rows])
    notes = "".join(f"\n- {plain(note)}\n" for note in table.notes)
    grid = "\n".join(table_lines(head, rows, padded=True))
    return f"**{plain(table.title)}**\n\n{grid}\n\n{plain(legend(table))}\n{notes}"


_CIRCLED = {chr(0x2460 + i): rf"\textcircled{{{i + 1}}}" for i in range(9)}
_LATEX = str.maketrans({
    **{c: f"\\{c}" for c in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "−": "$-$", "×": r"$\times$", "–": "--", **_CIRCLED,
})  # fmt: skip


def to_latex(table: Table) -> str:
    """A booktabs tabular; a cell is two lines, ours and the paper's above the interval and n."""

    def tex(value: Value) -> str:
        if not isinstance(value, Cell):
            return " ".join(value.split()).translate(_LATEX)
        paper = "" if value.paper is None else f" / {number(value.paper)}".translate(_LATEX)
        if value.interval is None:
            return f"--{paper}"
        mean, span = (text.translate(_LATEX) for text in (number(value.interval.mean), interval_text(value)))
        return rf"\shortstack{{{mean}{paper}\\ \tiny {{}}{span} $n{{=}}{value.interval.num}$}}"

    lines = [" & ".join(tex(value) for value in row) + r" \\" for row in [table.header, *table.rows]]
    aligned = "l" * 2 + "c" * (len(table.header) - 2)
    body = "\n".join([lines[0], r"\midrule", *lines[1:]])
    return (
        f"\\begin{{table*}}\n\\centering\\small\n\\caption{{{tex(table.title)}. {tex(legend(table))}}}\n"
        f"\\label{{tab:{table.name}}}\n\\begin{{tabular}}{{{aligned}}}\n\\toprule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table*}\n"
    )


def to_csv(table: Table) -> str:
    """One line a cell, numbers alone, empty where nothing was run."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table.records[0]) if table.records else table.header, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return file.getvalue()


def show(folder: str | Path) -> str:
    """The tables of a report as plain text."""
    place = {"results": 0, "orderings": 2, "verifier": 3}  # the report's own tables stand second
    files = sorted(Path(folder).glob("*.md"), key=lambda file: (place.get(file.stem, 1), file.name))
    if not files:
        raise UserError(f"{folder} holds no table; run stage=tabulate first")
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


FORMS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


def save(table: Table, folder: Path, forms: Iterable[str] = FORMS) -> None:
    """A table as a file of each form."""
    for form in forms:
        (folder / f"{table.name}.{form}").write_text(FORMS[form](table), encoding="utf-8")
