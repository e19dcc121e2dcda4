"""From scores to claims: intervals that know of shared images, paired tests, and votes of a verifier."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_CHUNK = 1 << 22  # cluster draws held at once: 32 MB of indices


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% interval, over `num` questions in `num_clusters` images."""

    mean: float
    low: float
    high: float
    num: int
    num_clusters: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Student's t test of the mean per-question difference: two-sided p, 95% interval."""

    diff: float
    se: float
    t: float
    p: float
    low: float
    high: float


def mean_interval(
    scores: Sequence[float], clusters: Sequence[Hashable], num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean score with a 95% percentile bootstrap over clusters.

    clusters[i] names the image of question i: questions about one image rise and fall together, so whole images are
    drawn. The order of the questions does not matter.
    """
    return macro_interval([(scores, clusters)], num_resamples, seed)


def macro_interval(
    groups: Iterable[tuple[Sequence[float], Sequence[Hashable]]], num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Unweighted mean over groups (data sets) of their mean scores, with a 95% percentile bootstrap.

    A group is its scores and their clusters, aligned. Images are drawn within each group, so a large data set weighs
    no more than a small one, in the mean and in every resample.
    """
    rng = np.random.default_rng(seed)
    means, drawn, num, num_clusters = [], [], 0, 0
    for group in groups:
        scores, index = _aligned(*group)
        sums, counts = np.bincount(index, weights=scores), np.bincount(index)
        means.append(sums.sum() / counts.sum())
        drawn.append(_resampled_means(sums, counts, num_resamples, rng))
        num, num_clusters = num + len(scores), num_clusters + len(counts)
    if not means:
        raise ValueError("expected at least one group of scores, found none")
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975))
    return Interval(float(np.mean(means)), float(low), float(high), num, num_clusters)


def paired_interval(
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], num_resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of a - b with a 95% bootstrap interval over clusters; a[i] and b[i] score the same question."""
    return mean_interval(_differences(a, b), clusters, num_resamples, seed)


def clustered_stderr(scores: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Standard error of the mean under clustering (Miller, arXiv 2411.00640, Eq. 4); nan for a single score.

    SE^2 = SE_CLT^2 + 1/n^2 sum_c sum_i sum_{j != i} (s_ic - mean)(s_jc - mean)
    """
    scores, index = _aligned(scores, clusters)
    n = len(scores)
    if n < 2:
        return math.nan
    deviations = scores - scores.mean()
    squares = (deviations**2).sum()
    cross = (np.bincount(index, weights=deviations) ** 2).sum() - squares
    return math.sqrt(max(0.0, squares / (n * (n - 1)) + cross / n**2))


