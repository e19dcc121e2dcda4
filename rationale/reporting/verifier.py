"""The DPO model as verifier: votes among sampled responses, weighted by log pi_dpo - log pi_sft (paper, Figure 5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rationale.reporting.specs import VoteSpec
from rationale.reporting.standing import marked
from rationale.reporting.tables import Table, ordering, record
from rationale.schema import Question, Response, ResponseKey, ResponseLogps, RowError
from rationale.scoring.cells import Cell, Scored, Scores, difference, summary
from rationale.scoring.judge import canonical
from rationale.scoring.votes import verifier_curve

METHODS = {"weighted_vote": "weighted vote", "majority": "majority vote", "best_of": "best of N"}
AVERAGE = "Avg"


@dataclass(frozen=True, slots=True)
class Candidates:
    """Responses of one seed to test questions, with whole-response log-probs (nats) under the DPO and the SFT model."""

    seed: int
    responses: list[Response]
    dpo: dict[ResponseKey, float]
    sft: dict[ResponseKey, float]


def sequence_sums(rows: Iterable[ResponseLogps]) -> dict[ResponseKey, float]:
    """Summed log-probs of each response."""
    return {r.key: sum(r.logps) for r in rows}


def reward(response: Response, found: Candidates) -> float:
    """log pi_dpo(y | x) - log pi_sft(y | x) of a whole response, in nats."""
    for side in ("dpo", "sft"):
        if response.key not in getattr(found, side):
            raise RowError(
                f"{response.question_id}: response {response.sample_id} of seed {found.seed} has no log-probs under"
                f" the {side} model; re-run stage=score score=verifier checkpoint={side}"
            )
    return found.dpo[response.key] - found.sft[response.key]


def sizes_of(num: int) -> list[int]:
    """1, 2, 4, ... up to `num`."""
    return [2**i for i in range(num.bit_length())]


def curves(
    all_candidates: list[Candidates], questions: dict[str, Question], votes: VoteSpec
) -> dict[tuple[str, int], Scores]:
    """Score of the chosen response of every question and seed, by (method, N).

    N runs over the powers of two that every question has candidates for.
    """
    grouped: dict[tuple[int, str], tuple[Candidates, list[Response]]] = {}
    for found in all_candidates:
        for response in found.responses:
            if response.question_id not in questions:
                raise RowError(f"{response.question_id}: a candidate without its question; use the one it came from")
            grouped.setdefault((found.seed, response.question_id), (found, []))[1].append(response)
    sizes = sizes_of(min(len(responses) for _, responses in grouped.values()))
    scores: dict[tuple[str, int], Scores] = {(method, size): {} for method in METHODS for size in sizes}
    for (seed, question_id), (found, responses) in grouped.items():
        question = questions[question_id]
        responses.sort(key=lambda r: r.sample_id)
        answers = [canonical(question, r.predicted) for r in responses]
        rewards = [reward(r, found) for r in responses]
        correct = [r.score for r in responses]
        curve = verifier_curve(
            question_id, answers, rewards, correct, sizes, votes.num_subsets, temperature=votes.temperature
        )
        for (method, size), kept in scores.items():
            kept[seed, question_id] = Scored(question.dataset, question.shown, curve[method][size])
    return scores


@dataclass(frozen=True, slots=True)
class Verifier:
    """Cells by (data set or Avg, method, N), greedy accuracy by (data set or Avg, label), and by (data set or Avg,
    method) what a method gains over the majority vote of all candidates."""

    sizes: list[int]
    datasets: list[str]
    cells: dict[tuple[str, str, int], Cell]
    greedy: dict[tuple[str, str], Cell]
    gains: dict[tuple[str, str], Cell]


def verify(
    scores: dict[tuple[str, int], Scores],
    greedy: dict[str, Scores],
    paper: dict[str, dict[str, float]],
    num_resamples: int,
) -> Verifier:
    """Means with intervals, by data set and averaged over them.

    `greedy` holds a model's scores by label; only questions with candidates count, and a model that lacks one of them
    is left out. `paper` is its gain over the majority vote, by method and data set.
    """
    sizes = sorted({size for _, size in scores})
    everything = scores["majority", 1]
    datasets = sorted({s.dataset for s in everything.values()})
    panels = {d: [d] for d in datasets} | ({AVERAGE: datasets} if len(datasets) > 1 else {})

    def over(scores: Scores, paper: dict[str, float] | None = None) -> dict[str, Cell]:
        return {panel: summary(scores, sets, num_resamples, (paper or {}).get(panel)) for panel, sets in panels.items()}

    cells = {(panel, *key): cell for key, found in scores.items() for panel, cell in over(found).items()}
    once, gains = {}, {}
    for label, answered in greedy.items():
        if everything.keys() <= answered.keys():
            same = {key: answered[key] for key in everything}
            once |= {(panel, label): cell for panel, cell in over(same).items()}
    for method in ("weighted_vote", "best_of"):
        gain = difference(scores[method, sizes[-1]], scores["majority", sizes[-1]])
        gains |= {(panel, method): cell for panel, cell in over(gain, paper.get(method)).items()}
    return Verifier(sizes, list(panels), cells, once, gains)


def add_orderings(table: Table, found: Verifier, stale: bool = False) -> None:
    """Append to the table of orderings how votes of all candidates compare, as the paper has it: weighted above
    majority, majority above best of N; on data sets that it has a number for, or else on the average or only one."""
    top = found.sizes[-1]
    for method, better, worse in (("weighted_vote", "weighted_vote", "majority"), ("best_of", "majority", "best_of")):
        gains = {panel: found.gains[panel, method] for panel in found.datasets}
        for panel in [p for p, gain in gains.items() if gain.paper is not None] or found.datasets[-1:]:
            claim = f"{top} candidates, {panel}: {METHODS[better]} above {METHODS[worse]}"
            claim = marked(claim) if stale else claim
            row, kept = ordering(claim, gains[panel] if better == method else -gains[panel], better, worse, 0)
            table.rows.append(row)
            table.records.append(kept)


def verifier_table(found: Verifier, votes: VoteSpec) -> Table:
    """Every point of the curves; the greedy rows answer the same questions once."""
    rows, records, top = [], [], found.sizes[-1]
    for panel in found.datasets:
        for method, label in METHODS.items():
            cells = [found.cells[panel, method, n] for n in found.sizes]
            rows.append([panel, label, *cells])
            points = zip(found.sizes, cells, strict=True)
            records += [record(cell, dataset=panel, method=method, candidates=size) for size, cell in points]
        for (where, label), cell in found.greedy.items():
            if where == panel:
                rows.append([panel, f"greedy {label}", cell, *[""] * (len(found.sizes) - 1)])
                records.append(record(cell, dataset=panel, method=f"greedy {label}", candidates=None))
        for (where, method), cell in found.gains.items():
            if where == panel:
                rows.append([panel, f"{METHODS[method]} − majority at {top}", *[""] * (len(found.sizes) - 1), cell])
                records.append(record(cell, dataset=panel, method=f"{method} - majority", candidates=top))
    caption = (
        "Accuracy in points of the response that a vote among N candidates of the SFT model chooses: mean over"
        " questions and seeds, Avg unweighted over data sets, 95% bootstrap interval over images. Votes weigh"
        f" exp(r / {votes.temperature:g}), r = log π_dpo(y) − log π_sft(y) of the whole response; the paper does not"
        f" state its weights. Below the largest N a value is a mean over {votes.num_subsets} random subsets. The"
        " paper's number beside a difference is at its largest N."
    )
    header = ["data", "method", *(f"N={size}" for size in found.sizes)]
    return Table("verifier", "The DPO model as verifier", caption, header, rows, records)
