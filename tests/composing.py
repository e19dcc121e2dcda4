"""Configs composed as the command composes them, and what their calls do not take."""

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import TextIO

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, base, grammar_parser

from rationale.command.binding import misfits
from rationale.command.cli import CONF

# Every config reads the same files and parses the same interpolations, whose trees are only read: each is parsed once.
grammar_parser.parse = base.parse = cache(grammar_parser.parse)
parsed = cache(OmegaConf.create)  # of a file's text


def loaded(file: str | Path | TextIO) -> DictConfig:
    return deepcopy(parsed(file.read() if hasattr(file, "read") else Path(file).read_text(encoding="utf-8")))


OmegaConf.load = loaded

GIVEN = ["++data_root=/somewhere"]  # what only the user can know


def options(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


STAGES, EXPERIMENTS = options("stage"), options("experiment")


def composed(*overrides, conf=CONF):
    with initialize_config_dir(version_base="1.3", config_dir=str(conf)):
        return compose("config", [*GIVEN, *overrides])


def problems(node: DictConfig, place="config"):
    """What the calls below a node do not take, and nothing is called."""
    resolved = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    written = OmegaConf.to_container(node, resolve=False)
    return list(misfits(resolved, place, written, written))


def check(node: DictConfig):
    assert problems(node) == []


def with_stage(cfg, stage):
    """The config with another stage: what `stage=...` would compose, in a fraction of the time."""
    OmegaConf.set_struct(cfg, False)
    found = OmegaConf.load(CONF / "stage" / f"{stage}.yaml")
    cfg.update({"checkpoint": "sft", "stage": found} | (dict(found) if "stage" in found else {}))
    return cfg
