"""Cells, paired differences and verdicts on scores that add up by hand."""

import csv
import io
from dataclasses import replace

import pytest

from rationale.artifacts import UserError
from rationale.reporting.load import sampled_rows
from rationale.reporting.specs import Claim, Column, Report, Row, TableSpec, VoteSpec
from rationale.reporting.tables import (
    Table,
    accuracy_table,
    number,
    orderings_table,
    record,
    results,
    show,
    to_csv,
    to_latex,
    to_markdown,
    verdict,
)
from rationale.reporting.verifier import (
    Candidates,
    add_orderings,
    curves,
    reward,
    sequence_sums,
    sizes_of,
    verifier_table,
    verify,
)
from rationale.schema import EvalRow, Question, Response, ResponseLogps, RowError
from rationale.scoring.cells import SAMPLED, Cell, Run, Scored, difference, scores_of, summary
from rationale.scoring.intervals import Interval

AVERAGE = ["chart", "scene"]
COLUMNS = [
    Column("chart", ["chart"], "ChartQA"),
    Column("Avg", AVERAGE, "Avg"),
    Column("held-out", ["chart_held_out"], None),
]
VOTES = VoteSpec(temperature=1.0, num_subsets=4, paper={"weighted_vote": {"chart": 0.5}})


def report(tables=None, orderings=()):
    return Report(
        title="A report", average=AVERAGE, columns=COLUMNS, tables=tables or {}, orderings=list(orderings),
        verifier=VOTES, compare=[], stale="refuse", num_examples=0, num_resamples=200,
    )  # fmt: skip


def run(name, seed, direct, cot):
    """Scores by data set as strings of 0 and 1, one question each; two questions share an image."""
    rows = [
        EvalRow(f"{dataset}-{i}", dataset, [f"{dataset}{i // 2}.png"], style, "", {"1": s}.get(s), float(s), 3, True)
        for style, scores in (("direct", direct), ("cot", cot))
        for dataset, marks in scores.items()
        for i, s in enumerate(marks)
    ]  # fmt: skip
    return Run(name, seed, rows)


RUNS = [
    run("a", 1, {"chart": "1100", "scene": "10"}, {"chart": "1111", "scene": "10"}),
    run("a", 2, {"chart": "1110", "scene": "11"}, {"chart": "1111", "scene": "11"}),
    run("b", 1, {"chart": "0000", "scene": "00"}, {"chart": "1100", "scene": "11"}),
]


def table(tmp_path, rows=None, runs=RUNS):
    paper = tmp_path / "paper.csv"
    paper.write_text("row,prompt,ChartQA,Avg\n①,direct,70.2,65.5\n①,cot,71.2,62.7\n", encoding="utf-8")
    rows = rows or [Row("① A & B", "a", "①"), [Row("c", "c", None)]]  # a row may be a list of rows
    return accuracy_table(report({"table_2": TableSpec("Table", "Caption.", str(paper), rows)}), "table_2", runs)


def test_a_cell_pools_seeds_and_weighs_data_sets_alike(tmp_path):
    direct = table(tmp_path).rows[0]
    # chart: 2/4 and 3/4 by seed, 5/8 pooled; scene: 1/2 and 2/2, 3/4 pooled. Unparsed is 1 - accuracy here.
    assert direct[2].interval.mean == pytest.approx(62.5) and direct[2].paper == 70.2
    assert direct[3].interval.mean == pytest.approx((62.5 + 75) / 2) and direct[3].paper == 65.5
    assert direct[3].by_seed == {1: pytest.approx(50), 2: pytest.approx(87.5)}
    assert direct[5:] == ["31.2", "3.0"]


def test_more_seeds_give_more_rows_and_no_more_images():
    one, three = (
        summary(scores_of([run("a", s, {}, {"chart": "1100"}) for s in range(n)], "a", "cot"), ["chart"], 500)
        for n in (1, 3)
    )
    assert (one.interval.num, three.interval.num) == (4, 12)
    assert one.interval.num_clusters == three.interval.num_clusters == 2
    assert (one.interval.low, one.interval.high) == (three.interval.low, three.interval.high) == (0, 100)


def test_an_average_is_empty_unless_every_data_set_is_there(tmp_path):
    held_out = table(tmp_path).rows[0][4]
    assert held_out.interval is None
    partial = summary(scores_of(RUNS, "a", "cot"), ["chart", "chart_held_out"], 10)
    assert partial == Cell(None, {})


def test_difference_is_paired_over_shared_seeds():
    found = difference(scores_of(RUNS, "a", "cot"), scores_of(RUNS, "b", "cot"))
    # Seed 2 of "a" has no partner. chart: 1111 - 1100; scene: 10 - 11.
    assert [found[1, f"chart-{i}"].value for i in range(4)] == [0, 0, 1, 1]
    cell = summary(found, AVERAGE, 100)
    assert cell.interval.mean == pytest.approx((50 - 50) / 2)
    assert cell.by_seed == {1: pytest.approx(0)}


