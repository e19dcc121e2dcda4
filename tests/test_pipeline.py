"""The command as a user runs it: the whole method on a few drawn images, twice, and once cut off by a signal."""

from __future__ import annotations

import json
import signal
import time

import pytest
from commands import SMALL, begun, run

from rationale.schema import EvalRow, iter_jsonl

pytestmark = pytest.mark.slow


def test_it_ends_in_two_tables_and_a_report(small_run):
    report = small_run / "runs/mini_small/report"
    for name in ("table_2.md", "table_2.tex", "table_2.csv", "table_3.md", "orderings.md", "verifier.csv"):
        assert (report / name).stat().st_size > 0
    page = (report / "index.html").read_text(encoding="utf-8")
    assert "Table 2" in page
    assert "data:image/png;base64," in page


def test_every_table_row_was_evaluated_on_every_test_question(small_run):
    questions = sum(
        json.loads(line)["split"] == "test"
        for line in (small_run / "runs/mini_small/questions/questions.jsonl").read_text(encoding="utf-8").splitlines()
    )
    for name in ("sft_format", "sft_direct", "sft_cot", "sft_both", "sft_both_blind", "dpo"):
        rows = list(iter_jsonl(small_run / f"runs/mini_small/seed_1/eval/{name}/rows.jsonl", EvalRow))
        assert len(rows) == 2 * questions


def test_each_artifact_has_a_manifest_that_names_its_inputs(small_run):
    manifest = json.loads((small_run / "runs/mini_small/seed_1/dpo/manifest.json").read_text(encoding="utf-8"))
    named = {path.rsplit("runs/", 1)[-1] for path in manifest["inputs"]}
    assert {"mini_small/questions", "mini_small/seed_1/pairs", "mini_small/seed_1/sft_both/model"} <= named
    assert manifest["counts"]["pairs"] > 0


def test_a_second_run_finds_everything_up_to_date(small_run):
    said = run(small_run, *SMALL)
    lines = [line for line in said.splitlines() if line.strip()]
    assert lines
    assert all(line.endswith("is up to date") for line in lines)


def test_a_training_killed_half_way_ends_with_the_weights_of_an_uncut_one(small_run, tmp_path):
    arguments = ["experiment=mini_small", "stage=sft", "logger=csv", "sft.epochs=1", "sft.save_every=2"]
    shared = [f"paths.{p}={small_run}/runs/mini_small/{p}" for p in ("questions", "rationales", "pretrain_questions")]
    run(tmp_path / ".", *arguments, *shared, "seed=5")
    process = begun(tmp_path, *arguments, *shared, "seed=5", "name=cut")
    state = tmp_path / "runs/cut/seed_5"
    deadline = time.monotonic() + 300
    while not list(state.glob(".sft_both.*/state/step=*.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    assert process.ended(60).returncode == -signal.SIGKILL
    assert not (state / "sft_both").exists()
    run(tmp_path, *arguments, *shared, "seed=5", "name=cut")
    uncut, cut = (tmp_path / f"runs/{name}/seed_5/sft_both/model/model.safetensors" for name in ("mini_small", "cut"))
    assert uncut.read_bytes() == cut.read_bytes()


def test_two_processes_run_an_experiment_from_one_command(small_run, tmp_path):
    """Stages that train run in both processes, the others in the first; the second waits for what the first writes."""
    shared = [f"paths.{p}={small_run}/runs/mini_small/{p}" for p in ("questions", "rationales", "pretrain_questions")]
    steps = "steps=[{stage: sft, ablation: both},{stage: evaluate, ablation: both},{stage: sft, ablation: direct}]"
    run(
        tmp_path, "experiment=mini_small", "logger=csv", "sft.epochs=1",
        "sft.batch={micro_batch_size: 4, gradient_accumulation_steps: 2}",
        "trainer=zero2", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
        *shared, steps,
    )  # fmt: skip
    made = tmp_path / "runs/mini_small/seed_1"
    assert sorted(p.name for p in made.iterdir() if not p.name.startswith(".")) == ["eval", "sft_both", "sft_direct"]
    one = json.loads((made / "sft_both/manifest.json").read_text(encoding="utf-8"))["counts"]
    assert one["steps"] > 0
