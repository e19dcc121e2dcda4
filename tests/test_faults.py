"""The campaign of make faults sees what is wrong: its counts are what its verdict stands on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "experiments/faults"))
import campaign

ROWS = ["a", "b", "b", "c"]  # two questions may have the same response


@pytest.mark.parametrize(
    ("made", "wrong"),
    [
        (ROWS, {}),
        (["a", "b", "b"], {"lost": 1, "differ": 1}),
        (["a", "b", "b", "b", "c"], {"doubled": 1, "differ": 1}),
        (["c", "b", "b", "a"], {"differ": 1}),
        (None, {"lost": 4, "differ": 1}),
    ],
)
def test_rows_lost_and_doubled_and_files_that_differ_are_counted(made, wrong, tmp_path, monkeypatch):
    stage = campaign.Stage("any", [], "made")
    for place, lines in (("uncut", ROWS), ("cut", made)):
        folder = tmp_path / place / "runs/mini_small/made"
        folder.mkdir(parents=True)
        if lines is not None:
            (folder / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    monkeypatch.setattr(campaign, "begin", lambda *_: 0)
    monkeypatch.setattr(campaign, "ended", lambda _: 0)
    count = campaign.Count("any", "killed")
    campaign.compare(count, stage, tmp_path / "uncut", tmp_path / "cut")
    found = {name: getattr(count, name) for name in ("lost", "doubled", "differ", "unclear")}
    assert found == {"lost": 0, "doubled": 0, "differ": 0, "unclear": 0} | wrong


def test_a_command_that_fails_after_a_fault_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(campaign, "begin", lambda *_: 0)
    monkeypatch.setattr(campaign, "ended", lambda _: 1)
    count = campaign.Count("any", "killed")
    campaign.compare(count, campaign.Stage("any", [], "made"), tmp_path, tmp_path)
    assert count.unclear == 1
