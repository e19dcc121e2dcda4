"""Figures as SVG text that takes its ink from the page, so one drawing serves light and dark."""

from __future__ import annotations

import colorsys
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rationale.reporting.tables import Table
from rationale.reporting.verifier import METHODS, Verifier
from rationale.schema import Question, Rationale
from rationale.scoring.cells import STYLES, Run

REWARDS = {
    "reward margin": "rewards/margins",
    "reward accuracy": "rewards/accuracies",
    "reward of chosen": "rewards/chosen",
    "reward of rejected": "rewards/rejected",
    "loss": "train/loss",
}
_INK = "#012345"  # stands for the page's own text colour until the drawing is text
COLORS = ("#3b82c4", "#d9772b", "#2f9e77", "#b65fa5", "#8a8f98", "#c9a227")
_STYLE = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "lines.linewidth": 1.5, "legend.frameon": False, "legend.fontsize": 8, "axes.linewidth": 0.6,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "text.color": _INK, "axes.labelcolor": _INK, "axes.edgecolor": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "grid.color": _INK,
}  # fmt: skip
_STANDALONE = "<style>svg{color:#1c2024}@media (prefers-color-scheme:dark){svg{color:#e4e6ea}}</style>"


def palette(num: int) -> Sequence[str]:
    """As many colours as there are series, so that none is left out."""
    hues = [colorsys.hls_to_rgb(i / num, 0.5, 0.65) for i in range(num)]
    return COLORS[:num] if num <= len(COLORS) else [to_hex(hue) for hue in hues]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of the page: SVG text of our own making, so it alone is not escaped."""

    name: str
    title: str
    caption: str
    svg: str


def drawn(
    name: str, panels: int, draw: Callable[[Sequence[Axes]], None], height: float = 2.7, width: float = 2.75
) -> str:
    """SVG of `panels` axes side by side, filled by `draw`; the same data gives the same text."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(max(4.6, width * panels), height), layout="constrained")
        axes = figure.subplots(1, panels, squeeze=False)[0]
        draw(axes)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'<g id="[^"]*">', "<g>", svg).replace(_INK, "currentColor").strip()


def save(drawing: Drawing, path: Path) -> None:
    """The figure as a file of its own, with ink for light and dark."""
    head = drawing.svg.index(">") + 1
    path.write_text(f"{drawing.svg[:head]}{_STANDALONE}{drawing.svg[head:]}\n", encoding="utf-8")


def overview_figure(tables: Iterable[Table], column: str) -> Drawing:
    """One column of the accuracy tables, ours with intervals beside the paper's: a dot a model and prompt."""
    cells, models = {}, {}
    for r in (r for table in tables for r in table.records):
        if r.get("column") == column and r["num"] and r["paper"] is not None:
            cells.setdefault((r["name"], r["prompt"]), r)  # a model that stands in two tables is one dot
            models.setdefault(r["name"], r["model"])

    def draw(axes: Sequence[Axes]) -> None:
        for ax, title, key in zip(axes, ("here, in miniature", "the paper, 8B"), ("value", "paper"), strict=True):
            for color, prompt, side in zip(COLORS[:2], STYLES, (-0.12, 0.12), strict=True):
                for x, r in enumerate(cells.get((model, prompt)) for model in models):
                    if r is not None:
                        y, label = r[key], f"{prompt} prompt" if x == 0 else None
                        error = [[y - r["low"]], [r["high"] - y]] if key == "value" else None
                        ax.errorbar(x + side, y, error, fmt="o", color=color, markersize=5, capsize=2, label=label)
                        at = {"xy": (x + side, y), "xytext": (0, 8), "textcoords": "offset points"}
                        ax.annotate(f"{y:.1f}", **at, ha="center", fontsize=7)
            ax.set_title(title)
            ax.set_xticks(range(len(models)), models.values())
            ax.set_xlim(-0.6, len(models) - 0.4)
            ax.margins(y=0.18)
        axes[0].set_ylabel(f"{column} accuracy, points")
        axes[0].legend(loc="lower right")

    svg = drawn("overview", 2, draw, height=3.2, width=4.2)
    caption = "Ours with 95% intervals over images; the paper gives none, and its Avg is over eight benchmarks."
    return Drawing("overview", "Tables 2 and 3 at a glance", caption, svg)


def verifier_figure(found: Verifier) -> Drawing:
    """Accuracy against the number of candidates, one panel a data set; bands are the 95% intervals."""

    def draw(axes: Sequence[Axes]) -> None:
        for ax, panel in zip(axes, found.datasets, strict=True):
            for color, (method, label) in zip(palette(len(METHODS)), METHODS.items(), strict=True):
                spans = [found.cells[panel, method, n].interval for n in found.sizes]
                low, high = [s.low for s in spans], [s.high for s in spans]
                ax.plot(found.sizes, [s.mean for s in spans], color=color, marker="o", markersize=3, label=label)
                ax.fill_between(found.sizes, low, high, color=color, alpha=0.13, lw=0)
            labels = [label for where, label in found.greedy if where == panel]
            for dash, label in zip(cycle(("--", ":", "-.")), labels, strict=False):
                ax.axhline(found.greedy[panel, label].interval.mean, color=_INK, ls=dash, lw=1, label=f"greedy {label}")
            ax.set_xscale("log", base=2)
            ax.set_xticks(found.sizes, [str(n) for n in found.sizes])
            ax.minorticks_off()
            ax.set_title(panel)
            ax.set_xlabel("candidates N")
        axes[0].set_ylabel("accuracy, points")
        axes[0].figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)

    caption = (
        "Lines: mean over questions and seeds; bands: 95% bootstrap intervals over images; horizontal: greedy answers"
        " to the same questions."
    )
    svg = drawn("verifier", len(found.datasets), draw, height=3.1)
    return Drawing("verifier", "Votes among N candidates (paper, Figure 5)", caption, svg)


