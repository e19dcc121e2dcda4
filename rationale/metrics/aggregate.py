"""From scores to claims: intervals that know of shared images, paired tests, and what a benchmark can show at all."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
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
    return math.ceil(_effect_of_one(sigma, correlation, alpha, power) ** 2 / effect**2)


def smallest_difference(
    num_questions: int, sigma: float = 0.5, correlation: float = 0.5, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest gain that a paired test on `num_questions` can show: the inverse of `min_questions`.

    Questions that share an image count for less than as many independent ones, so the true bound is higher there.
    """
    return _effect_of_one(sigma, correlation, alpha, power) / math.sqrt(num_questions)


def _effect_of_one(sigma: float, correlation: float, alpha: float, power: float) -> float:
    """The gain that one question would need to show; that of n questions is smaller by sqrt(n)."""
    z = NormalDist().inv_cdf
    return (z(1 - alpha / 2) + z(power)) * math.sqrt(2 * sigma**2 * (1 - correlation))


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
