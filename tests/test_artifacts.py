"""Artifacts: absent until whole, skipped when unchanged, resumed where cut, one writer at a time, never lost."""

import errno
import fcntl
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from rationale import artifacts, provenance
from rationale.artifacts import UserError, call_key, produce
from rationale.hashes import MANIFEST, read_manifest
from rationale.tools import clean


class Stage:
    """Writes `text` to a file and counts its calls; `fail` breaks it after the file is written."""

    def __init__(self, text="one", fail=False):
        self.text, self.fail, self.calls, self.found = text, fail, 0, []

    def __call__(self, folder):
        self.calls += 1
        self.found = visible(folder)
        (folder / "rows.jsonl").write_text(self.text, encoding="utf-8")
        if self.fail:
            raise RuntimeError("power cut")
        return {"rows": 1, "by_split": {"train": 1}}


def arguments(tmp_path, **more):
    return {"_target_": "a.b.run", "out": str(tmp_path / "made"), "seed": 1, **more}


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_an_artifact_is_absent_until_whole(tmp_path):
    seen = []

    def work(folder):
        (folder / "rows.jsonl").write_text("x", encoding="utf-8")
        seen.append((tmp_path / "made").exists())
        return {}

    out = produce("stage", arguments(tmp_path), work)
    assert seen == [False]
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "rows.jsonl"]


