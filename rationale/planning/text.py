"""A plan as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rationale.planning.sizes import Sizes
from rationale.planning.table import Hardware

PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "logits", "buffers", "host")
EXTRA = ("hours_scoring", "hours_validation")


def markdown(title: str, sizes: Sizes, rows: Sequence[dict[str, Any]], hardware: Hardware) -> str:
    """Parameters, cost by layout and reference, and memory by trainer."""
    usable = (hardware.memory - hardware.spare) / 2**30
    return "\n".join([
        f"# Plan: {title} on {hardware.name}", "",
        f"{hardware.devices} devices, {usable:.1f} GiB for tensors on each, {hardware.peak / 1e12:,.3g} TFLOP/s at the "
        f"peak, {hardware.achieved:.0%} of it assumed.", "",
        "## Parameters", "", *table(["part", "millions"], parameters(sizes)), "",
        "## Tokens, operations, hours", "",
        "Means of the data; all devices; hours of training alone. Beside them: storing the reference once, where it is "
        "`scored`, and measuring held-out rows. Not counted: start, saving, waiting for data.", "",
        *table(["training", "layout", "reference", "trained, millions", "examples a step", "steps", "tokens a step",
                "TFLOPs a step", "examples a second", "hours", "scoring", "validation"], times(rows)), "",
        "## Memory on a device, GiB", "",
        "The longest rows. `at most` is the largest of three moments: forward and backward, the optimizer's step, and "
        "the start, when DeepSpeed has the whole model on every device. `buffers` are gradients on their way to other "
        "devices, gathered parameters, and bfloat16 copies of float32 weights, which trainers without DeepSpeed train "
        "(model.dtype=float32). `host` is a device's share of the machine's memory, where parts are offloaded to it: "
        "possible, but slower than the hours above say.", "",
        *table(["training", "layout", "reference", "trainer", *PARTS, "at most", "fits"], memories(rows)), "",
        "The head's logits are made in tiles; at once they would take:", "",
        *table(["training", "layout", "logits at once, GiB"], wholes(rows)), "",
    ])  # fmt: skip


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def parameters(sizes: Sizes) -> list[list[str]]:
    return [[n, f"{p.total / 1e6:,.1f}"] for n, p in [*sizes.parts.items()]] + [["all", f"{sizes.total / 1e6:,.1f}"]]


def of(row: dict[str, Any]) -> list[str]:
    return [row["training"], row["layout"], row["reference"] or "-"]


def times(rows: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    most = max(row["devices"] for row in rows)
    seen: dict[tuple, dict] = {tuple(of(row)): row for row in rows if row["devices"] == most}
    for row in seen.values():
        yield [*of(row), f"{row['trainable'] / 1e6:,.1f}", f"{row['examples_per_step']}", f"{row['steps']:,}",
               f"{row['tokens_per_step']:,.0f}", short(row["flops_per_step"] / 1e12),
               f"{row['examples_per_second']:.1f}", short(row["hours"]),
               *(f"{row[part]:.2g}" if row[part] else "-" for part in EXTRA)]  # fmt: skip


def memories(rows: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    for row in rows:
        held = row["held"]
        yield [*of(row), row["trainer"], *(short(held[p]) if held[p] else "-" for p in PARTS),
               short(held["total"]), "yes" if row["fits"] else "**no**"]  # fmt: skip


def wholes(rows: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    found = {(row["training"], row["layout"]): row["logits_whole"] for row in rows}
    for (training, layout), whole in found.items():
        yield [training, layout, short(whole)]
