"""Per-token credit (paper, Figure 7), and how it lies about the first wrong step of a response."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from rationale.reporting.tables import Table, cell_text
from rationale.schema import Question, Response, ResponseKey, ResponseLogps, RowError
from rationale.scoring.cells import Cell
from rationale.scoring.intervals import mean_interval
from rationale.scoring.judge import is_correct
from rationale.worlds.truth import first_wrong_step, free_words, has_truth, word_spans, word_steps

NUM_SHUFFLES = 200
EVERYTHING = "all"
Logps = dict[ResponseKey, ResponseLogps]


@dataclass(frozen=True, slots=True)
class Credited:
    """A response and the credit of its tokens, in nats and of mean 0.

    `words` are spans of the text. `token_words` holds the word of each token, `steps` the step of each word; where the
    response ended by itself, the end token is a word of its own after the others, in the last step. `wrong_step` is
    None where there is none or nobody knows it.
    """

    question: Question
    response: Response
    rewards: list[float]
    words: list[tuple[int, int]]
    token_words: list[int]
    steps: list[int]
    wrong_step: int | None

    @property
    def word_credit(self) -> list[float]:
        """The credit of each word: the sum of its tokens'."""
        return np.bincount(self.token_words, self.rewards, len(self.steps)).tolist()

    @property
    def token_steps(self) -> list[int]:
        return [self.steps[word] for word in self.token_words]


def centred(dpo: Sequence[float], sft: Sequence[float]) -> list[float]:
    """log pi_dpo - log pi_sft of each token, less its mean over the response (paper, Figure 7)."""
    ratio = [a - b for a, b in zip(dpo, sft, strict=True)]
    mean = fmean(ratio)
    return [value - mean for value in ratio]


def token_words(text: str, offsets: Iterable[tuple[int, int]]) -> list[int]:
    """The word of each token, by the tokenizer's offsets: the one that it begins in.

    Space belongs to the word that follows; after the last word, to the last.
    """
    ends = [end for _, end in word_spans(text)]
    return [min(bisect_right(ends, start), len(ends) - 1) for start, _ in offsets]


def credited(
    question: Question, response: Response, offsets: Sequence[tuple[int, int]], sides: dict[str, Logps]
) -> Credited:
    """The credit of one response; its log-probs under both sides must be as many as its tokens."""
    text, num = response.text, len(offsets) + response.finished
    logps = _logps(response, num, sides)
    words = word_spans(text)
    steps = word_steps(text)
    known = has_truth(question) and response.style == "cot"
    return Credited(
        question,
        response,
        centred(*logps),
        words,
        token_words(text, offsets) + [len(words)] * response.finished,
        steps + steps[-1:] * response.finished,
        first_wrong_step(question, text) if known else None,
    )


def _logps(response: Response, num: int, sides: dict[str, Logps]) -> tuple[list[float], list[float]]:
    """The values of both sides, dpo first."""
    who = f"{response.question_id}: response {response.sample_id}"
    for side, rows in sides.items():
        if response.key not in rows:
            raise RowError(f"{who} has no log-probs under {side}; re-run stage=score score=verifier checkpoint={side}")
    dpo, sft = (sides[side][response.key] for side in ("dpo", "sft"))
    if len(dpo.logps) != len(sft.logps):
        raise RowError(
            f"{who} has {len(dpo.logps)} log-probs under dpo and {len(sft.logps)} under sft; score both with one"
            " tokenizer and one rule of truncation"
        )
    if num != len(dpo.logps):
        raise RowError(
            f"{who} is {num} tokens long and has {len(dpo.logps)} log-probs; `model` must be the one whose"
            " tokenizer scored it, and score.truncate must leave responses whole"
        )
    if dpo.context != sft.context:
        raise RowError(f"{who} was scored after another image or prompt under dpo than under sft; score both again")
    return dpo.logps, sft.logps


