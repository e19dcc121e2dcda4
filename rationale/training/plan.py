"""The order of training, planned before it starts: the same for the same seed, and resumable at any step."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, cycle, islice, pairwise
from random import Random
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Sampler

from rationale.artifacts import UserError
from rationale.settings import Count


@dataclass(frozen=True, slots=True)
class Plan:
    """Micro-batches of indices in training order; `accumulate` of them make an optimizer step. `left_out` are the
    indices that each epoch does without."""

    micro_batches: list[list[int]]
    accumulate: int
    left_out: list[list[int]] = field(default_factory=list)

    @property
    def num_steps(self) -> int:
        return len(self.micro_batches) // self.accumulate

    def step_of(self, micro: int) -> list[int]:
        """All indices of the optimizer step that a micro-batch belongs to, as often as they stand in it."""
        first = micro - micro % self.accumulate
        return [i for batch in self.micro_batches[first : first + self.accumulate] for i in batch]

    def counts(self, steps: int) -> dict[str, Any]:
        """Rows that each epoch leaves out, and those that are in none of the first `steps` steps."""
        trained = set(chain.from_iterable(self.micro_batches[: steps * self.accumulate]))
        planned = set(chain.from_iterable(self.micro_batches + self.left_out))
        return {"left_out": [len(rows) for rows in self.left_out], "never_trained_on": len(planned) - len(trained)}


def plan(
    lengths: Sequence[Any],
    micro_batch: Count,
    accumulate: Count,
    epochs: Count,
    seed: int,
    window: int = 32,
    shuffle: bool = True,
    drop_last: bool = True,
) -> Plan:
    """Shuffle, sort by length within every `window` steps, cut into steps, shuffle the steps of a window.

    `lengths` are whatever sorts rows of like length together: token counts, or tuples that hold them.

    Sorting by length keeps padding low and leaves the composition of the data over a window random. What does not
    fill a step is set apart before anything is sorted, so a row's length has no part in it: each epoch leaves other
    len(lengths) mod step rows out, or with `drop_last=False` ends with a smaller step of them. Fewer rows than one
    step are such a step either way. `shuffle=False` keeps the given order (a curriculum) and sorts nothing.
    """
    step = micro_batch * accumulate
    size = len(lengths)
    whole = size - size % step
    micro_batches: list[list[int]] = []
    left_out: list[list[int]] = []
    for epoch in range(epochs):
        order, rng = list(range(size)), Random(f"{seed}/{epoch}")
        if shuffle:
            rng.shuffle(order)
        rest = order[whole:]
        size_of_window = step * window if shuffle else step
        for start in range(0, whole, size_of_window):
            chunk = order[start : min(start + size_of_window, whole)]
            if shuffle:
                chunk.sort(key=lambda i: lengths[i])
            steps = [chunk[i : i + step] for i in range(0, len(chunk), step)]
            if shuffle:
                rng.shuffle(steps)
            micro_batches += [batch for indices in steps for batch in _cut(indices, accumulate)]
        drops = drop_last and whole > 0
        left_out.append(rest if drops else [])
        if rest and not drops:
            micro_batches += _cut(sorted(rest, key=lambda i: lengths[i]) if shuffle else rest, accumulate)
    return Plan(micro_batches, accumulate, left_out)


def _cut(indices: list[int], parts: int) -> list[list[int]]:
    """A step in as many micro-batches as every other has, none of them empty: where the rows are fewer, some stand in
    several, and count as `copies` says."""
    if len(indices) < parts:
        return [[indices[part % len(indices)]] for part in range(parts)]
    cuts = [part * len(indices) // parts for part in range(parts + 1)]
    return [indices[start:end] for start, end in pairwise(cuts)]


def copies(indices: list[int], step: list[int]) -> int:
    """How many micro-batches of its step the rows of a micro-batch stand in. Each weighs one part of them in each, so
    the step's mean is that over its rows."""
    return step.count(indices[0])


def length_key(tokens: int, prompt: int, images: int = 1) -> tuple[int, int, int]:
    """Sorts rows that pad little beside one another together: those with as many images, of about as many `tokens`
    after what is shared, and prompts of like length."""
    return images, tokens // 8, prompt


