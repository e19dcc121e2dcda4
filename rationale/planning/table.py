"""Rows of a plan: every way to run a training, what it holds on a device, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from rationale.artifacts import UserError
from rationale.models.reference import KINDS
from rationale.models.vlm import check_path
from rationale.planning import activations, flops, memory
from rationale.planning.sizes import Rows, Sizes, sizes
from rationale.settings import Count, Layout, Limit, NonNegative, Positive, PositiveFraction, Validation, settings

GIB = 2**30


@settings
class Hardware:
    """Devices of one kind. `memory` is what PyTorch sees of each in bytes, `spare` the part of it that no tensor gets,
    `peak` the operations a second by its data sheet, `achieved` the share of them that a training reaches. `bandwidth`
    are the bytes a second of its memory by its data sheet, `launch` the seconds that Python takes to start the kernels
    of one layer of a language model when it decodes."""

    name: str
    devices: Count
    memory: Positive
    spare: NonNegative
    peak: Positive
    achieved: PositiveFraction
    bandwidth: Positive
    launch: NonNegative

    @property
    def usable(self) -> float:
        """Bytes for tensors."""
        return self.memory - self.spare

    @property
    def speed(self) -> float:
        """Operations a second of one device."""
        return self.peak * self.achieved

    @property
    def counts(self) -> list[int]:
        """Numbers of devices that hours are told for: powers of two, up to twice as many as there are."""
        return sorted({2**power for power in range((2 * self.devices).bit_length())} | {self.devices})


@settings
class Tokens:
    """Tokens of an image, prompt and response, and tiles of an image with the patches of each."""

    tiles: Positive
    tile_tokens: Count
    image: Count
    prompt: Count
    response: Count


@settings
class Training:
    """What is trained on: `examples` of `responses` each (2: pairs), as its own config has it.

    `mean` decides over time, `longest` over memory. `shared` are ways to lay out a row, by the number of examples in
    it (0: a row for each response); a batch counts examples, or with `group_by` image or question the fullest rows,
    as training does. `references` are kinds to plan for, `layout` and `reference` those of the training's own config;
    `adapter` is the LoRA of adapter_off where the training has none.
    """

    name: str
    examples: Count
    responses: Count
    micro: Count
    accumulate: Count
    group_by: Literal["example", "image", "pair", "question"]
    epochs: Count
    frozen_parts: list[str]
    lora: dict[str, Any] | None
    checkpointing: bool
    mean: Tokens
    longest: Tokens
    shared: dict[str, Limit]
    layout: Layout
    reference: Literal[KINDS] | None
    references: list[Literal[KINDS]]
    validation: Validation
    adapter: dict[str, Any] | None = None

    @property
    def fullest(self) -> int:
        """Examples of the fullest row, which a batch counts as one."""
        return max(self.shared.values()) if self.group_by in ("image", "question") else 1

    @property
    def own(self) -> int:
        """Examples of a row as its config has it: of the ways in `shared` the one that comes nearest."""
        most = 0 if self.layout == "rows" else self.fullest
        return max((number for number in self.shared.values() if number <= most), default=max(self.shared.values()))

    def rows(self, tokens: Tokens, together: int) -> tuple[Rows, int]:
        """A micro-batch, and the examples in it: at least those of one row."""
        micro = self.micro * self.fullest
        if not together:
            return Rows(rows=micro * self.responses, **asdict(tokens)), micro
        number = max(1, micro // together)
        return Rows(rows=number, branches=together * self.responses, **asdict(tokens)), number * together


def plan(
    path: str, trainings: Sequence[Training], trainers: Sequence[str], hardware: Hardware, precision: str
) -> Iterator[dict[str, Any]]:
    """A row for each training, layout, reference and trainer; `own` are those of the training's own config."""
    check_path(path)
    width = 2 if precision.startswith("bf16") else memory.FLOAT
    for training in trainings:
        for reference in dict.fromkeys([*training.references, training.reference]):
            adapted = training.lora or (training.adapter if reference == "adapter_off" else None)
            if reference == "adapter_off" and adapted is None:
                raise UserError(f"{training.name}: the reference adapter_off needs a LoRA; set plan.adapter")
            model = sizes(path, training.frozen_parts, adapted)
            for layout, together in training.shared.items():
                cost = costs(model, training, together, reference)
                rows, _ = training.rows(training.longest, together)
                needs = partial(memory.held, model, rows, width=width, checkpointing=training.checkpointing,
                                reference=reference)  # fmt: skip
                named = {"training": training.name, "layout": layout, "reference": reference, "lora": bool(adapted)}
                named["own"] = (together, reference) == (training.own, training.reference)
                whole = activations.logits(model, rows, width)[1] / GIB
                for trainer in trainers:
                    result = outcome(cost, trainer, hardware, needs, whole)
                    yield {**named, "trainer": trainer, "trainable": model.trainable, **cost, **result}


def costs(sizes: Sizes, training: Training, together: int, reference: str | None) -> dict[str, Any]:
    """Tokens and operations of a training, whatever it runs on; `validation` is all measuring of held-out examples."""
    rows, examples = training.rows(training.mean, together)
    step = examples * training.accumulate
    micro = flops.training(sizes, rows, training.checkpointing, reference)
    once = sum(flops.forward(sizes, rows).values()) * training.examples / examples
    passes = 1 + (reference in ("frozen", "adapter_off"))
    measured = training.validation.fraction / training.validation.every
    return {
        "examples": training.examples, "examples_per_step": step, "accumulate": training.accumulate,
        "rows_per_micro_batch": rows.rows, "steps": training.examples // step * training.epochs,
        "tokens_per_step": rows.tokens * training.accumulate, "flops_per_step": micro * training.accumulate,
        "flops_validation": passes * measured * once,
    }  # fmt: skip


def outcome(
    cost: dict[str, Any], trainer: str, hardware: Hardware, needs: Callable[..., memory.Held], logits_whole: float
) -> dict[str, Any]:
    """Memory on a device in GiB, whether it fits, and hours: operations by what the devices do at the achieved share.
    `fits_on` are the numbers of devices on which it fits without the host's memory.

    Communication is not apart: the share was seen where parameters are shared out like in ZeRO-3, which gathers 17 GB
    for an 8B model in some 40 ms (NVLink, 450 GB/s) where a micro-batch takes a second. Offloading takes far longer
    than is said here, and two machines longer, by what their network takes.
    """
    devices, able = (1, [1]) if trainer in ("cpu", "gpu") else (hardware.devices, hardware.counts)
    if cost["accumulate"] % devices:
        raise UserError(
            f"a step has {cost['accumulate']} micro-batches, which {devices} devices cannot share evenly; set "
            "batch.gradient_accumulation_steps to a multiple of their number"
        )
    held, speed = needs(trainer=trainer, devices=devices), devices * hardware.speed
    seconds = cost["flops_per_step"] / speed
    by_count = {n: needs(trainer=trainer, devices=n) for n in able}
    return {
        "devices": devices, "held": held.scaled(GIB), "logits_whole": logits_whole,
        "fits": held.total <= hardware.usable,
        "fits_on": [n for n, need in by_count.items() if need.total <= hardware.usable and not need.host],
        "hours": cost["steps"] * seconds / 3600, "hours_validation": cost["flops_validation"] / speed / 3600,
        "examples_per_second": cost["examples_per_step"] / seconds,
    }  # fmt: skip