def test_a_failing_stage_leaves_no_final_folder(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        produce("stage", arguments(tmp_path), Stage(fail=True))
    assert visible(tmp_path) == []


def test_a_failing_stage_leaves_the_artifact_that_stood_there(tmp_path):
    produce("stage", arguments(tmp_path), Stage("old"))
    with pytest.raises(RuntimeError, match="power cut"):
        produce("stage", arguments(tmp_path, seed=2), Stage("new", fail=True))
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "old"


def test_the_same_call_finds_its_half_done_work_and_another_does_not(tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        produce("stage", arguments(tmp_path), Stage(fail=True))
    same, other = Stage(), Stage()
    produce("stage", arguments(tmp_path, seed=2), other)
    produce("stage", arguments(tmp_path), same)
    assert (same.found, other.found) == (["rows.jsonl"], [])


def test_a_matching_manifest_skips(tmp_path):
    produce("stage", arguments(tmp_path), Stage())
    again = Stage()
    produce("stage", arguments(tmp_path), again)
    assert again.calls == 0


def test_force_runs_what_is_up_to_date(tmp_path):
    produce("stage", arguments(tmp_path), Stage())
    again = Stage("two")
    produce("stage", arguments(tmp_path), again, force=True)
    assert again.calls == 1
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "two"


def test_a_changed_argument_runs_again_and_keeps_the_previous(tmp_path):
    produce("stage", arguments(tmp_path), Stage("old"))
    produce("stage", arguments(tmp_path, seed=2), Stage("new"))
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "new"
    assert (tmp_path / ".made.previous_1" / "rows.jsonl").read_text(encoding="utf-8") == "old"
    assert visible(tmp_path) == ["made"]


def test_a_changed_input_runs_again_and_keeps_the_previous(tmp_path):
    rows = tmp_path / "rows.jsonl"
    for text in ("old", "new"):
        rows.write_text(text, encoding="utf-8")
        produce("stage", arguments(tmp_path, rows=str(rows)), Stage(text))
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "new"
    assert (tmp_path / ".made.previous_1" / "rows.jsonl").read_text(encoding="utf-8") == "old"


def test_every_earlier_version_is_kept_until_told_to_clean(tmp_path):
    for text in ("one", "two", "three"):
        produce("stage", arguments(tmp_path, text=text), Stage(text))
    kept = [(tmp_path / f".made.previous_{n}" / "rows.jsonl").read_text(encoding="utf-8") for n in (1, 2)]
    assert kept == ["one", "two"]
    clean.run(str(tmp_path))
    assert sorted(tmp_path.glob(".*.previous*")) == []
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "three"


def test_the_same_outputs_again_leave_no_earlier_version(tmp_path):
    for seed in (1, 2):
        produce("stage", arguments(tmp_path, seed=seed), Stage("same"))
    assert sorted(tmp_path.glob(".*.previous*")) == []


def test_a_version_that_was_edited_by_hand_is_kept(tmp_path):
    (produce("stage", arguments(tmp_path), Stage("same")) / "rows.jsonl").write_text("by hand", encoding="utf-8")
    produce("stage", arguments(tmp_path, seed=2), Stage("same"))
    assert (tmp_path / ".made.previous_1" / "rows.jsonl").read_text(encoding="utf-8") == "by hand"


def test_what_changed_is_said_before_the_work_begins(tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("a", encoding="utf-8")
    first = arguments(tmp_path, rows=str(rows), optim={"lr": 0.1, "betas": [0.9]}, save_every=5)
    produce("stage", first, Stage("old"))
    rows.write_text("b", encoding="utf-8")
    capsys.readouterr()
    second = {**first, "optim": {"lr": 0.2, "betas": [0.9], "clip": None}, "save_every": 6}
    with pytest.raises(RuntimeError, match="power cut"):
        produce("stage", second, Stage(fail=True))
    said = capsys.readouterr().out
    assert f"made is to be replaced: optim.lr: 0.1 -> 0.2; optim.clip: not set -> None; {rows} changed." in said
    assert ".made.previous_1" in said and "name= or variant=" in said and "save_every" not in said


def test_an_earlier_version_is_no_artifact_for_the_patterns_of_conf(tmp_path):
    for seed in (1, 2):
        produce("evaluate", {"out": str(tmp_path / "eval/sft"), "seed": seed}, Stage(str(seed)))
    found = artifacts.find_inputs({"evals": f"{tmp_path}/eval/[!.]*", "all": f"{tmp_path}/eval/*"})
    assert list(found) == [str(tmp_path / "eval/sft")]


@pytest.mark.parametrize(
    ("place", "keyed"),
    [
        ("trainer.devices", False), ("trainer.num_nodes", False), ("save_every", False), ("keep_last", False),
        ("settings.trainer.devices", False), ("settings.workers", False), ("settings.keep_last", False),
        ("settings.trainer.precision", True), ("settings.batch.micro_batch_size", True),
        ("workers", False), ("teacher.budget.max_cost", False), ("trainer.precision", True), ("order.accumulate", True),
        ("task.workers", True), ("task.devices", True), ("columns.chunk", True), ("teacher.options.budget", True),
    ],
)  # fmt: skip
def test_the_key_is_without_what_cannot_change_the_result_by_its_place(place, keyed):
    def with_value(value):
        node = value
        for name in reversed(place.split(".")):
            node = {name: node}
        return {"out": "made", **node}

    assert (call_key("stage", with_value(1), {}) != call_key("stage", with_value(2), {})) == keyed


def test_addresses_in_a_list_may_come_and_go_and_one_that_stands_alone_is_part_of_the_key():
    def key(address):
        return call_key("sample", {"out": "made", "generator": {"model_name": "m", "base_url": address}}, {})

    assert key(["http://a/v1", "http://b/v1"]) == key(["http://c/v1"])
    assert len({key("http://a/v1"), key("http://b/v1"), key(["http://a/v1"])}) == 3


def test_a_logger_does_not_make_another_artifact(tmp_path):
    produce("stage", arguments(tmp_path, logger={"mode": "offline"}), Stage())
    again = Stage()
    produce("stage", arguments(tmp_path, logger={"mode": "disabled"}), again)
    assert again.calls == 0


def test_the_key_does_not_depend_on_where_an_input_lies(tmp_path):
    keys = set()
    for place in ("here", "there"):
        source = produce("source", {"out": str(tmp_path / place / "rows")}, Stage("same"))
        out = produce("stage", {"out": str(tmp_path / place / "made"), "rows": str(source)}, Stage())
        keys.add(read_manifest(out)["key"])
    assert len(keys) == 1


def test_the_key_depends_on_which_argument_an_input_is(tmp_path):
    a, b = (produce("source", {"out": str(tmp_path / name)}, Stage(name)) for name in "ab")
    straight = produce("stage", arguments(tmp_path, chosen=str(a), rejected=str(b)), Stage())
    key = read_manifest(straight)["key"]
    swapped = produce("stage", arguments(tmp_path, chosen=str(b), rejected=str(a)), Stage())
    assert read_manifest(swapped)["key"] != key


@pytest.mark.parametrize("absolute", [True, False])
def test_a_pattern_counts_whole_artifacts_only(tmp_path, monkeypatch, absolute):
    monkeypatch.chdir(tmp_path)
    produce("evaluate", {"out": str(tmp_path / "eval" / "sft")}, Stage())
    with pytest.raises(RuntimeError, match="power cut"):
        produce("evaluate", {"out": str(tmp_path / "eval" / "dpo")}, Stage(fail=True))
    pattern = f"{tmp_path}/eval/*" if absolute else "eval/*"
    assert [Path(path).name for path in artifacts.find_inputs({"evals": pattern})] == ["sft"]


def test_the_manifest_says_what_was_made_from_what(tmp_path):
    source = produce("source", {"out": str(tmp_path / "rows")}, Stage())
    found = read_manifest(produce("stage", arguments(tmp_path, rows=str(source)), Stage("x")))
    assert found["stage"] == "stage"
    assert found["arguments"] == arguments(tmp_path, rows=str(source))
    assert list(found["inputs"]) == [str(source)]
    sha_of_x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert found["outputs"] == {"rows.jsonl": sha_of_x}
    assert found["counts"] == {"rows": 1, "by_split": {"train": 1}}
    assert set(found["versions"]) == {"python", *provenance.PACKAGES}
    assert {"commit", "started", "wall_seconds"} < set(found)


def test_the_manifest_says_on_what_machine(tmp_path):
    torch = pytest.importorskip("torch")
    found = read_manifest(produce("stage", arguments(tmp_path), Stage()))["machine"]
    assert found == {
        "device": "cpu", "cpu_capability": torch.backends.cpu.get_cpu_capability(), "processes": 1,
        "threads": torch.get_num_threads(),
    } | ({"onednn": os.environ["ONEDNN_MAX_CPU_ISA"]} if "ONEDNN_MAX_CPU_ISA" in os.environ else {})  # fmt: skip


def test_a_stage_without_torch_imports_none_for_its_manifest(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert provenance.machine() == {}
    assert "torch" not in sys.modules


def test_the_manifest_says_how_often_the_run_was_cut(tmp_path):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="power cut"):
            produce("stage", arguments(tmp_path), Stage(fail=True))
    found = read_manifest(produce("stage", arguments(tmp_path), Stage()))
    assert found["resumed"] == 2 and list(found["outputs"]) == ["rows.jsonl"]
    assert read_manifest(produce("stage", arguments(tmp_path, seed=2), Stage()))["resumed"] == 0


def test_a_manifest_left_just_before_the_rename_is_no_output(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.os, "rename", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            produce("stage", arguments(tmp_path), Stage())
    assert list(read_manifest(produce("stage", arguments(tmp_path), Stage()))["outputs"]) == ["rows.jsonl"]


def _first(folder, inside, go):
    def work(partial):
        inside.set()
        assert go.wait(60)
        return Stage("first")(partial)

    produce("stage", arguments(folder), work)


def _second(folder, waiting, calls):
    artifacts.print = lambda *_, **__: waiting.set()  # what it says when it meets the lock
    stage = Stage("second")
    produce("stage", arguments(folder), stage)
    calls.put(stage.calls)


def test_a_second_process_waits_and_then_finds_the_work_done(tmp_path):
    fork = multiprocessing.get_context("fork")
    inside, go, waiting, calls = fork.Event(), fork.Event(), fork.Event(), fork.Queue()
    first = fork.Process(target=_first, args=(tmp_path, inside, go))
    second = fork.Process(target=_second, args=(tmp_path, waiting, calls))
    first.start()
    assert inside.wait(60)
    second.start()
    assert waiting.wait(60)
    assert visible(tmp_path) == []
    go.set()
    assert calls.get(timeout=60) == 0
    first.join(60)
    second.join(60)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "first"


@pytest.fixture
def no_flock(monkeypatch, request):
    def refuse(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


without_flock = pytest.mark.parametrize("no_flock", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP], indirect=True)


@without_flock
def test_a_file_system_without_flock_makes_artifacts(tmp_path, no_flock):
    assert (produce("stage", arguments(tmp_path), Stage()) / "rows.jsonl").read_text(encoding="utf-8") == "one"
    assert not list(tmp_path.glob("*.lock"))


@without_flock
def test_a_second_process_waits_where_there_is_no_flock(tmp_path, no_flock):
    test_a_second_process_waits_and_then_finds_the_work_done(tmp_path)


@pytest.mark.parametrize("no_flock", [errno.ENOLCK], indirect=True)
def test_a_lock_whose_process_is_gone_is_taken_over(tmp_path, no_flock):
    gone = multiprocessing.get_context("fork").Process(target=lambda: None)
    gone.start()
    gone.join()
    (tmp_path / ".made.soft.lock").write_text(f"{gone.pid}\n{socket.gethostname()}\n", encoding="utf-8")
    stage = Stage()
    produce("stage", arguments(tmp_path), stage)
    assert stage.calls == 1


def test_who_holds_a_lock_that_is_a_file_is_said_with_what_to_do(tmp_path):
    (tmp_path / ".made.soft.lock").write_text("12\nnode7\n", encoding="utf-8")
    assert artifacts.holder(tmp_path / ".made.soft.lock") == (
        f" for process 12 on node7; if that has ended, remove {tmp_path}/.made.soft.lock"
    )


def test_an_artifact_that_is_up_to_date_needs_no_lock(tmp_path, monkeypatch):
    produce("stage", arguments(tmp_path), Stage())
    monkeypatch.setattr(artifacts, "locked", lambda out: pytest.fail("took the lock"))
    produce("stage", arguments(tmp_path), Stage())


def _as_another(uid, work, *given):
    os.setgid(uid)
    os.setuid(uid)
    work(*given)


def _refused(folder, said):
    try:
        produce("stage", arguments(folder), Stage())
    except UserError as error:
        said.put(str(error))


@pytest.mark.skipif(os.getuid() != 0, reason="another user can be made by root alone")
def test_a_second_user_waits_for_the_first():
    shared = Path(tempfile.mkdtemp())  # what pytest makes is closed to others
    umask = os.umask(0)
    fork = multiprocessing.get_context("fork")
    inside, go, waiting, calls = fork.Event(), fork.Event(), fork.Event(), fork.Queue()
    try:
        shared.chmod(0o777)
        first = fork.Process(target=_first, args=(shared, inside, go))
        second = fork.Process(target=_as_another, args=(65534, _second, shared, waiting, calls))
        first.start()
        assert inside.wait(60)
        second.start()
        assert waiting.wait(60)
        go.set()
        assert calls.get(timeout=60) == 0
        first.join(60)
        second.join(60)
    finally:
        os.umask(umask)
        shutil.rmtree(shared)


@pytest.mark.skipif(os.getuid() != 0, reason="another user can be made by root alone")
def test_a_second_user_reads_what_is_up_to_date_and_is_told_why_nothing_else():
    shared = Path(tempfile.mkdtemp())
    fork = multiprocessing.get_context("fork")
    waiting, calls, said = fork.Event(), fork.Queue(), fork.Queue()
    try:
        shared.chmod(0o755)
        produce("stage", arguments(shared), Stage())
        second = fork.Process(target=_as_another, args=(65534, _second, shared, waiting, calls))
        second.start()
        assert calls.get(timeout=60) == 0
        (shared / "made" / MANIFEST).unlink()
        third = fork.Process(target=_as_another, args=(65534, _refused, shared, said))
        third.start()
        assert "set root= to a folder of your own" in said.get(timeout=60)
        second.join(60)
        third.join(60)
    finally:
        shutil.rmtree(shared)
