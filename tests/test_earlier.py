"""Modules that were renamed are found by their earlier names; settings are told by their names of today."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

import pytest
from composing import composed
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError

from rationale.artifacts import UserError
from rationale.command.runs import check_bound
from rationale.earlier import RENAMED, SETTINGS, renamed
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


@pytest.mark.parametrize(("then", "now"), SETTINGS.items())
def test_a_setting_by_its_earlier_name_is_told_that_of_today(then, now):
    assert renamed(["stage=sft", f"+{then}=1"]) == f"{then} is now {now}"
    OmegaConf.select(composed(), now, throw_on_missing=True)
    with pytest.raises(ConfigAttributeError):
        OmegaConf.update(composed(), then, 1)


def test_a_file_that_says_an_earlier_name_is_told_that_of_today():
    with pytest.raises(UserError, match=r"^sft\.bundle \(sft/mine\): sft\.bundle is now sft\.group_by"):
        check_bound([composed("stage=sft", "+sft.bundle=image")], {"sft/mine": "bundle: image"})
