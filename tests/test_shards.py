"""Batches of a stage as shards: by one process or two, and on again after a cut with another number of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from forks import Fork
from shared import stages
from torch.distributed import HashStore, ProcessGroupGloo

from rationale.artifacts import OtherEnded, PartDone
from rationale.endpoints.generator import Served
from rationale.hashes import read_manifest
from rationale.models import local
from rationale.models.local import Local, is_shared
from rationale.schema import Pair, write_jsonl
from rationale.shards import ALONE, Processes, Share, in_shards

HERE = Path(__file__).resolve().parent
UNITS = [[0, 1], [2], [], [3, 4, 5]]


def lines(unit, ahead=None):
    return [json.dumps({"row": i, "text": "图\u2028"}) + "\n" for i in unit]


def test_rows_are_the_units_in_order(tmp_path):
    rows = in_shards(tmp_path, UNITS, lines)
    assert [json.loads(line)["row"] for line in rows.open(encoding="utf-8")] == [0, 1, 2, 3, 4, 5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize("cut", range(len(UNITS)))
def test_a_run_cut_at_any_unit_goes_on_without_a_line_lost_or_doubled(tmp_path, cut):
    whole, resumed, done = tmp_path / "whole", tmp_path / "resumed", []
    whole.mkdir()
    resumed.mkdir()

    def breaks(unit, ahead):
        if unit == UNITS[cut]:
            raise RuntimeError("power cut")
        return lines(unit)

    with pytest.raises(RuntimeError, match="power cut"):
        in_shards(resumed, UNITS, breaks)
    rows = in_shards(resumed, UNITS, lambda unit, ahead: done.append(unit) or lines(unit))
    assert done == UNITS[cut:]
    assert rows.read_bytes() == in_shards(whole, UNITS, lines).read_bytes()


@pytest.mark.parametrize("left", [False, True])
def test_shards_that_were_all_done_are_not_done_again(tmp_path, left):
    """Also where a cut came before the last of them was removed."""
    first = in_shards(tmp_path, UNITS, lines).read_bytes()
    if left:
        (tmp_path / "shards").mkdir()
        (tmp_path / "shards/000003.jsonl").write_text("", encoding="utf-8")
    fail = partial(pytest.fail, "done again")
    again = in_shards(tmp_path, UNITS, lambda *_: fail(), ahead=lambda _: fail())
    assert again.read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rows.jsonl"]


@pytest.mark.parametrize("world", [2, 3, 9])
def test_every_unit_is_that_of_one_process(world):
    shares = [number for rank in range(world) for number in Share(rank, world).of(len(UNITS))]
    assert sorted(shares) == [0, 1, 2, 3]


def test_who_waits_for_a_process_that_has_ended_is_told():
    store = HashStore()
    with ThreadPoolExecutor() as threads:
        groups = list(threads.map(lambda rank: ProcessGroupGloo(store, rank, 2), range(2)))
        list(threads.map(lambda rank: Share(rank, 2, groups[rank]).meet(), range(2)))
        waits = threads.submit(Share(0, 2, groups[0]).meet)
        del groups[1]
        with pytest.raises(OtherEnded, match="another process has ended before its part was done"):
            waits.result(60)


@pytest.mark.slow
def test_processes_of_torchrun_meet_for_stage_after_stage_with_trainings_between():
    """They keep one store from the first to the last, in which no group can be set up twice."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", str(HERE / "meeting.py")],
        capture_output=True, timeout=600, encoding="utf-8", check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)},
    )  # fmt: skip
    assert done.stdout.split() == ["met"] * 2, done.stderr[-4000:]


def test_the_next_unit_is_read_while_this_one_is_worked_on(tmp_path):
    read = {str(unit): threading.Event() for unit in UNITS}

    def ahead(unit):
        read[str(unit)].set()
        return unit

    def work(unit, found):
        assert found is unit
        following = UNITS[UNITS.index(unit) + 1 :][:1]
        assert all(read[str(other)].wait(60) for other in following)
        return lines(unit)

    in_shards(tmp_path, UNITS, work, ahead=ahead)


def test_what_fails_ahead_fails_in_its_place(tmp_path):
    def ahead(unit):
        if unit == UNITS[2]:
            raise ValueError("an image that cannot be read")

    with pytest.raises(ValueError, match="an image that cannot be read"):
        in_shards(tmp_path, UNITS, lines, ahead=ahead)
    assert sorted(p.name for p in (tmp_path / "shards").iterdir()) == ["000000.jsonl", "000001.jsonl"]


@pytest.fixture(scope="module")
def given(tiny_dir, questions, questions_dir, tmp_path_factory):
    """Paths of inputs, with six pairs."""
    out = tmp_path_factory.mktemp("shared")
    (out / "pairs").mkdir()
    asked = [q for q in questions if q.split == "train"][:6]
    rows = [Pair(q.question_id, 0, "cot", f"so it is {i}", f"no, {i}", 0, 1, "1", "2") for i, q in enumerate(asked)]
    write_jsonl(out / "pairs/pairs.jsonl", rows)
    return {"model": str(tiny_dir), "questions": str(questions_dir), "pairs": str(out / "pairs"), "out": str(out)}


@pytest.fixture(scope="module")
def two(given):
    """The folder that two processes wrote, and what they said."""
    told = Path(given["out"]) / "given.json"
    told.write_text(json.dumps(given), encoding="utf-8")
    free = {k: v for k, v in os.environ.items() if k not in ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")}
    environment = {**free, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent)}  # of the second, not forked
    done = Fork([HERE / "shared.py", told], env=environment).ended(1200)
    assert (Path(given["out"]) / "evaluate").is_dir(), done.stderr[-4000:]
    return Path(given["out"]), done


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sample", "score", "evaluate"])
def test_two_processes_write_the_bytes_of_one(stage, given, two, tmp_path):
    folder, _ = two
    stages(given, ALONE)[stage](tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert {path.name: path.read_bytes() for path in (folder / stage).iterdir() if path.name != "manifest.json"} == {
        name: (tmp_path / name).read_bytes() for name in files
    }
    assert read_manifest(folder / stage)["machine"]["processes"] == 2


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_other_is_named_and_one_goes_on(given, two, tmp_path, monkeypatch):
    folder, done = two
    assert done.returncode == 1
    assert re.search(r"rationale: sample: .*\b000003; what is written stays", done.stderr)
    (begun,) = folder.glob(".cut.*.partial")
    there = sorted(path.name for path in (begun / "shards").glob("*.jsonl"))
    assert "000001.jsonl" in there and "000003.jsonl" not in there
    calls, plain = [], local.generate
    monkeypatch.setattr(local, "generate", lambda *asked, **more: calls.append(1) or plain(*asked, **more))
    stages(given, ALONE)["sample"](begun)
    assert (begun / "rows.jsonl").read_bytes() == (folder / "sample/rows.jsonl").read_bytes()
    again = len(calls)
    stages(given, ALONE)["sample"](tmp_path)
    assert again == (len(calls) - again) - len(there)  # none twice


@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_an_endpoint_answers_is_left_to_the_first_process(tmp_path, monkeypatch, rank):
    """Others would each ask at the endpoint's whole limits and spend max_cost once more."""
    monkeypatch.setenv("RANK", rank)
    if rank == "1":
        with pytest.raises(PartDone):
            Processes(devices=2).join(tmp_path, alone=True)
    else:
        assert Processes(devices=2).join(tmp_path, alone=True).world == 1


def test_a_served_generator_is_known_by_what_makes_it():
    assert is_shared(partial(Served, model_name="m")) and is_shared(Served)
    assert not is_shared(partial(Local))
