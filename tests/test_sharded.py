"""Training in two processes: losses and weights are those of one, whatever the strategy and the layout."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import in_processes
from safetensors.torch import load_file

from rationale.models.vlm import load

DDP = "ddp_find_unused_parameters_true"  # LLaVA's last vision layer is not read


def trained(out: Path, processes: int, **settings: str | int) -> SimpleNamespace:
    """The log of every step, the weights saved, and the numbers held by each process."""
    done = in_processes(out, processes, **settings)
    assert done.returncode == 0, done.stderr[-4000:]
    return SimpleNamespace(
        steps=json.loads((out / "steps.json").read_text(encoding="utf-8")), folder=out / "model",
        held=[json.loads((out / f"held_{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)],
        weights=load_file(out / "model" / "model.safetensors"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(tiny_dir, questions_dir, tmp_path_factory):
    """By objective: one process, plain rows."""
    where = {"model": str(tiny_dir), "questions": str(questions_dir), "strategy": "auto", "layout": "rows"}
    return {o: trained(tmp_path_factory.mktemp(o), 1, objective=o, **where) for o in ("sft", "dpo", "grpo")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "strategy", "layout"),
    [
        ("dpo", DDP, "tree"), ("dpo", "zero1", "rows"), ("dpo", "zero2", "tree"), ("dpo", "zero3", "rows"),
        ("sft", "zero3", "tree"), ("grpo", DDP, "tree"), ("grpo", "zero2", "rows"), ("grpo", "zero3", "tree"),
    ],
)  # fmt: skip
def test_two_processes_train_as_one_does(objective, strategy, layout, alone, tiny_dir, questions_dir, tmp_path):
    where = {"model": str(tiny_dir), "questions": str(questions_dir)}
    found, one = trained(tmp_path, 2, objective=objective, strategy=strategy, layout=layout, **where), alone[objective]
    assert len(found.steps) == len(one.steps) == 6
    for step, expected in one.steps.items():
        own = found.steps[step]
        same = expected.keys() - {"train/padding"}  # the layout's own
        assert {k: own[k] for k in same} == pytest.approx({k: expected[k] for k in same}, abs=1e-4, rel=1e-4)
    assert found.weights.keys() == one.weights.keys()
    for name, value in one.weights.items():
        torch.testing.assert_close(found.weights[name], value, atol=1e-4, rtol=0, msg=name)
    load(str(found.folder))
    if strategy == "zero3":
        for part, whole in one.held[0].items():
            assert [held[part] for held in found.held] == pytest.approx([whole / 2] * 2, rel=0.02), part


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "first", "then"), [("dpo", 1, 2), ("sft", 2, 1), ("grpo", 2, 1)])
def test_a_run_cut_in_some_processes_goes_on_in_others(
    objective, first, then, alone, tiny_dir, questions_dir, tmp_path
):
    where = {"model": str(tiny_dir), "questions": str(questions_dir), "strategy": DDP, "layout": "tree"}
    cut = in_processes(tmp_path, first, objective=objective, kill=(5, 0, "SIGKILL"), **where)
    assert cut.returncode != 0 and (tmp_path / "state/step=00000004.ckpt").exists()
    found, one = trained(tmp_path, then, objective=objective, **where), alone[objective]
    assert list(found.steps) == ["5", "6"]
    for name, value in one.weights.items():
        torch.testing.assert_close(found.weights[name], value, atol=1e-4, rtol=0, msg=name)


@pytest.mark.slow
def test_pieces_of_a_state_are_refused_in_another_number_of_processes(tiny_dir, questions_dir, tmp_path):
    where = {"model": str(tiny_dir), "questions": str(questions_dir), "objective": "dpo", "layout": "tree"}
    in_processes(tmp_path, 2, strategy="zero2", kill=(5, 0, "SIGKILL"), **where)
    assert (
        "in 2 pieces, which 1 processes cannot go on from"
        in in_processes(tmp_path, 1, strategy="zero2", **where).stderr
    )


def killed(out: Path, processes: int, kills: list[tuple[int, float, str]], **settings: str | int) -> None:
    """A training that is killed and started again at each of `kills`, and then left to end."""
    out.mkdir()
    for kill in [*kills, None]:
        done = in_processes(out, processes, threads=3 - processes, kill=kill, **settings)
        assert (done.returncode == 0) == (kill is None), f"kill {kill}: {done.stderr[-4000:]}"


def random_kills(number: int, steps: int, by: str) -> list[tuple[int, float, str]]:
    """A step of each, in rising order and early enough to leave work; and a moment within that step or the next."""
    rng = random.Random(0)
    return [(step, rng.uniform(0, 0.03), by) for step in sorted(rng.sample(range(1, steps - 8), number))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "strategy", "processes", "epochs", "kills", "by", "within"),
    [
        ("sft", "auto", 1, 9, 4, "SIGKILL", 0), ("dpo", "auto", 1, 9, 4, "SIGKILL", 0),
        ("dpo", "zero2", 2, 7, 2, "SIGKILL", 1e-5), ("dpo", "zero3", 2, 6, 1, "SIGTERM", 1e-5),
    ],
)  # fmt: skip
def test_a_run_killed_again_and_again_ends_with_the_weights_of_an_uncut_one(
    objective, strategy, processes, epochs, kills, by, within, tiny_dir, questions_dir, tmp_path
):
    told = {"model": str(tiny_dir), "questions": str(questions_dir), "objective": objective, "layout": "tree"}
    told |= {"strategy": strategy, "epochs": epochs, "held": 3}  # of two steps each
    killed(tmp_path / "uncut", processes, [], **told)
    killed(tmp_path / "cut", processes, random_kills(kills, 2 * epochs, by), **told)
    for kept in ("model", "best/model"):
        whole, found = (load_file(tmp_path / run / kept / "model.safetensors") for run in ("uncut", "cut"))
        assert whole.keys() == found.keys()
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value, atol=within, rtol=0, msg=f"{kept} {name}")