def histogram_figure(name: str, panels: Mapping[str, Mapping[str, Sequence[float]]], unit: str) -> str:
    """Histograms, one panel a title, one colour a series; the legend gives each median."""

    def draw(axes: Sequence[Axes]) -> None:
        for ax, (title, series) in zip(axes, panels.items(), strict=True):
            high = max(max(values) for values in series.values())
            width = -(-int(high) // 40) or 1  # whole numbers a bin, or bins would hold unequal shares
            bins = np.arange(0.5, high + width + 0.5, width)
            for color, (label, values) in zip(palette(len(series)), series.items(), strict=True):
                ax.hist(values, bins, color=color, alpha=0.55, label=f"{label}, median {np.median(values):g}")
            ax.set_title(title)
            ax.set_xlabel(unit)
            ax.set_xlim(0, max(high, 5) + 1)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.set_ylim(top=1.25 * ax.get_ylim()[1])
            ax.legend(loc="upper right")
        axes[0].set_ylabel("count")

    return drawn(name, len(panels), draw)


Curve = tuple[Sequence[float], Sequence[float]]


def curve_figure(name: str, panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> str:
    """Logged values against the step, one panel a quantity, one colour a series, one line a seed."""
    labels = list(dict.fromkeys(label for series in panels.values() for label in series))
    colors = dict(zip(labels, palette(len(labels)), strict=True))
    room = max(4.6, 2.3 * len(panels)) / (0.6 + 0.075 * max(map(len, labels)))  # inches of a line and its label
    columns = min(len(labels), max(1, int(room)))

    def draw(axes: Sequence[Axes]) -> None:
        for ax, (title, series) in zip(axes, panels.items(), strict=True):
            for label, lines in series.items():
                for steps, values in lines:
                    marker = "o" if len(steps) == 1 else None  # a line of one point is none
                    ax.plot(steps, values, color=colors[label], lw=1.1, alpha=0.85, marker=marker, markersize=2.5)
            ax.set_title(title)
            ax.set_xlabel("step")
            ax.xaxis.get_major_locator().set_params(integer=True)
        keys = [Line2D([], [], color=color, label=label) for label, color in colors.items()]
        axes[0].figure.legend(handles=keys, loc="outside lower center", ncols=columns)

    return drawn(name, len(panels), draw, height=2.7 + 0.2 * -(-len(labels) // columns), width=2.3)


def lengths(
    kept: Iterable[Rationale], questions: dict[str, Question], runs: list[Run], compare: dict[str, str]
) -> list[Drawing]:
    """Words that a model is trained on in either style, and tokens that the compared models answer with."""
    found = []
    if kept := list(kept):
        words = {
            "rationales": {"CoT": [len(r.text.split()) for r in kept]},
            "direct answers": {"direct": [len(questions[r.question_id].answer.split()) for r in kept]},
        }
        caption = f"{len(kept)} kept rationales, and the annotations of the same training questions."
        svg = histogram_figure("lengths", words, "words")
        found.append(Drawing("lengths", "Words to train on (paper, Figure 3)", caption, svg))
    tokens = {
        label: [row.num_tokens for run in runs if run.name == name for row in run.rows if row.style == "cot"]
        for label, name in compare.items()
    }
    if tokens := {label: values for label, values in tokens.items() if values}:
        caption = "Greedy responses to all test questions, of all seeds."
        svg = histogram_figure("responses", {"CoT prompt": tokens}, "tokens")
        found.append(Drawing("responses", "Length of predicted responses", caption, svg))
    return found


Logged = list[tuple[str, dict[str, Curve]]]


def trainings(sft: Logged, dpo: Logged) -> list[Drawing]:
    """Loss of SFT, and rewards of DPO, as logged during training, by label; a label may stand for several seeds."""
    loss = "SFT loss", "Mean over the tokens of the logged batch, nats."
    rewards = "DPO rewards", "Means of the logged batch. A reward is beta times the log-ratio to the SFT model."
    found = []
    for name, runs, keys, (title, about) in (
        ("sft", sft, {"train/loss": "train/loss"}, loss),
        ("dpo", dpo, REWARDS, rewards),
    ):
        panels: dict[str, dict[str, list[Curve]]] = defaultdict(lambda: defaultdict(list))
        for panel, key in keys.items():
            for label, logged in runs:
                if key in logged:
                    panels[panel][label].append(logged[key])
        if panels:
            found.append(Drawing(name, title, f"{about} One line a seed.", curve_figure(name, panels)))
    return found
