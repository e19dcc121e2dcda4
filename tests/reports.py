"""A tiny experiment of two seeds, whole or with parts made anew, and its report."""

import json
from pathlib import Path

import pytest
from PIL import Image

from rationale.hashes import fingerprint, output_hashes
from rationale.reporting.specs import Claim, Column, Report, Row, TableSpec, VoteSpec
from rationale.schema import EvalRow, Pair, Question, Rationale, Response, ResponseLogps, write_jsonl
from rationale.tools.tabulate import run

EVIL = "</script><script>alert('x')</script>"
DATASETS = ("mini_chart", "mini_scene")
QUESTIONS = [
    Question(f"{dataset}-{split}-{i}", dataset, split, [f"images/{i // 2}.png"], f"How many? {EVIL}", ["5"])
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
        EvalRow(q.question_id, q.dataset, q.images, style, EVIL, "5", float(i not in wrong), 7, True)
        for style in ("direct", "cot")
        for i, q in enumerate(TEST)
    ]
    member = root / f"seed_{seed}"
    path = folder(member / "eval" / name, "rows.jsonl", rows)
    (path / "summary.json").write_text(
        json.dumps({"name": name, "seed": seed, "blind": False, "split": "test"}), encoding="utf-8"
    )
    arguments = {
        "questions": str(root / "questions"), "model": {"path": str(member / name / "model")}, "name": name,
        "seed": seed, "blind": False, "generator": {"_target_": "rationale.models.local.Local"},
    }  # fmt: skip
    manifest(path, "evaluate", [root / "questions", member / name / "model"], **arguments)


def manifest(path: Path, stage: str, inputs: list[Path], **arguments) -> None:
    """Say of a folder that `stage` made it from `inputs` as they are now."""
    found = {
        "stage": stage, "key": "k", "arguments": {**arguments, "out": str(path)}, "outputs": output_hashes(path),
        "inputs": {str(place): fingerprint(place) for place in inputs}, "counts": {}, "versions": {}, "commit": None,
        "started": "2026-11-30T12:00:00",
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(found), encoding="utf-8")


def training(root: Path, seed: int, name: str, inputs: list[str], weights: str = "first") -> None:
    """A finished training that logged; another text as weights trains it anew."""
    path = root / f"seed_{seed}/{name}"
    for part, text in (
        ("model/config.json", json.dumps(weights)),
        ("metrics/metrics.csv", "step,train/loss,rewards/margins\n9,0.7,\n9,,0.1\n19,0.5,0.2\n"),
    ):
        (path / part).parent.mkdir(parents=True, exist_ok=True)
        (path / part).write_text(text, encoding="utf-8")
    (path / "manifest.json").unlink(missing_ok=True)
    manifest(path, "dpo" if name.startswith("dpo") else "sft", [root / place for place in inputs], seed=seed)


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
        member = root / f"seed_{seed}"
        pairs = [Pair(q.question_id, 0, "cot", EVIL, "no", 0, 1, "5", "6") for q in TRAIN[:3]]
        made = folder(member / "pairs", "pairs.jsonl", pairs)
        manifest(made, "pair", [])
        about = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
        (made / "manifest.json").write_text(
            json.dumps({**about, "counts": {"pairs": 3, "questions_too_hard": 41}}), encoding="utf-8"
        )
        training(root, seed, "sft_both", ["questions"])
        training(root, seed, "sft_cot", ["questions"])  # of another table
        training(root, seed, "dpo", [f"seed_{seed}/pairs", f"seed_{seed}/sft_both/model"])
        evaluation(root, seed, "sft_both", wrong={0, 1})
        evaluation(root, seed, "dpo", wrong={1, 2})
        (member / "eval/.dpo.previous").mkdir()
        responses = [Response(q.question_id, i, "cot", f"t{i}", "56"[i], 1.0 - i, True) for q in TEST for i in (0, 1)]
        folder(member / "samples/sft_both", "rows.jsonl", responses)
        for side, logp in (("sft", -1.0), ("dpo", -0.5)):
            logps = [ResponseLogps(*r.key[:4], [logp, logp], "") for r in responses]
            folder(member / f"verifier_logps_{side}", "rows.jsonl", logps)
    return root


def tabulate(root: Path, stale: str = "refuse", pairs: str = "seed_*/pairs") -> tuple[dict, str]:
    out = root / "report"
    out.mkdir()
    paper = root / "paper.csv"
    paper.write_text("row,prompt,Avg\n④,cot,74.4\n", encoding="utf-8")
    rows = [Row("④ both", "sft_both", "④"), Row("DPO", "dpo", "⑥")]
    counts = run(
        questions=str(root / "questions"),
        trained_on=str(root / "questions"),
        rationales=str(root / "rationales"),
        evals=f"{root}/seed_*/eval/*",
        samples=f"{root}/seed_*/samples/*",
        logps={side: f"{root}/seed_*/verifier_logps_{side}" for side in ("sft", "dpo")},
        pairs=f"{root}/{pairs}",
        artifacts=[f"{root}/seed_*/sft_*"],
        report=Report(
            title="A report",
            average=list(DATASETS),
            columns=[Column("Avg", list(DATASETS), "Avg")],
            tables={"table_3": TableSpec("Table 3", "", str(paper), rows)},
            orderings=[Claim("c", ("dpo", "cot"), ("sft_both", "cot"), at_least=0, paper=0.9)],
            verifier=VoteSpec(temperature=1.0, num_subsets=2, paper={}),
            compare=["sft_both", "dpo"],
            stale=stale,
            num_examples=10,
            num_resamples=50,
        ),
        out=out,
    )
    return counts, (out / "index.html").read_text(encoding="utf-8")
