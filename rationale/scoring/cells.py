"""Scores keyed by (seed, question), and the one summary that tables, orderings and verifier curves share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from rationale.artifacts import UserError
from rationale.schema import EvalRow
from rationale.scoring.intervals import Interval, macro_interval

STYLES = ("direct", "cot")
PASS = 8  # k of pass@k
SAMPLED = ("sampled", "majority", f"pass@{PASS}")  # of many CoT responses to a question, where the others are greedy


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: whose (`name`), under which training seed, every row of it, and the artifact it was read from."""

    name: str
    seed: int
    rows: list[EvalRow]
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Scored:
    """One number of one question under one seed; `shown`, its images, is its cluster, whatever the seed."""

    dataset: str
    shown: str
    value: float


Scores = dict[tuple[int, str], Scored]


@dataclass(frozen=True, slots=True)
class Cell:
    """Points with their 95% interval; `by_seed` holds the mean of each seed, `paper` the paper's own number.

    `interval.num` counts questions times seeds. The interval is None where nothing was run.
    """

    interval: Interval | None
    by_seed: dict[int, float]
    paper: float | None = None

    def __neg__(self) -> Cell:
        """The same difference taken the other way round."""
        i = self.interval
        turned = None if i is None else replace(i, mean=-i.mean, low=-i.high, high=-i.low)
        return Cell(turned, {k: -v for k, v in self.by_seed.items()}, None if self.paper is None else -self.paper)


def scores_of(
    runs: Iterable[Run], name: str, style: str, value: Callable[[EvalRow], float] = lambda row: row.score
) -> Scores:
    """Scores of one model in one style, in "mean", which averages a question's direct and CoT scores, or in "best",
    which takes of every data set the style with the higher mean (paper, Table G.3: "Avg (of best)"). Of several rows of
    a question, as there are of its samples, the mean."""
    if style == "best":
        return _best_style([scores_of(runs, name, each, value) for each in STYLES])
    styles = STYLES if style == "mean" else (style,)
    found: dict[tuple[int, str], list[EvalRow]] = {}
    for run in runs:
        for row in run.rows if run.name == name else ():
            if row.style in styles:
                found.setdefault((run.seed, row.question_id), []).append(row)
    return {
        key: Scored(rows[0].dataset, rows[0].shown, fmean(map(value, rows)))
        for key, rows in found.items()
        if {row.style for row in rows} == set(styles)
    }


def _best_style(sides: list[Scores]) -> Scores:
    means: list[dict[str, float]] = []
    for side in sides:
        datasets = {s.dataset for s in side.values()}
        means.append({d: fmean(s.value for s in side.values() if s.dataset == d) for d in datasets})
    best = {d: max((m for m in means if d in m), key=lambda m: m[d]) for d in {d for mean in means for d in mean}}
    return {
        key: s for side, mean in zip(sides, means, strict=True) for key, s in side.items() if best[s.dataset] is mean
    }


def difference(better: Scores, worse: Scores) -> Scores:
    """better - worse, question by question, over the seeds that both have."""
    seeds = {seed for seed, _ in better} & {seed for seed, _ in worse}
    one, other = ({k: s for k, s in scores.items() if k[0] in seeds} for scores in (better, worse))
    unpaired = sorted(one.keys() ^ other.keys())
    if unpaired:
        raise UserError(
            f"{len(unpaired)} questions were asked of one model only, first (seed, question) {unpaired[0]};"
            " evaluate both on the same questions"
        )
    return {k: Scored(s.dataset, s.shown, s.value - other[k].value) for k, s in one.items()}


def summary(
    scores: Scores, datasets: list[str], num_resamples: int, paper: float | None = None, scale: float = 100
) -> Cell:
    """Unweighted mean over `datasets`, clustered by image; empty unless every one of them has scores.

    The seeds of a question share its image, so more seeds give more rows and no more clusters.
    """
    chosen = [[(seed, s) for (seed, _), s in scores.items() if s.dataset == dataset] for dataset in datasets]
    if not all(chosen):
        return Cell(None, {}, paper)
    groups = [([scale * s.value for _, s in group], [s.shown for _, s in group]) for group in chosen]
    by_seed = {}
    for seed in sorted({seed for seed, _ in scores}):
        values = [[s.value for own, s in group if own == seed] for group in chosen]
        if all(values):
            by_seed[seed] = scale * fmean(map(fmean, values))
    return Cell(macro_interval(groups, num_resamples), by_seed, paper)
