"""Preference pairs from the judged responses of a policy (paper, section 3.3)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise, product, takewhile
from typing import Literal

from rationale.schema import Pair, Response
from rationale.scoring.judge import is_correct
from rationale.settings import Count, Fraction, settings


@settings
class PairingRule:
    """Which questions give pairs, how many, and from which responses.

    The paper states the accuracy range [0.25, 0.85] and "up to three pairs". It does not state whether the bounds are
    inclusive (here both are), nor anything on unparsed, identical or reused responses. An unparsed response counts
    as incorrect; `drop_unparsed_negatives` keeps it out of the pairs all the same. `deduplicate` counts identical
    texts once among the candidates for a pair, never in the accuracy. Unless `reuse`, a response is in one pair at
    most. `partner` says which incorrect response a correct one is set against: `random`, as in the paper, or `closest`,
    the one that has the longest beginning in common with it, so that less of the pair's difference is mere wording.
    `feedback` says what is correct: the `annotation`, or, without one, the `majority` of the question's own responses.
    """

    low: Fraction = 0.25
    high: Fraction = 0.85
    max_pairs: Count = 3
    drop_unparsed_negatives: bool = False
    deduplicate: bool = True
    reuse: bool = False
    partner: Literal["random", "closest"] = "random"
    feedback: Literal["annotation", "majority"] = "annotation"

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"need low <= high, found low={self.low}, high={self.high}")


def pair_question(responses: list[Response], rule: PairingRule, seed: int) -> tuple[list[Pair], str]:
    """Pairs from the responses of one question, and "paired" or why there are none.

    Reasons: no_responses, too_hard (accuracy below `low`), too_easy (above `high`), no_positive, no_negative.
    The order of the responses is of no account, and a larger `max_pairs` keeps the pairs of a smaller one.
    """
    if not responses:
        return [], "no_responses"
    responses = sorted(responses, key=lambda response: response.sample_id)
    question_id, style = _one_question(responses)

    right = [r for r in responses if r.predicted is not None and is_correct(r.score)]
    accuracy = len(right) / len(responses)
    if accuracy < rule.low:
        return [], "too_hard"
    if accuracy > rule.high:
        return [], "too_easy"

    right_ids = {r.sample_id for r in right}
    wrong = [r for r in responses if r.sample_id not in right_ids]
    # A text judged both ways says nothing, and a pair of it with itself has no gradient.
    contradictory = {r.text for r in right} & {r.text for r in wrong}
    if rule.drop_unparsed_negatives:
        wrong = [r for r in wrong if r.predicted is not None]
    right, wrong = (_candidates(side, contradictory, rule.deduplicate) for side in (right, wrong))
    if not right:
        return [], "no_positive"
    if not wrong:
        return [], "no_negative"

    # The draw depends on (seed, question_id) alone, so adding a question never changes another's pairs.
    rng = random.Random(f"{seed}/{question_id}")
    if rule.reuse:
        drawn = list(product(right, wrong))
        rng.shuffle(drawn)
        if rule.partner == "closest":
            drawn.sort(key=lambda pair: -common_length(*pair))
    else:
        rng.shuffle(right)
        rng.shuffle(wrong)
        drawn = list(zip(right, by_likeness(right, wrong) if rule.partner == "closest" else wrong, strict=False))
    pairs = [
        Pair(
            question_id=question_id,
            pair_id=pair_id,
            style=style,
            chosen=chosen.text,
            rejected=rejected.text,
            chosen_id=chosen.sample_id,
            rejected_id=rejected.sample_id,
            chosen_answer=chosen.predicted,
            rejected_answer=rejected.predicted,
            chosen_finished=chosen.finished,
            rejected_finished=rejected.finished,
            chosen_token_ids=chosen.token_ids,
            rejected_token_ids=rejected.token_ids,
        )
        for pair_id, (chosen, rejected) in enumerate(drawn[: rule.max_pairs])
    ]
    return pairs, "paired"


def pair_all(
    responses_by_question: Iterable[list[Response]], rule: PairingRule, seed: int
) -> tuple[list[Pair], Counter[str]]:
    """Pairs of every question in the order given, and how many questions met each fate of `pair_question`."""
    pairs, reasons, seen = [], Counter(), set()
    for responses in responses_by_question:
        found, reason = pair_question(responses, rule, seed)
        pairs += found
        reasons[reason] += 1
        if responses:
            question_id = responses[0].question_id
            if question_id in seen:
                raise ValueError(f"{question_id}: its responses come in two groups; sort them by question_id first")
            seen.add(question_id)
    return pairs, reasons


def common_length(one: Response, other: Response) -> int:
    """Characters that two texts begin with alike."""
    alike = takewhile(lambda letters: letters[0] == letters[1], zip(one.text, other.text, strict=False))
    return sum(1 for _ in alike)


def by_likeness(right: list[Response], wrong: list[Response]) -> list[Response]:
    """For each correct response in turn, of the incorrect ones still left that which begins most like it."""
    left, found = list(wrong), []
    for response in right[: len(wrong)]:
        found.append(max(left, key=lambda other: common_length(response, other)))
        left.remove(found[-1])
    return found


def truncate_words(text: str, limit: int | None) -> tuple[str, bool]:
    """The first `limit` words and whether any were cut; no limit (None or 0) leaves the text as it is.

    The paper says 90 tokens, its code counts what single spaces separate: newlines do not split, and a double space
    makes an empty word. A text that was cut has no natural end, so the caller leaves out its end-of-text token.
    """
    if limit is not None and limit < 0:
        raise ValueError(f"a limit is a number of words, 0 or None for no limit; found {limit}")
    words = text.split(" ")
    if not limit or len(words) <= limit:
        return text, False
    return " ".join(words[:limit]), True


def _one_question(responses: list[Response]) -> tuple[str, str]:
    """The question_id and style that all responses share; `responses` is sorted by sample_id."""
    question_id, style = responses[0].question_id, responses[0].style
    others = {(r.question_id, r.style) for r in responses} - {(question_id, style)}
    if others:
        raise ValueError(f"{question_id} ({style}): mixed with {sorted(others)}; pair one question and style at a time")
    repeated = [a.sample_id for a, b in pairwise(responses) if a.sample_id == b.sample_id]
    if repeated:
        raise ValueError(f"{question_id}: sample_id {repeated} occurs more than once; re-run stage=sample")
    return question_id, style


def _candidates(responses: list[Response], excluded: set[str], deduplicate: bool) -> list[Response]:
    """Responses that may enter a pair; of identical texts the first stands for all."""
    allowed = [r for r in responses if r.text not in excluded]
    if not deduplicate:
        return allowed
    first: dict[str, Response] = {}
    for response in allowed:
        first.setdefault(response.text, response)
    return list(first.values())
