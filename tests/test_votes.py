"""Votes of many answers to one question, on numbers that other systems give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationale.scoring.votes import best_of, majority, verifier_curve, weighted_vote


@pytest.mark.parametrize(
    ("answers", "winner"),
    [("7557", "7"), ("1233", "3"), ([None, None, "4"], "4"), ([None, None], None)],
)
def test_majority_takes_the_first_seen_of_a_tie(answers, winner):
    assert answers[majority(list(answers))] == winner


@pytest.mark.parametrize(
    ("answers", "rewards", "winner"),
    [("123", [-3, -1, -2], "2"), ("12", [0, 0], "1"), ([None, "4"], [9, -9], "4"), ([None, None], [1, 2], None)],
)
def test_best_of_takes_the_highest_reward_among_parsed_answers(answers, rewards, winner):
    assert answers[best_of(list(answers), rewards)] == winner


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
    assert answers[weighted_vote(list(answers), rewards)] == winner


def test_weighted_vote_lies_between_best_of_and_majority():
    answers, rewards = ["5", "6", "5", "7"], [0.2, 0.9, 0.6, 0.1]
    assert weighted_vote(answers, rewards, temperature=0.01) == best_of(answers, rewards) == 1
    assert weighted_vote(answers, rewards, temperature=100) == majority(answers) == 0


def test_a_weighted_vote_divides_by_its_temperature_once():
    """One vote of reward 0.3 against two of 0, at temperature a half: exp(0.6) = 1.8 < 2, and exp(1.2) = 3.3 > 2."""
    assert weighted_vote(["6", "5", "5"], [0.3, 0.0, 0.0], temperature=0.5) == 1


@given(st.lists(st.sampled_from("123"), min_size=1), st.floats(-50, 50))
def test_equal_rewards_of_any_sign_vote_like_the_majority(answers, reward):
    assert weighted_vote(answers, [reward] * len(answers)) == majority(answers)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: verifier_curve("q7", ["5"], [0.0], [1.0], [2]), r"q7: .* 1..1; sample more"),
        (lambda: verifier_curve("q7", ["5"], [math.nan], [1.0], [1]), "q7: .* not all finite"),
    ],
)
def test_what_cannot_be_voted_on_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
