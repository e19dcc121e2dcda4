"""Bytes that one device holds in training, by trainer, as PyTorch, Lightning and DeepSpeed 0.19.8 hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from rationale.planning import activations
from rationale.planning.sizes import Rows, Sizes

WITHOUT_ZERO = ("cpu", "gpu", "ddp")
TRAINERS = (*WITHOUT_ZERO, "zero1", "zero2", "zero3", "zero3_offload")
FLOAT = 4  # bytes
BUCKET = 200_000_000  # numbers: reduce_bucket_size of Lightning's DeepSpeedStrategy
LIVE = 1_000_000_000  # numbers: stage3_max_live_parameters of DeepSpeed
SUB_GROUP = 100_000_000  # numbers of a device: training.strategy's
WHOLE = 100_000  # numbers: stage3_param_persistence_threshold of DeepSpeed


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes on a device, and of the machine's memory for it (`host`).

    Held all the time: `weights`, `gradients`, `optimizer` (moments, and float32 weights where the others are not),
    `reference`. In forward and backward also `activations`, `logits` and `buffers`; in the optimizer's step `step`
    instead. At the start, before anything is shared out, `start` in all.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    buffers: float
    step: float
    start: float
    host: float = 0.0
    activations: float = 0.0
    logits: float = 0.0

    @property
    def total(self) -> float:
        """At the most."""
        always = self.weights + self.gradients + self.optimizer + self.reference
        working = self.activations + self.logits + self.buffers
        return max(always + max(working, self.step), self.start)

    def scaled(self, unit: float) -> dict[str, float]:
        """All of it, in units of so many bytes."""
        return {name: number / unit for name, number in {**asdict(self), "total": self.total}.items()}


def states(sizes: Sizes, trainer: str, devices: int, width: int, copy: bool) -> Held:
    """What is held besides activations and logits.

    `width` bytes are a number in the type that is computed in (2: bfloat16), `copy` says whether the policy has a
    frozen copy as reference. The parts, for n devices, P parameters of which T train:

    - weights: `width` P, under DeepSpeed; it casts the whole module, reference included (engine.py,
      `_configure_distributed_model`). Elsewhere 4 P, as `training.checks` demands, but `width` for what lies frozen
      beneath a LoRA; and in forward and backward another 2 T (`buffers`), copies in bfloat16 that autocast keeps of
      what trains. ZeRO-3 holds P / n (`ds_tensor`), and those of at most 100,000 numbers whole besides, once
      gathered (parameter_offload.py, `mark_persistent_parameters`).
    - gradients: 4 T, or `width` T under DeepSpeed, which adds micro-batches up in the type of the weights
      (`get_data_types`: `grad_accum_dtype` is that of the model). Shared out from ZeRO-2 on: stage_1_and_2.py,
      `all_grad_tensors`, then `averaged_gradients`; stage3.py, `grad_partitions_flat_buffer`. ZeRO-1 holds all of
      them until the last micro-batch of a step was reduced.
    - optimizer: Adam's two moments in float32, 8 T, and float32 weights to step on, 4 T; shared out by every ZeRO
      (`single_partition_of_fp32_groups`, `fp32_partitioned_groups_flat`), even where the weights are float32
      themselves: ZeRO-3 means to spare the copy then, but compares a device with its name. Without ZeRO the weights
      are their own.
    - reference: a frozen copy, of the policy's size, is a part of the module, so shared out by ZeRO-3 alone.
    - buffers: DDP's buckets hold all gradients once more (Reducer; `gradient_as_bucket_view` is off). ZeRO-1 and 2
      have two buckets, for reducing while computing (`setup_buckets`); ZeRO-3 has one, the parameters it gathered,
      and the gradient of the largest.
    - step: a device's share of the gradients once more in float32 (`single_grad_partition`), and AdamW's square
      roots, which PyTorch makes of all second moments at once on a GPU (`foreach`).
    - start: ZeRO-3 puts the whole module on the device before it shares it out, and later makes float32 zeros of as
      many numbers as all devices together step on at a time (`sub_group_size`; stage3.py,
      `initialize_optimizer_states`).
    """
    p, t = sizes.total, sizes.trainable
    if trainer in WITHOUT_ZERO:
        cast = 0 if width == FLOAT else width * t
        buckets = FLOAT * t if trainer == "ddp" else 0
        weights = FLOAT * t + width * (p - t) if sizes.adapted else FLOAT * p
        reference = weights if copy else 0
        return Held(weights, FLOAT * t, 2 * FLOAT * t, reference, cast + buckets, FLOAT * t, weights + reference)
    stage, n, frozen, largest = int(trainer[4]), devices, p * copy, max(sizes.numels)
    moments, master, gradients = 2 * FLOAT * t / n, FLOAT * t / n, width * t
    step, start = 2 * FLOAT * t / n, width * (p + frozen)
    if stage < 3:
        shared = gradients if stage == 1 else gradients / n
        buffers = 2 * width * BUCKET + width * largest
        return Held(width * p, shared, moments + master, width * frozen, buffers, step, start)
    small = sum(number for number in sizes.numels if number <= WHOLE)
    gathered = width * min(LIVE, p - small) + width * largest
    if trainer == "zero3_offload":
        host = (width * (p + frozen) + gradients) / n + moments + FLOAT * t / n + step
        return Held(width * small, 0, 0, width * small * copy, width * BUCKET + gathered, 0, start, host)
    held = width * (p / n + small)
    start = max(start, (width * (p + frozen)) / n + master + FLOAT * min(t, n * SUB_GROUP))
    return Held(held, gradients / n, moments + master, held * copy, width * BUCKET + gathered, step, start)


def held(
    sizes: Sizes, rows: Rows, trainer: str, devices: int, width: int, checkpointing: bool, reference: str | None
) -> Held:
    """All that a device holds for a micro-batch of `rows`."""
    autocast = trainer in WITHOUT_ZERO and width < FLOAT
    kept = activations.saved(sizes, rows, width, checkpointing, trainer != "cpu", autocast, peak=True)
    tile, _ = activations.logits(sizes, rows, width)
    return replace(states(sizes, trainer, devices, width, reference == "frozen"), activations=kept, logits=tile)