def paired_ttest(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Paired t test of a against b; a[i] and b[i] score the same question.

    Takes the questions as independent: where images carry several, `paired_interval` is the safer claim.
    """
    differences = _differences(a, b)
    n = len(differences)
    if n < 2:
        raise ValueError(f"a paired test needs two questions or more, found {n}")
    diff = float(differences.mean())
    se = float(differences.std(ddof=1) / math.sqrt(n))
    if se == 0:
        return PairedTest(diff, 0.0, math.copysign(math.inf, diff) if diff else 0.0, float(diff == 0), diff, diff)
    t = diff / se
    margin = _t_critical(n - 1, 0.05) * se
    return PairedTest(diff, se, t, _t_two_sided(t, n - 1), diff - margin, diff + margin)


def min_questions(
    effect: float, sigma: float = 0.5, correlation: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> int:
    """Questions that a paired test needs to see a gain of `effect` (normal approximation, as in lmms-eval 0.7.3).

    `sigma` is the standard deviation of a score, `correlation` that of the two models' scores.
    """
    z = NormalDist().inv_cdf
    variance = 2 * sigma**2 * (1 - correlation)
    return math.ceil((z(1 - alpha / 2) + z(power)) ** 2 * variance / effect**2)


def _aligned(scores: Sequence[float], clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    if len(scores) != len(clusters) or not len(scores):
        raise ValueError(f"expected one cluster a score and at least one, found {len(scores)} and {len(clusters)}")
    _, index = np.unique(np.asarray([str(cluster) for cluster in clusters]), return_inverse=True)
    return np.asarray(scores, dtype=float), index


def _resampled_means(sums: np.ndarray, counts: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Mean score of each of `num` draws of whole clusters, with replacement."""
    num_clusters = len(counts)
    means = np.empty(num)
    step = max(1, _CHUNK // num_clusters)
    for start in range(0, num, step):
        stop = min(start + step, num)
        drawn = rng.integers(num_clusters, size=(stop - start, num_clusters))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def _differences(a: Sequence[float], b: Sequence[float]) -> np.ndarray:
    if len(a) != len(b):
        raise ValueError(f"paired scores must align, found {len(a)} and {len(b)}")
    return np.asarray(a, dtype=float) - np.asarray(b, dtype=float)


def _t_two_sided(t: float, df: int) -> float:
    """P(|T| >= |t|) of Student's t: the regularised incomplete beta I_x(df / 2, 1 / 2) at x = df / (df + t^2)."""
    return _betainc(df / 2, 0.5, df / (df + t * t))


def _t_critical(df: int, alpha: float) -> float:
    low, high = 0.0, 1.0
    while _t_two_sided(high, df) > alpha:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_two_sided(middle, df) > alpha else (low, middle)
    return (low + high) / 2


def _betainc(a: float, b: float, x: float) -> float:
    """I_x(a, b) by its continued fraction (Abramowitz and Stegun 26.5.8), evaluated with Lentz's method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _betainc(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = fraction
        for term in (even, odd):
            d, c = 1 / (1 + term * d), 1 + term / c
            fraction *= c * d
        if abs(fraction - before) <= 1e-15 * abs(fraction):
            break
    return front * fraction / a


def majority(answers: Sequence[str | None]) -> str | None:
    """The most frequent answer (self-consistency); ties go to the first seen. None is unparsed and has no vote."""
    return answers[_majority(answers, ())]


def best_of(answers: Sequence[str | None], rewards: Sequence[float]) -> str | None:
    """The answer of the response with the highest reward among the parsed ones; ties go to the first seen."""
    return answers[_best_of(answers, rewards)]


def weighted_vote(answers: Sequence[str | None], rewards: Sequence[float], temperature: float = 1.0) -> str | None:
    """The answer with the largest sum of exp(reward / temperature); ties go to the first seen.

    A DPO reward is a log-ratio, mostly negative: summed as it is, each further vote would count against its answer
    and three responses at -0.5 would lose to one at -1. Exponentials are positive, so agreement always helps.
    """
    return answers[_weighted_vote(answers, rewards, temperature)]


def pass_at(n: int, c: int, k: int) -> float:
    """Chance that k of n samples, c of them right, hold a right one: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374)."""
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"expected 0 <= c <= n and 1 <= k <= n, found n={n}, c={c}, k={k}")
    return 1 - math.comb(n - c, k) / math.comb(n, k)


def verifier_curve(
    question_id: str,
    answers: Sequence[str | None],
    rewards: Sequence[float],
    correct: Sequence[float],
    sizes: Sequence[int],
    num_subsets: int = 20,
    seed: int = 0,
    temperature: float = 1.0,
) -> dict[str, dict[int, float]]:
    """Mean score of the chosen response, by method and number of candidates, for one question.

    answers (canonical keys, None for unparsed), rewards and correct align, one entry a sampled response. A subset of
    size k is the first k of one of `num_subsets` random orders, so methods share subsets, and adding a size or a
    question changes no other value. All candidates together are one subset, taken once, as given.
    """
    num = len(answers)
    if not num == len(rewards) == len(correct) or not all(1 <= size <= num for size in sizes):
        raise ValueError(
            f"{question_id}: {num} answers, {len(rewards)} rewards and {len(correct)} scores must align, and sizes"
            f" {list(sizes)} lie in 1..{num}; sample more or ask for fewer"
        )
    if not all(map(math.isfinite, rewards)):
        raise ValueError(f"{question_id}: rewards {list(rewards)} are not all finite; re-run stage=score")
    methods: dict[str, Callable[..., int]] = {
        "majority": _majority,
        "best_of": _best_of,
        "weighted_vote": lambda a, r: _weighted_vote(a, r, temperature),
    }
    rng = random.Random(f"{seed}/{question_id}")
    orders = [rng.sample(range(num), num) for _ in range(num_subsets)]
    curve: dict[str, dict[int, float]] = {name: {} for name in methods}
    for size in sizes:
        subsets = [range(num)] if size == num else [order[:size] for order in orders]
        drawn = [(subset, [answers[i] for i in subset], [rewards[i] for i in subset]) for subset in subsets]
        for name, choose in methods.items():
            curve[name][size] = sum(correct[subset[choose(a, r)]] for subset, a, r in drawn) / len(drawn)
    return curve


def _vote(answers: Sequence[str | None], weights: Sequence[float]) -> int:
    """Index of the first response with the answer of largest total weight; 0 where no answer was parsed."""
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    return answers.index(max(totals, key=totals.__getitem__)) if totals else 0


def _majority(answers: Sequence[str | None], _: Sequence[float]) -> int:
    return _vote(answers, [1.0] * len(answers))


def _best_of(answers: Sequence[str | None], rewards: Sequence[float]) -> int:
    parsed = [i for i, answer in enumerate(answers) if answer is not None] or range(len(answers))
    return max(parsed, key=rewards.__getitem__)


def _weighted_vote(answers: Sequence[str | None], rewards: Sequence[float], temperature: float) -> int:
    top = max(rewards)
    return _vote(answers, [math.exp((reward - top) / temperature) for reward in rewards])
