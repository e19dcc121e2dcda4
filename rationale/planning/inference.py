"""Stages that run a model without training it: what they read and say, what a device holds, and how long it takes."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch

from rationale.models.families import LANGUAGE
from rationale.models.reference import KINDS
from rationale.planning import activations, flops
from rationale.planning.sizes import Rows, Sizes
from rationale.planning.table import GIB, Hardware, Tokens
from rationale.settings import Count, Limit, settings

MOST = 2**14  # the largest batch_size that is tried


@settings
class Inference:
    """Sampling, scoring or evaluation: to each of its `questions` several `responses`, which share image and prompt.

    `batch_size` is the stage's own and counts `unit` responses as one: all samples of a question, or a single one.
    `steps` are those in which a batch is decoded, as many as its longest response has tokens; 0: responses are there,
    and are read at once. `times` says how often the method runs the stage; one with a `reference`, which is DPO's, runs
    only where that is scored. `mean` decides over time, `longest` over memory. Every process has the whole model, in
    `dtype`, and a share of the batches.
    """

    name: str
    times: Limit
    questions: Count
    responses: Count
    batch_size: Count
    unit: Count
    steps: Limit
    dtype: Literal["float32", "bfloat16", "float16"]
    mean: Tokens
    longest: Tokens
    reference: Literal[KINDS] | None = None

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return getattr(torch, self.dtype).itemsize

    def batch(self, tokens: Tokens, batch_size: int) -> tuple[Rows, Rows]:
        """Prompts with their images, each once, and what is said after them."""
        number = batch_size * self.unit
        prompts = Rows(math.ceil(number / self.responses), **asdict(tokens) | {"response": 0})
        return prompts, Rows(number, tiles=0, tile_tokens=0, image=0, prompt=0, response=tokens.response)


def operations(sizes: Sizes, prompts: Rows, said: Rows) -> tuple[float, float]:
    """Of a batch: to read its prompts, and to read or say what follows them. Each token of a response looks at its
    prompt and at its own response: by custom all of it, though a token that is said sees half of it on average."""
    across = 4 * sizes.text.count * sizes.text.attention * said.tokens * prompts.prefix
    return sum(flops.forward(sizes, prompts).values()), sum(flops.forward(sizes, said).values()) + across


def cache(sizes: Sizes, prompts: Rows, said: Rows, width: int) -> tuple[int, int]:
    """Bytes of the keys and values of every layer: of prompts, and of what is said (`models.cache`). Layers that
    are no full attention hold less, and a model that cannot share a prompt holds it once a response."""
    token = 2 * sizes.text.count * sizes.text.keys * width
    return token * prompts.tokens, token * said.tokens


def held(sizes: Sizes, stage: Inference, batch_size: int) -> dict[str, float]:
    """Bytes on a device: weights, caches, and the tensors of a forward pass at the most.

    What is said has room that doubles whenever it is full, so up to twice its tokens. The pass holds one layer, bounded
    by what training would keep of it; decoding also the logits of all rows, as they come, in float32, as probabilities,
    and these once more for the rows that go on. Scoring in half precision keeps no cache: there this is a bound.
    """
    prompts, said = stage.batch(stage.longest, batch_size)
    early, late = cache(sizes, prompts, said, stage.width)
    layer, scored = (activations.text_layer(sizes, rows, stage.width, varlen=True) for rows in (prompts, said))
    last = scored + activations.logits(sizes, said, stage.width)[0]
    if stage.steps:
        last = said.rows * sizes.vocabulary * (3 * activations.FLOAT + stage.width)
    most = max(layer, activations.vision_layer(sizes, prompts, stage.width), last)
    found = {"weights": stage.width * sizes.total, "cache": early + 2 * late, "pass": most}
    return found | {"total": sum(found.values())}


def hours(sizes: Sizes, stage: Inference, batch_size: int, hardware: Hardware) -> tuple[float, str]:
    """Of a run on one device, at least, and what bounds it after the prompts: the slowest of three.

    `operations` at the achieved share of the peak. `bandwidth`: each step reads the language model's weights and the
    prompts' cache once, whatever the rows, and each row what it has said so far. `launches`: Python starts the kernels
    of each layer one after another. Rows that have ended leave the batch, so what they cost goes by the mean length,
    while weights are read until the longest has ended.
    """
    prompts, said = stage.batch(stage.mean, batch_size)
    read, following = operations(sizes, prompts, said)
    early, late = cache(sizes, prompts, said, stage.width)
    weights = stage.width * (sizes.parts[LANGUAGE].multiplied + sizes.text.width * sizes.vocabulary)
    steps = max(1, stage.steps)
    seen = late * (said.response / 2 if stage.steps else 1)
    bounds = {
        "operations": following / hardware.speed,
        "bandwidth": (steps * (weights + early) + seen) / hardware.bandwidth,
        "launches": steps * sizes.text.count * hardware.launch,
    }
    slowest = max(bounds, key=bounds.__getitem__)
    batches = stage.questions * stage.responses / said.rows
    return batches * (read / hardware.speed + bounds[slowest]) / 3600, slowest


def outcome(sizes: Sizes, stage: Inference, hardware: Hardware) -> dict[str, Any]:
    """A row of the plan: tokens, operations and hours of one run on one device; processes share its batches evenly."""
    prompts, said = stage.batch(stage.mean, stage.batch_size)
    batches = stage.questions * stage.responses / said.rows
    time, bound = hours(sizes, stage, stage.batch_size, hardware)
    memory = held(sizes, stage, stage.batch_size)
    largest = bisect_right(range(1, MOST), hardware.usable, key=lambda size: held(sizes, stage, size)["total"])
    return {
        "stage": stage.name, "times": stage.times if stage.reference in (None, "scored") else 0,
        "questions": stage.questions, "responses": stage.responses,
        "batch_size": stage.batch_size, "tokens_read": batches * prompts.tokens, "tokens_said": batches * said.tokens,
        "flops": batches * sum(operations(sizes, prompts, said)), "bound": bound, "hours": time,
        "held": {part: number / GIB for part, number in memory.items()}, "fits": memory["total"] <= hardware.usable,
        "largest_batch_size": largest,
        "hours_at_largest": hours(sizes, stage, largest, hardware)[0] if largest else None,
    }  # fmt: skip


def by_devices(trainings: Sequence[dict], inferences: Sequence[dict], counts: Sequence[int]) -> dict[str, dict]:
    """Hours of the method's stages, each training as its own config has it, and of all of them: by number of devices,
    with whether their part fits on each (a training's by any trainer that was planned)."""
    found = {}
    for name in dict.fromkeys(row["training"] for row in trainings):
        own = [row for row in trainings if row["own"] and row["training"] == name]
        all_work = own[0]["devices"] * (own[0]["hours"] + own[0]["hours_validation"])
        found[name] = {n: (all_work / n, any(n in row["fits_on"] for row in own)) for n in counts}
    for row in inferences:
        if row["times"]:
            found[row["stage"]] = {n: (row["times"] * row["hours"] / n, row["fits"]) for n in counts}
    each = {n: [stage[n] for stage in found.values()] for n in counts}
    return found | {"all": {n: (sum(h for h, _ in parts), all(fits for _, fits in parts)) for n, parts in each.items()}}


@settings
class Distillation:
    """A served teacher is asked `questions` once each: tokens of the image as it counts them, of the prompt, and of an
    answer. Prices are dollars per million tokens times `factor`, null where they are not known."""

    questions: Count
    image: Count
    prompt: Count
    response: Count
    input_price: float | None = None
    output_price: float | None = None
    factor: float = 1.0

    def outcome(self) -> dict[str, Any]:
        tokens = self.questions * (self.image + self.prompt), self.questions * self.response
        known = None not in (self.input_price, self.output_price)
        dollars = self.factor * (tokens[0] * self.input_price + tokens[1] * self.output_price) / 1e6 if known else None
        return {"questions": self.questions, "tokens_in": tokens[0], "tokens_out": tokens[1], "dollars": dollars}
