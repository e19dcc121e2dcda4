"""The command: one run, or a sweep whose jobs are looked at before the first begins."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import sys
import traceback
import warnings
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rationale.artifacts import UserError, main_process
from rationale.command.jobs import OBJECTIVE, Job, clash_message, first_clash, jobs_of, run_job, shown, summary
from rationale.command.runs import CONF, calls_of, explain, run, written
from rationale.command.threads import cores, wait_briefly
from rationale.earlier import renamed
from rationale.endpoints.keys import refuse_keys
from rationale.stopping import Stopped, ignore, listen

# Of each launcher and sweeper that Hydra itself does not bring: conf/hydra's, and those they are made from.
PLUGINS = {
    "processes": "hydra-joblib-launcher", "joblib": "hydra-joblib-launcher",
    **dict.fromkeys(("local", "slurm", "submitit_local", "submitit_slurm"), "hydra-submitit-launcher"),
    "tune_dpo": "hydra-optuna-sweeper", "optuna": "hydra-optuna-sweeper",
}  # fmt: skip


class Sweep(Callback):
    """Looks at a sweep before its first job begins. Hydra turns its exceptions into warnings, so a refusal exits."""

    current: ClassVar[Sweep | None] = None  # in the process that runs the sweep, and in each job's
    folder: Path | None = None  # None outside a sweep
    planned: int | None = None  # jobs, where that is known

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        try:
            refuse_keys(to_be_written(config))
        except UserError as error:
            raise failure(error) from error

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        try:
            refuse_keys(to_be_written(config))
            exact = config.hydra.sweeper._target_.endswith(".BasicSweeper")
            given = OmegaConf.select(config, "hydra.sweeper.params") or {}  # by a sweep's config file
            parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
            typed = [f"{k}={v}" for k, v in given.items()] + written(config.hydra.overrides.task)
            jobs = jobs_of(parser.parse_overrides(typed), exact)
            check_jobs(jobs, written(config.hydra.overrides.hydra), needs_number=not exact)
        except Exception as error:
            known = explain(error) or (error if isinstance(error, HydraException) else traceback.format_exc())
            raise failure(known) from error
        if config.hydra.launcher._target_.endswith(".SlurmLauncher"):
            from rationale.command.slurm import watch  # of an extra

            watch()
        self.folder, self.planned = Path(config.hydra.sweep.dir).absolute(), len(jobs) if exact else None
        shutil.rmtree(self.folder / "jobs", ignore_errors=True)  # of another sweep, if hydra.sweep.dir is given
        Sweep.current = self

    def on_job_start(self, **_: Any) -> None:
        Sweep.current = self  # a launcher brought it to the job's process


def failure(message: Any) -> SystemExit:
    """Tells what went wrong; to be raised."""
    print(f"rationale: {message}", file=sys.stderr)
    return SystemExit(1)


def to_be_written(config: DictConfig) -> dict[str, Any]:
    """The settings as Hydra is about to keep them in its folder: composed, and as they were typed."""
    settings = OmegaConf.to_container(config, resolve=False)
    typed = settings.pop("hydra")["overrides"]
    return {**settings, "overrides": [*typed["task"], *typed["hydra"]]}


def check_jobs(jobs: list[list[str]], own: list[str], needs_number: bool) -> None:
    """Compose all that the jobs would run; refuse two that would write the same artifact with different arguments.

    `own` are Hydra's own overrides.
    """

    def composed(job: list[str]) -> DictConfig:
        cfg = hydra.compose("config", [*own, *job], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)  # for what asks `${hydra:...}`
        return cfg

    first = composed(jobs[0])
    if needs_number and first.objective is None:
        raise UserError("this sweeper needs a number from each job: set objective, as conf/config.yaml shows")
    clash = first_clash((number, calls_of(composed(job), job)) for number, job in enumerate(jobs))
    if clash is not None:
        one, other, out = clash
        renamed = [*jobs[other], "variant=other"]
        by_variant = all(arguments["out"] != out for _, arguments in calls_of(composed(renamed), renamed))
        groups = {folder.name for folder in CONF.iterdir() if folder.is_dir()}
        raise UserError(clash_message(jobs[one], jobs[other], out, by_variant, first.name, groups))


def run_in_place(cfg: DictConfig) -> str | None:
    """Run a job in this process; how it failed, or None. Of several processes only the first answers."""
    quiet()
    listen()
    try:
        run(cfg)
    except Exception as error:
        if Stopped.last is not None:  # what was interrupted fails while it cleans up
            leave()
            raise Stopped.last from None
        if not main_process():
            raise
        message = explain(error) or traceback.format_exc()
        print(f"rationale: {message}", file=sys.stderr)
        return message
    except SystemExit:
        leave()
        raise
    return None


def leave() -> None:
    """Told to stop, end in peace: another signal changes nothing (as that of SLURM, asked to queue the job again), and
    wandb's process, which such a signal ends too, is not missed at Python's end."""
    ignore()
    if "wandb" in sys.modules:
        with suppress(Exception):  # it is gone; what it had is on the disk
            sys.modules["wandb"].teardown()


def run_of_sweep(cfg: DictConfig) -> float | None:
    """Run one job of a sweep; its objective, if it has one. Without, a failure is told by the sweep's summary alone."""
    me, in_place = HydraConfig.get(), None
    overrides = written(me.overrides.task)
    job = Job(
        num=me.job.num, sweep=Sweep.current.folder, folder=Path(me.runtime.output_dir),
        overrides=overrides, own=written(me.overrides.hydra),
        added=[source.path for source in me.runtime.config_sources if source.provider == "command-line"],
        calls=calls_of(cfg, overrides) if Sweep.current.planned is None else [],
    )  # fmt: skip
    if me.launcher._target_.endswith(".SlurmLauncher"):
        in_place = partial(run_in_place, cfg)  # SLURM's tasks are processes already, and the ones that train
    else:
        listen()
    failed = run_job(job, in_place)
    if cfg.objective is None or not main_process():
        return None
    if failed:
        raise CompactHydraException(f"job {job.num} ({shown(job.overrides)}): {failed}")
    return json.loads((job.folder / OBJECTIVE).read_text(encoding="utf-8"))


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _main(cfg: DictConfig) -> float | None:
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return run_of_sweep(cfg)
    try:
        run(cfg)
    except Exception as error:
        message = explain(error)
        if message is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise failure(message) from error