def grouped(order: Callable[[list], Plan], keys: Iterable[Hashable], length: Callable[[list[int]], Any]) -> Plan:
    """A plan of indices in which those that share a key, a group, stay together. `order` plans the groups, by first
    appearance, from what `length` says of each."""
    by_key: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        by_key.setdefault(key, []).append(index)
    groups = list(by_key.values())
    planned = order([length(group) for group in groups])
    micro_batches, left_out = (
        [[i for group in listed for i in groups[group]] for listed in lists]
        for lists in (planned.micro_batches, planned.left_out)
    )
    return Plan(micro_batches, planned.accumulate, left_out)


def _built(collate: Callable[[list[int], list[int]], Any], plan: Plan, micro: int) -> Any:
    return collate(plan.micro_batches[micro], plan.step_of(micro))


def held_out(keys: Sequence[str], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, and about a `fraction` of them to measure on; those of one key are on one side together.

    The draw depends on (seed, key) alone, so adding rows never moves another's.
    """
    sides: tuple[list[int], list[int]] = [], []
    for index, key in enumerate(keys):
        sides[Random(f"{seed}/held out/{key}").random() < fraction].append(index)
    if fraction and not all(sides):
        raise UserError(f"validation.fraction={fraction} of {len(set(keys))} leaves one side empty; set another, or 0")
    return sides


class _Share(Sampler[int]):
    """One process's micro-batches from its `start`th on: number `rank` of every `world` of the plan.

    Its length is that of all of them, which is what Lightning counts a resume in.
    """

    def __init__(self, total: int, start: int, rank: int, world: int):
        self.micro_batches, self.start = range(rank, total, world), start

    def __iter__(self) -> Iterator[int]:
        return iter(self.micro_batches[self.start :])

    def __len__(self) -> int:
        return len(self.micro_batches)


class PlannedData(pl.LightningDataModule):
    """Batches in the planned order. `collate(indices, step_indices)` builds one micro-batch; it is told the whole
    optimizer step so that a loss can be a mean over the step however it is cut.

    Several processes share the micro-batches of every step, so the order is the same for any number of them.
    `held_out` are indices that are not in the plan: what the loss is measured on, in batches as large. `recipe` says
    what the batch of some indices is made of (training.nonfinite).
    """

    def __init__(
        self,
        plan: Plan,
        collate: Callable[[list[int], list[int]], Any],
        held_out: Sequence[int] = (),
        recipe: Callable[[list[int]], Any] | None = None,
    ):
        super().__init__()
        self.plan, self.collate, self.recipe = plan, collate, recipe
        self.workers = 0  # processes that build batches ahead; 0: the training process builds each when it is due
        size = max(map(len, plan.micro_batches), default=1)
        self.held_out = [list(held_out[i : i + size]) for i in range(0, len(held_out), size)]
        self.done, self.rank, self.world = 0, 0, 1  # steps, this process, processes

    def setup(self, stage: str) -> None:
        """Takes this process's place among all."""
        self.rank, self.world = self.trainer.global_rank, self.trainer.world_size

    def accumulate(self, world: int) -> int:
        """Micro-batches of a step that each of `world` processes takes."""
        if self.plan.accumulate % world:
            raise UserError(
                f"a step has {self.plan.accumulate} micro-batches, which {world} processes cannot share evenly; set "
                "batch.gradient_accumulation_steps to a multiple of their number"
            )
        return self.plan.accumulate // world

    def state_dict(self) -> dict[str, int]:
        return {"steps": self.trainer.global_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["steps"]

    def train_dataloader(self) -> DataLoader:
        start = self.done * self.accumulate(self.world)
        return self._loader(self.plan, start)

    def val_dataloader(self) -> DataLoader:
        """The held-out micro-batches, the first ones again where the processes cannot share them evenly: under ZeRO-3
        all must take part in every forward. `counts` says which are which."""
        again = islice(cycle(self.held_out), -(-len(self.held_out) // self.world) * self.world)
        return self._loader(Plan(list(again), 1), 0)

    def counts(self, index: int) -> bool:
        """Whether this process's `index`th held-out micro-batch is seen for the first time."""
        return index * self.world + self.rank < len(self.held_out)

    def _loader(self, plan: Plan, start: int) -> DataLoader:
        own = _Share(len(plan.micro_batches), start, self.rank, self.world)
        return DataLoader(
            range(len(plan.micro_batches)), batch_size=None, sampler=own, num_workers=self.workers,
            collate_fn=partial(_built, self.collate, plan), persistent_workers=self.workers > 0,
        )  # fmt: skip
