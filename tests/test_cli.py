"""The command answers a mistake in a few lines that say what to do, and its help names all there is."""

import os
import subprocess
import sys

import pytest

from rationale import artifacts
from rationale.artifacts import OtherEnded, main_process, wait_for_main_process
from rationale.command.cli import CONF, quiet


def answer(folder, *arguments, **more):
    """Exit code and all that `python -m rationale` says, run in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(
        [sys.executable, "-m", "rationale", *arguments],
        cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


MISTAKES = {
    "wrong stage": (["stage=evalute"], ["Could not find 'stage/evalute'", *options("stage")]),
    "wrong experiment": (["experiment=table_9"], ["Could not find 'experiment/table_9'", *options("experiment")]),
    "wrong key": (["dpo.betta=0.05"], ["Could not override 'dpo.betta'"]),
    "wrong argument": (
        ["stage=distill", "+teacher.slpi=1"],
        ["teacher.slpi", "ProgramTeacher takes no 'slpi'; nearest: slip"],
    ),
    "missing artifact": (["stage=distill"], ["runs/mini/questions is not there; run the stage that makes it"]),
    "missing folder": (
        ["stage=prepare", "dataset=chartqa_local", "+data_root=absent"],
        ["absent: no data.jsonl there; set data_root to a folder"],
    ),
    "missing value": (["stage=prepare", "dataset=chartqa_local"], ["data_root"]),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_answered_in_a_few_lines(tmp_path, arguments, said):
    code, text = answer(tmp_path, *arguments)
    assert code == 1
    assert "Traceback" not in text
    assert len(text.splitlines()) < 35
    for words in said:
        assert words in text


def test_help_names_every_stage_with_a_line_of_its_own(tmp_path):
    code, text = answer(tmp_path, "--help")
    lines = [line.split() for line in text.splitlines()]
    assert code == 0
    for stage in options("stage"):
        assert any(words[0] == stage and len(words) > 3 for words in lines if words), stage


def test_the_command_alone_prints_its_help_and_runs_nothing(tmp_path):
    assert answer(tmp_path) == answer(tmp_path, "--help")
    assert not list(tmp_path.iterdir())


def test_help_names_every_group_with_its_options(tmp_path):
    _, text = answer(tmp_path, "--help")
    for group in (path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"{group.name}: {', '.join(options(group.name))}" in text


def test_what_would_run_is_printed_and_not_run(tmp_path):
    code, text = answer(tmp_path, "stage=dpo", "dpo.objective.beta=0.05", "--cfg", "job", "--resolve")
    assert code == 0
    assert "beta: 0.05" in text
    assert not (tmp_path / "runs").exists()


RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_JOB_NAME")


@pytest.mark.parametrize(
    ("given", "first"),
    [
        ({}, True),
        ({"SLURM_PROCID": "1"}, True),  # Lightning sees no SLURM there either
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}, True),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, False),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),
    ],
)
def test_which_process_is_the_first_is_what_lightning_takes(monkeypatch, given, first):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert main_process() is first


@pytest.mark.parametrize(
    ("given", "per_node"),
    [
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, "2"),  # srun -n 2
        ({"SLURM_STEP_TASKS_PER_NODE": "8(x2)"}, "8"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,1"}, None),
        ({"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NTASKS_PER_NODE": "4"}, "4"),
        ({"SLURM_TASKS_PER_NODE": "2"}, None),  # a batch script's own process
    ],
)
def test_tasks_of_srun_are_as_many_a_node_as_lightning_asks_for(monkeypatch, given, per_node):
    for name in ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    quiet()
    assert os.environ.get("SLURM_NTASKS_PER_NODE") == per_node


@pytest.mark.parametrize("value", ["", "first"])
def test_a_rank_that_is_no_number_is_named(tmp_path, value):
    code, text = answer(tmp_path, "stage=prepare", NODE_RANK=value)
    assert (code, text.count("\n")) == (1, 1)
    assert text.startswith(f"rationale: NODE_RANK={value!r} is no number of a process; unset it")


def test_a_process_that_waits_for_the_first_one_says_by_what(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(artifacts, "WORDLESS", 0)
    given = {"out": str(tmp_path / "made")}

    def meanwhile(_):
        monkeypatch.delenv("LOCAL_RANK")
        artifacts.produce("double", given, lambda _: {})

    monkeypatch.setattr(artifacts.time, "sleep", meanwhile)
    assert wait_for_main_process("double", given, lambda _: {}) == tmp_path / "made"
    assert "waiting for the first process; this is another by LOCAL_RANK=1" in capsys.readouterr().out


def test_a_process_whose_launcher_has_ended_waits_no_longer(monkeypatch, tmp_path):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(artifacts, "PARENT", -1)
    with pytest.raises(OtherEnded, match="the process that started this one has ended"):
        wait_for_main_process("double", {"out": str(tmp_path / "made")}, lambda _: {})
    monkeypatch.setenv("LOCAL_RANK", "0")  # the first, whose shell may go
    assert artifacts.check_parent() is None


@pytest.mark.parametrize(("devices", "took_part"), [(1, False), (2, True)])
def test_another_process_takes_part_in_a_training_of_several_alone(monkeypatch, tmp_path, devices, took_part):
    """One that was started to sample does not train beside the first."""
    given, part = {"out": str(tmp_path / "made"), "settings": {"trainer": {"devices": devices, "num_nodes": 1}}}, []
    monkeypatch.setenv("LOCAL_RANK", "1")

    def meanwhile(_):
        monkeypatch.delenv("LOCAL_RANK")
        artifacts.produce("double", given, lambda _: {})

    monkeypatch.setattr(artifacts.time, "sleep", meanwhile)
    wait_for_main_process("double", given, part.append)
    assert bool(part) is took_part
