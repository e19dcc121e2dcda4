"""What one command runs: its config composed, its stages called in order, each filed as an artifact."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from glob import glob
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rationale.artifacts import UserError, leaves, main_process, processes_of, produce, write_json
from rationale.command.binding import misfits, refuse, unread
from rationale.command.jobs import OBJECTIVE, Call, objective_of
from rationale.command.threads import threads
from rationale.earlier import renamed
from rationale.endpoints.keys import refuse_keys
from rationale.hashes import CARD
from rationale.reporting.card import model_card
from rationale.schema import RowError

_HERE = Path(__file__).resolve().parents[1]
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


def checkpoint_name(path: str, revision: str | None) -> str:
    """What the evaluation of a checkpoint is called, so that two of them are two artifacts: its last part and a digest
    of the whole, or all of a hub id (`Qwen--Qwen2-VL-2B-Instruct`) or of a path as short, and the revision if given."""
    place = Path(os.path.relpath(path, ROOT)) if Path(path).is_relative_to(ROOT) else Path(path)
    parts = place.parts[:-1] if len(place.parts) > 2 and place.name == "model" else place.parts
    plain = len(parts) < 3 and all(re.fullmatch(r"\w[\w.+-]*", part) for part in parts)
    digest = hashlib.sha256(str(place).encode()).hexdigest()[:6]
    name = "--".join(parts) if plain else f"{parts[-1].lstrip('.')}_{digest}"
    return re.sub(r"[^\w.+-]+", "-", name if revision is None else f"{name}_{revision}")


# What Hydra 1.4 and OmegaConf 2.4 say of names and arguments that 1.3 and 2.3 do not know.
warnings.filterwarnings("ignore", message="(?s).*(register_new_resolver|version_base parameter|_execution_whitelist_)")
OmegaConf.register_new_resolver("hub_name", checkpoint_name, replace=True)
OmegaConf.register_new_resolver("repo", lambda path: str(ROOT / path), replace=True)
OmegaConf.register_new_resolver("expanded", os.path.expanduser, replace=True)
OmegaConf.register_new_resolver("times", lambda a, b: a * b, replace=True)
OmegaConf.register_new_resolver("varied", varied, replace=True)
# Cached, so that the jobs of a sweep agree on the folder that the first process named.
OmegaConf.register_new_resolver("process", lambda: f"{os.uname().nodename}_{os.getpid()}", use_cache=True, replace=True)


def call(
    node: DictConfig, before: Callable[[], None] | None = None
) -> tuple[str, dict[str, Any], Callable[[Path], dict]]:
    """A stage node as its name, its resolved arguments, and the call that fills a folder, `before` which is looked."""
    arguments = expanded(OmegaConf.to_container(node, resolve=True))
    refuse_keys(arguments)  # those that an interpolation brought, too
    stage = arguments["_target_"].split(".")[-2]

    def work(folder: Path) -> dict:
        if before is not None:
            before()
        given = {**arguments, "out": folder} if "out" in arguments else arguments
        devices, _ = processes_of(arguments)
        with threads(devices if isinstance(devices, int) and devices > 0 else 1):
            if "torch" in sys.modules:  # heavy, and a stage without it draws from generators of its own
                from lightning_fabric import seed_everything

                seed_everything(arguments.get("seed", 0), workers=True, verbose=False)
            with memory_named(arguments, node):
                counts = hydra.utils.instantiate(given, _convert_="all")
        if "trainer" in (arguments.get("settings") or {}) and main_process() and "out" in arguments:
            (folder / "model" / CARD).write_text(model_card(stage, arguments, counts), encoding="utf-8")
        return counts

    return stage, arguments, work


@contextmanager
def memory_named(arguments: dict[str, Any], node: DictConfig) -> Iterator[None]:
    """A device that is out of memory is an error that names the settings of this stage to lower."""
    try:
        yield
    except Exception as error:
        cause = next((one for one in causes(error) if type(one).__name__ == "OutOfMemoryError"), None)
        if cause is None:
            raise
        written = OmegaConf.to_container(node, resolve=False)
        places = [place.split(".") for place, *_ in leaves(arguments)] if "out" in arguments else []
        places = [p for p in places if p[0] != "logger"]  # which has the whole config
        sizes = [set_by(words, written) for words in places if words[-1] in ("batch_size", "micro_batch_size")]
        raise UserError(
            f"the device is out of memory ({str(cause).splitlines()[0]}); lower {' or '.join(sizes) or 'the batch'}. "
            "What is written stays: the same command goes on from it, one with another batch begins anew"
        ) from error


def set_by(words: list[str], written: Any) -> str:
    """The setting that makes what stands at a place of a stage's arguments: `batch_size` is `sampling.batch_size`."""
    for number, word in enumerate(words, start=1):
        written = written[word]
        if isinstance(written, str):
            return ".".join([written.strip("${}"), *words[number:]])
    return ".".join(words)


def expanded(node: Any) -> Any:
    """A node with the home directory in place of `~` at the start of any text."""
    if isinstance(node, dict):
        return {key: expanded(value) for key, value in node.items()}
    if isinstance(node, list):
        return [expanded(value) for value in node]
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~") else node


