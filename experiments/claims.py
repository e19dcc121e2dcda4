"""Every claim of the paper beside what came out here, gathered from the folders' orderings.csv into README.md."""

from __future__ import annotations

import csv
from pathlib import Path

from rationale.reporting.tables import number

ROOT = Path(__file__).resolve().parent
WHERE = {  # folder: what it stands for; the first that has a claim keeps it
    "table_3": "Table 3", "table_2": "Table 2", "table_4": "Table 4", "table_d1": "Table D.1", "table_e1": "Table E.1",
    "table_f1": "Table F.1", "table_g2": "Tables G", "table_g3": "Table G.3", "table_i1": "Table I.1",
    "table_i2": "Table I.2", "figure_5": "Figure 5", "figure_5/rlaif": "Figure 5, ⑤", "figure_6": "Figure 6",
    "figure_6/rlaif": "Figure 6, ⑤", "iterative": "rounds", "dpo_ablations": "DPO",
}  # fmt: skip
MARKS = ("<!-- claims -->", "<!-- end -->")
HEADER = "| | claim | paper | here [95%] | by seed | verdict |\n|---|---|---|---|---|---|"


def found() -> list[tuple[str, dict[str, str]]]:
    """Folder and record of every claim; one that two tables repeat stands once, votes only with the figures."""
    rows, seen = [], set()
    for folder in WHERE:
        path = ROOT / folder / "orderings.csv"
        for record in csv.DictReader(path.open(encoding="utf-8")) if path.is_file() else ():
            votes = "majority" in (record["better"], record["worse"])
            key = (folder if votes else None, record["claim"])
            if key not in seen and votes == folder.startswith("figure"):
                seen.add(key)
                rows.append((folder, record))
    return sorted(rows, key=lambda row: (not row[0].startswith("table"), row[0]))


def line(folder: str, record: dict[str, str]) -> str:
    """One claim as a row of the page."""
    paper = number(float(record["paper"]), signed=True) if record["paper"] else "–"
    seeds = [number(float(part.split(":")[1]), signed=True) for part in record["by_seed"].split()]
    here = "–"
    if record["value"]:
        low, high = (number(float(record[side])) for side in ("low", "high"))
        here = f"{number(float(record['value']), signed=True)} [{low}, {high}]"
    where = f"[{WHERE[folder]}]({folder})"
    return f"| {where} | {record['claim']} | {paper} | {here} | {' '.join(seeds) or '–'} | {record['verdict']} |"


def page() -> str:
    """The claims as two tables: those that the paper has a number for, and ours."""
    rows = found()
    parts = []
    for title, chosen in (
        ("Claims with a number in the paper", [r for r in rows if r[1]["paper"]]),
        ("Other orderings", [r for r in rows if not r[1]["paper"]]),
    ):
        verdicts = [record["verdict"] for _, record in chosen]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in ("holds", "fails", "open", "not run") if v in verdicts)
        parts.append("\n".join([f"**{title}**: {counts}.", "", HEADER, *(line(*row) for row in chosen)]))
    return "\n\n".join(parts)


def main() -> None:
    """Write the page between the marks of README.md."""
    path = ROOT / "README.md"
    before, rest = path.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    path.write_text(f"{before}{MARKS[0]}\n{page()}\n{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
