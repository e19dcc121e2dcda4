"""The figure of experiment=when_dpo_helps: accuracy and ways of reasoning by the share of terse rationales.

python experiments/when_dpo_helps/figure.py [runs/when_dpo_helps]      writes figure.svg and table.md beside this file
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from rationale.markdown import table
from rationale.reporting.figures import Drawing, drawn, palette, save
from rationale.reporting.load import folders, load_runs, load_samples
from rationale.reporting.tables import cell_text
from rationale.scoring.cells import Cell, Run, Scores, scores_of, summary
from rationale.stages.inputs import questions_by_id
from rationale.worlds import WORLDS
from rationale.worlds.truth import way_of

HERE = Path(__file__).resolve().parent
MODELS = {"sft_both": "SFT", "dpo": "DPO", "sft_rft_all": "RFT", "grpo": "GRPO"}
PANELS = {"cot": "greedy", "sampled": "sampled at temperature 1", "majority": "majority of 32", "pass@8": "pass@8"}
TERSE = "terse, % of samples"
TITLES = [*PANELS.values(), TERSE]
Points = dict[tuple[str, str], dict[float, Cell]]  # by panel and model, the cell of each share


def points_of(root: Path) -> Points:
    """Cells of every model, panel and share that was run."""
    found: Points = defaultdict(dict)
    questions = questions_by_id(root / "questions")
    for folder in sorted({member.parent for member in folders(f"{root}/terse_*/seed_*")}):
        share = float(folder.name.removeprefix("terse_"))
        runs = [*load_runs(f"{folder}/seed_*/eval/[!.]*"), *load_samples(f"{folder}/seed_*/samples/[!.]*", questions)]
        for name in {run.name for run in runs} & MODELS.keys():
            for prompt, panel in PANELS.items():
                found[panel, name][share] = summary(scores_of(runs, name, prompt), list(WORLDS), 2000)
            found[TERSE, name][share] = summary(terse(runs, name), list(WORLDS), 2000)
    return found


def terse(runs: list[Run], name: str) -> Scores:
    """Of each question, how many of its samples leave the working out."""
    return scores_of(runs, name, "sampled", lambda row: float(way_of(row.text) == "terse"))


def figure(points: Points) -> str:
    """A panel for each measure, a line for each model, bars for the 95% intervals."""

    def draw(axes: Sequence[Axes]) -> None:
        for ax, title in zip(axes, TITLES, strict=True):
            for number, ((name, label), color) in enumerate(zip(MODELS.items(), palette(len(MODELS)), strict=True)):
                cells = sorted(points.get((title, name), {}).items())
                found = [(share, cell.interval) for share, cell in cells if cell.interval]
                if found:
                    spread = zip(*((i.mean - i.low, i.high - i.mean) for _, i in found), strict=True)
                    means = [i.mean for _, i in found]
                    shares = [share + 0.008 * number for share, _ in found]  # beside one another, not on top
                    ax.errorbar(shares, means, list(spread), color=color, marker="o", ms=3, capsize=2, label=label)
            ax.set_title(title)
            ax.set_xlabel("terse share of the rationales")
            ax.set_ylim(0, 100)
        axes[0].set_ylabel("%, mean of three worlds")
        axes[0].legend(loc="lower left")

    return drawn("when_dpo_helps", len(TITLES), draw, width=2.3)


def numbers(points: Points) -> list[str]:
    """Lines of a Markdown table: all numbers of the figure."""
    rows = []
    for share in sorted({share for cells in points.values() for share in cells}):
        for name, label in MODELS.items():
            cells = [points.get((title, name), {}).get(share) for title in TITLES]
            if any(cell and cell.interval for cell in cells):
                rows.append([f"{share:g}", label, *(cell_text(cell or Cell(None, {})) for cell in cells)])
    return table(["terse share", "model", *TITLES], rows)


if __name__ == "__main__":
    points = points_of(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/when_dpo_helps"))
    (HERE / "table.md").write_text("\n".join(numbers(points)) + "\n", encoding="utf-8")
    save(Drawing("when_dpo_helps", "When DPO helps", "", figure(points)), HERE / "figure.svg")
