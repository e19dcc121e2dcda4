"""Intervals over shared images, paired tests, and verifier votes, on numbers that other systems give."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationale.metrics.aggregate import (
    Interval,
    best_of,
    clustered_stderr,
    macro_interval,
    majority,
    mean_interval,
    min_questions,
    paired_interval,
    paired_ttest,
    pass_at,
    verifier_curve,
    weighted_vote,
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
        (lambda: pass_at(4, 2, 5), "k=5"),
        (lambda: verifier_curve("q7", ["5"], [0.0], [1.0], [2]), r"q7: .* 1..1; sample more"),
        (lambda: verifier_curve("q7", ["5"], [math.nan], [1.0], [1]), "q7: .* not all finite"),
    ],
)
def test_what_cannot_be_aggregated_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("answers", "winner"),
    [("7557", "7"), ("1233", "3"), ([None, None, "4"], "4"), ([None, None], None)],
)
def test_majority_takes_the_first_seen_of_a_tie(answers, winner):
    assert majority(list(answers)) == winner


@pytest.mark.parametrize(
    ("answers", "rewards", "winner"),
    [("123", [-3, -1, -2], "2"), ("12", [0, 0], "1"), ([None, "4"], [9, -9], "4"), ([None, None], [1, 2], None)],
)
def test_best_of_takes_the_highest_reward_among_parsed_answers(answers, rewards, winner):
    assert best_of(list(answers), rewards) == winner


# search-and-learn sums raw scores: 6 by 0.9 to 0.8 in the first case, and the minority 9 in the second.
@pytest.mark.parametrize(
    ("answers", "rewards", "winner"),
    [
        ("5657", [0.2, 0.9, 0.6, 0.1], "5"),
        ("5559", [-0.5, -0.5, -0.5, -1.0], "5"),
        ("59", [-2000.0, -1000.0], "9"),
        ([None, None, "4"], [0, 0, -5], "4"),
    ],
)
def test_weighted_vote_sums_exponentials(answers, rewards, winner):
    assert weighted_vote(list(answers), rewards) == winner


def test_weighted_vote_lies_between_best_of_and_majority():
    answers, rewards = ["5", "6", "5", "7"], [0.2, 0.9, 0.6, 0.1]
    assert weighted_vote(answers, rewards, temperature=0.01) == best_of(answers, rewards) == "6"
    assert weighted_vote(answers, rewards, temperature=100) == majority(answers) == "5"


@given(st.lists(st.sampled_from("123"), min_size=1), st.floats(-50, 50))
def test_equal_rewards_of_any_sign_vote_like_the_majority(answers, reward):
    assert weighted_vote(answers, [reward] * len(answers)) == majority(answers)


@pytest.mark.parametrize(("n", "c", "k", "value"), [(8, 2, 4, 0.785714), (8, 0, 4, 0), (8, 5, 4, 1), (4, 1, 1, 0.25)])
def test_pass_at(n, c, k, value):
    assert pass_at(n, c, k) == pytest.approx(value, abs=5e-7)


CURVE = {
    "answers": ["5", "9", None, "5", "9", "5"],
    "rewards": [-1.0, -0.2, 3.0, -1.5, -4.0, -2.0],
    "correct": [1.0, 0.0, 0.0, 1.0, 0.0, 1.0],
}


def test_all_candidates_are_one_subset():
    curve = verifier_curve("q1", **CURVE, sizes=[6])
    # exp(-1) + exp(-1.5) + exp(-2) = 0.726 for 5; exp(-.2) + exp(-4) = 0.837 for 9.
    assert curve == {"majority": {6: 1.0}, "best_of": {6: 0.0}, "weighted_vote": {6: 0.0}}


def test_methods_agree_on_one_candidate_since_they_share_subsets():
    curve = verifier_curve("q1", **CURVE, sizes=[1], num_subsets=7)
    assert len({values[1] for values in curve.values()}) == 1
    assert curve["majority"][1] * 7 == pytest.approx(round(curve["majority"][1] * 7))


def test_another_size_changes_no_value():
    few, many = (verifier_curve("q1", **CURVE, sizes=sizes) for sizes in ([4], [1, 2, 4, 6]))
    assert all(few[method][4] == many[method][4] for method in few)


def test_subsets_depend_on_seed_and_question():
    curves = [
        verifier_curve(q, **CURVE, sizes=[1, 2, 3], seed=s) for q, s in [("q1", 0), ("q1", 0), ("q1", 1), ("q2", 0)]
    ]
    assert curves[0] == curves[1]
    assert curves[0] != curves[2] and curves[0] != curves[3]


@given(st.lists(st.tuples(st.sampled_from(["1", "2", None]), st.floats(-9, 9)), min_size=2, max_size=8))
def test_an_unparsed_response_wins_only_where_none_is_parsed(samples):
    answers, rewards = map(list, zip(*samples, strict=True))
    nothing = all(answer is None for answer in answers)
    curve = verifier_curve("q", answers, rewards, [float(a is not None) for a in answers], [len(answers)])
    assert all(values[len(answers)] == float(not nothing) for values in curve.values())
