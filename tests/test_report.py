"""The report from a tiny experiment of two seeds: whole, and with parts missing."""

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import reports
import yaml
from reports import EVIL, QUESTIONS, TEST, evaluation, manifest, tabulate, training

from rationale.artifacts import UserError
from rationale.reporting.figures import REWARDS, save, trainings
from rationale.reporting.load import load_candidates
from rationale.reporting.page import json_text, neighbours
from rationale.reporting.standing import standings
from rationale.schema import write_jsonl

experiment = reports.experiment


def embedded(page: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="shown">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_is_whole(experiment):
    counts, page = tabulate(experiment)
    # Two of eight are wrong with either model, and the two candidates weigh the same: all three differences are 0.
    rows = {f"{name}/{style}": 75 for name in ("sft_both", "dpo") for style in ("direct", "cot")}
    assert counts == {**rows, "claims open": 3, "missing": 0}
    stems = (
        "table_3.md table_3.tex table_3.csv orderings.md orderings.csv verifier.md verifier.csv sources.csv results.md"
    )
    figures = "overview.svg verifier.svg lengths.svg responses.svg sft.svg dpo.svg"
    assert {p.name for p in (experiment / "report").iterdir()} == {*stems.split(), *figures.split(), "index.html"}
    assert page.count("<svg") == 5 and ">41<" in page and "Left out" not in page


def test_examples_cover_pairs_fixes_and_breaks(experiment):
    shown = embedded(tabulate(experiment)[1])
    kinds = [e["kind"] for e in shown]
    assert {k: kinds.count(k) for k in kinds} == {"pair": 3, "fixes": 1, "breaks": 1, "other": 5}
    fixed = next(e for e in shown if e["kind"] == "fixes")
    assert fixed["id"] == TEST[0].question_id
    assert [p["right"] for p in fixed["predictions"]] == [False, False, True, True]
    pair = next(e for e in shown if e["kind"] == "pair")
    assert (pair["chosen"], pair["rejected"]) == (EVIL, "no") and pair["images"][0].startswith("data:image/png;base64,")


def test_texts_from_data_stay_text(experiment):
    page = tabulate(experiment)[1]
    assert "<script>alert" not in page and "</script><script>" not in page
    assert page.count("<script") == page.count("</script>") == 4  # theme, rows of the examples, tables, examples
    assert embedded(page)[0]["question"] == f"How many? {EVIL}"
    assert json.loads(json_text(EVIL + "&")) == EVIL + "&"


def test_the_page_fetches_nothing(experiment):
    page = tabulate(experiment)[1]
    addresses = re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']([^"']*)""", page)
    assert all(a.startswith(("#", "data:")) for a in addresses)
    assert not re.search(r"@import|url\(\s*['\"]?(?!#)", page)
    assert "default-src 'none'" in page


def test_what_was_not_run_is_left_out_and_named(experiment):
    for seed in (1, 2):
        for name in ("eval/dpo", "dpo", "verifier_logps_dpo", "pairs"):
            shutil.rmtree(experiment / f"seed_{seed}/{name}")
    shutil.rmtree(experiment / "rationales")
    counts, page = tabulate(experiment)
    assert counts["missing"] == 4 and counts["claims not run"] == 1
    for part in ("evaluation dpo (DPO)", "verifier curve", "preference pairs", "rationales"):
        assert part in page
    assert {p.suffix for p in (experiment / "report").glob("verifier*")} == set()
    assert "Not evaluated yet: DPO." in (experiment / "report/table_3.md").read_text(encoding="utf-8")


def series(path: Path) -> set[str]:
    """What the legend of a figure of curves names: all its text but ticks and titles."""
    found = {"".join(node.itertext()) for node in ElementTree.parse(path).iter() if node.tag.endswith("}text")}
    return {text for text in found - {"step", "train/loss", *REWARDS} if not re.fullmatch(r"[−\d.]+", text)}


def test_figures_hold_the_trainings_of_the_rows_and_no_other(experiment):
    assert (experiment / "seed_1/sft_cot/metrics/metrics.csv").is_file()
    tabulate(experiment)
    assert series(experiment / "report/sft.svg") == {"④ both"}
    assert series(experiment / "report/dpo.svg") == {"DPO"}


def test_no_series_is_left_out_of_a_figure(tmp_path):
    names = {f"run {number}" for number in range(9)}
    logged = [(name, {"train/loss": ((9, 19), (1.0, number))}) for number, name in enumerate(sorted(names))]
    (drawing,) = trainings(sft=logged, dpo=[])
    save(drawing, tmp_path / "sft.svg")
    assert series(tmp_path / "sft.svg") == names
    colors = re.findall(r"stroke: (#\w+); stroke-opacity: 0.85", drawing.svg)
    assert len(colors) == len(set(colors)) == 9


def test_a_training_without_a_log_is_named(experiment):
    (experiment / "seed_2/dpo/metrics/metrics.csv").unlink()
    counts, page = tabulate(experiment)
    assert counts["missing"] == 1 and "curves of DPO: nothing logged in" in page and "seed_2/dpo" in page


def stale_ones(root: Path, *names: str) -> list[str]:
    found = standings(root / "seed_1" / name for name in names)
    return [path.name for path, standing in found.items() if standing.changed]


@pytest.mark.parametrize(
    ("anew", "stale"),
    [
        ("dpo", ["dpo"]),
        ("pairs", ["dpo"]),  # evaluation <- dpo <- pairs
        ("sft_both", ["sft_both", "dpo"]),
        ("sft_cot", []),
        ("questions", ["sft_both", "dpo"]),
    ],
)
def test_an_evaluation_is_stale_when_anything_it_was_made_from_is_made_anew(experiment, anew, stale):
    evaluations = ("eval/sft_both", "eval/dpo")
    assert stale_ones(experiment, *evaluations) == []
    if anew == "pairs":
        (experiment / "seed_1/pairs/manifest.json").unlink()
        (experiment / "seed_1/pairs/pairs.jsonl").write_text("", encoding="utf-8")
        manifest(experiment / "seed_1/pairs", "pair", [])
    elif anew == "questions":
        write_jsonl(experiment / "questions/questions.jsonl", QUESTIONS[1:])
    else:
        training(experiment, 1, anew, ["questions"], weights="second")
    assert stale_ones(experiment, *evaluations) == stale


def test_a_stale_row_is_refused_with_its_evaluation_its_model_and_what_mends_it(experiment):
    training(experiment, 1, "sft_both", ["questions"], weights="second")
    with pytest.raises(UserError) as refused:
        tabulate(experiment)
    said = str(refused.value)
    member = experiment / "seed_1"
    assert said.startswith("2 artifacts that this report shows are stale\n")  # the other is dpo, and no other seed's
    made_anew = f"is made from {member}/sft_both/model, which was made anew since (2026-11-30 12:00 UTC)"
    assert f"{member}/eval/sft_both {made_anew}" in said and f"{member}/dpo {made_anew}" in said
    command = f"rationale stage=evaluate checkpoint=model model.path={member}/{{0}}/model seed=1 evaluation.name={{0}}"
    assert f"to mend: {command.format('sft_both')}" in said
    assert f"to mend: stage=dpo for {member}/dpo, then {command.format('dpo')}" in said
    assert "report.stale=mark" in said
    assert not (experiment / "report/table_3.md").exists()


def test_stale_rows_are_marked_in_every_form_where_that_is_chosen(experiment):
    training(experiment, 1, "dpo", ["questions"], weights="second")
    counts, page = tabulate(experiment, stale="mark")
    report = experiment / "report"
    assert counts["stale"] == 1 and page.count("<td>DPO (stale)</td>") == 2 and "<td>④ both</td>" in page
    for suffix, before, after in (("md", "| ", " "), ("csv", "", ",dpo,"), ("tex", "", " &")):
        text = (report / f"table_3.{suffix}").read_text(encoding="utf-8")
        assert text.count(f"\n{before}DPO (stale){after}") == 2 and "④ both (stale)" not in text
    assert "c (stale)" in (report / "orderings.csv").read_text(encoding="utf-8")
    assert series(report / "dpo.svg") == {"DPO (stale)"}
    for text in (page, (report / "table_3.md").read_text(encoding="utf-8")):
        assert f"Stale: {experiment}/seed_1/eval/dpo is made from" in text


def test_votes_of_stale_candidates_are_marked(experiment):
    candidates = experiment / "seed_1/samples/sft_both"
    manifest(candidates, "sample", [experiment / "seed_1/sft_cot/model"])
    training(experiment, 1, "sft_cot", ["questions"], weights="second")
    with pytest.raises(UserError, match=rf"{candidates} is made from .*\n    to mend: stage=sample for {candidates}"):
        tabulate(experiment)
    shutil.rmtree(experiment / "report")
    page = tabulate(experiment, stale="mark")[1]
    assert "The DPO model as verifier (stale)" in page
    assert (experiment / "report/verifier.csv").read_text(encoding="utf-8").count("(stale)") == 30  # 3 panels of 10
    assert "DPO (stale)" not in page


def test_a_model_that_was_removed_to_save_room_leaves_a_table_and_a_word(experiment):
    for seed in (1, 2):
        shutil.rmtree(experiment / f"seed_{seed}/sft_both/model")
    counts, page = tabulate(experiment)
    assert "stale" not in counts and "(stale)" not in page
    said = (experiment / "report/table_3.md").read_text(encoding="utf-8")
    assert re.search(rf"^- Gone since, .*: {experiment}/seed_1/sft_both/model, {experiment}/seed_2/", said, re.M)
    assert series(experiment / "report/sft.svg") == {"④ both"}  # its log is still there


def test_a_checkpoint_from_another_run_is_taken_as_it_is(experiment, tmp_path):
    base = tmp_path / "base"
    (base / "model").mkdir(parents=True)
    (base / "model/config.json").write_text("{}", encoding="utf-8")
    manifest(base, "pretrain", [])
    about = json.loads((base / "manifest.json").read_text(encoding="utf-8"))
    about |= {"inputs": {str(experiment / "questions"): "another"}, "arguments": {"out": "runs/elsewhere/base"}}
    (base / "manifest.json").write_text(json.dumps(about), encoding="utf-8")
    (experiment / "seed_1/sft_both/manifest.json").unlink()
    manifest(experiment / "seed_1/sft_both", "sft", [base / "model"])
    assert stale_ones(experiment, "eval/sft_both") == []
    (base / "model/config.json").write_text("[]", encoding="utf-8")
    assert stale_ones(experiment, "eval/sft_both") == ["sft_both"]


def test_evaluations_that_no_report_names_are_listed_with_the_line_to_add(experiment):
    for name in ("sft_cot", "dpo_beta_0.5"):
        if name != "sft_cot":
            training(experiment, 2, name, ["questions"])
        evaluation(experiment, 2, name, wrong=set())
    (experiment / "other").mkdir()
    tables = {"t": {"rows": [{"label": "③", "name": "sft_cot", "paper": None}]}, "dropped": None}
    about = {"stage": "tabulate", "arguments": {"tables": tables}}
    (experiment / "other/manifest.json").write_text(json.dumps(about), encoding="utf-8")
    page = tabulate(experiment)[1]
    said = (experiment / "report/table_3.md").read_text(encoding="utf-8")
    assert (
        said.count("Evaluated, and in no table of this run")
        == page.count("Evaluated, and in no table of this run")
        == 1
    )
    (line,) = re.findall(r"dpo_beta_0.5 \(seeds 2\): (- .*)", said)
    assert yaml.safe_load(line) == [{"label": "dpo_beta_0.5", "name": "dpo_beta_0.5", "paper": None}]


def test_no_evaluation_at_all_is_an_error(experiment):
    for seed in (1, 2):
        shutil.rmtree(experiment / f"seed_{seed}/eval")
    with pytest.raises(UserError, match=r"no evaluation to tabulate; run stage=evaluate first"):
        tabulate(experiment)


def test_one_evaluation_under_two_folders_is_an_error(experiment):
    shutil.copytree(experiment / "seed_1/eval/dpo", experiment / "seed_1/eval/copy")
    with pytest.raises(UserError, match="dpo with seed 1 was evaluated twice"):
        tabulate(experiment)


def test_two_folders_of_candidates_or_log_probs_that_nothing_tells_apart_are_refused(experiment):
    shutil.copytree(experiment / "seed_1/verifier_logps_dpo", experiment / "seed_1/verifier_logps_dpo_other")
    logps = {side: f"{experiment}/seed_*/verifier_logps_{side}*" for side in ("sft", "dpo")}
    with pytest.raises(UserError, match=r"verifier_logps_dpo_other and .*verifier_logps_dpo are both of 1"):
        load_candidates(experiment.glob("seed_*/samples/*"), logps)
    shutil.copytree(experiment / "seed_2", experiment / "again/seed_2")
    logps = {side: f"{experiment}/seed_*/verifier_logps_{side}" for side in ("sft", "dpo")}
    with pytest.raises(UserError, match="samples/sft_both are both of 2"):
        load_candidates(experiment.glob("**/samples/*"), logps)


def test_two_folders_of_pairs_of_one_seed_are_refused(experiment):
    shutil.copytree(experiment / "seed_1/pairs", experiment / "seed_1/again/pairs")
    with pytest.raises(UserError, match=r"seed_1/pairs and .*seed_1/again/pairs are both of 1"):
        tabulate(experiment, pairs="seed_1/**/pairs")


def test_the_same_data_gives_the_same_page(experiment):
    first = tabulate(experiment)[1]
    shutil.rmtree(experiment / "report")
    assert tabulate(experiment)[1] == first


def test_a_report_links_to_the_other_whole_reports_and_credit_pages_of_its_run(tmp_path):
    made = {
        "report": "tabulate", "table_e1": "tabulate", ".table_e1.previous": "tabulate", "questions": "prepare",
        "half": None, "seed_1/credit": "credit", "seed_1/.credit.previous": "credit",
    }  # fmt: skip
    for place, stage in made.items():
        (tmp_path / place).mkdir(parents=True)
        name = "credit.html" if "credit" in place else "index.html"
        (tmp_path / place / name).write_text("<head><title>A &amp; B</title></head>", encoding="utf-8")
        if stage is not None:
            (tmp_path / place / "manifest.json").write_text(json.dumps({"stage": stage}), encoding="utf-8")
    assert neighbours(tmp_path / ".report.0123456789ab.partial") == [
        ("A & B (table_e1)", "../table_e1/index.html"),
        ("A & B (seed_1/credit)", "../seed_1/credit/credit.html"),
    ]
