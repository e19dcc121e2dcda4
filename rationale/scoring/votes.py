"""Which of many responses to one question to take, by its index: majority, a verifier's best, a weighted vote.

An answer that is None was not parsed and has no vote; of equals the first is taken, and where none is parsed the first
of all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence


def majority(answers: Sequence[str | None], _: Sequence[float] = ()) -> int:
    """The first response with the most frequent answer (self-consistency)."""
    return _vote(answers, [1.0] * len(answers))


def pass_at(k: int, num: int, right: int) -> float:
    """The probability that at least one of k of `num` responses, drawn without replacement, is among the `right`
    ones: pass@k (Chen et al., arXiv 2107.03374, Eq. 1)."""
    return 1 - math.comb(num - right, k) / math.comb(num, k)


def best_of(answers: Sequence[str | None], rewards: Sequence[float]) -> int:
    """The response with the highest reward."""
    parsed = [i for i, answer in enumerate(answers) if answer is not None] or range(len(answers))
    return max(parsed, key=rewards.__getitem__)


def weighted_vote(answers: Sequence[str | None], rewards: Sequence[float], temperature: float = 1.0) -> int:
    """The first response with the answer that has the largest sum of exp(reward / temperature).

    A DPO reward is a log-ratio, mostly negative: summed as it is, each further vote would count against its answer
    and three responses at -0.5 would lose to one at -1. Exponentials are positive, so agreement always helps.
    """
    top = max(rewards)
    return _vote(answers, [math.exp((reward - top) / temperature) for reward in rewards])


def _vote(answers: Sequence[str | None], weights: Sequence[float]) -> int:
    totals: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            totals[answer] = totals.get(answer, 0.0) + weight
    return answers.index(max(totals, key=totals.__getitem__)) if totals else 0


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
        "majority": majority,
        "best_of": best_of,
        "weighted_vote": lambda a, r: weighted_vote(a, r, temperature),
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
