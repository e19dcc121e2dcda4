"""Intervals over shared images."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationale.scoring.intervals import (
    Interval,
    macro_interval,
    mean_interval,
    paired_interval,
)

SCORES, IMAGES = [1, 0, 1, 1, 0, 0], ["a", "a", "b", "b", "c", "c"]
A, B = [1, 1, 1, 0, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0, 1, 1]
scored_questions = st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdefgh")), min_size=1, max_size=40)


def test_one_image_for_all_questions_leaves_no_spread():
    assert mean_interval(SCORES, ["a"] * 6) == Interval(0.5, 0.5, 0.5, 6, 1)


def test_interval_of_two_images_spans_both():
    interval = mean_interval([1, 1, 0], ["a", "a", "b"])
    assert interval == Interval(pytest.approx(2 / 3), 0.0, 1.0, 3, 2)


def test_macro_mean_weighs_data_sets_alike():
    # Means 1/4 of four questions and 1 of one; over all five questions it would be 2/5.
    interval = macro_interval([([1, 0, 0, 0], ["a"] * 4), ([1], ["b"])])
    assert interval == Interval(0.625, 0.625, 0.625, 5, 2)


def test_macro_interval_draws_images_within_each_data_set():
    # A draw never swaps an image of one data set for one of the other, so two constant sets leave no spread.
    interval = macro_interval([([1, 1], ["a", "b"]), ([0, 0, 0], ["c", "d", "e"])])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def clustered_stderr(scores, clusters):
    """Miller, arXiv 2411.00640, Eq. 4."""
    mean, n, sums = sum(scores) / len(scores), len(scores), Counter()
    for score, cluster in zip(scores, clusters, strict=True):
        sums[cluster] += score - mean
    squares = sum((score - mean) ** 2 for score in scores)
    return (squares / (n * (n - 1)) + (sum(s**2 for s in sums.values()) - squares) / n**2) ** 0.5


def test_the_oracle_gives_what_lmms_eval_gives():
    assert clustered_stderr(SCORES, IMAGES) == pytest.approx(0.2527625, abs=5e-8)


def test_interval_agrees_with_clustered_stderr_on_many_images():
    draw = random.Random("interval")
    level = {image: draw.random() for image in range(400)}
    images = [image for image in level for _ in range(3)]
    scores = [float(draw.random() < level[image]) for image in images]
    interval = mean_interval(scores, images)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * clustered_stderr(scores, images), rel=0.1)


@settings(deadline=None)
@given(scored_questions)
def test_interval_contains_the_mean(rows):
    interval = mean_interval(*zip(*rows, strict=True), num_resamples=500)
    assert interval.low - 1e-12 <= interval.mean <= interval.high + 1e-12


@settings(deadline=None)
@given(scored_questions, st.randoms())
def test_order_of_questions_does_not_matter(rows, draw):
    shuffled = draw.sample(rows, len(rows))
    one, other = (mean_interval(*zip(*order, strict=True), num_resamples=100) for order in (rows, shuffled))
    assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


def test_paired_interval_is_the_interval_of_differences():
    images = [0, 0, 1, 1, 2, 2, 3, 3]
    assert paired_interval(A, B, images) == mean_interval([a - b for a, b in zip(A, B, strict=True)], images)
    assert paired_interval(A, A, images) == Interval(0.0, 0.0, 0.0, 8, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval([], []), "found 0 and 0"),
        (lambda: mean_interval([1, 0], ["a"]), "found 2 and 1"),
        (lambda: macro_interval([]), "found none"),
        (lambda: paired_interval([1, 0], [1], ["a", "b"]), "must align, found 2 and 1"),
    ],
)
def test_what_cannot_be_aggregated_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
