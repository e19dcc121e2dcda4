"""What one command runs: its config composed, its stages called in order, each filed as an artifact."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rationale.artifacts import CARD, UserError, main_process, produce, write_json
from rationale.jobs import OBJECTIVE, objective_of
from rationale.keys import refuse_keys
from rationale.reporting.card import model_card
from rationale.schema import RowError
from rationale.threads import threads

_HERE = Path(__file__).resolve().parent
# Of conf/ and experiments/: a wheel brings them below the package, in a clone they lie beside it.
ROOT = _HERE if (_HERE / "conf").is_dir() else _HERE.parent
CONF = ROOT / "conf"


def varied(name: str, variant: Any) -> str:
    """The name of an artifact or a report, followed by the variant, if there is one."""
    if variant is None:
        return name
    if not re.fullmatch(r"[\w.+-]+", str(variant)):
        raise UserError(f"variant={variant}: is part of paths; use letters, digits and . _ + - alone")
    return f"{name}_{variant}"


# What Hydra 1.4 and OmegaConf 2.4 say of names and arguments that 1.3 and 2.3 do not know.
warnings.filterwarnings("ignore", message="(?s).*(register_new_resolver|version_base parameter|_execution_whitelist_)")
OmegaConf.register_new_resolver("repo", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
OmegaConf.register_new_resolver("varied", varied, replace=True)
# Cached, so that the jobs of a sweep agree on the folder that the first process named.
OmegaConf.register_new_resolver("process", lambda: f"{os.uname().nodename}_{os.getpid()}", use_cache=True, replace=True)


def processes_here(arguments: dict[str, Any]) -> int:
    """Those that a stage has on this machine: a training as many as devices, where their number is given."""
    devices = (arguments.get("trainer") or {}).get("devices")
    return devices if isinstance(devices, int) and devices > 0 else 1


def call(node: DictConfig) -> tuple[str, dict[str, Any], Callable[[Path], dict]]:
    """A stage node as its name, its resolved arguments, and the call that fills a folder."""
    arguments = OmegaConf.to_container(node, resolve=True)
    refuse_keys(arguments)  # those that an interpolation brought, too
    stage = arguments["_target_"].split(".")[-2]

    def work(folder: Path) -> dict:
        given = {**arguments, "out": folder} if "out" in arguments else arguments
        with threads(processes_here(arguments)):
            import pytorch_lightning as pl  # heavy, and not needed for `--help` or a stage that is up to date

            pl.seed_everything(arguments.get("seed", 0), workers=True, verbose=False)
            counts = hydra.utils.instantiate(given, _convert_="all")
        if "trainer" in arguments and main_process():
            (folder / "model" / CARD).write_text(model_card(stage, arguments, counts), encoding="utf-8")
        return counts

    return stage, arguments, work


def written(overrides: ListConfig) -> list[str]:
    """Overrides as they were given; reading one from Hydra's config would resolve it against that config."""
    return OmegaConf.to_container(overrides, resolve=False)


def steps_of(cfg: DictConfig, overrides: list[str]) -> Iterator[DictConfig]:
    """The configs that a run consists of: itself or an experiment's steps, each composed; then the objective's."""
    if cfg.objective is not None and set(cfg.objective) != {"step", "counts"}:
        raise UserError(f"objective={cfg.objective}: give it `step`, and `counts`, names of its numbers")
    if "_target_" in cfg.stage:
        yield cfg
    steps = [] if "_target_" in cfg.stage else list(cfg.steps)
    steps += [] if cfg.objective is None else [cfg.objective.step]
    chosen = [o for o in overrides if not o.lstrip("+").startswith("stage=")]
    for step in steps:
        yield hydra.compose("config", [*chosen, *str(step).split()])


def run(cfg: DictConfig) -> None:
    """Run one stage, or an experiment's stages in order; what is up to date is not run again.

    A stage without `out` makes no artifact: it looks and says what it found.
    """
    for step in steps_of(cfg, written(HydraConfig.get().overrides.task)):
        stage, arguments, work = call(step.stage)
        if "out" not in arguments:
            work(Path())
            continue
        out = produce(stage, arguments, work, force=bool(cfg.force))
        if "rationale.training.dashboard" in sys.modules:  # heavy; nothing was logged without it
            sys.modules["rationale.training.dashboard"].finish(out)
    if cfg.objective is not None and main_process():
        value = objective_of(out, list(cfg.objective.counts))
        print(f"objective: {value:.4g}, mean of {', '.join(cfg.objective.counts)} in {out}", flush=True)
        write_json(Path(HydraConfig.get().runtime.output_dir) / OBJECTIVE, value)


def explain(error: BaseException) -> str | None:
    """The message of an error that the user can mend, else None."""
    while error is not None:
        if isinstance(error, (UserError, RowError, FloatingPointError, OmegaConfBaseException)):
            return str(error).strip()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{error}: make room and run the same command again, which goes on where it stopped"
        if isinstance(error, InstantiationException) and not error.__cause__:
            return str(error).strip()
        if isinstance(error, TypeError) and getattr(
            error, "__notes__", None
        ):  # Hydra 1.4's, of a call that does not bind
            return "\n".join([str(error), *error.__notes__])
        error = error.__cause__
    return None