def test_difference_refuses_other_questions():
    short = [run("b", 1, {}, {"chart": "11"})]
    with pytest.raises(UserError, match=r"2 questions .* \(1, 'chart-2'\)"):
        difference(scores_of([run("a", 1, {}, {"chart": "1111"})], "a", "cot"), scores_of(short, "b", "cot"))


def test_the_mean_style_averages_both_prompts_of_a_question():
    found = scores_of(RUNS, "b", "mean")
    assert [found[1, f"chart-{i}"].value for i in range(4)] == [0.5, 0.5, 0, 0]


def test_the_best_style_is_chosen_for_each_data_set():
    found = scores_of([run("a", 1, {"chart": "1100", "scene": "00"}, {"chart": "1000", "scene": "01"})], "a", "best")
    assert [s.value for s in found.values() if s.dataset == "chart"] == [1, 1, 0, 0]
    assert [s.value for s in found.values() if s.dataset == "scene"] == [0, 1]


def test_a_claim_may_be_about_data_sets_of_its_own():
    claim = Claim("a above b", ("a", "cot"), ("b", "cot"), at_least=0, paper=None)
    made = orderings_table(report(orderings=[claim, replace(claim, datasets=["chart"])]), RUNS)
    # Seed 1: chart 1111 - 1100 is 50 points, scene 10 - 11 is -50.
    assert [row[2].interval.mean for row in made.rows] == [pytest.approx(0), pytest.approx(50)]


