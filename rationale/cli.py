"""Compose a config, seed, call the stage, file its artifact. The only module that imports Hydra."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rationale.artifacts import UserError, find_inputs, produce
from rationale.schema import RowError

_HERE = Path(__file__).resolve().parent
CONF = next(folder for folder in (_HERE / "conf", _HERE.parent / "conf") if folder.is_dir())
OmegaConf.register_new_resolver("repo", lambda path: str(_HERE.parent / path), replace=True)
OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)


def call(node: DictConfig) -> tuple[str, dict[str, Any], Callable[[Path], dict]]:
    """A stage node as its name, its resolved arguments, and the call that fills a folder."""
    arguments = OmegaConf.to_container(node, resolve=True)
    stage = arguments["_target_"].split(".")[-2]

    def work(folder: Path) -> dict:
        import pytorch_lightning as pl  # heavy, and not needed for `--help` or a stage that is up to date

        pl.seed_everything(arguments.get("seed", 0), workers=True, verbose=False)
        return hydra.utils.instantiate({**arguments, "out": folder}, _convert_="all")

    return stage, arguments, work


def steps_of(cfg: DictConfig) -> Iterator[DictConfig]:
    """The configs that a run consists of: itself, or an experiment's steps composed one by one."""
    if "_target_" in cfg.stage:
        yield cfg
        return
    chosen = [o for o in HydraConfig.get().overrides.task if not o.lstrip("+").startswith("stage=")]
    for step in cfg.steps:
        yield hydra.compose("config", [*chosen, *str(step).split()])


def run(cfg: DictConfig) -> None:
    """Run one stage, or an experiment's stages in order; what is up to date is not run again."""
    for step in steps_of(cfg):
        stage, arguments, work = call(step.stage)
        produce(stage, arguments, work, force=bool(cfg.force))


def explain(error: BaseException) -> str | None:
    """The message of an error that the user can mend, else None."""
    while error is not None:
        if isinstance(error, (UserError, RowError, FloatingPointError, OmegaConfBaseException)):
            return str(error).strip()
        if isinstance(error, InstantiationException) and not error.__cause__:
            return str(error).strip()
        error = error.__cause__
    return None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _main(cfg: DictConfig) -> None:
    try:
        run(cfg)
    except Exception as error:
        message = explain(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"rationale: {message}", file=sys.stderr)
        raise SystemExit(1) from error


def main() -> None:
    """Console script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", message=".*treespec.*is deprecated")  # torch's word to Lightning
    for noisy in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    _main()


__all__ = ["CONF", "call", "find_inputs", "main", "run", "steps_of"]
