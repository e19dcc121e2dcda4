"""One process of two that share stages of the tiny model; started from test_shards.py, and starts the other itself.

shared.py SETTINGS.json     paths: model, questions, pairs, out

Makes `sample`, `score` and `evaluate` below `out`, begins `sample` once more where its rows are whole, and then makes
`cut`, a sampling whose second process is killed at its second shard.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import torch

from rationale.artifacts import PartDone, main_process, produce
from rationale.models import local
from rationale.models.local import Local
from rationale.models.response import Truncation
from rationale.models.vlm import load
from rationale.shards import Processes
from rationale.stages import evaluate, sample, score

TWO = Processes(devices=2)


def stages(given: dict[str, str], processes: Processes) -> dict[str, Callable[[Path], dict]]:
    """By name, a call that fills a folder."""
    here = {"questions": given["questions"], "model": partial(load, given["model"]), "processes": processes}
    drawn = sample.Sampling(
        split="train", limit=10, exclude=[], style="cot", num_samples=2, temperature={"short": 1.0, "choice": 1.2},
        top_p=1.0, max_new_tokens=6, batch_size=2,
    )  # fmt: skip
    sampling = partial(sample.run, **here, generator=Local, sampling=drawn, seed=1)
    scoring = partial(
        score.run, **here, rows=given["pairs"], truncate=Truncation(words=None, tokens=None, eos="uncut"),
        batch_size=3, layout="tree",
    )  # fmt: skip
    asked = evaluate.Evaluation("tiny", "val", ["direct", "cot"], {"direct": 3, "cot": 5}, batch_size=4)
    evaluation = partial(evaluate.run, **here, generator=Local, evaluation=asked, seed=1)
    named = {"sample": sampling, "score": scoring, "evaluate": evaluation}
    return {name: lambda folder, made=made: made(out=folder) for name, made in named.items()}


def killed(calls: Iterator[int], plain: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A batch of responses; at the second call the process ends as in a power cut."""
    if next(calls) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments, **options)


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(given["out"])
    torch.set_num_threads(1)
    named = stages(given, TWO)
    for name, work in named.items():
        produce(name, {"out": str(out / name), "processes": asdict(TWO)}, work)
    if main_process():
        (out / "sample/shards").mkdir()  # as a cut left them that came after the rows
    with suppress(PartDone):
        named["sample"](out / "sample")
    if not main_process():
        local.generate = partial(killed, iter(range(9)), local.generate)
    produce("cut", {"out": str(out / "cut"), "processes": asdict(TWO)}, named["sample"])


if __name__ == "__main__":
    main()