def missing_plugin(words: list[str]) -> str | None:
    """What to install for the launcher or sweeper that the command names: Hydra says of one that is not there only
    that it knows no config of that name."""
    for word in words:
        if re.match("hydra/(launcher|sweeper)=", word) and (plugin := PLUGINS.get(word.partition("=")[2])):
            try:
                metadata.version(plugin)
            except metadata.PackageNotFoundError:
                return f"{word} needs {plugin}: pip install {plugin}, or in the clone pip install -e '.[sweeps]'"
    return None


def quiet() -> None:
    """Leave out what others log and warn of, and nobody can act on; and threads that spin."""
    wait_briefly()
    # Lightning refuses several tasks of `srun -n 2`, which sets only this; what is not as many a node stays refused.
    if tasks := re.fullmatch(r"(\d+)(\(x\d+\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")):
        os.environ.setdefault("SLURM_NTASKS_PER_NODE", tasks[1])
    os.environ.setdefault("LOKY_MAX_CPU_COUNT", str(cores()))  # what joblib shares out among the jobs of a sweep
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", message=".*treespec.*is deprecated")  # torch's word to Lightning
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*is deprecated")  # renamed in 5.23
    for noisy in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.rank_zero", "DeepSpeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # warns of kernels that it does without


def main() -> None:
    """Console script. Without arguments it prints its help. Exits with `stopping.REQUEUE` where it was told to stop."""
    quiet()
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it, for a locale that lacks a letter
    if refusal := missing_plugin(sys.argv[1:]) or renamed(sys.argv[1:]):
        raise failure(refusal)
    try:
        main_process()
    except UserError as error:  # the variables that number a run's processes
        raise failure(error) from error
    listen()
    try:
        _main()
    except KeyboardInterrupt:
        print("rationale: interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    except BaseException as error:
        stopped = error if isinstance(error, Stopped) else Stopped.last
        if stopped is None:
            raise
        leave()
        if main_process():
            print(f"rationale: told to stop by {stopped.name}; the same command goes on from here", file=sys.stderr)
        raise stopped from None
    finally:
        well = Sweep.current is None or Sweep.current.folder is None
        if not well:
            lines, well = summary(Sweep.current.folder, Sweep.current.planned)
            print(lines, file=sys.stderr)
    if not well:
        raise SystemExit(1)
