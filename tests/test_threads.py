"""A process has as many threads as it was given cores, and two beside each other do not stop each other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from rationale.artifacts import processes_of
from rationale.command import threads
from rationale.command.threads import WAITS, cores, quota, wait_briefly

OURS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", *WAITS)


@pytest.fixture
def eight(monkeypatch, tmp_path):
    """A machine of eight cores without limits."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "CGROUP", tmp_path)
    return tmp_path


def test_nothing_that_reads_the_variables_is_loaded_before_they_are_set():
    said = "import sys, rationale.__main__; print(*{'torch', 'numpy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout == "\n"


def test_waiting_threads_give_up_their_core(eight):
    wait_briefly()
    assert {name: os.environ[name] for name in WAITS} == {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"])
def test_what_the_user_set_of_waiting_stays(eight, monkeypatch, name):
    monkeypatch.setenv(name, "active")
    wait_briefly()
    assert {key for key in OURS if key in os.environ} == {name}


def test_processes_of_one_machine_share_its_cores(eight):
    assert [cores(number) for number in (1, 3, 16)] == [8, 2, 1]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [("cpu.max", "250000 100000", 2.5), ("cpu.max", "max 100000", float("inf")), ("cpu.max", "20000 100000", 0.2)],
)
def test_a_containers_quota_is_read(eight, file, text, expected):
    (eight / file).write_text(text, encoding="utf-8")
    assert quota() == expected
    assert cores() == max(1, min(8, int(min(expected, 8))))


def test_an_older_containers_quota_is_read(eight):
    (eight / "cpu").mkdir()
    (eight / "cpu/cpu.cfs_period_us").write_text("100000", encoding="utf-8")
    for limit, expected in (("300000", 3), ("-1", 8)):
        (eight / "cpu/cpu.cfs_quota_us").write_text(limit, encoding="utf-8")
        assert cores() == expected


@pytest.mark.parametrize(
    ("told", "processes", "expected"),
    [
        ({"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "6"}, 2, 3),  # of each task already
        ({"SLURM_CPUS_ON_NODE": "6"}, 2, 3),
        ({"SLURM_CPUS_PER_TASK": "64"}, 1, 8),
    ],
)
def test_a_job_of_slurm_has_what_it_asked_for_though_it_may_use_every_core(
    eight, monkeypatch, told, processes, expected
):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert cores(processes) == expected


def test_within_a_stage_torch_and_what_it_starts_have_the_share(eight):
    before = torch.get_num_threads()
    try:
        with threads.threads(4):
            assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (2, "2")
        assert "OMP_NUM_THREADS" not in os.environ
    finally:
        torch.set_num_threads(before)


def test_the_users_number_of_threads_counts(eight, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    before = torch.get_num_threads()
    with threads.threads(4):
        assert (torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]) == (before, "5")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"settings": {"trainer": {"devices": 4}}}, (4, 1)),
        ({"trainer": {"devices": "auto", "num_nodes": 2}}, ("auto", 2)),
        ({"settings": {"lr": 1}, "processes": {"devices": 3}}, (3, 1)), ({}, (1, 1)), ({"settings": None}, (1, 1)),
    ],
)  # fmt: skip
def test_a_stage_has_the_processes_of_its_trainer_or_its_own(arguments, expected):
    assert processes_of(arguments) == expected