def test_a_table_may_have_columns_and_prompts_of_its_own(tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text("row,prompt,MMMU\n④,cot,40.1\n", encoding="utf-8")
    own = {"columns": [Column("scenes", ["scene"], "MMMU")], "prompts": ("cot",)}
    spec = TableSpec("Table", "", str(paper), [Row("SFT", "a", "④")], **own)
    made = accuracy_table(report({"table_4": spec}), "table_4", RUNS)
    assert made.header[:3] == ["model", "prompt", "scenes"]
    assert [(row[1], row[2].paper) for row in made.rows] == [("CoT", 40.1)]


@pytest.mark.parametrize(
    ("low", "high", "at_least", "expected"),
    [(10.1, 20, 10, "holds"), (-5, 9.9, 10, "fails"), (9, 11, 10, "open"), (0, 1, 0, "open")],
)
def test_a_verdict_needs_the_whole_interval(low, high, at_least, expected):
    assert verdict(Cell(Interval((low + high) / 2, low, high, 4, 2), {}), at_least) == expected


def test_orderings_of_models_that_were_not_run_say_so():
    claims = [
        Claim("a above b", ("a", "direct"), ("b", "direct"), at_least=0, paper=4.2),
        Claim("c above b", ("c", "cot"), ("b", "cot"), at_least=0, paper=None),
    ]
    made = orderings_table(report(orderings=claims), RUNS)
    # a - b with the direct prompt, seed 1: chart 1100 by image (1, 1), (0, 0), scene 10 in one image.
    assert made.rows[0][2].interval.mean == pytest.approx(50)
    assert [row[-1] for row in made.rows] == ["holds", "not run"]
    assert made.records[0]["verdict"] == "holds" and made.records[1]["value"] is None


def test_markdown_latex_and_csv_agree(tmp_path):
    made = table(tmp_path)
    rows = [r for r in csv.DictReader(io.StringIO(to_csv(made))) if r["value"]]
    assert len(rows) == 4
    markdown, latex = to_markdown(made), to_latex(made)
    for row in rows:
        mean, low, high = (number(float(row[key])) for key in ("value", "low", "high"))
        assert f"{mean} [{low}, {high}] n={row['num']} / {row['paper']}" in markdown
        assert rf"{mean} / {row['paper']}\\ \tiny {{}}[{low}, {high}] $n{{=}}{row['num']}$" in latex
    assert r"\textcircled{1} A \& B & direct" in latex and "Not evaluated yet: c." in markdown


def test_text_cannot_break_a_table():
    made = Table("t", "T", "a_b", ["x|y"], [["<b> 5% $"]])
    assert "x\\|y" in to_markdown(made) and "&lt;b>" in to_markdown(made)
    assert r"$<$b$>$ 5\% \$" in to_latex(made) and r"a\_b" in to_latex(made)


def test_numbers_have_no_negative_zero():
    assert [number(v, signed=True) for v in (-0.04, 0.04, -1.25, 3)] == ["0.0", "0.0", "−1.2", "+3.0"]


def test_a_record_names_its_cell_and_its_seeds():
    cell = Cell(Interval(50, 25, 75, 8, 4), {1: 40, 2: 60}, 41.0)
    assert record(cell, name="a") == {
        "name": "a", "value": 50, "low": 25, "high": 75, "num": 8, "num_images": 4, "by_seed": "1:40.0000 2:60.0000",
        "paper": 41.0,
    }  # fmt: skip


def test_show_needs_a_report(tmp_path):
    with pytest.raises(UserError, match="holds no table"):
        show(tmp_path)
    (tmp_path / "table_2.md").write_text("two\n", encoding="utf-8")
    (tmp_path / "orderings.md").write_text("order\n", encoding="utf-8")
    assert show(tmp_path) == "two\n\norder\n"


QUESTIONS = {"q": Question("q", "chart", "test", ["images/a.png"], "How many?", ["5"])}


def candidates(rewards, seed=1):
    """Answers 5 (right), 9, 5.0 (right) and unparsed; log-probs of the SFT side are 0."""
    answers = [("5", 1.0), ("9", 0.0), ("5.0", 1.0), (None, 0.0)]
    responses = [Response("q", i, "cot", f"t{i}", a, s, True) for i, (a, s) in enumerate(answers)]
    keys = [r.key for r in responses]
    return Candidates(seed, responses, dict(zip(keys, rewards, strict=True)), dict.fromkeys(keys, 0.0))


def test_votes_follow_the_log_ratio():
    found = curves([candidates([-1, 3, -1, 9]), candidates([-1, -0.5, -1, 0], seed=2)], QUESTIONS, VOTES)
    # Seed 1: exp(3) > 2 exp(-1), so 9 wins; seed 2: exp(-0.5) < 2 exp(-1), so 5 wins. Majority and 5.0 = 5: right.
    assert {seed: found["weighted_vote", 4][seed, "q"].value for seed in (1, 2)} == {1: 0, 2: 1}
    assert {seed: found["best_of", 4][seed, "q"].value for seed in (1, 2)} == {1: 0, 2: 0}
    assert {found["majority", 4][seed, "q"].value for seed in (1, 2)} == {1}

    greedy = {"SFT": {(s, "q"): Scored("chart", "images/a.png", 1.0) for s in (1, 2)}, "DPO": {}}
    checked = verify(found, greedy, VOTES.paper, 100)
    gain = checked.gains["chart", "weighted_vote"]
    assert gain.interval.mean == -50 and gain.paper == 0.5
    assert gain.interval.num_clusters == 1
    assert checked.greedy.keys() == {("chart", "SFT")}
    text = to_markdown(verifier_table(checked, VOTES))
    claims = orderings_table(report(), [])
    add_orderings(claims, checked)
    assert [(r["claim"], r["value"], r["paper"], r["verdict"]) for r in claims.records] == [
        ("4 candidates, chart: weighted vote above majority vote", -50, 0.5, "fails"),
        ("4 candidates, chart: majority vote above best of N", 100, None, "holds"),
    ]
    assert "weighted vote − majority at 4" in text and "−50.0 [−50.0, −50.0] n=2 / 0.5" in text


def test_a_candidate_without_log_probs_is_named():
    found = candidates([0, 0, 0, 0])
    del found.dpo["q", "cot", "t2", True, ()]
    with pytest.raises(RowError, match="q: response 2 of seed 1 has no log-probs under the dpo model"):
        curves([found], QUESTIONS, VOTES)


def test_a_text_cut_at_the_limit_and_one_that_ended_have_their_own_rewards():
    both = [Response("q", i, "cot", "t", "5", 1.0, finished) for i, finished in enumerate((True, False))]
    dpo, sft = ([ResponseLogps(*r.key[:4], [value] * (1 + r.finished), "") for r in both] for value in (-1.0, -4.0))
    found = Candidates(1, both, sequence_sums(dpo), sequence_sums(sft))
    assert [reward(r, found) for r in both] == [6, 3]  # of a token and the end token, and of a token


def test_sizes_are_the_powers_of_two_within_reach():
    assert (sizes_of(1), sizes_of(7), sizes_of(8)) == ([1], [1, 2, 4], [1, 2, 4, 8])


# Many responses to a question.


def test_samples_give_their_mean_the_majority_and_pass_at_8():
    question = QUESTIONS["q"]
    right, wrong = (
        Response("q", i, "cot", "", text, score, True) for i, (text, score) in enumerate((("5", 1), ("2", 0)))
    )
    run = Run("m", 1, list(sampled_rows(question, [right] * 3 + [wrong] * 13)))
    score = {style: scores_of([run], "m", style)[1, "q"].value for style in SAMPLED}
    assert score["sampled"] == 3 / 16
    assert score["majority"] == 0
    assert score["pass@8"] == pytest.approx(
        1 - (13 * 12 * 11 * 10 * 9 * 8 * 7 * 6) / (16 * 15 * 14 * 13 * 12 * 11 * 10 * 9)
    )


def test_fewer_than_8_samples_give_no_pass_at_8():
    rows = sampled_rows(QUESTIONS["q"], [Response("q", 0, "cot", "", "1", 1, True)])
    assert [row.style for row in rows] == ["sampled", "majority"]


def test_a_claim_that_says_a_sentence_opens_the_report_with_its_numbers():
    says = "{better} against {worse}: {difference}."
    told = replace(report({}), orderings=[Claim("c", ("a", "cot"), ("b", "cot"), 0, None, says=says)])
    assert results(told, RUNS) == ["75.0 against 75.0: 0.0 [−25.0, 25.0]."]  # of seed 1, which both have


def test_a_claim_that_was_not_run_says_nothing():
    told = replace(report({}), orderings=[Claim("c", ("a", "cot"), ("c", "cot"), 0, None, says="{better}")])
    assert results(told, RUNS) == []