def measures(found: Credited, threshold: float, seed: int) -> dict[str, tuple[float, float | None]]:
    """Each quantity of one response that has a first wrong step, with its chance level if the credit were shuffled.

    A token is strongly negative below -`threshold` standard deviations of the response's own tokens. A response without
    any is told by `strong` alone and is in neither share of the first such token. Where the first lies before the wrong
    step, `of_style` says whether at one of the `free_words`. Chance is exact, except that of `worst_step`, a mean over
    200 shuffles by seed; `worst_step_of_all` has 1 / number of steps.
    """
    rewards, steps, wrong = found.rewards, found.token_steps, found.wrong_step
    num, start, end = len(rewards), sum(s < wrong for s in steps), sum(s <= wrong for s in steps)
    limit = -threshold * math.sqrt(fmean(r * r for r in rewards))
    strong = [i for i, r in enumerate(rewards) if r < limit]
    values: dict[str, tuple[float, float | None]] = {"strong": (float(bool(strong)), None)}
    if strong:
        before, until = (_first_within(num, len(strong), m) for m in (start, end))
        values["until_step"] = float(strong[0] < end), until
        values["in_step"] = float(start <= strong[0] < end), until - before
        if strong[0] < start:
            free = free_words(found.question, found.response.text)
            of_style = [word in free for word in found.token_words[:start]]
            values["of_style"] = float(of_style[strong[0]]), fmean(of_style)
    for name, part in (("before", rewards[:start]), ("in", rewards[start:end]), ("after", rewards[end:])):
        if part:
            values[f"credit_{name}"] = fmean(part), None
    rng = np.random.default_rng(list(f"{seed}/{found.response.question_id}/{found.response.text}".encode()))
    shuffles = rng.permuted(np.tile(rewards, (NUM_SHUFFLES, 1)), axis=1)
    is_worst = float(_worst_steps(np.array([rewards]), steps)[0] == wrong)
    values["worst_step"] = is_worst, float((_worst_steps(shuffles, steps) == wrong).mean())
    values["worst_step_of_all"] = is_worst, 1 / len(set(found.steps))
    return values


def _first_within(num: int, strong: int, places: int) -> float:
    """How likely the first of `strong` tokens, shuffled among `num`, is one of the first `places`."""
    return 1 - math.comb(num - places, strong) / math.comb(num, strong)


def _worst_steps(rows: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """The step with the most negative sum of credit, for each row of token credits; the first of equals."""
    return (rows @ np.eye(max(steps) + 1)[list(steps)]).argmin(axis=1)


LABELS = {
    "strong": "has a strongly negative token",
    "until_step": "first strongly negative token in the first wrong step or before",
    "in_step": "first strongly negative token in the first wrong step",
    "of_style": "where it is before that step: at a word that true rationales are free in",
    "worst_step": "most negative step is the first wrong step; chance: shuffled",
    "worst_step_of_all": "most negative step is the first wrong step; chance: 1 / steps",
    "credit_before": "credit of a token before the first wrong step",
    "credit_in": "credit of a token in the first wrong step",
    "credit_after": "credit of a token after the first wrong step",
}


def credit_table(all_found: Iterable[Credited], threshold: float, seed: int, num_resamples: int) -> Table | None:
    """Means with intervals over the wrong responses that have a first wrong step, together and by data set.

    None where there is no such response.
    """
    wrong = [c for c in all_found if not is_correct(c.response.score) and c.wrong_step is not None]
    if not wrong:
        return None
    told = [(c, measures(c, threshold, seed)) for c in wrong]
    panels = [EVERYTHING, *sorted({c.question.dataset for c in wrong})]
    rows, records = [], []
    for panel in panels:
        inside = [(c.question.shown, m) for c, m in told if panel in (EVERYTHING, c.question.dataset)]
        for name, label in LABELS.items():
            kept = [(image, m[name]) for image, m in inside if name in m]
            images, scale = [image for image, _ in kept], 1000 if name.startswith("credit_") else 100
            columns = {"value": [value for _, (value, _) in kept]}
            if kept and kept[0][1][1] is not None:
                columns["chance"] = [chance for _, (_, chance) in kept]
                columns["difference"] = [value - chance for _, (value, chance) in kept]
            spans = {
                c: mean_interval([scale * v for v in vs], images, num_resamples) for c, vs in columns.items() if vs
            }
            rows.append([panel, label, *(cell_text(Cell(spans.get(c), {})) for c in ("value", "chance", "difference"))])
            for column, span in spans.items():
                numbers = {key: round(getattr(span, key), 4) for key in ("mean", "low", "high")}
                counts = {"num": span.num, "num_images": span.num_clusters}
                records.append({"data": panel, "quantity": name, "of": column, **numbers, **counts})
    caption = (
        f"{len(wrong)} wrong responses whose first departure from every true rationale is known; n counts those that a"
        " row is about, brackets hold 95% bootstrap intervals over images. Shares in points, credit in thousandths of a"
        f" nat a token (0 by chance). Strongly negative: below −{threshold:g} standard deviations of the response's own"
        " tokens; a response without such a token counts in the first row alone. True rationales are free in a word"
        " where those that begin alike go on differently; chance is the share of such tokens before the step."
    )
    header = ["data", "quantity", "here", "chance", "difference"]
    return Table("credit", "Credit and the first wrong step", caption, header, rows, records)
