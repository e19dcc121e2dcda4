"""Modules and settings by their earlier names, for configs, scripts and runs of others that still say them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

_TOOLS = (
    "check", "clean", "credit", "export", "extract", "import_rows", "plan", "predict", "pretrain", "publish", "replay",
    "tabulate", "verify",
)  # fmt: skip
RENAMED = {
    **{f"stages.{name}": f"tools.{name}" for name in _TOOLS},
    **{name: f"command.{name}" for name in ("binding", "cli", "jobs", "runs")},
    **{f"data.{name}": f"models.{name}" for name in ("batch", "encode", "layout", "response")},
    **{f"data.{name}": f"sources.{name}" for name in ("contamination", "exchange", "incoming", "outgoing", "tasks")},
    **{f"metrics.{name}": f"scoring.{name}" for name in ("answers", "maths", "mathvista", "rules", "votes")},
    "data": "sources", "data.check": "question_checks", "data.images": "images", "data.journal": "journal",
    "data.mini": "worlds", "data.mixture": "training.mixture", "data.sources": "sources.public",
    "keys": "endpoints.keys", "lineage": "reporting.lineage",
    "metrics": "scoring", "metrics.aggregate": "scoring.intervals", "metrics.scoring": "scoring.judge",
    "models.forward": "models.logps", "models.generator": "models.local", "models.identity": "models.fingerprints",
    "models.mini": "tools.small_llava", "models.parts": "models.families", "models.reading": "models.prefill",
    "models.replies": "replies", "models.served": "endpoints.client", "models.served_teacher": "endpoints.teacher",
    "models.teacher": "models.teachers", "reporting.scores": "scoring.cells", "training.datamodule": "training.plan",
    "training.dpo_module": "training.dpo", "training.saves": "training.checkpoints",
    "training.sft_module": "training.sft",
}  # fmt: skip

SETTINGS = {
    "of": "checkpoint", "set": "train_set", "in_set": "train_datasets", "sampling.out": "paths.samples",
    "sft.bundle": "sft.group_by", "dpo.bundle": "dpo.group_by",
    "sft.validation.share": "sft.validation.fraction", "dpo.validation.share": "dpo.validation.fraction",
}  # fmt: skip


def renamed(overrides: Iterable[str]) -> str | None:
    """The first setting that is written by an earlier name, with that of today; None where none is."""
    keys = (override.lstrip("+~").partition("=")[0] for override in overrides)
    return next((f"{key} is now {SETTINGS[key]}" for key in keys if key in SETTINGS), None)


class Earlier:
    """An importer of the modules in RENAMED: each is the one of today, with a warning that names it."""

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        """None for every other module."""
        known = name.startswith("rationale.") and name.removeprefix("rationale.") in RENAMED
        return spec_from_loader(name, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        now = f"rationale.{RENAMED[spec.name.removeprefix('rationale.')]}"
        warnings.warn(f"{spec.name} is now {now}", FutureWarning, stacklevel=2)
        module = import_module(now)
        self.own = module.__spec__  # the import system puts the earlier name's in its place
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own


def install() -> None:
    """Before all other importers: they would read a file a second time under its package's earlier name."""
    sys.meta_path.insert(0, Earlier())
