"""The command answers a mistake in a few lines that say what to do, and its help names all there is."""

import os
import subprocess
import sys

import pytest

from rationale.cli import CONF


def answer(folder, *arguments):
    """Exit code and all that `python -m rationale` says, run in an empty folder."""
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "rationale", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


MISTAKES = {
    "wrong stage": (["stage=evalute"], ["Could not find 'stage/evalute'", *options("stage")]),
    "wrong experiment": (["experiment=table_9"], ["Could not find 'experiment/table_9'", *options("experiment")]),
    "wrong key": (["dpo.betta=0.05"], ["Could not override 'dpo.betta'"]),
    "wrong argument": (["stage=distill", "+teacher.slpi=1"], ["ProgramTeacher takes no 'slpi'; nearest: slip"]),
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
    assert len(text.splitlines()) < 30
    for words in said:
        assert words in text


def test_help_names_every_stage_with_a_line_of_its_own(tmp_path):
    code, text = answer(tmp_path, "--help")
    lines = [line.split() for line in text.splitlines()]
    assert code == 0
    for stage in options("stage"):
        assert any(words[0] == stage and len(words) > 3 for words in lines if words), stage


def test_help_names_every_group_with_its_options(tmp_path):
    _, text = answer(tmp_path, "--help")
    for group in (path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        assert f"{group.name}: {', '.join(options(group.name))}" in text


def test_what_would_run_is_printed_and_not_run(tmp_path):
    code, text = answer(tmp_path, "stage=dpo", "dpo.objective.beta=0.05", "--cfg", "job", "--resolve")
    assert code == 0
    assert "beta: 0.05" in text
    assert not (tmp_path / "runs").exists()
