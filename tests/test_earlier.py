"""Modules that were renamed are found by their earlier names."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

import pytest

from rationale.earlier import RENAMED
from rationale.scoring import judge


@pytest.mark.parametrize(("then", "now"), RENAMED.items())
def test_an_earlier_name_is_the_module_of_today_and_warns(then, now):
    sys.modules.pop(f"rationale.{then}", None)
    with pytest.warns(FutureWarning, match=f"rationale.{then} is now rationale.{now}"):
        found = import_module(f"rationale.{then}")
    assert found is import_module(f"rationale.{now}")
    assert found.__spec__.name == f"rationale.{now}"


def test_a_dotted_name_of_an_old_config_resolves():
    assert pkgutil.resolve_name("rationale.metrics.scoring.judge") is judge.judge


def test_another_name_is_no_module():
    with pytest.raises(ModuleNotFoundError):
        import_module("rationale.metrics.none")
