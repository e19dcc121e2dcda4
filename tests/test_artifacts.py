"""Artifacts: absent until whole, skipped when unchanged, resumed where cut, one writer at a time."""

import json
import multiprocessing
from pathlib import Path

import pytest

from rationale import artifacts
from rationale.artifacts import MANIFEST, find_inputs, in_shards, produce, read_manifest


class Stage:
    """Writes `text` to a file and counts its calls; `fail` breaks it after the file is written."""

    def __init__(self, text="one", fail=False):
        self.text, self.fail, self.calls, self.found = text, fail, 0, []

    def __call__(self, folder):
        self.calls += 1
        self.found = sorted(path.name for path in folder.iterdir())
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
    assert (tmp_path / ".made.previous" / "rows.jsonl").read_text(encoding="utf-8") == "old"
    assert visible(tmp_path) == ["made"]


def test_a_changed_input_runs_again_and_keeps_the_previous(tmp_path):
    rows = tmp_path / "rows.jsonl"
    for text in ("old", "new"):
        rows.write_text(text, encoding="utf-8")
        produce("stage", arguments(tmp_path, rows=str(rows)), Stage(text))
    assert (tmp_path / "made" / "rows.jsonl").read_text(encoding="utf-8") == "new"
    assert (tmp_path / ".made.previous" / "rows.jsonl").read_text(encoding="utf-8") == "old"


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
    assert [Path(path).name for path in find_inputs({"evals": pattern})] == ["sft"]


def test_the_manifest_says_what_was_made_from_what(tmp_path):
    source = produce("source", {"out": str(tmp_path / "rows")}, Stage())
    found = read_manifest(produce("stage", arguments(tmp_path, rows=str(source)), Stage("x")))
    assert found["stage"] == "stage"
    assert found["arguments"] == arguments(tmp_path, rows=str(source))
    assert list(found["inputs"]) == [str(source)]
    sha_of_x = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert found["outputs"] == {"rows.jsonl": sha_of_x}
    assert found["counts"] == {"rows": 1, "by_split": {"train": 1}}
    assert set(found["versions"]) == {"python", *artifacts.PACKAGES}
    assert {"commit", "started", "wall_seconds"} < set(found)


def test_a_manifest_left_just_before_the_rename_is_no_output(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(artifacts.os, "rename", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
        with pytest.raises(OSError, match="power cut"):
            produce("stage", arguments(tmp_path), Stage())
    assert list(read_manifest(produce("stage", arguments(tmp_path), Stage()))["outputs"]) == ["rows.jsonl"]


UNITS = [[0, 1], [2], [], [3, 4, 5]]


def lines(unit):
    return [json.dumps({"row": i, "text": "图\u2028"}) + "\n" for i in unit]


def test_shards_come_out_in_the_order_of_their_units(tmp_path):
    rows = in_shards(tmp_path, UNITS, lines)
    assert [json.loads(line)["row"] for line in rows.open(encoding="utf-8")] == [0, 1, 2, 3, 4, 5]
    assert visible(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("cut", range(4))
def test_a_run_cut_at_any_unit_goes_on_without_a_line_lost_or_doubled(tmp_path, cut):
    whole, resumed, done = tmp_path / "whole", tmp_path / "cut", []
    whole.mkdir()
    resumed.mkdir()

    def breaks(unit):
        if unit == UNITS[cut]:
            raise RuntimeError("power cut")
        return lines(unit)

    with pytest.raises(RuntimeError, match="power cut"):
        in_shards(resumed, UNITS, breaks)
    rows = in_shards(resumed, UNITS, lambda unit: done.append(unit) or lines(unit))
    assert done == UNITS[cut:]
    assert rows.read_bytes() == in_shards(whole, UNITS, lines).read_bytes()


def test_shards_that_were_all_done_are_not_done_again(tmp_path):
    first = in_shards(tmp_path, UNITS, lines).read_bytes()
    assert in_shards(tmp_path, UNITS, lambda unit: pytest.fail("worked again")).read_bytes() == first


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
