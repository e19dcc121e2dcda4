"""A plan as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rationale.markdown import table
from rationale.planning.sizes import Sizes
from rationale.planning.table import Hardware

PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "logits", "buffers", "host")


def markdown(title: str, sizes: Sizes, found: dict[str, Any], hardware: Hardware) -> str:
    """Parameters; trainings by layout and reference, and their memory by trainer; the other stages; hours of all."""
    rows, counts = found["trainings"], hardware.counts
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
        *table(["stage", *map(str, counts)], spans(found["hours"], counts)), "",
        asked(found["distillation"]), "",
        "## Parameters", "", *table(["part", "millions"], parameters(sizes)), "",
        "## Trainings: tokens, operations, hours", "",
        "Means of the data; all devices; hours of training alone, beside them those of measuring held-out rows.", "",
        *table(["training", "layout", "reference", "trained, millions", "examples a step", "steps", "tokens a step",
                "TFLOPs a step", "examples a second", "hours", "validation"], times(rows)), "",
        "## Trainings: memory on a device, GiB", "",
        "The longest rows. `at most` is the largest of three moments: forward and backward, the optimizer's step, and "
        "the start, when DeepSpeed has the whole model on every device. `buffers` are gradients on their way to other "
        "devices, gathered parameters, and bfloat16 copies of float32 weights, which trainers without DeepSpeed train "
        "(model.dtype=float32). `host` is a device's share of the machine's memory, where parts are offloaded to it: "
        "possible, but slower than the hours above say.", "",
        *table(["training", "layout", "reference", "trainer", *PARTS, "at most", "fits"], memories(rows)), "",
        "The head's logits are made in tiles; at once they would take:", "",
        *table(["training", "layout", "logits at once, GiB"], wholes(rows)), "",
        "## Other stages: one run on one device", "",
        "Each process has the whole model and a share of the batches. A prompt and its image are read once for all "
        "responses to it, and their keys and values held once. Tokens and hours of the mean; hours are those at least "
        "that the slowest takes of operations, the memory (for each token of a batch's longest response weights and "
        "caches are read) and launches (Python starts kernels one by one): a larger batch_size spares the last two. "
        "Memory in GiB, of the longest rows; `largest` is the largest batch_size that fits, and its hours.", "",
        *table(["stage", "runs", "questions", "responses each", "million tokens read", "and said", "PFLOPs", "hours",
                "bound by", "weights", "cache", "pass", "at most", "fits", "batch_size", "largest", "hours then"],
               others(found["inferences"])), "",
    ])  # fmt: skip


def asked(row: dict[str, Any]) -> str:
    cost = "prices are not known" if row["dollars"] is None else f"${row['dollars']:,.0f}"
    return (
        f"Beside it distil, where a served teacher is asked about {row['questions']:,} questions: "
        f"{row['tokens_in'] / 1e6:,.1f} million tokens in, {row['tokens_out'] / 1e6:,.1f} out; {cost}."
    )


def spans(hours: dict[str, dict[int, Any]], counts: Sequence[int]) -> Iterable[list[str]]:
    for stage, by_count in hours.items():
        yield [stage, *(short(by_count[n][0]) + "*" * (not by_count[n][1]) for n in counts)]


def others(rows: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    for row in rows:
        yield [row["stage"], str(row["times"]), f"{row['questions']:,}", str(row["responses"]),
               *(short(row[f"tokens_{part}"] / 1e6) for part in ("read", "said")), short(row["flops"] / 1e15),
               short(row["hours"]), row["bound"], *map(short, row["held"].values()), "yes" if row["fits"] else "**no**",
               str(row["batch_size"]), str(row["largest_batch_size"]),
               short(row["hours_at_largest"]) if row["largest_batch_size"] else "-"]  # fmt: skip


def short(number: float) -> str:
    """Three digits, or all before the point."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


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
               f"{row['hours_validation']:.2g}" if row["hours_validation"] else "-"]  # fmt: skip


def memories(rows: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    for row in rows:
        held = row["held"]
        yield [*of(row), row["trainer"], *(short(held[p]) if held[p] else "-" for p in PARTS),
               short(held["total"]), "yes" if row["fits"] else "**no**"]  # fmt: skip


def wholes(rows: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    found = {(row["training"], row["layout"]): row["logits_whole"] for row in rows}
    for (training, layout), whole in found.items():
        yield [training, layout, short(whole)]
