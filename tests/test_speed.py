"""The benchmarks: what they compute besides times, and that both sides do the same work."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).resolve().parent.parent / "experiments/speed"
sys.path.insert(0, str(SPEED))

import dpo_vs_trl  # noqa: E402
import growth  # noqa: E402
import sample_vs_generate  # noqa: E402
import shapes  # noqa: E402


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
def test_shared_and_plain_scoring_give_the_same_log_probs(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, SPEED / "score_candidates.py", "--shape", "tiny", "--steps", "1", "--json", out]
    subprocess.run(command, check=True, capture_output=True)
    sides = json.loads(out.read_text(encoding="utf-8"))["shapes"]["tiny"]
    assert len(sides["tree 64"]["logps"]) == 64
    assert sides["tree 64"]["logps"] == pytest.approx(sides["rows 64"]["logps"], abs=1e-3)  # sums of 100 tokens
