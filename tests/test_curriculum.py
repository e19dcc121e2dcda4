"""The order in which a base model is taught (`tools.pretrain`)."""

from __future__ import annotations

from collections import Counter

import pytest

from rationale.artifacts import UserError
from rationale.schema import Question
from rationale.tools.pretrain import Curriculum, ordered

ROWS = [
    Question(f"{skill}-{i}", "text", "train", [], "?", ["!"], kind="open", meta={"skill": skill})
    for skill, count in (("copy", 8), ("read", 6))
    for i in range(count)
]


def skills(parts):
    return [row.meta["skill"] for row in ordered(ROWS, Curriculum(parts), seed=0)]


def test_parts_come_one_after_the_other():
    assert skills([{"copy": 1}, {"read": 1}]) == ["copy"] * 8 + ["read"] * 6


def test_a_part_gets_the_share_of_a_skill_that_its_weight_says():
    assert Counter(skills([{"copy": 3}, {"copy": 1, "read": 2}])[:6]) == {"copy": 6}


def test_every_row_is_trained_on_once():
    rows = ordered(ROWS, Curriculum([{"copy": 1, "read": 1}, {"read": 2}, {"copy": 1}]), seed=0)
    assert sorted(row.question_id for row in rows) == sorted(row.question_id for row in ROWS)


def test_a_part_of_several_skills_is_mixed():
    said = skills([{"copy": 1, "read": 1}])
    assert said != sorted(said)


@pytest.mark.parametrize("parts", [[{"copy": 1}], [{"copy": 1, "read": 1, "sing": 1}], [{"copy": 1, "read": 0}],
                                   [{"copy": 1, "read": -1}, {"read": 2}]])  # fmt: skip
def test_a_skill_without_a_weight_or_a_weight_without_rows_is_named(parts):
    with pytest.raises(UserError, match="must be skills of the rows with a weight in some part"):
        ordered(ROWS, Curriculum(parts), seed=0)
