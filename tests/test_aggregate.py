"""Intervals over shared images, paired tests and their power, on numbers that other systems give."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationale.metrics.aggregate import (
    Interval,
    clustered_stderr,
    macro_interval,
    mean_interval,
    min_questions,
    paired_interval,
    paired_ttest,
    smallest_difference,
)

SCORES, IMAGES = [1, 0, 1, 1, 0, 0], ["a", "a", "b", "b", "c", "c"]
A, B = [1, 1, 1, 0, 1, 0, 1, 1], [1, 0, 1, 0, 0, 0, 1, 1]
scored_questions = st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdefgh")), min_size=1, max_size=40)


@pytest.mark.parametrize(("clusters", "expected"), [(IMAGES, 0.2527625), ("uvwxyz", 0.2236068)])
def test_clustered_stderr_of_lmms_eval(clusters, expected):
    assert clustered_stderr(SCORES, clusters) == pytest.approx(expected, abs=5e-8)


def test_paired_ttest_of_lmms_eval():
    test = paired_ttest(A, B)
    found = (test.diff, test.se, test.t, test.p, test.low, test.high)
    assert found == pytest.approx((0.25, 0.1636634, 1.5275252, 0.1704707, -0.1370025, 0.6370025), abs=5e-8)


# 97.5% quantiles of Student's t from printed tables.
@pytest.mark.parametrize(("df", "critical"), [(1, 12.7062), (2, 4.3027), (10, 2.2281), (30, 2.0423), (2000, 1.9612)])
def test_t_interval_uses_student_quantiles(df, critical):
    test = paired_ttest([1.0] + [0.0] * df, [0.0] * (df + 1))
    assert (test.high - test.diff) / test.se == pytest.approx(critical, abs=5e-5)


@pytest.mark.parametrize(("a", "p"), [([0.5, 0.5], 1), ([1, 1], 0)])
def test_paired_ttest_without_spread(a, p):
    test = paired_ttest(a, [0.5, 0.5])
    assert (test.p, test.low, test.high) == (p, test.diff, test.diff)


def test_min_questions_of_lmms_eval_power_analysis():
    assert min_questions(0.03) == 2181


# The value of lmms-eval from the other side: with 2181 questions a gain of 3 points shows, with one fewer it does not.
def test_smallest_difference_is_the_inverse_of_min_questions():
    assert smallest_difference(2181) <= 0.03 < smallest_difference(2180)


# (1.959964 + 0.841621) * sqrt(2 * 0.25 * 0.5 / n): A-OKVQA val and ChartQA test.
@pytest.mark.parametrize(("num", "points"), [(1145, 4.14), (2500, 2.80)])
def test_a_benchmark_cannot_show_a_difference_under(num, points):
    assert 100 * smallest_difference(num) == pytest.approx(points, abs=0.005)


@given(st.floats(0.001, 0.5), st.floats(0.1, 0.5), st.floats(0, 0.9))
def test_as_many_questions_as_needed_show_the_effect(effect, sigma, correlation):
    num = min_questions(effect, sigma, correlation)
    assert smallest_difference(num, sigma, correlation) <= effect * (1 + 1e-9)


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
    one, other = (clustered_stderr(*zip(*order, strict=True)) for order in (rows, shuffled))
    assert one == pytest.approx(other, abs=1e-9, nan_ok=True)


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
        (lambda: paired_ttest([1], [0]), "two questions or more, found 1"),
    ],
)
def test_what_cannot_be_aggregated_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
