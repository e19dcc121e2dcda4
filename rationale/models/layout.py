"""The two layouts of a batch: a row for each response, or a row for each image that its responses share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rationale.artifacts import UserError
from rationale.models.batch import PER_TOKEN, Batch, Example, continued, padded
from rationale.objectives.logprobs import IGNORE

# Of one row: masked, attention among more branches costs a small model more than another prefix would.
BRANCH_TOKENS = 2048
Prompts = Callable[[Sequence[Example]], dict[str, Tensor]]


def rows_about(examples: Sequence[Example], sizes: Sequence[int] | None = None) -> list[int]:
    """The number of the row that each example shares with the others about its images, in order of appearance. With
    `sizes`, the tokens of their responses, a row holds at most BRANCH_TOKENS; without, any number."""
    rows: list[int] = []
    current: dict[Any, int] = {}  # the row that is being filled
    filled: list[int] = []
    for example, size in zip(examples, sizes or [0] * len(examples), strict=True):
        row = current.get(example.about)
        if row is None or filled[row] + size > BRANCH_TOKENS:
            row = current[example.about] = len(filled)
            filled.append(0)
        filled[row] += size
        rows.append(row)
    return rows


def rows_batch(examples: Sequence[Example], responses: list[list[int]], prompts: Prompts, pad: int) -> Batch:
    """A row for each example. `prompts` is the processor on some examples' prompts, left-padded."""
    inputs, labels = prompts(examples), padded(responses, IGNORE)
    present, width = labels != IGNORE, inputs["input_ids"].shape[1]
    inputs = continued(inputs, labels.masked_fill(~present, pad), present)
    length = width + labels.shape[1]
    return Batch(inputs, labels, torch.arange(len(labels))[:, None] * length + torch.arange(width - 1, length - 1))


def tree_batch(
    examples: Sequence[Example], responses: list[list[int]], prompts: Prompts, image_token: int, pad: int
) -> Batch:
    """A row for each image, in order of first appearance: what its prompts begin with alike, then a branch for each
    example with the rest of its prompt and its response (models.prefix)."""
    row_of = rows_about(examples, [len(response) for response in responses])
    inputs, rests = shared_prefixes(examples, row_of, prompts, image_token, pad)
    number, width = inputs["input_ids"].shape
    tokens, segments, depth = ([[] for _ in range(number)] for _ in range(3))
    labels = padded(responses, IGNORE)
    sources = torch.zeros_like(labels)
    for index, (rest, response, row) in enumerate(zip(rests, responses, row_of, strict=True)):
        start = width + len(tokens[row]) + len(rest)  # of the response in its row; the token before it predicts it
        before = [start - 1 if rest else width - 1, *range(start, start + len(response) - 1)]
        sources[index, : len(response)] = torch.tensor(before[: len(response)])
        tokens[row] += rest + response
        segments[row] += [max(segments[row], default=0) + 1] * len(rest + response)
        depth[row] += range(len(rest + response))
    late, branch = padded(tokens, pad), padded(segments, -1)
    first = inputs["attention_mask"] - 1  # 0 in the prefix, -1 where it is padded
    inputs = continued(inputs, late, branch > 0)
    sources += torch.tensor(row_of)[:, None] * inputs["input_ids"].shape[1]
    steps = torch.cat([torch.zeros_like(first), padded(depth, 0)], 1)
    return Batch(inputs, labels, sources, torch.cat([first, branch], 1), steps, width)


def shared_prefixes(
    examples: Sequence[Example], row_of: Sequence[int], prompts: Prompts, image_token: int, pad: int, spare: int = 0
) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The inputs of each row's prefix, left-padded: what the prompts of its examples begin with alike; and of each
    example's prompt the rest, of at least `spare` tokens. `row_of` is the row of each example, in order of appearance.
    """
    heads = [examples[row_of.index(row)] for row in range(max(row_of) + 1)]
    inputs = prompts(heads)
    ids = _ids(heads, inputs)
    if others := {(e.images, e.prompt): e for e in examples if (e.images, e.prompt) not in ids}:
        ids |= _ids(others.values(), prompts(list(others.values())))
    prefixes = []
    for number, head in enumerate(heads):
        held = [ids[e.images, e.prompt] for e, row in zip(examples, row_of, strict=True) if row == number]
        same = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*held, strict=False)))
        prefixes.append(held[0][: min(same, min(map(len, held)) - spare)])
        if image_token in held[0][len(prefixes[-1]) :]:
            raise UserError(
                f"{head.question_id}: the chat template puts the image after the prompt's text, so different prompts "
                "about one image share nothing; set layout=rows"
            )
    lengths = inputs["attention_mask"].sum(1).tolist()
    for name in set(inputs) & set(PER_TOKEN):
        left = [v[len(v) - n :][: len(p)] for v, n, p in zip(inputs[name].tolist(), lengths, prefixes, strict=True)]
        inputs[name] = padded(left, pad if name == "input_ids" else 0, left=True)
    rests = [ids[e.images, e.prompt][len(prefixes[row]) :] for e, row in zip(examples, row_of, strict=True)]
    return inputs, rests


def _ids(examples: Iterable[Example], encoded: dict[str, Tensor]) -> dict[tuple[tuple[Path, ...], str], list[int]]:
    """Token ids of the examples' prompts, by images and prompt."""
    lines = zip(examples, encoded["input_ids"], encoded["attention_mask"].bool(), strict=True)
    return {(e.images, e.prompt): ids[kept].tolist() for e, ids, kept in lines}
