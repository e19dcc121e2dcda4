"""Real charts, questions and recorded rationales through every stage, with the mini model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rationale.data.tasks import folder
from rationale.models.teacher import RecordedTeacher
from rationale.stages import distill, prepare

ROOT = Path(os.environ.get("RATIONALE_REAL_DATA", "")) / "chartqa_cot"
pytestmark = pytest.mark.skipif(
    not os.environ.get("RATIONALE_REAL_DATA") or not ROOT.is_dir(),
    reason="RATIONALE_REAL_DATA names no folder with chartqa_cot; set it to run on real charts",
)


def test_recorded_rationales_that_never_state_the_label_are_dropped_and_counted(tmp_path):
    (tmp_path / "questions").mkdir()
    (tmp_path / "rationales").mkdir()
    prepare.run(folder(str(ROOT), "chartqa", "relaxed_accuracy", {"train": 60}), tmp_path / "questions")
    counts = distill.run(str(tmp_path / "questions"), RecordedTeacher(), "train", 16, tmp_path / "rationales")
    rows = [json.loads(line) for line in (tmp_path / "rationales/rows.jsonl").read_text().splitlines()]
    assert counts["asked"] == len(rows) == 60
    assert counts["kept"] + counts.get("unparsed", 0) + counts.get("empty", 0) + counts.get("disagrees", 0) == 60
    assert counts["kept"] > 40


@pytest.mark.slow
def test_real_rows_go_through_every_stage(tmp_path):
    arguments = [
        "experiment=chartqa_real", f"data_root={ROOT.resolve()}", f"root={tmp_path}/runs", "logger=csv",
        "dataset.limit={train: 12, test: 6}", "sft.epochs=20", "sft.batch.micro=8", "sampling.num_samples=8",
        "sampling.max_new_tokens=200", "evaluation.max_new_tokens.cot=64", "pairing.low=0.01", "pairing.high=0.99",
        "dpo.batch.micro=2",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "rationale", *arguments],
        cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    run = tmp_path / "runs/chartqa_real"
    assert len((run / "seed_1/eval/dpo/rows.jsonl").read_text().splitlines()) == 12  # six questions, two prompts
    assert json.loads((run / "seed_1/pairs/manifest.json").read_text())["counts"]["pairs"] > 0
    assert "ChartQA" in (run / "report/table_3.md").read_text()
