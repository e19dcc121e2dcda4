"""Pair building: which questions, which responses, and that the draw is stable."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationale.pairing import PairingRule, pair_all, pair_question, truncate_words
from rationale.schema import Response

RULE = PairingRule()


def response(sample_id, right, text=None, predicted="7", question_id="q"):
    text = f"sample {sample_id}" if text is None else text
    return Response(question_id, sample_id, "cot", text, predicted, float(right), True)


def responses(num_right, num_wrong, question_id="q"):
    """Right responses first: sample_id < num_right is right."""
    return [response(i, i < num_right, question_id=question_id) for i in range(num_right + num_wrong)]


@st.composite
def any_responses(draw):
    """Up to 16 responses with few distinct texts, so that duplicates and contradictions occur."""
    rows = draw(
        st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh"), st.sampled_from([None, "7"])), max_size=16)
    )
    return [response(i, right, text, predicted) for i, (right, text, predicted) in enumerate(rows)]


any_rule = st.builds(
    PairingRule,
    low=st.sampled_from([0.0, 0.25, 0.5]),
    high=st.sampled_from([0.5, 0.85, 1.0]),
    max_pairs=st.integers(1, 5),
    drop_unparsed_negatives=st.booleans(),
    deduplicate=st.booleans(),
    reuse=st.booleans(),
    partner=st.sampled_from(["random", "closest"]),
)


@pytest.mark.parametrize(
    ("num_right", "num_wrong", "reason"),
    [
        (8, 24, "paired"),  # 0.25, the lower bound itself
        (7, 25, "too_hard"),
        (0, 32, "too_hard"),
        (17, 3, "paired"),  # 0.85, the upper bound itself
        (28, 4, "too_easy"),  # 0.875
        (32, 0, "too_easy"),
    ],
)
def test_accuracy_bounds_are_inclusive(num_right, num_wrong, reason):
    pairs, found = pair_question(responses(num_right, num_wrong), RULE, seed=0)
    assert found == reason
    assert len(pairs) == (3 if reason == "paired" else 0)


@settings(deadline=None)  # machines under load are slow, not wrong
@given(any_responses(), any_rule, st.integers(0, 3))
def test_pairs_keep_every_promise_of_the_rule(rows, rule, seed):
    by_id = {row.sample_id: row for row in rows}
    pairs, reason = pair_question(rows, rule, seed)
    assert bool(pairs) == (reason == "paired")
    assert len(pairs) <= rule.max_pairs
    assert [p.pair_id for p in pairs] == list(range(len(pairs)))
    for p in pairs:
        chosen, rejected = by_id[p.chosen_id], by_id[p.rejected_id]
        assert chosen.score == 1 and chosen.predicted is not None
        assert rejected.score == 0 or (rejected.predicted is None and not rule.drop_unparsed_negatives)
        assert (p.chosen, p.rejected) == (chosen.text, rejected.text)
        assert p.chosen != p.rejected
    if pairs:
        assert rule.low <= sum(r.score == 1 and r.predicted is not None for r in rows) / len(rows) <= rule.high
    assert len({(p.chosen_id, p.rejected_id) for p in pairs}) == len(pairs)
    if not rule.reuse:
        assert len({p.chosen_id for p in pairs}) == len({p.rejected_id for p in pairs}) == len(pairs)
    if rule.deduplicate:
        assert len({(p.chosen, p.rejected) for p in pairs}) == len(pairs)


@settings(deadline=None)
@given(st.permutations(responses(5, 5)))
def test_order_of_responses_does_not_change_the_pairs(shuffled):
    assert pair_question(shuffled, RULE, seed=0) == pair_question(responses(5, 5), RULE, seed=0)


def test_order_of_questions_does_not_change_their_pairs():
    groups = [responses(5, 5, name) for name in "abc"]
    forward, backward = pair_all(groups, RULE, seed=0)[0], pair_all(groups[::-1], RULE, seed=0)[0]
    assert sorted(forward, key=str) == sorted(backward, key=str)


def test_adding_a_question_never_changes_anothers_pairs():
    alone, _ = pair_all([responses(5, 5, "a")], RULE, seed=0)
    joined, _ = pair_all([responses(9, 7, "new"), responses(5, 5, "a")], RULE, seed=0)
    assert [p for p in joined if p.question_id == "a"] == alone


def test_draw_depends_on_seed_and_on_question():
    def draw(seed, name):
        return [(p.chosen_id, p.rejected_id) for p in pair_question(responses(8, 8, name), RULE, seed)[0]]

    assert draw(0, "a") == draw(0, "a")
    assert draw(0, "a") != draw(1, "a")
    assert draw(0, "a") != draw(0, "b")


@pytest.mark.parametrize("partner", ["random", "closest"])
@pytest.mark.parametrize("reuse", [False, True])
def test_more_pairs_keep_the_fewer(reuse, partner):
    rule = PairingRule(reuse=reuse, partner=partner)
    one, _ = pair_question(responses(8, 8), replace(rule, max_pairs=1), seed=0)
    three, _ = pair_question(responses(8, 8), replace(rule, max_pairs=3), seed=0)
    assert three[:1] == one


def test_the_closest_partner_begins_most_like_the_correct_response():
    texts = [(True, "red 7, so 7"), (False, "red 8, so 8"), (False, "blue 7, so 7"), (False, "red 7, so 9")]
    rows = [response(i, right, text) for i, (right, text) in enumerate(texts)]
    for seed in range(5):
        (pair,), _ = pair_question(rows, PairingRule(partner="closest"), seed)
        assert (pair.chosen_id, pair.rejected_id) == (0, 3)
    reused, _ = pair_question(rows, PairingRule(partner="closest", reuse=True), seed=0)
    assert [p.rejected_id for p in reused] == [3, 1, 2]


def test_the_tokens_of_a_response_come_with_it_into_its_pair():
    right, wrong = (replace(response(i, i == 0), token_ids=[i, 7]) for i in (0, 1))
    (pair,), _ = pair_question([right, wrong], PairingRule(), seed=1)
    assert [key[4] for key in pair.keys] == [(0, 7), (1, 7)]


def test_scarcer_side_limits_the_pairs_unless_reused():
    rows = responses(1, 3)  # one right response
    assert len(pair_question(rows, RULE, seed=0)[0]) == 1
    reused, _ = pair_question(rows, PairingRule(reuse=True), seed=0)
    assert {(p.chosen_id, p.rejected_id) for p in reused} == {(0, 1), (0, 2), (0, 3)}


def test_unparsed_response_is_a_negative_unless_dropped():
    rows = [response(0, True), response(1, False, predicted=None)]
    (pair,), _ = pair_question(rows, RULE, seed=0)
    assert pair.rejected_id == 1 and pair.rejected_answer is None
    assert pair_question(rows, PairingRule(drop_unparsed_negatives=True), seed=0) == ([], "no_negative")


def test_dropped_unparsed_responses_still_count_in_the_accuracy():
    rows = [response(0, True), response(1, False)] + [response(i, False, predicted=None) for i in range(2, 9)]
    assert pair_question(rows, PairingRule(drop_unparsed_negatives=True), seed=0) == ([], "too_hard")  # 1 of 9


def test_identical_texts_count_once_for_pairs_and_each_for_accuracy():
    same_right = [response(i, True, text="right") for i in range(4)]
    same_wrong = [response(i, False, text="wrong") for i in range(4, 8)]
    pairs, _ = pair_question(same_right + same_wrong, RULE, seed=0)
    assert [(p.chosen_id, p.rejected_id) for p in pairs] == [(0, 4)]
    assert len(pair_question(same_right + same_wrong, PairingRule(deduplicate=False), seed=0)[0]) == 3
    # 9 of 10 are right: too easy, though only one distinct text in two is
    nine = [response(i, True, text="right") for i in range(9)] + [response(9, False)]
    assert pair_question(nine, RULE, seed=0) == ([], "too_easy")


def test_text_judged_both_ways_is_in_no_pair():
    rows = [response(0, True, text="same"), response(1, False, text="same")]
    assert pair_question(rows, RULE, seed=0) == ([], "no_positive")


def test_wide_open_bounds_name_the_missing_side():
    everything = PairingRule(low=0.0, high=1.0)
    assert pair_question(responses(0, 4), everything, seed=0) == ([], "no_positive")
    assert pair_question(responses(4, 0), everything, seed=0) == ([], "no_negative")
    assert pair_question([], everything, seed=0) == ([], "no_responses")


def test_graded_scores_are_right_from_a_half_on():
    rows = [replace(response(0, True), score=0.5), replace(response(1, False), score=0.4)]
    (pair,), _ = pair_question(rows, RULE, seed=0)
    assert (pair.chosen_id, pair.rejected_id) == (0, 1)


def test_pair_all_counts_every_fate():
    groups = [responses(4, 4, "a"), responses(4, 4, "b"), responses(8, 0, "c"), responses(0, 8, "d")]
    pairs, reasons = pair_all(groups, RULE, seed=0)
    assert len(pairs) == 6
    assert reasons == {"paired": 2, "too_easy": 1, "too_hard": 1}


def test_rows_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="pair one question and style at a time"):
        pair_question([response(0, True), response(1, False, question_id="other")], RULE, seed=0)
    with pytest.raises(ValueError, match=r"sample_id \[0\] occurs more than once"):
        pair_question([response(0, True), response(0, False)], RULE, seed=0)
    with pytest.raises(ValueError, match="come in two groups"):
        pair_all([responses(4, 4), responses(4, 4)], RULE, seed=0)


@pytest.mark.parametrize(
    "wrong", [{"low": 0.9}, {"high": 1.1}, {"low": -0.1}, {"max_pairs": 0}, {"partner": "nearest"}]
)
def test_rule_that_cannot_be_met_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PairingRule(**wrong)


@pytest.mark.parametrize(
    ("text", "limit", "expected"),
    [
        ("a b c", 2, ("a b", True)),
        ("a b c", 3, ("a b c", False)),
        ("a\nb c", 1, ("a\nb", True)),  # a newline does not split
        ("a  b", 2, ("a ", True)),  # a double space makes an empty word
        ("a b c", None, ("a b c", False)),
        ("a b c", 0, ("a b c", False)),
        ("", 1, ("", False)),
    ],
)
def test_words_are_what_single_spaces_separate(text, limit, expected):
    assert truncate_words(text, limit) == expected
