"""Writes the tables and the plot of README.md from the JSON files of the benchmarks.

python experiments/speed/summary.py
"""

from __future__ import annotations

import json
import re
import statistics
from importlib import import_module
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from common import HERE
from shapes import SHAPES

NAMES = ("dpo_vs_trl", "sft_vs_trl", "score_candidates", "sample_vs_generate", "utilisation", "growth")


def setup_line(found: dict[str, Any]) -> str:
    """Threads, dtype, date and versions in a line."""
    setup = found["setup"]
    versions = ", ".join(f"{name} {version}" for name, version in setup["versions"].items() if version)
    return f"{setup['date']}, {setup['threads']} threads, {setup['dtype']}, medians of {setup['steps']}; {versions}."


def ratios(found: dict[str, dict]) -> dict[str, dict[str, float]]:
    """Times faster, by measure and shape."""
    bars: dict[str, dict[str, float]] = {}

    def add(measure: str, shape: str, slow: float, fast: float) -> None:
        bars.setdefault(measure, {})[shape] = slow / fast

    for shape, sides in found.get("dpo_vs_trl", {}).get("shapes", {}).items():
        trl = statistics.median(sides["TRL"]["seconds"])
        for side in ("tree, frozen", "tree, stored", "tree, stored, 3 pairs"):
            add(f"DPO ({side[6:]})", shape, trl, statistics.median(sides[side]["seconds"]) / sides[side]["pairs"])
    for shape, sides in found.get("sft_vs_trl", {}).get("shapes", {}).items():
        add("SFT, mixture 4", shape, *(statistics.median(sides[s]["seconds"]) for s in ("TRL", "tree")))
    for shape, sides in found.get("score_candidates", {}).get("shapes", {}).items():
        add("score 32", shape, sides["rows 32"]["seconds"], sides["tree 32"]["seconds"])
    for shape, sides in found.get("sample_vs_generate", {}).get("shapes", {}).items():
        add("sample 32", shape, sides["generate"]["seconds"], sides["ours"]["seconds"])
    return bars


def plot(bars: dict[str, dict[str, float]]) -> None:
    """Bars on a logarithmic axis, one group a measure."""
    figure, axes = plt.subplots(figsize=(8, 3.4), layout="constrained")
    shapes = [s for s in SHAPES if any(s in group for group in bars.values())]
    height = 0.8 / len(shapes)
    for number, shape in enumerate(shapes):
        places = [i + height * number for i, group in enumerate(bars.values()) if shape in group]
        values = [group[shape] for group in bars.values() if shape in group]
        drawn = axes.barh(places, values, height, label=shape)
        axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    axes.set_yticks([i + height * (len(shapes) - 1) / 2 for i in range(len(bars))], list(bars))
    axes.set_xscale("log")
    axes.set_xlim(1, 1.4 * max(value for group in bars.values() for value in group.values()))
    axes.set_xticks([1, 2, 5, 10, 20], ["1", "2", "5", "10", "20"])
    axes.minorticks_off()
    axes.set_xlabel("times faster than TRL 1.16 (score: than our plain rows; sample: than transformers' generate)")
    axes.invert_yaxis()
    axes.legend(loc="upper right")
    plt.rcParams["svg.hashsalt"] = "rationale"
    figure.savefig(HERE / "speed.svg", metadata={"Date": None})


def main() -> None:
    """Replace what stands between the markers `<!-- name -->` and `<!-- end -->` of the plot and of each benchmark."""
    found = {
        n: json.loads((HERE / f"{n}.json").read_text(encoding="utf-8")) for n in NAMES if (HERE / f"{n}.json").exists()
    }
    parts = {n: f"{import_module(n).show(measured)}\n\n{setup_line(measured)}" for n, measured in found.items()}
    if bars := ratios(found):
        plot(bars)
        parts["plot"] = "![Times faster](speed.svg)"
    readme = HERE / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, body in parts.items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m, b=body: f"{m[1]}\n{b}\n\n{m[2]}", text, flags=re.S
        )
        if count != 1:
            raise SystemExit(f"README.md has {count} places for {name}; it needs one")
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
