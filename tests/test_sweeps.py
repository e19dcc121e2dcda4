"""Sweeps as a user runs them: a process for each job, none in another's way; a restart runs only what is missing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from commands import run
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError
from safetensors.torch import load_file

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.command.jobs import Job, clash_message, first_clash, jobs_of, objective_of, record, run_job, taken
from rationale.command.runs import overrides_of
from rationale.command.threads import cores
from rationale.stopping import REQUEUE

STAGE = "{_target_: doubles.run, mode: '${mode}', out: '${run_dir}/${mode}'}"
DOUBLES = """
import os, pathlib, signal, time
from rationale.artifacts import UserError

def run(mode, out):
    mode, mended = str(mode), pathlib.Path("mended").exists()
    if mode == "refused" and not mended:
        raise UserError("refused: mend it")
    if mode == "killed" and not mended:
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "waits":
        pathlib.Path("pid").write_text(str(os.getpid()))
        time.sleep(300)
    (out / "made").write_text(mode)
    (out / "threads").write_text(os.environ["OMP_NUM_THREADS"])
    return {"squared": (float(mode) - 2) ** 2} if mode[0].isdigit() else {"letters": len(mode)}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a stage of its own, stage=double, which fails or waits if its mode says so."""
    (tmp_path / "conf/stage").mkdir(parents=True)
    (tmp_path / "conf/stage/double.yaml").write_text(STAGE, encoding="utf-8")
    (tmp_path / "doubles.py").write_text(DOUBLES, encoding="utf-8")
    # What a job imports of Lightning to seed it, without the seconds that this takes.
    (tmp_path / "pytorch_lightning.py").write_text("def seed_everything(*_, **__): pass\n", encoding="utf-8")
    return tmp_path


def started(folder, *arguments, module=("rationale",), **environment):
    return subprocess.Popen(
        [sys.executable, "-m", *module, "--config-dir", "conf", *arguments, "stage=double"],
        cwd=folder, encoding="utf-8", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
        env=without({**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{CONF.parent}", **environment}),
    )  # fmt: skip


def without(environment):
    """The variables that have a value."""
    return {name: value for name, value in environment.items() if value is not None}


def answer(folder, *arguments, **environment):
    """Exit code, and what was said on stdout and stderr."""
    process = started(folder, *arguments, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def made(folder):
    return sorted(path.parent.name for path in folder.glob("runs/mini/*/made"))


SLOWER = pytest.param("processes", marks=pytest.mark.slow)


@pytest.mark.parametrize("launcher", ["basic", SLOWER])
def test_jobs_that_fail_take_none_along_and_a_restart_runs_only_them(folder, launcher):
    sweep = ["-m", "+mode=1,refused,killed,2", f"hydra/launcher={launcher}"]
    code, out, err = answer(folder, *sweep)
    assert code == 1
    assert made(folder) == ["1", "2"]
    assert err.count("rationale: refused: mend it") == 1
    assert "Traceback" not in out + err
    said = err[err.index("rationale: 2 of 4 jobs failed") :].splitlines()
    assert [line.split("(")[0] for line in said[1:3]] == ["  job 1 ", "  job 2 "]
    assert "mode=refused" in said[1] and said[1].endswith(": exit code 1")
    assert "mode=killed" in said[2] and said[2].endswith(": killed by SIGKILL")

    (folder / "mended").touch()
    code, out, err = answer(folder, *sweep)
    assert code == 0, err
    assert sorted(line.split(" is ")[0][-1] for line in out.splitlines() if "is up to date" in line) == ["1", "2"]
    assert made(folder) == ["1", "2", "killed", "refused"]
    assert "rationale: all 4 jobs are done" in err


@pytest.mark.parametrize(("given", "expected"), [(None, max(1, cores() // 2)), ("3", 3)])
def test_jobs_side_by_side_share_the_cores_unless_the_user_says_how_many_threads(folder, given, expected):
    code, _, err = answer(folder, "-m", "+mode=1,2", "hydra/launcher=processes", OMP_NUM_THREADS=given)
    assert code == 0, err
    assert [path.read_text(encoding="utf-8") for path in folder.glob("runs/mini/*/threads")] == [str(expected)] * 2


@pytest.mark.parametrize(
    ("launcher", "number", "code"), [("basic", signal.SIGINT, 130), ("processes", signal.SIGTERM, REQUEUE)]
)
def test_a_sweep_that_is_interrupted_ends_its_jobs(folder, launcher, number, code):
    process = started(folder, "-m", "+mode=waits,1", f"hydra/launcher={launcher}")
    deadline = time.monotonic() + 120
    while not (folder / "pid").exists() or not (folder / "pid").read_text(encoding="utf-8"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    job = Path(f"/proc/{(folder / 'pid').read_text(encoding='utf-8')}")
    assert job.exists()
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "of 2 jobs failed" in err and "did not return" in err
    while job.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_jobs_that_would_write_one_artifact_are_refused_before_any_begins(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "rationale", "-m", "stage=dpo", "dpo.objective.beta=0.05,0.1"],
        cwd=tmp_path, capture_output=True, encoding="utf-8", check=False, timeout=120,
    )  # fmt: skip
    assert process.returncode == 1
    assert "two jobs would write runs/mini/seed_1/dpo with different arguments" in process.stderr
    assert "dpo.objective.beta=0.05\n  dpo.objective.beta=0.1\n" in process.stderr
    assert "variant='beta_${dpo.objective.beta}'" in process.stderr
    assert not list(tmp_path.iterdir())


def test_jobs_that_share_an_artifact_with_the_same_arguments_are_no_clash():
    shared = ("prepare", {"out": "a/questions", "seed": 0})
    own = [("dpo", {"out": f"a/dpo_{beta}", "beta": beta}) for beta in (1, 2)]
    assert first_clash([(0, [shared, own[0]]), (1, [shared, own[1]])]) is None
    other = ("dpo", {"out": "a/dpo_1", "beta": 3})
    assert first_clash([(0, [shared, own[0]]), (1, [shared, own[1]]), (2, [shared, other])]) == (0, 2, "a/dpo_1")


@pytest.mark.parametrize(
    ("one", "other", "by_variant", "way"),
    [
        ("dpo.optim.lr=1", "dpo.optim.lr=2", True, "variant='lr_${dpo.optim.lr}'"),
        ("dpo=mini", "dpo=paper", True, "variant='dpo_${hydra:runtime.choices.dpo}'"),
        ("+dataset.seed=1", "+dataset.seed=2", False, "name='mini_seed_${dataset.seed}', or a path of its own"),
    ],
)
def test_a_clash_is_told_with_a_way_out(one, other, by_variant, way):
    said = clash_message(["seed=1", one], ["seed=1", other], "a/dpo", by_variant, "mini", {"dpo"})
    assert f"a/dpo with different arguments, each replacing the other's:\n  {one}\n  {other}\n" in said
    assert way in said


def test_a_job_whose_artifact_another_of_its_sweep_writes_is_refused(tmp_path):
    def job(num, out, beta):
        return Job(num, tmp_path, tmp_path / str(num), ["stage=none"], [], [], [("dpo", {"out": out, "beta": beta})])

    record(job(0, "a/dpo", 1), failed=None)
    assert taken(job(1, "a/dpo", 1)) is None
    assert taken(job(2, "a/dpo_2", 2)) is None
    assert "would write a/dpo, which job 0 writes with" in run_job(job(3, "a/dpo", 2), in_place=None)
    assert taken(job(4, "a/dpo", 1)) is None  # the refused one has no claim


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        (True, [["a=1", "b=x"], ["a=1", "b=y"], ["a=2", "b=x"], ["a=2", "b=y"]]),
        (False, [["a=1", "b=x"], ["a=2", "b=x"], ["a=1", "b=y"]]),
    ],
)
def test_jobs_are_all_combinations_or_one_change_at_a_time(exact, expected):
    assert jobs_of(OverridesParser.create().parse_overrides(["a=1,2", "b=x,y"]), exact) == expected


def test_of_an_interval_the_ends_are_looked_at():
    overrides = OverridesParser.create().parse_overrides(["beta=tag(log, interval(0.02, 0.5))", "seed=1"])
    assert jobs_of(overrides, exact=False) == [["beta=0.02", "seed=1"], ["beta=0.5", "seed=1"]]


def composed(*overrides):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [*overrides], return_hydra_config=True)


def outs(variant):
    """What each stage of the method would write."""
    stages = ["sft", "sample", "pair", "dpo", "evaluate checkpoint=sft", "evaluate checkpoint=dpo", "tabulate"]
    stages += [f"score score=verifier checkpoint={side}" for side in ("sft", "dpo")]
    given = ["experiment=mini", *([f"variant={variant}"] if variant else []), "dpo.objective.beta=0.05"]
    return {stage: composed(*given, *f"stage={stage}".split()).stage.out for stage in stages}


def test_a_variant_is_in_the_path_of_what_hangs_on_dpo_and_of_nothing_else():
    plain, varied = outs(None), outs("beta_${dpo.objective.beta}")
    changed = {stage: path.removeprefix("runs/mini/") for stage, path in varied.items() if path != plain[stage]}
    assert changed == {
        "dpo": "seed_1/dpo_beta_0.05",
        "evaluate checkpoint=dpo": "seed_1/eval/dpo_beta_0.05",
        "score score=verifier checkpoint=dpo": "seed_1/verifier_logps_dpo_beta_0.05",
        "tabulate": "report_beta_0.05",
    }
    assert plain["dpo"] == "runs/mini/seed_1/dpo"
    assert plain["tabulate"] == "runs/mini/report"


def test_the_tables_of_a_variant_show_its_own_dpo():
    report = composed("stage=tabulate", "variant=v").stage.report
    assert report.compare[1] == "dpo_v"
    assert [(r.name, r.label) for r in report.tables.table_3.rows] == [("sft_both", "SFT ④"), ("dpo_v", "DPO ⑥_v")]


@pytest.mark.parametrize("variant", ["a/b", "'a b'", "'*'"])
def test_a_variant_that_is_no_part_of_a_path_is_refused(variant):
    with pytest.raises(InterpolationResolutionError, match="letters, digits"):
        _ = composed(f"variant={variant}").paths.dpo


@pytest.mark.parametrize("launcher", sorted(path.stem for path in (CONF / "hydra/launcher").glob("*.yaml")))
def test_every_launcher_composes(launcher):
    found = composed(f"hydra/launcher={launcher}", "trainer=zero2", "trainer.devices=4", "trainer.num_nodes=2")
    node = OmegaConf.to_container(found.hydra.launcher, resolve=True)
    kind = {"local": "LocalLauncher", "processes": "JoblibLauncher", "slurm": "SlurmLauncher"}
    assert node["_target_"].endswith(kind[launcher])
    if launcher == "slurm":  # a task for every GPU that the trainer counts on
        assert (node["nodes"], node["tasks_per_node"], node["gpus_per_node"]) == (2, 4, 4)


def test_the_sweeper_composes_and_its_trials_bind():
    sweeper = composed("hydra/sweeper=tune_dpo").hydra.sweeper
    assert (sweeper.direction, sweeper.sampler.seed) == ("maximize", 1)
    jobs = jobs_of(OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in sweeper.params.items()]), False)
    cfg = composed("stage=dpo", *jobs[0])
    assert cfg.dpo_name == "dpo_beta_0.02_lr_1e-05_words_45"
    step = composed(*jobs[0], *overrides_of(cfg.objective.step)).stage
    assert (step.evaluation.split, step.evaluation.name) == ("val", "dpo_beta_0.02_lr_1e-05_words_45_val")


@pytest.mark.slow
def test_optuna_gets_the_objective_of_each_job(folder):
    code, _, err = answer(
        folder, "-m", "+mode=interval(1,4)", "objective={step: {stage: double}, counts: ['squ*']}",
        "hydra/sweeper=optuna", "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=3",
        "hydra.sweeper.sampler.seed=3", "hydra.sweeper.n_jobs=1",
    )  # fmt: skip
    assert code == 0, err
    tried = {mode: (float(mode) - 2) ** 2 for mode in made(folder)}
    assert len(tried) == 3
    (best,) = map(OmegaConf.load, folder.glob("runs/mini/hydra/*/optimization_results.yaml"))
    assert best.best_value == pytest.approx(min(tried.values()))
    assert tried[str(best.best_params["+mode"])] == min(tried.values())


def test_an_objective_is_the_mean_of_what_its_patterns_name(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"counts": {"pairs": 3, "cot/a": 33.3}}), encoding="utf-8")
    assert objective_of(tmp_path, ["pairs"]) == 3
    cells = {"cot/a": {"accuracy": 1 / 3}, "cot/b": {"accuracy": 1.0}, "direct/a": {"accuracy": 0.5}}
    (tmp_path / "summary.json").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    assert objective_of(tmp_path, ["cot/*"]) == pytest.approx(200 / 3)  # unrounded, in points
    with pytest.raises(UserError, match=r"objective.counts names \['cod/a'\]; there are cot/a, cot/b, direct/a"):
        objective_of(tmp_path, ["cot/*", "cod/a"])


def test_processes_of_one_run_have_folders_of_their_own(folder):
    for process in [started(folder, f"+mode={mode}") for mode in (1, 2)]:
        assert process.communicate(timeout=120) and process.returncode == 0
    runs = list(folder.glob("runs/mini/hydra/*/.hydra/overrides.yaml"))
    assert sorted(OmegaConf.load(path)[0] for path in runs) == ["+mode=1", "+mode=2"]


def test_a_job_that_slurm_no_longer_lists_has_ended():
    """Three elements of an array: one queued again, one running, one cancelled; and one long gone."""
    slurm = pytest.importorskip("rationale.command.slurm")
    watcher = slurm.Watcher()
    for number in range(4):
        watcher.register_job(f"7_{number}")
    watcher._info_dict = watcher.read_info(b"7_0|CONFIGURING|\n7_1|RUNNING|node1\n7_2|CANCELLED|node2\n8_1|FAILED|\n")
    states = [watcher._info_dict[f"7_{number}"]["State"] for number in range(4)]
    assert states == ["RUNNING", "RUNNING", "CANCELLED", "NO LONGER LISTED"]
    assert [watcher.is_done(f"7_{number}", mode="cache") for number in range(4)] == [False, False, True, True]


def test_a_sweep_through_slurm_asks_squeue_and_not_the_accounting(folder):
    """Doubles of SLURM's commands: sbatch takes the job, which is cancelled before it begins; sacct refuses."""
    doubles = folder / "doubles"
    doubles.mkdir()
    for name, does in {
        "srun": "exit 1", "sbatch": "echo Submitted batch job 7", "sacct": "echo accounting is disabled >&2; exit 1",
        "squeue": "echo '7|CANCELLED|'",
    }.items():  # fmt: skip
        (doubles / name).write_text(f"#!/bin/sh\n{does}\n", encoding="utf-8")
        (doubles / name).chmod(0o755)
    code, out, err = answer(folder, "-m", "+mode=1", "hydra/launcher=slurm", PATH=f"{doubles}:{os.environ['PATH']}")
    assert code == 1
    assert "accounting" not in out + err and "sacct" not in out + err
    assert "has not produced any output (state: CANCELLED)" in err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a few questions and rationales, what trains on them, and the weights that one process makes."""
    folder = tmp_path_factory.mktemp("trained")
    few = ["dataset.images={train: 2, val: 1, test: 1}", "logger=csv"]
    sft = [
        "stage=sft",
        *few,
        "sft.mixture.pretrain=0",
        "sft.batch={micro_batch_size: 1, gradient_accumulation_steps: 2}",
    ]
    for step in (["stage=prepare", *few], ["stage=distill", *few], [*sft, "paths.sft=runs/alone"]):
        run(folder, *step)
    return folder, sft, load_file(folder / "runs/alone/model/model.safetensors")


def begun(folder, module, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", *module, *arguments], cwd=folder, encoding="utf-8",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def command(folder, module, *arguments):
    """What a command says, which must end well."""
    process = begun(folder, module, *arguments)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-4000:]
    return said


def assert_same_weights(folder, expected):
    found = load_file(folder / "model/model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_a_job_of_a_sweep_trains_in_two_processes(trained):
    folder, sft, expected = trained
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    said = command(folder, ["rationale", "-m"], *sft, *two, "paths.sft=runs/pair")
    assert "all 1 jobs are done" in said
    # Lightning started the second process with the job's own command, in the job's own folder.
    assert len(list(folder.glob("runs/mini/hydra/sweep_*/0/train_ddp_process_1.log"))) == 1
    assert_same_weights(folder / "runs/pair", expected)


@pytest.mark.slow
def test_two_nodes_train_as_one_process_does(trained):
    """Two commands of torchrun that find each other over loopback, as on two machines with a shared folder."""
    folder, sft, expected = trained
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.precision=32-true"]
    nodes = [
        begun(
            folder, ["torch.distributed.run", *rendezvous, f"--node-rank={rank}", "-m", "rationale"],
            *sft, *two, "trainer.num_nodes=2", "paths.sft=runs/nodes",
        )
        for rank in (0, 1)
    ]  # fmt: skip
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "GLOBAL_RANK: 1, MEMBER: 2/2" in said[1]
    assert [text.count("sft: runs/nodes (") for text in said] == [1, 0]  # one artifact, written by the first
    assert_same_weights(folder / "runs/nodes", expected)


@pytest.mark.slow
def test_a_training_whose_whole_tree_is_told_to_stop_keeps_its_state(trained):
    """As a scheduler does, which signals wandb's process too."""
    folder, sft, _ = trained
    long = [*sft, "logger=wandb", "sft.epochs=200", "paths.sft=runs/told"]
    process = begun(folder, ["rationale"], *long)
    told = []
    for line in process.stdout:
        if "Epoch 0" in line and not told:
            tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            told = [each.name() for each in tree]
            for each in tree:
                each.terminate()
        assert "Traceback" not in line
    assert "wandb-core" in told
    assert process.wait(timeout=60) == REQUEUE
    assert len(list(folder.glob("runs/.told.*.partial/state/step=*.ckpt"))) == 1
