"""From scores to claims: intervals that know of shared images, paired or not."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

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


def mean_interval(scores: Sequence[float], clusters: Sequence[Hashable], num_resamples: int = 2000) -> Interval:
    """Mean score with a 95% percentile bootstrap over clusters.

    clusters[i] names the image of question i: questions about one image rise and fall together, so whole images are
    drawn. The order of the questions does not matter.
    """
    return macro_interval([(scores, clusters)], num_resamples)


def macro_interval(groups: Iterable[tuple[Sequence[float], Sequence[Hashable]]], num_resamples: int = 2000) -> Interval:
    """Unweighted mean over groups (data sets) of their mean scores, with a 95% percentile bootstrap.

    A group is its scores and their clusters, aligned. Images are drawn within each group, so a large data set weighs
    no more than a small one, in the mean and in every resample.
    """
    rng = np.random.default_rng(0)
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
    a: Sequence[float], b: Sequence[float], clusters: Sequence[Hashable], num_resamples: int = 2000
) -> Interval:
    """Mean of a - b with a 95% bootstrap interval over clusters; a[i] and b[i] score the same question."""
    if len(a) != len(b):
        raise ValueError(f"paired scores must align, found {len(a)} and {len(b)}")
    return mean_interval(np.subtract(a, b, dtype=float), clusters, num_resamples)


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
