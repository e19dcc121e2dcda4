"""Real charts, questions and recorded rationales through every stage, with a tiny model."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl

from rationale.models.local import Local
from rationale.models.response import Truncation
from rationale.models.teachers import RecordedTeacher
from rationale.models.vlm import load
from rationale.objectives.dpo import Objective
from rationale.pairing import PairingRule
from rationale.schema import EvalRow, Question, Rationale, Response, read_jsonl, write_jsonl
from rationale.scoring.judge import judge
from rationale.sources.public import folder
from rationale.stages import distill, dpo, evaluate, pair, prepare, sample, score, sft
from rationale.training.loggers import loggers
from rationale.training.settings import DPOSettings, SFTSettings

QUIET = partial(pl.Trainer, accelerator="cpu", devices=1, enable_progress_bar=False, enable_model_summary=False)
CSV = partial(loggers, project="test", group="test", name="test", mode="disabled", folder="")

ROOT = Path(os.environ.get("RATIONALE_REAL_DATA", "")) / "chartqa_cot"
pytestmark = pytest.mark.skipif(
    not os.environ.get("RATIONALE_REAL_DATA") or not ROOT.is_dir(),
    reason="RATIONALE_REAL_DATA names no folder with chartqa_cot; set it to run on real charts",
)


def test_recorded_rationales_that_never_state_the_label_are_dropped_and_counted(tmp_path):
    (tmp_path / "questions").mkdir()
    (tmp_path / "rationales").mkdir()
    prepare.run(folder(str(ROOT), "chartqa", "relaxed_accuracy", limit={"train": 60}), tmp_path / "questions")
    counts = distill.run(str(tmp_path / "questions"), RecordedTeacher(), "train", 16, tmp_path / "rationales")
    rows = [json.loads(line) for line in (tmp_path / "rationales/rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert counts["asked"] == len(rows) == 60
    assert counts["kept"] + counts.get("unparsed", 0) + counts.get("empty", 0) + counts.get("disagrees", 0) == 60
    assert counts["kept"] > 40


def made(folder):
    folder.mkdir()
    return folder


@pytest.mark.slow
def test_real_rows_go_through_every_stage_with_a_tiny_model(tiny_dir, tmp_path):
    """Sampling is real too, but a tiny model is never right: the pairs are of recorded rationales, judged."""
    questions, rationales = made(tmp_path / "questions"), made(tmp_path / "rationales")
    prepare.run(folder(str(ROOT), "chartqa", "relaxed_accuracy", limit={"train": 8, "test": 4}), questions)
    distill.run(str(questions), RecordedTeacher(), "train", 4, rationales)
    start, tuned = partial(load, str(tiny_dir)), partial(load, str(tmp_path / "sft" / "model"))
    training = {
        "optim": {"lr": 1e-3}, "batch": {"micro_batch_size": 4}, "trainer": QUIET, "save_every": 5, "layout": "tree",
    }  # fmt: skip
    mixture = {"cot": "all", "direct": "all", "full": {}, "format_per_dataset": 2, "pretrain": 0, "rft": None}
    sft.run(
        questions=str(questions), rationales=str(rationales), model=start, logger=CSV, seed=1,
        settings=SFTSettings(
            mixture=mixture, reduction="token", max_truncated=1.0, max_response_tokens=64, group_by="image", **training,
        ),
        out=made(tmp_path / "sft"),
    )  # fmt: skip
    sampling = sample.Sampling(
        split="train", limit=2, exclude=[], style="cot", num_samples=2, temperature={"short": 1.0}, top_p=1.0,
        max_new_tokens=8, batch_size=2,
    )  # fmt: skip
    sample.run(str(questions), tuned, Local, sampling, 1, made(tmp_path / "sampled"))

    kept = [r for r in read_jsonl(rationales / "rows.jsonl", Rationale) if r.status == "kept"]
    asked = {q.question_id: q for q in read_jsonl(questions / "questions.jsonl", Question)}
    responses = []
    for right in kept:
        texts = [right.text, *(r.text for r in kept if r is not right)]
        for number, text in enumerate(texts):
            verdict = judge(asked[right.question_id], text, "cot")
            responses.append(
                Response(right.question_id, number, "cot", text, verdict.predicted, verdict.score, finished=True)
            )
    write_jsonl(made(tmp_path / "responses") / "rows.jsonl", responses)
    counts = pair.run(str(questions), str(tmp_path / "responses"), PairingRule(low=0.01), 1, made(tmp_path / "pairs"))
    assert counts["pairs"] >= len(kept) / 2

    cut = Truncation(words=20, tokens=64, eos="uncut")
    score.run(
        str(questions), str(tmp_path / "pairs"), tuned, cut, batch_size=4, layout="tree", out=made(tmp_path / "logps")
    )
    dpo.run(
        questions=str(questions), pairs=str(tmp_path / "pairs"), model=tuned, logger=CSV, seed=1,
        settings=DPOSettings(
            objective=Objective(), reference="scored", reference_logps=str(tmp_path / "logps"), truncate=cut,
            group_by="question", **training,
        ),
        out=made(tmp_path / "dpo"),
    )  # fmt: skip
    for name in ("sft", "dpo"):
        evaluation = evaluate.Evaluation(name, "test", ["direct", "cot"], {"direct": 4, "cot": 8}, batch_size=4)
        weights = partial(load, str(tmp_path / name / "model"))
        evaluate.run(str(questions), weights, Local, evaluation, 1, made(tmp_path / f"eval_{name}"))
        assert len(read_jsonl(tmp_path / f"eval_{name}" / "rows.jsonl", EvalRow)) == 8
