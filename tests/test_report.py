"""The report from a tiny experiment of two seeds: whole, and with parts missing."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from rationale.artifacts import UserError
from rationale.reporting.load import load_candidates
from rationale.reporting.page import json_text, neighbours
from rationale.schema import EvalRow, Pair, Question, Rationale, Response, ResponseLogps, write_jsonl
from rationale.stages.tabulate import run

EVIL = "</script><script>alert('x')</script>"
DATASETS = ("mini_chart", "mini_scene")
QUESTIONS = [
    Question(f"{dataset}-{split}-{i}", dataset, split, f"images/{i // 2}.png", f"How many? {EVIL}", ["5"])
    for dataset in DATASETS
    for split in ("train", "test")
    for i in range(4)
]
TEST = [q for q in QUESTIONS if q.split == "test"]
TRAIN = [q for q in QUESTIONS if q.split == "train"]


def folder(path: Path, file: str, rows: list) -> Path:
    path.mkdir(parents=True)
    write_jsonl(path / file, rows)
    return path


def evaluation(root: Path, seed: int, name: str, wrong: set[int]) -> None:
    rows = [
        EvalRow(q.question_id, q.dataset, q.image, style, EVIL, "5", float(i not in wrong), 7, True)
        for style in ("direct", "cot")
        for i, q in enumerate(TEST)
    ]
    path = folder(root / f"seed_{seed}/eval/{name}", "rows.jsonl", rows)
    (path / "summary.json").write_text(json.dumps({"name": name, "seed": seed, "blind": False, "split": "test"}))


@pytest.fixture
def experiment(tmp_path) -> Path:
    root = tmp_path / "runs"
    folder(root / "questions", "questions.jsonl", QUESTIONS)
    (root / "questions/images").mkdir()
    for name in "01":
        Image.new("RGB", (4, 4), "red").save(root / f"questions/images/{name}.png")
    replies = [Rationale(q.question_id, EVIL, "5", "kept" if i else "disagrees", 1.0, "t") for i, q in enumerate(TRAIN)]
    folder(root / "rationales", "rows.jsonl", replies)
    for seed in (1, 2):
        evaluation(root, seed, "sft_both", wrong={0, 1})
        evaluation(root, seed, "dpo", wrong={1, 2})
        member = root / f"seed_{seed}"
        (member / "eval/.dpo.previous").mkdir()
        pairs = [Pair(q.question_id, 0, "cot", EVIL, "no", 0, 1, "5", "6") for q in TRAIN[:3]]
        made = folder(member / "pairs", "pairs.jsonl", pairs)
        (made / "manifest.json").write_text(json.dumps({"counts": {"pairs": 3, "questions_too_hard": 41}}))
        responses = [Response(q.question_id, i, "cot", f"t{i}", "56"[i], 1.0 - i, True) for q in TEST for i in (0, 1)]
        folder(member / "candidates", "rows.jsonl", responses)
        for side, logp in (("sft", -1.0), ("dpo", -0.5)):
            logps = [ResponseLogps(*r.key, [logp, logp], "") for r in responses]
            folder(member / f"verifier_logps_{side}", "rows.jsonl", logps)
        for training in ("sft_both", "dpo"):
            (member / training / "metrics").mkdir(parents=True)
            lines = "step,train/loss,rewards/margins\n9,0.7,\n9,,0.1\n19,0.5,0.2\n"
            (member / training / "metrics/metrics.csv").write_text(lines)
    return root


def tabulate(root: Path) -> tuple[dict, str]:
    out = root / "report"
    out.mkdir()
    paper = root / "paper.csv"
    paper.write_text("row,prompt,Avg\n④,cot,74.4\n")
    rows = [{"label": "④ both", "name": "sft_both", "paper": "④"}, {"label": "DPO", "name": "dpo", "paper": "⑥"}]
    counts = run(
        questions=str(root / "questions"),
        trained_on=str(root / "questions"),
        rationales=str(root / "rationales"),
        evals=f"{root}/seed_*/eval/*",
        candidates=f"{root}/seed_*/candidates",
        logps={side: f"{root}/seed_*/verifier_logps_{side}" for side in ("sft", "dpo")},
        pairs=f"{root}/seed_*/pairs",
        trainings={"sft": f"{root}/seed_*/sft_*", "dpo": f"{root}/seed_*/dpo"},
        title="A report",
        average=list(DATASETS),
        columns=[{"label": "Avg", "datasets": list(DATASETS), "paper": "Avg"}],
        tables={"table_3": {"title": "Table 3", "caption": "", "paper": str(paper), "rows": rows}},
        orderings=[{"claim": "c", "better": ["dpo", "cot"], "worse": ["sft_both", "cot"], "at_least": 0, "paper": 0.9}],
        verifier={"temperature": 1.0, "num_subsets": 2, "paper": {}},
        compare={"SFT ④": "sft_both", "DPO ⑥": "dpo"},
        num_examples=10,
        num_resamples=50,
        out=out,
    )
    return counts, (out / "index.html").read_text(encoding="utf-8")


def embedded(page: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="shown">(.*?)</script>', page, re.DOTALL)[1])


def test_the_report_is_whole(experiment):
    counts, page = tabulate(experiment)
    # Two of eight are wrong with either model, and the two candidates weigh the same: all three differences are 0.
    rows = {f"{name}/{style}": 75 for name in ("sft_both", "dpo") for style in ("direct", "cot")}
    assert counts == {**rows, "claims open": 3, "missing": 0}
    stems = "table_3.md table_3.tex table_3.csv orderings.md orderings.csv verifier.md verifier.csv sources.csv"
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
    assert (pair["chosen"], pair["rejected"]) == (EVIL, "no") and pair["image"].startswith("data:image/png;base64,")


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
    assert counts["missing"] == 5 and counts["claims not run"] == 1
    for part in ("evaluation dpo (DPO)", "verifier curve", "DPO rewards", "preference pairs", "rationales"):
        assert part in page
    assert {p.suffix for p in (experiment / "report").glob("verifier*")} == set()
    assert "Not evaluated yet: DPO." in (experiment / "report/table_3.md").read_text()


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
    with pytest.raises(UserError, match=r"verifier_logps_dpo_other and .*verifier_logps_dpo are both of .*seed_1"):
        load_candidates(f"{experiment}/seed_*/candidates", logps)
    shutil.copytree(experiment / "seed_2", experiment / "again/seed_2")
    logps = {side: f"{experiment}/**/verifier_logps_{side}" for side in ("sft", "dpo")}
    with pytest.raises(UserError, match="candidates are both of 2"):
        load_candidates(f"{experiment}/**/candidates", logps)


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
        (tmp_path / place / name).write_text("<head><title>A &amp; B</title></head>")
        if stage is not None:
            (tmp_path / place / "manifest.json").write_text(json.dumps({"stage": stage}))
    assert neighbours(tmp_path / ".report.0123456789ab.partial") == [
        ("A & B (table_e1)", "../table_e1/index.html"),
        ("A & B (seed_1/credit)", "../seed_1/credit/credit.html"),
    ]
