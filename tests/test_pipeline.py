"""The command as a user runs it: the whole method on a few drawn images, twice, and once cut off by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rationale.schema import EvalRow, iter_jsonl

pytestmark = pytest.mark.slow

SMALL = [
    "experiment=mini_small",
    "logger=csv",
    "sampling.limit=24",
    "sampling.num_samples=8",
    "pairing.low=0.03",
    "pairing.high=0.99",
    "sft.mixture.pretrain=32",
    "sft.batch.micro=2",
    "sft.epochs=4",
    "evaluation.batch_size=32",
]


def command(folder, *arguments):
    return [sys.executable, "-m", "rationale", f"root={folder}/runs", *arguments]


def run(folder, *arguments):
    done = subprocess.run(
        command(folder, *arguments), cwd=folder, capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a whole run of experiment=mini at the smallest size."""
    folder = tmp_path_factory.mktemp("pipeline")
    run(folder, *SMALL)
    return folder


def test_it_ends_in_two_tables_and_a_report(finished):
    report = finished / "runs/mini_small/report"
    for name in ("table_2.md", "table_2.tex", "table_2.csv", "table_3.md", "orderings.md", "verifier.csv"):
        assert (report / name).stat().st_size > 0
    page = (report / "index.html").read_text()
    assert "Table 2" in page
    assert "data:image/png;base64," in page


def test_every_table_row_was_evaluated_on_every_test_question(finished):
    questions = sum(
        json.loads(line)["split"] == "test"
        for line in (finished / "runs/mini_small/questions/questions.jsonl").read_text().splitlines()
    )
    for name in ("sft_format", "sft_direct", "sft_cot", "sft_both", "sft_both_blind", "dpo"):
        rows = list(iter_jsonl(finished / f"runs/mini_small/seed_1/eval/{name}/rows.jsonl", EvalRow))
        assert len(rows) == 2 * questions


def test_each_artifact_has_a_manifest_that_names_its_inputs(finished):
    manifest = json.loads((finished / "runs/mini_small/seed_1/dpo/manifest.json").read_text())
    named = {path.rsplit("runs/", 1)[-1] for path in manifest["inputs"]}
    assert {"mini_small/questions", "mini_small/seed_1/pairs", "mini_small/seed_1/sft_both/model"} <= named
    assert manifest["counts"]["pairs"] > 0


def test_a_second_run_finds_everything_up_to_date(finished):
    said = run(finished, *SMALL)
    lines = [line for line in said.splitlines() if line.strip()]
    assert lines
    assert all(line.endswith("is up to date") for line in lines)


def test_a_training_killed_half_way_ends_with_the_weights_of_an_uncut_one(finished, tmp_path):
    arguments = ["experiment=mini_small", "stage=sft", "logger=csv", "sft.mixture.pretrain=32", "sft.save_every=2"]
    shared = [f"paths.{p}={finished}/runs/mini_small/{p}" for p in ("questions", "rationales", "pretrain_questions")]
    run(tmp_path / ".", *arguments, *shared, "seed=5")
    process = subprocess.Popen(
        command(tmp_path, *arguments, *shared, "seed=5", "name=cut"), cwd=tmp_path, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    state = tmp_path / "runs/cut/seed_5"
    deadline = time.monotonic() + 300
    while not list(state.glob(".sft_both.*/state/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (state / "sft_both").exists()
    run(tmp_path, *arguments, *shared, "seed=5", "name=cut")
    uncut, cut = (tmp_path / f"runs/{name}/seed_5/sft_both/model/model.safetensors" for name in ("mini_small", "cut"))
    assert uncut.read_bytes() == cut.read_bytes()


def test_two_processes_run_an_experiment_from_one_command(finished, tmp_path):
    """Stages that train run in both processes, the others in the first; the second waits for what the first writes."""
    shared = [f"paths.{p}={finished}/runs/mini_small/{p}" for p in ("questions", "rationales", "pretrain_questions")]
    steps = "steps=['stage=sft ablation=both','stage=evaluate ablation=both','stage=sft ablation=direct']"
    run(
        tmp_path, "experiment=mini_small", "logger=csv", "sft.mixture.pretrain=32",
        "sft.batch={micro: 4, accumulate: 2}",
        "trainer=zero2", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true",
        *shared, steps,
    )  # fmt: skip
    made = tmp_path / "runs/mini_small/seed_1"
    assert sorted(p.name for p in made.iterdir() if not p.name.startswith(".")) == ["eval", "sft_both", "sft_direct"]
    one = json.loads((made / "sft_both/manifest.json").read_text())["counts"]
    assert one["steps"] > 0
