"""The benchmarks: what they compute besides times, and that both sides do the same work."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parent.parent / "experiments/speed"
sys.path.insert(0, str(SPEED))

import dpo_vs_trl  # noqa: E402
import growth  # noqa: E402
import sample_vs_generate  # noqa: E402
import score_candidates  # noqa: E402
import shapes  # noqa: E402
from common import bench  # noqa: E402


def test_the_slope_is_the_exponent_of_a_power_law():
    assert growth.slope([[1, 3.0], [2, 12.0], [4, 48.0]]) == pytest.approx(2)


def test_a_second_branch_costs_its_own_tokens_and_no_second_prefix():
    shape = shapes.Shape(layers=2, width=64, vocab=100)
    none, one, two = (shape.flops(5, 1000, [10] * count) for count in (0, 1, 2))
    assert two - one == pytest.approx(one - none)
    assert one - none < 0.05 * none


def test_the_head_is_a_tenth_at_most_where_the_body_is_heavy():
    assert shapes.SHAPES["body-heavy"].head_share() <= 0.1


def test_a_sample_ends_before_its_end_token():
    assert sample_vs_generate.until_end([5, 6, 2, 7], 2) == [5, 6]
    assert sample_vs_generate.until_end([5, 6], 2) == [5, 6]


@pytest.mark.slow
def test_the_first_loss_against_a_stored_reference_is_log_2_in_bfloat16_too(tmp_path):
    shape = shapes.SHAPES["tiny"]
    shapes.save_model(shape, tmp_path / "model")
    found = dpo_vs_trl.ours(tmp_path, shape, 1, "cpu", "bfloat16", "scored", "tree", 1)
    assert found["loss"][0] == pytest.approx(math.log(2), abs=1e-6)  # scored under autocast, as it is trained


@pytest.mark.slow
def test_shared_and_plain_scoring_give_the_same_log_probs(tmp_path, monkeypatch, capfd):
    out = tmp_path / "found.json"
    sides = {name: side for name, side in score_candidates.SIDES.items() if name in ("rows 64", "tree 64")}
    monkeypatch.setattr(score_candidates, "COUNTS", (64,))
    monkeypatch.setattr(sys, "argv", ["bench", "--shape", "tiny", "--steps", "1", "--json", str(out)])
    bench(score_candidates.__file__, "", sides, score_candidates.show)
    measured = json.loads(out.read_text(encoding="utf-8"))["shapes"]["tiny"]
    assert len(measured["tree 64"]["logps"]) == 64
    assert measured["tree 64"]["logps"] == pytest.approx(measured["rows 64"]["logps"], abs=1e-3)  # sums of 100 tokens
    assert "**tiny**" in capfd.readouterr().out
