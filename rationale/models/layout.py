"""The two layouts of a batch: a row for each response, or a row for each image that its responses share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rationale.artifacts import UserError
from rationale.models.batch import PER_TOKEN, Batch, Example, continued, padded
from rationale.objectives.logprobs import IGNORE

# Of one row: masked, attention among more branches costs a small model more than another prefix would.
BRANCH_TOKENS = 2048
Prompts = Callable[[Sequence[Example]], dict[str, Tensor]]


def rows_batch(examples: Sequence[Example], responses: list[list[int]], prompts: Prompts, pad: int) -> Batch:
    """A row for each example. `prompts` is the processor on some examples' prompts, left-padded."""
    inputs, labels = prompts(examples), padded(responses, IGNORE)
    present, width = labels != IGNORE, inputs["input_ids"].shape[1]
    for name in set(inputs) & set(PER_TOKEN):
        inputs[name] = torch.cat([inputs[name], continued(name, labels.masked_fill(~present, pad), present)], 1)
    length = width + labels.shape[1]
    return Batch(inputs, labels, torch.arange(len(labels))[:, None] * length + torch.arange(width - 1, length - 1))


def tree_batch(
    examples: Sequence[Example], responses: list[list[int]], prompts: Prompts, image_token: int, pad: int
) -> Batch:
    """A row for each image, in order of first appearance: what its prompts begin with alike, then a branch for each
    example with the rest of its prompt and its response (models.prefix).

    An image with more than BRANCH_TOKENS response tokens has several rows.
    """
    row_of = _assign(examples, responses)
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
    for name in set(inputs) & set(PER_TOKEN):
        inputs[name] = torch.cat([inputs[name], continued(name, late, branch > 0)], 1)
    sources += torch.tensor(row_of)[:, None] * inputs["input_ids"].shape[1]
    steps = torch.cat([torch.zeros_like(first), padded(depth, 0)], 1)
    return Batch(inputs, labels, sources, torch.cat([first, branch], 1), steps, width)


def shared_prefixes(
    examples: Sequence[Example], row_of: Sequence[int], prompts: Prompts, image_token: int, pad: int, spare: int = 0
) -> tuple[dict[str, Tensor], list[list[int]]]:
    """The inputs of each row's prefix, left-padded: what the prompts of its examples begin with alike; and of each
    example's prompt the rest, of at least `spare` tokens. `row_of` is the row of each example, in order of appearance.
    """
    first = dict(zip(reversed(row_of), reversed(examples), strict=True))
    heads = [first[row] for row in sorted(first)]
    inputs = prompts(heads)
    ids = _ids(heads, inputs)
    if others := {(e.image, e.prompt): e for e in examples if (e.image, e.prompt) not in ids}:
        ids |= _ids(others.values(), prompts(list(others.values())))
    prefixes = []
    for number, head in enumerate(heads):
        held = [ids[e.image, e.prompt] for e, row in zip(examples, row_of, strict=True) if row == number]
        common = _common(held)
        prefixes.append(common[: min(len(common), min(map(len, held)) - spare)])
        if image_token in held[0][len(prefixes[-1]) :]:
            raise UserError(
                f"{head.question_id}: the chat template puts the image after the prompt's text, so different prompts "
                "about one image share nothing; set layout=rows"
            )
    lengths = inputs["attention_mask"].sum(1).tolist()
    for name in set(inputs) & set(PER_TOKEN):
        left = [v[len(v) - n :][: len(p)] for v, n, p in zip(inputs[name].tolist(), lengths, prefixes, strict=True)]
        inputs[name] = padded(left, pad if name == "input_ids" else 0, left=True)
    rests = [ids[e.image, e.prompt][len(prefixes[row]) :] for e, row in zip(examples, row_of, strict=True)]
    return inputs, rests


def _assign(examples: Sequence[Example], responses: list[list[int]]) -> list[int]:
    """The row of each example."""
    rows: list[int] = []
    current: dict[Path | str, int] = {}  # the row that is being filled
    filled: list[int] = []
    for example, response in zip(examples, responses, strict=True):
        row = current.get(example.about)
        if row is None or filled[row] + len(response) > BRANCH_TOKENS:
            row = current[example.about] = len(filled)
            filled.append(0)
        filled[row] += len(response)
        rows.append(row)
    return rows


def _common(rows: list[list[int]]) -> list[int]:
    """The longest beginning that all rows have."""
    same = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        same += 1
    return rows[0][:same]


def _ids(examples: Iterable[Example], encoded: dict[str, Tensor]) -> dict[tuple[Path | None, str], list[int]]:
    """Token ids of the examples' prompts, by image and prompt."""
    lines = zip(examples, encoded["input_ids"], encoded["attention_mask"].bool(), strict=True)
    return {(e.image, e.prompt): ids[kept].tolist() for e, ids, kept in lines}
