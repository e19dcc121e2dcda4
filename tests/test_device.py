"""Where models run: on the machine's accelerator in every stage, and what is written does not depend on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from composing import STAGES, composed, with_stage
from omegaconf import OmegaConf
from safetensors.torch import load_file

from rationale.artifacts import UserError, call_key
from rationale.command.runs import call
from rationale.hashes import read_manifest
from rationale.models.device import device_of
from rationale.schema import Pair, ResponseLogps, read_jsonl, write_jsonl
from rationale.sources import tasks
from rationale.stages import prepare

HERE = Path(__file__).resolve().parent
# All that run a model; tests/everywhere.py does.
RUNNING = (
    "check", "distill", "dpo", "evaluate", "grpo", "predict", "pretrain", "replay", "sample", "score", "sft",
)  # fmt: skip


def loads(node):
    """Every call below a node that reads a model's weights."""
    if isinstance(node, list):
        return [found for item in node for found in loads(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if node.get("_target_") == "rationale.models.vlm.load" else []
    return own + [found for item in node.values() for found in loads(item)]


def trains(node):
    return "trainer" in node.get("settings", {})


@cache
def config(*words):
    return composed("teacher=local", *words)


def arguments(stage, *words):
    """What a stage is called with, but for its logger, which is told the whole config."""
    node = OmegaConf.to_container(with_stage(config(*words), stage).stage, resolve=True)
    return {name: value for name, value in node.items() if name != "logger"}


def test_every_stage_that_runs_a_model_is_known_here():
    """What it reads weights with, trains, or takes a device."""
    found = {name: arguments(name) for name in STAGES}
    runs = [name for name, node in found.items() if loads(node) or trains(node) or "device" in node]
    assert runs == list(RUNNING)


@pytest.fixture(scope="module")
def everywhere(tiny_dir, questions, questions_dir, rationales_dir, tmp_path_factory):
    """What tests/everywhere.py found, and its folder."""
    out = tmp_path_factory.mktemp("everywhere")
    for name in ("pairs", "opened", "run"):
        (out / name).mkdir()
    asked = [q for q in questions if q.split == "train"][:8]
    rows = [Pair(q.question_id, 0, "cot", f"so it is {i}", f"no, {i}", 0, 1, "1", "2") for i, q in enumerate(asked)]
    write_jsonl(out / "pairs/pairs.jsonl", rows)
    prepare.run(tasks.mini_base(images=3, one_hop_per_image=1, sums_share=0.5, seed=0), out / "opened")
    given = {"model": tiny_dir, "questions": questions_dir, "rationales": rationales_dir, "pairs": out / "pairs"}
    given |= {"opened": out / "opened", "image": asked[0].files(questions_dir)[0], "out": out / "run"}
    (out / "given.json").write_text(json.dumps(given, default=str), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(HERE / "everywhere.py"), str(out / "given.json")], capture_output=True, timeout=1200,
        encoding="utf-8", check=False, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((out / "run/found.json").read_text(encoding="utf-8")), out / "run"


def both(folder, name):
    """An artifact's file as it was made on the CPU and on the accelerator."""
    return (next((folder / device).glob(f"mini/**/{name}")) for device in ("cpu", "auto"))


def whole(folder):
    """All weights of a checkpoint as one vector. Single ones, such as a bias of keys, move by rounding alone."""
    weights = load_file(folder / "model/model.safetensors")
    return torch.cat([weights[name].flatten() for name in sorted(weights)])


@pytest.mark.slow
@pytest.mark.parametrize("stage", RUNNING)
def test_no_forward_pass_of_a_stage_stays_on_the_cpu(stage, everywhere):
    found, _ = everywhere
    here, there = (found[f"{device}/{stage}"]["passes"] for device in ("cpu", "auto"))
    assert here and all(name.endswith(" on cpu") for name in here)
    assert there == {name.replace(" on cpu", " on second"): number for name, number in here.items()}


@pytest.mark.slow
def test_what_is_sampled_evaluated_told_and_said_is_that_of_the_cpu_byte_for_byte(everywhere):
    found, folder = everywhere
    for name in ("responses/rows.jsonl", "eval/*/rows.jsonl", "eval/*/summary.json", "rationales/rows.jsonl"):
        here, there = both(folder, name)
        assert here.read_bytes() == there.read_bytes(), name
    assert found["cpu/predict"]["said"] == found["auto/predict"]["said"].replace("second:0", "cpu")
    texts = [
        row["text"] for row in map(json.loads, both(folder, "responses/rows.jsonl").__next__().open(encoding="utf-8"))
    ]
    assert len({*texts}) > 8  # and is something


@pytest.mark.slow
def test_log_probs_and_trained_weights_are_those_of_the_cpu_to_rounding(everywhere):
    _, folder = everywhere
    here, there = (read_jsonl(path, ResponseLogps) for path in both(folder, "reference_logps/rows.jsonl"))
    assert [row.key for row in here] == [row.key for row in there]
    for one, other in zip(here, there, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=1e-5)
    start = whole(folder / "start")
    for stage in ("sft_both", "dpo", "base_first"):
        here, there = (whole(path.parents[1]) for path in both(folder, f"{stage}/model/model.safetensors"))
        assert (there - here).norm() <= 1e-5 * here.norm(), stage
        if stage != "base_first":  # from nothing
            assert (there - here).norm() <= 1e-3 * (here - start).norm(), stage


@pytest.mark.slow
def test_check_comes_to_its_end_there_and_replay_finds_what_it_finds_here(everywhere):
    found, folder = everywhere
    assert "; device second:0\n" in found["auto/check"]["said"]
    assert found["auto/check"]["said"].endswith("All of it is as it should be.\n")
    here, there = both(folder, "replay/rows.jsonl")
    for one, other in zip(
        *([json.loads(line) for line in path.open(encoding="utf-8")] for path in (here, there)), strict=True
    ):
        assert other == {
            **one,
            "loss": pytest.approx(one["loss"], abs=1e-5),
            "lowest": pytest.approx(one["lowest"], abs=1e-5),
        }


@pytest.mark.slow
def test_the_device_is_said_and_stands_in_the_manifest(everywhere):
    found, folder = everywhere
    assert found["cpu/sample"]["said"].startswith("sample: ")  # said once in a process, by the training before
    assert found["auto/sample"]["said"].startswith("device: second:0\n")
    here, there = (read_manifest(path.parent)["machine"]["device"] for path in both(folder, "responses/rows.jsonl"))
    assert (here, there) == ("cpu", "cpu, second:0")  # all that the process has used


@pytest.mark.slow
def test_a_training_that_lightning_would_make_on_the_cpu_is_refused(everywhere):
    found, _ = everywhere
    for name in ("refused", "refused_named"):
        assert "Lightning knows no trainer for second and takes the CPU; set trainer.accelerator" in found[name]


@pytest.mark.parametrize("stage", RUNNING)
def test_a_stage_that_does_not_train_reads_its_weights_to_the_device(stage):
    """A training's strategy places them."""
    node = arguments(stage)
    assert trains(node) or node.get("device") or all(found.get("device") == "auto" for found in loads(node))


@pytest.mark.parametrize("stage", [stage for stage in RUNNING if stage not in ("check", "predict")])
def test_where_and_in_how_many_processes_is_not_part_of_a_key(stage):
    one, other = arguments(stage), arguments(stage, "trainer=cpu", "trainer.devices=8", "trainer.num_nodes=2")
    assert one != other
    assert call_key(stage, one, {}) == call_key(stage, other, {})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("graphics", "device=graphics: torch knows no such device; take auto or cpu"),
        ("cuda", "device=cuda: this machine's accelerator is none; take auto or cpu"),
        ("cuda:1", "device=cuda:1: give its kind alone; which one it is, CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_device_that_is_none_is_refused(asked, said, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(UserError, match=said):
        device_of(asked)


def test_auto_is_the_accelerator_and_each_process_has_its_own(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert device_of("auto") == device_of("cuda") == torch.device("cuda", 0)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert device_of("auto") == torch.device("cuda", 3)
    monkeypatch.setenv("LOCAL_RANK", "6")  # more processes than devices share them
    assert device_of("auto") == torch.device("cuda", 2)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("stage", "setting"),
    [
        ("sample", "sampling.batch_size"), ("score", "score.batch_size"), ("evaluate", "evaluation.batch_size"),
        ("sft", "sft.batch.micro_batch_size"), ("dpo", "dpo.batch.micro_batch_size"), ("distill", "teacher.batch_size"),
        ("grpo", "grpo.batch.micro_batch_size"), ("check", "the batch"),
    ],
)  # fmt: skip
def test_a_device_that_is_full_names_the_setting_to_lower(stage, setting, tmp_path, monkeypatch):
    def full(**_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore about that.")

    _, given, work = call(with_stage(config(), stage).stage)
    monkeypatch.setattr(given["_target_"], full)
    with pytest.raises(UserError) as refused:
        work(tmp_path)
    assert str(refused.value) == (
        f"the device is out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); lower {setting}. What is "
        "written stays: the same command goes on from it, one with another batch begins anew"
    )
