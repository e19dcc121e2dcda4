"""Responses sampled from a model and judged against the annotation (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rationale.artifacts import InputPath
from rationale.models.batch import Example
from rationale.models.encode import in_chunks
from rationale.models.local import Generator, is_shared
from rationale.models.response import prompted
from rationale.models.vlm import VLM
from rationale.prompts import prompt_text
from rationale.schema import Question, Response, iter_jsonl, to_line
from rationale.scoring.judge import is_correct, judge
from rationale.settings import Count, NonNegative, PositiveFraction, Split, Style, settings
from rationale.shards import ALONE, Processes, in_shards
from rationale.stages.inputs import choose, questions_by_id


@settings
class Sampling:
    """Which questions are asked, and how: `limit` of a split (None: all) without the data sets in `exclude`.
    `temperature` is by question kind, `batch_size` counts questions."""

    split: Split
    limit: Count | None
    exclude: list[str]
    style: Style
    num_samples: Count
    temperature: dict[Literal["short", "choice"], NonNegative]
    top_p: PositiveFraction
    max_new_tokens: Count
    batch_size: Count


def run(
    questions: InputPath,
    model: Callable[..., VLM],
    generator: Callable[..., Generator],
    sampling: Sampling,
    seed: int,
    out: Path,
    processes: Processes = ALONE,
) -> dict:
    """Responses of `generator(model)` to each question. Writes Response rows."""
    every = questions_by_id(questions, sampling.split).values()
    closed = [q for q in every if q.kind != "open" and q.dataset not in sampling.exclude]
    chosen, style = choose(closed, sampling.limit, seed), sampling.style
    share = processes.join(out, alone=is_shared(generator))
    answer = generator(model)
    # One temperature a batch; prompts of like length together, so that padding is small.
    chosen.sort(key=lambda q: (q.kind, len(prompt_text(q, style)), q.question_id))
    size = answer.at_once or sampling.batch_size
    units = [c for kind in ("short", "choice") for c in in_chunks([q for q in chosen if q.kind == kind], size)]

    def example(question: Question) -> Example:
        return prompted(question, Path(questions), style)

    answer.check([example(q) for q in chosen], [sampling.max_new_tokens] * len(chosen))

    def work(batch: list[Question], read: Any) -> list[str]:
        drawn = sampling.num_samples, sampling.temperature[batch[0].kind], sampling.top_p, seed
        answered = answer([example(q) for q in batch], sampling.max_new_tokens, *drawn, read=read)
        return [
            to_line(Response(q.question_id, i, style, g.text, *judge(q, g.text, style), g.finished, g.token_ids))
            for q, samples in zip(batch, answered, strict=True)
            for i, g in enumerate(samples)
        ]

    rows = in_shards(out, units, work, "sample", share, lambda batch: answer.read([example(q) for q in batch]))
    responses = correct = unparsed = 0
    for row in iter_jsonl(rows, Response):
        responses += 1
        correct += is_correct(row.score)
        unparsed += row.predicted is None
    return {"questions": len(chosen), "responses": responses, "correct": correct, "unparsed": unparsed}