def caches(folder: Path) -> None:
    """Where the home directory is absent or read-only, what packages write there goes below `folder`, unless the user
    said where; checkpoints and the hub's token that can be read at home stay in use."""
    home = Path(os.path.expanduser("~"))
    if os.access(home, os.W_OK):
        return
    hub = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface")
    at_home = {"HF_HUB_CACHE": hub / "hub", "HF_TOKEN_PATH": hub / "token"}
    wanted = {name: path for name, path in at_home.items() if path.exists()}
    wanted |= {"XDG_CACHE_HOME": folder, "MPLCONFIGDIR": folder / "matplotlib", "TRITON_CACHE_DIR": folder / "triton"}
    for name, path in wanted.items():
        os.environ.setdefault(name, str(path.absolute()))


def written(overrides: ListConfig) -> list[str]:
    """Overrides as they were given; reading one from Hydra's config would resolve it against that config."""
    return OmegaConf.to_container(overrides, resolve=False)


def steps_of(cfg: DictConfig, overrides: list[str]) -> Iterator[DictConfig]:
    """The configs that a run consists of: itself or an experiment's steps, each composed; then the objective's. A
    setting that nothing reads is refused."""
    check_read(cfg, written_in())
    if cfg.objective is not None and set(cfg.objective) != {"step", "counts"}:
        raise UserError(f"objective={cfg.objective}: give it `step`, and `counts`, names of its numbers")
    steps = [] if cfg.objective is None else [cfg.objective.step]
    if "_target_" in cfg.stage:
        yield cfg
    else:
        steps = [*cfg.steps, *steps]
    chosen = [o for o in overrides if not o.lstrip("+").startswith("stage=")]
    for step in steps:
        composed = hydra.compose("config", [*chosen, *overrides_of(step)])
        check_read(composed, written_in())
        yield composed


def overrides_of(step: DictConfig) -> list[str]:
    """The groups and values of a step, as a command would choose them."""
    if not OmegaConf.is_dict(step):
        raise UserError(f"step {step!r}: give groups and values, such as {{stage: sft, ablation: both}}")
    chosen = OmegaConf.to_container(step, resolve=True)
    if earlier := renamed(chosen):
        raise UserError(f"step {chosen}: {earlier}")
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in chosen.items()]


def calls_of(cfg: DictConfig, overrides: list[str]) -> list[Call]:
    """The stages that a run consists of, with their arguments."""
    return [call(step.stage)[:2] for step in steps_of(cfg, overrides)]


def check_read(cfg: DictConfig, files: dict[str, str]) -> None:
    """Refuse a composed config with a setting that nothing in it or in its files reads."""
    refuse(unread(OmegaConf.to_container(cfg, resolve=False), files), files)


def written_in() -> dict[str, str]:
    """The text of every config file that the command can choose from, the user's own among them, by its name."""
    sources = [source for source in HydraConfig.get().runtime.config_sources if source.provider != "hydra"]
    own = [source.path for source in sources if source.schema == "file"]
    packaged = [str(resources.files(source.path.replace("/", "."))) for source in sources if source.schema == "pkg"]
    return texts_below((*own, *packaged))


@cache
def texts_below(folders: tuple[str, ...]) -> dict[str, str]:
    """Config files by their name below any of the folders: groups within groups, but not what runs left there."""
    paths = {}
    for folder, depth in product(folders, ("*.yaml", "*/*.yaml", "*/*/*.yaml")):
        paths |= {name: Path(folder, name) for name in glob(depth, root_dir=folder)}
    return {name: path.read_text(encoding="utf-8") for name, path in sorted(paths.items())}


def check_bound(steps: Iterable[DictConfig], files: dict[str, str]) -> None:
    """Refuse stages with a setting that a call among them does not take. Imports all that they call."""
    problems = []
    for step in steps:
        config = OmegaConf.to_container(step, resolve=False)
        problems += misfits(OmegaConf.to_container(step.stage, resolve=True), "stage", config["stage"], config)
    refuse(problems, files)


def run(cfg: DictConfig) -> None:
    """Run one stage, or an experiment's stages in order; what is up to date is not run again.

    A stage without `out` makes no artifact: it looks and says what it found. Before the first that has something to do,
    the settings of all of them are looked at.
    """
    root = Path(cfg.root).expanduser()
    caches(root / ".cache")
    steps = list(steps_of(cfg, written(HydraConfig.get().overrides.task)))
    check = cache(lambda: check_bound(steps, written_in()))
    for step in steps:
        stage, arguments, work = call(step.stage, before=check)
        if "out" not in arguments:
            work(Path())
            continue
        out = produce(stage, arguments, work, force=bool(cfg.force), kept=root / ".hashes")
        if "rationale.training.dashboard" in sys.modules:  # heavy; nothing was logged without it
            sys.modules["rationale.training.dashboard"].finish(out)
    if cfg.objective is not None and main_process():
        value = objective_of(out, list(cfg.objective.counts))
        print(f"objective: {value:.4g}, mean of {', '.join(cfg.objective.counts)} in {out}", flush=True)
        write_json(Path(HydraConfig.get().runtime.output_dir) / OBJECTIVE, value)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


def explain(error: BaseException) -> str | None:
    """The message of an error that the user can mend, else None."""
    for cause in causes(error):
        if isinstance(cause, (UserError, RowError, FloatingPointError, OmegaConfBaseException)):
            return str(cause).strip()
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"{cause}: make room and run the same command again, which goes on where it stopped"
        if isinstance(cause, InstantiationException) and not cause.__cause__:
            return str(cause).strip()
        notes = getattr(cause, "__notes__", None)
        if isinstance(cause, TypeError) and notes:  # Hydra 1.4's, of a call that does not bind
            return "\n".join([str(cause), *notes])
    return None
