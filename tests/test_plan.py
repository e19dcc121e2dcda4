"""The order of training, the learning rate over it, and who gets which rate."""

import math
from collections import Counter
from fractions import Fraction
from functools import partial
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rationale.artifacts import UserError
from rationale.training.optim import Optim, cosine, parameter_groups
from rationale.training.plan import PlannedData, copies, grouped, length_key, plan

lengths_of = st.lists(st.integers(1, 50), min_size=1, max_size=200)
small = st.integers(1, 5)
in_order = partial(plan, accumulate=1, epochs=1, seed=1, shuffle=False)


def flat(batches):
    return [i for batch in batches for i in batch]


@given(lengths=lengths_of, micro=small, accumulate=small, seed=small, shuffle=st.booleans())
def test_every_index_is_in_one_step_of_an_epoch_or_left_out(lengths, micro, accumulate, seed, shuffle):
    step = micro * accumulate
    for drop_last in (True, False):
        found = plan(lengths, micro, accumulate, 1, seed, window=2, shuffle=shuffle, drop_last=drop_last)
        steps = [set(found.step_of(i)) for i in range(0, len(found.micro_batches), accumulate)]
        (left_out,) = found.left_out
        assert sorted(flat([*steps, left_out])) == list(range(len(lengths)))
        assert len(left_out) == (len(lengths) % step if drop_last and len(lengths) >= step else 0)
        assert all(len(indices) == step for indices in steps[: len(lengths) // step])


@pytest.mark.parametrize("shuffle", [True, False])
def test_what_an_epoch_leaves_out_does_not_depend_on_length(shuffle):
    """Seven rows in steps of four leave three out, drawn anew each epoch; in a given order, the last three."""
    short, long = ([plan(lengths, 2, 2, 40, seed, shuffle=shuffle) for seed in range(20)] for lengths in
                   ([1] * 7, [10, 20, 30, 40, 50, 60, 70]))  # fmt: skip
    assert [p.left_out for p in short] == [p.left_out for p in long]
    times = Counter(i for p in long for left_out in p.left_out for i in left_out)
    assert times.total() == 3 * 40 * 20
    if shuffle:  # 800 draws of 3 of 7: 343 of each row, 14 the standard deviation
        assert len(times) == 7 and all(abs(n - 343) < 56 for n in times.values())
    else:
        assert times == {4: 800, 5: 800, 6: 800}


def test_the_longest_rows_are_trained_on():
    """Seven hundred rows in 21 steps of 32 leave 28 out: of twenty seeds a few leave out the longest row."""
    lengths = list(range(700))
    left_out = [set(flat(plan(lengths, 8, 4, 1, seed).left_out)) for seed in range(20)]
    assert {len(found) for found in left_out} == {28}
    assert sum(699 in found for found in left_out) <= 3
    assert all(found & set(range(350)) and found & set(range(350, 700)) for found in left_out)


def test_what_was_trained_on_is_counted():
    found = plan(range(7), 2, 2, 2, seed=1, shuffle=False)  # steps 0-3 and 0-3; 4, 5 and 6 are left out twice
    assert found.counts(2) == {"left_out": [3, 3], "never_trained_on": 3}
    assert found.counts(0)["never_trained_on"] == 7


def test_what_groups_left_out_hold_is_counted():
    found = grouped(partial(in_order, micro_batch=2), "abaccc", len)
    assert found.micro_batches == [[0, 2, 1]]
    assert found.counts(1) == {"left_out": [3], "never_trained_on": 3}


@given(lengths=lengths_of, micro=small, accumulate=small, seed=small, drop_last=st.booleans())
def test_no_micro_batch_is_empty_or_over_its_size(lengths, micro, accumulate, seed, drop_last):
    found = plan(lengths, micro, accumulate, 1, seed, drop_last=drop_last)
    assert all(1 <= len(set(batch)) == len(batch) <= micro for batch in found.micro_batches)
    assert len(found.micro_batches) == found.num_steps * accumulate


@given(lengths=lengths_of, micro=small, accumulate=small, seed=small, drop_last=st.booleans())
def test_every_row_of_a_step_weighs_one(lengths, micro, accumulate, seed, drop_last):
    found, weights = plan(lengths, micro, accumulate, 1, seed, drop_last=drop_last), Counter()
    for number, batch in enumerate(found.micro_batches):
        weights.update(dict.fromkeys(batch, Fraction(1, copies(batch, found.step_of(number)))))
    assert set(weights.values()) == {1}


@given(lengths=lengths_of, seed=small, epochs=small)
def test_every_epoch_trains_as_many_steps(lengths, seed, epochs):
    one, several = plan(lengths, 2, 3, 1, seed), plan(lengths, 2, 3, epochs, seed)
    assert several.num_steps == epochs * one.num_steps
    assert several.micro_batches[: len(one.micro_batches)] == one.micro_batches
    assert several.left_out[:1] == one.left_out


@given(lengths=lengths_of, seed=small)
def test_cutting_a_step_otherwise_keeps_what_is_in_it(lengths, seed):
    steps = []
    for micro, accumulate in ((12, 1), (4, 3), (1, 12)):
        found = plan(lengths, micro, accumulate, 2, seed)
        steps.append([sorted(set(found.step_of(i))) for i in range(0, len(found.micro_batches), found.accumulate)])
    assert steps[0] == steps[1] == steps[2]


def test_the_same_seed_gives_the_same_plan_and_another_another():
    lengths = list(range(64))
    assert plan(lengths, 4, 2, 2, seed=1) == plan(lengths, 4, 2, 2, seed=1) != plan(lengths, 4, 2, 2, seed=2)


def test_epochs_differ_in_their_order():
    found = plan([1] * 64, 4, 2, 2, seed=1).micro_batches
    assert found[:16] != found[16:]


def test_without_shuffling_the_given_order_stands():
    lengths = [9, 1, 8, 2, 7, 3, 6]
    assert plan(lengths, 2, 1, 1, seed=1, shuffle=False).micro_batches == [[0, 1], [2, 3], [4, 5]]


def test_a_step_holds_rows_of_like_length():
    lengths = [1, 9, 1, 9, 1, 9, 1, 9]  # one window of two steps of four
    steps = plan(lengths, 4, 1, 1, seed=1).micro_batches
    assert sorted([lengths[i] for i in step] for step in steps) == [[1, 1, 1, 1], [9, 9, 9, 9]]


def test_lengths_may_be_tuples_that_sort():
    lengths = [(False, 1), (True, 1), (False, 1), (True, 1)]
    steps = plan(lengths, 2, 1, 1, seed=1).micro_batches
    assert sorted(sorted(step) for step in steps) == [[0, 2], [1, 3]]


def test_groups_keep_what_shares_a_key_in_order():
    found = grouped(partial(in_order, micro_batch=1), ["a", "b", "a", "c", "b"], len)
    assert found.micro_batches == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize(
    ("num", "batches"),
    [
        (1, [[0], [0], [0], [0]]),
        (3, [[0], [1], [2], [0]]),
        (5, [[0], [1], [2], [3, 4]]),
        (7, [[0], [1, 2], [3, 4], [5, 6]]),
        (8, [[0, 1], [2, 3], [4, 5], [6, 7]]),
    ],
)
def test_fewer_examples_than_one_step_still_train(num, batches):
    assert plan([1] * num, 2, 4, 1, seed=1, shuffle=False).micro_batches == batches


def test_a_last_step_that_is_kept_is_a_smaller_one():
    found = plan([1] * 7, 2, 2, 1, seed=1, shuffle=False, drop_last=False)
    assert found.micro_batches == [[0, 1], [2, 3], [4], [5, 6]]
    assert found.left_out == [[]]


def test_nothing_to_train_on_is_no_step():
    assert plan([], 2, 4, 1, seed=1).num_steps == 0


def test_a_micro_batch_is_told_its_whole_step():
    found = plan([1] * 8, micro_batch=2, accumulate=2, epochs=1, seed=1, shuffle=False)
    data = PlannedData(found, lambda indices, step: [indices, step])
    step_of = {0: [0, 1, 2, 3], 1: [0, 1, 2, 3], 2: [4, 5, 6, 7], 3: [4, 5, 6, 7]}
    assert list(data.train_dataloader()) == [[found.micro_batches[i], step] for i, step in step_of.items()]


def test_processes_share_the_micro_batches_of_every_step():
    found = plan([1] * 16, micro_batch=2, accumulate=4, epochs=1, seed=1, shuffle=False)
    taken = []
    for rank in range(2):
        data = PlannedData(found, lambda indices, step: (indices, step))
        data.rank, data.world = rank, 2
        taken.append(list(data.train_dataloader()))
    for step in range(2):
        own = [batch for one in taken for batch in one[2 * step : 2 * step + 2]]
        assert sorted(i for indices, _ in own for i in indices) == sorted(own[0][1])


def test_processes_share_a_last_step_of_fewer_rows_than_micro_batches():
    """Three rows in four micro-batches of two processes: each has two, and every row weighs one over them all."""
    found = plan([1] * 3, micro_batch=2, accumulate=4, epochs=1, seed=1, shuffle=False)
    weights, sizes = Counter(), []
    for rank in range(2):
        data = PlannedData(found, lambda indices, step: (indices, Fraction(1, copies(indices, step))))
        data.rank, data.world = rank, 2
        taken = list(data.train_dataloader())
        sizes.append(len(taken))
        for indices, weight in taken:
            weights.update(dict.fromkeys(indices, weight))
    assert sizes == [data.accumulate(2)] * 2 and weights == {0: 1, 1: 1, 2: 1}


def test_a_step_that_processes_cannot_share_is_refused():
    data = PlannedData(plan([1] * 16, 2, 4, 1, seed=1), lambda indices, _: indices)
    with pytest.raises(UserError, match="4 micro-batches, which 3 processes cannot share evenly"):
        data.accumulate(3)


def test_a_resumed_run_goes_on_at_its_micro_batch():
    data = PlannedData(plan([1] * 8, 2, 2, 1, seed=1, shuffle=False), lambda indices, _: indices)
    data.load_state_dict({"steps": 1})
    loader = data.train_dataloader()
    assert list(loader) == [[4, 5], [6, 7]]
    assert len(loader) == 4


def test_the_rate_warms_up_peaks_and_falls_as_a_cosine():
    # 100 steps, 4 % of warm-up: four steps up, then 96 down; a quarter of them is 24.
    rates = [cosine(step, 100, 0.04) for step in (0, 1, 3, 4, 28, 52, 76, 100)]
    quarter = (1 + math.sqrt(0.5)) / 2
    assert rates == pytest.approx([0.25, 0.5, 1, 1, quarter, 0.5, 1 - quarter, 0])


def test_the_rate_falls_to_its_floor():
    assert [cosine(step, 100, 0.04, floor=0.1) for step in (4, 52, 100)] == pytest.approx([1, 0.55, 0.1])


@pytest.mark.parametrize("total", [1, 2])
def test_a_run_of_a_step_or_two_has_a_rate(total):
    assert all(0 < cosine(step, total, 0.03) <= 1 for step in range(total))


def toy():
    """Names vision_tower.{weight,bias} and language.{weight,bias}."""
    return nn.ModuleDict({"vision_tower": nn.Linear(2, 3), "language": nn.Linear(3, 2)})


def test_parts_have_their_rate_and_biases_no_decay():
    groups = parameter_groups(toy(), Optim(lr=5e-6, part_lrs={"vision_tower": 5e-7}, weight_decay=0.1))
    found = {(g["lr"], g["weight_decay"]): [tuple(p.shape) for p in g["params"]] for g in groups}
    assert found == {(5e-7, 0.1): [(3, 2)], (5e-7, 0.0): [(3,)], (5e-6, 0.1): [(2, 3)], (5e-6, 0.0): [(2,)]}


def test_frozen_parameters_are_left_out():
    model = toy()
    model["language"].requires_grad_(False)
    assert sum(p.numel() for g in parameter_groups(model, Optim(lr=1.0)) for p in g["params"]) == 2 * 3 + 3


def test_a_part_that_matches_nothing_is_named():
    with pytest.raises(UserError, match=r"no trainable parameter name holds \['vision_towre'\]"):
        parameter_groups(toy(), Optim(lr=1.0, part_lrs={"vision_towre": 0.1}))


def test_a_rate_for_a_frozen_part_is_an_error():
    model = toy()
    model["vision_tower"].requires_grad_(False)
    with pytest.raises(UserError, match="it may be frozen"):
        parameter_groups(model, Optim(lr=1.0, part_lrs={"vision_tower": 0.1}))


def test_nothing_to_train_is_an_error():
    with pytest.raises(UserError, match="every parameter is frozen"):
        parameter_groups(toy().requires_grad_(False), Optim(lr=1.0))


def test_rows_planned_together_are_padded_by_less_than_a_tenth():
    rng = Random(0)
    shapes = [(rng.choice([4, rng.randint(40, 160)]), rng.randint(15, 45)) for _ in range(4000)]
    planned = plan([length_key(*s) for s in shapes], micro_batch=8, accumulate=1, epochs=1, seed=0)
    held = [[shapes[i] for i in batch] for batch in planned.micro_batches]
    room = sum(len(b) * (64 + max(t for t, _ in b) + max(p for _, p in b)) for b in held)  # 64 image tokens
    used = sum(64 + t + p for b in held for t, p in b)
    assert 1 - used / room < 0.1
