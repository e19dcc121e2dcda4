"""A plan as Markdown."""

from __future__ import annotations

from typing import Any

from rationale.markdown import table
from rationale.planning.sizes import Sizes
from rationale.planning.table import Hardware

PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "logits", "buffers", "host")
ANSWER = {True: "yes", False: "**no**"}


def markdown(title: str, sizes: Sizes, found: dict[str, Any], hardware: Hardware) -> str:
    """Parameters; trainings by layout and reference, and their memory by trainer; the other stages; hours of all."""
    rows, counts, asked = found["trainings"], hardware.counts, found["distillation"]
    most = max(row["devices"] for row in rows)
    ways = {tuple(way(row)): row for row in rows if row["devices"] == most}
    wholes = {(row["training"], row["layout"]): row["logits_whole"] for row in rows}
    cost = "prices are not known" if asked["dollars"] is None else f"${asked['dollars']:,.0f}"
    return "\n".join([
        f"# Plan: {title} on {hardware.name}", "",
        f"{hardware.devices} devices, {hardware.usable / 2**30:.1f} GiB for tensors on each, "
        f"{hardware.peak / 1e12:,.3g} TFLOP/s at the peak, {hardware.achieved:.0%} of it assumed; memory is read at "
        f"{hardware.bandwidth / 1e9:,.0f} GB/s; to start a layer's kernels takes {hardware.launch * 1e3:.3g} ms.", "",
        "## Hours by number of devices", "",
        "The method once: each training laid out as its config has it, held-out rows measured; the other stages share "
        "their batches among processes. `*`: does not fit so many devices, a training with no trainer of the tables "
        "below that keeps off the host's memory, another stage with its batch_size. Not counted: start, saving, "
        "waiting for data, and networks between machines.", "",
        *table(["stage", *map(str, counts)], (
            [stage, *(short(by_count[n][0]) + "*" * (not by_count[n][1]) for n in counts)]
            for stage, by_count in found["hours"].items()
        )), "",
        f"Beside it distil, where a served teacher is asked about {asked['questions']:,} questions: "
        f"{asked['tokens_in'] / 1e6:,.1f} million tokens in, {asked['tokens_out'] / 1e6:,.1f} out; {cost}.", "",
        "## Parameters", "",
        *table(["part", "millions"], (
            [name, f"{number / 1e6:,.1f}"]
            for name, number in [*((name, p.total) for name, p in sizes.parts.items()), ("all", sizes.total)]
        )), "",
        "## Trainings: tokens, operations, hours", "",
        "Means of the data; all devices; hours of training alone, beside them those of measuring held-out rows.", "",
        *table(["training", "layout", "reference", "trained, millions", "examples a step", "steps", "tokens a step",
                "TFLOPs a step", "examples a second", "hours", "validation"], (
            [*way(row), f"{row['trainable'] / 1e6:,.1f}", f"{row['examples_per_step']}", f"{row['steps']:,}",
             f"{row['tokens_per_step']:,.0f}", short(row["flops_per_step"] / 1e12), f"{row['examples_per_second']:.1f}",
             short(row["hours"]), f"{row['hours_validation']:.2g}" if row["hours_validation"] else "-"]
            for row in ways.values()
        )), "",
        "## Trainings: memory on a device, GiB", "",
        "The longest rows. `at most` is the largest of three moments: forward and backward, the optimizer's step, and "
        "the start, when DeepSpeed has the whole model on every device. `buffers` are gradients on their way to other "
        "devices, gathered parameters, and bfloat16 copies of float32 weights, which trainers without DeepSpeed train "
        "(model.dtype=float32). `host` is a device's share of the machine's memory, where parts are offloaded to it: "
        "possible, but slower than the hours above say.", "",
        *table(["training", "layout", "reference", "trainer", *PARTS, "at most", "fits"], (
            [*way(row), row["trainer"], *(short(row["held"][p]) if row["held"][p] else "-" for p in PARTS),
             short(row["held"]["total"]), ANSWER[row["fits"]]]
            for row in rows
        )), "",
        "The head's logits are made in tiles; at once they would take:", "",
        *table(["training", "layout", "logits at once, GiB"], ([*key, short(gib)] for key, gib in wholes.items())), "",
        "## Other stages: one run on one device", "",
        "Each process has the whole model and a share of the batches. A prompt and its image are read once for all "
        "responses to it, and their keys and values held once. Tokens and hours of the mean; hours are those at least "
        "that the slowest takes of operations, the memory (for each token of a batch's longest response weights and "
        "caches are read) and launches (Python starts kernels one by one): a larger batch_size spares the last two. "
        "Memory in GiB, of the longest rows; `largest` is the largest batch_size that fits, and its hours.", "",
        *table(["stage", "runs", "questions", "responses each", "million tokens read", "and said", "PFLOPs", "hours",
                "bound by", "weights", "cache", "pass", "at most", "fits", "batch_size", "largest", "hours then"], (
            [row["stage"], str(row["times"]), f"{row['questions']:,}", str(row["responses"]),
             *(short(row[f"tokens_{part}"] / 1e6) for part in ("read", "said")), short(row["flops"] / 1e15),
             short(row["hours"]), row["bound"], *map(short, row["held"].values()), ANSWER[row["fits"]],
             str(row["batch_size"]), str(row["largest_batch_size"]),
             short(row["hours_at_largest"]) if row["largest_batch_size"] else "-"]
            for row in found["inferences"]
        )), "",
    ])  # fmt: skip


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def way(row: dict[str, Any]) -> list[str]:
    return [row["training"], row["layout"], row["reference"] or "-"]
