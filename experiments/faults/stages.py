"""What a campaign runs: the stages of the smallest whole run, each command a process of its own; disks and servers that
fail."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

from commands import SMALL
from loopback import LASTING, PASSING, Loopback

from rationale.command.cli import main as rationale
from rationale.hashes import MANIFEST


@dataclass
class Stage:
    """One stage: its command, where below the run's folder it writes, and how long it takes uncut."""

    name: str
    arguments: list[str]
    out: str
    address: str = ""  # the setting that takes a server's address, where the stage asks one
    seconds: float = 0.0


def served(name: str, client: str, out: str, *arguments: str) -> Stage:
    """A stage that asks a server, by the settings below `client`."""
    traffic = ["key_variable=null", "options.max_tokens=100", "traffic.concurrency=4", "traffic.first_wait=0.02"]
    return Stage(name, [*arguments, *(f"{client}.{each}" for each in traffic)], out, f"{client}.base_url")


QUICK = ["ablation=cot", "sft.save_every=2", "sft.validation={fraction: 0.1, every: 0.5}", "dpo.save_every=2"]
STAGES = [
    Stage("prepare", ["stage=prepare"], "questions"),
    Stage("distill", ["stage=distill"], "rationales"),
    served(
        "distill, served", "teacher", "served",
        "stage=distill", "teacher=openai", "distill.chunk=1", "paths.rationales=${run_dir}/served",
    ),
    Stage(
        "prepare, pretrain",
        ["stage=prepare", "dataset=mini_base", "dataset.images=20", "paths.questions=${paths.pretrain_questions}"],
        "pretrain_questions",
    ),
    Stage(
        "pretrain",
        ["stage=pretrain", "pretrain.stop_after=12", "pretrain.save_every=2", "pretrain.batch.micro_batch_size=8"],
        "base_first",
    ),
    Stage("sft", ["stage=sft", "ablation=direct", "sft.epochs=1", "sft.batch.micro_batch_size=8"], "seed_1/sft_direct"),
    Stage("sft, whole", ["stage=sft"], "seed_1/sft_cot"),
    Stage("evaluate", ["stage=evaluate"], "seed_1/eval/sft_cot"),
    served(
        "extract, served", "extractor.model", "seed_1/extractions/sft_cot",
        "stage=extract", "extractor.chunk=1", "extractor.scorers=[exact,multiple_choice,relaxed_accuracy,anls]",
    ),
    Stage("sample", ["stage=sample"], "seed_1/responses"),
    Stage("pair", ["stage=pair"], "seed_1/pairs"),
    Stage("score", ["stage=score"], "seed_1/reference_logps"),
    Stage("dpo", ["stage=dpo"], "seed_1/dpo"),
    Stage("evaluate, dpo", ["stage=evaluate", "checkpoint=dpo"], "seed_1/eval/dpo"),
    Stage("sample, candidates", ["stage=sample", "sampling=verifier", "sampling.num_samples=4"], "seed_1/candidates"),
    Stage("score, sft", ["stage=score", "score=verifier", "checkpoint=sft"], "seed_1/verifier_logps_sft"),
    Stage("score, dpo", ["stage=score", "score=verifier", "checkpoint=dpo"], "seed_1/verifier_logps_dpo"),
    Stage("credit", ["stage=credit"], "seed_1/credit"),
    Stage("tabulate", ["stage=tabulate"], "report"),
    Stage("publish", ["stage=publish", "checkpoint=dpo"], "seed_1/published_dpo"),
    Stage("export", ["stage=export"], "export_llava"),
    Stage("import", ["stage=import", "exchange=ours", "exchange.root=${run_dir}/export_llava"], "imported_ours"),
    Stage("plan", ["stage=plan"], "plan"),
]  # fmt: skip
# Run uncut alone, for those after them: the same code as another's.
AS_ANOTHER = {"prepare, pretrain", "sft, whole", "evaluate, dpo", "sample, candidates", "score, sft", "score, dpo"}


def end_with_parent() -> None:
    """A campaign that is ended leaves no process behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, of Linux


def begin(stage: Stage, folder: Path, *more: str) -> int:
    """The stage's command in a process group of its own, below `folder`; its process id."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    end_with_parent()
    os.chdir(folder)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    logs = f"hydra.run.dir={folder.parent}/hydra_{folder.name}_{os.getpid()}"
    sys.argv = ["rationale", *SMALL, *QUICK, *stage.arguments, logs, *more]
    code = 1
    try:
        rationale()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def ended(child: int, within: float | None = None) -> int | None:
    """The exit code of a run, or None where it has not ended `within` so many seconds."""
    until = time.monotonic() + (within if within is not None else 600)
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    if within is None:
        raise RuntimeError(f"process {child} did not end in ten minutes")
    return None


def strike(child: int, number: int, after: float) -> int | None:
    """Signal a run after so many seconds; its exit code, or None where it had ended by itself before."""
    if ended(child, after) is not None:
        return None
    os.killpg(child, number)
    return ended(child)


def lay(base: Path, folder: Path, without: str) -> None:
    """The uncut run below `folder` as links, but for one artifact."""
    for manifest in sorted((base / "runs").rglob(MANIFEST)):
        artifact = manifest.parent.relative_to(base)
        if artifact != Path("runs/mini_small") / without and not any(part.startswith(".") for part in artifact.parts):
            (folder / artifact).parent.mkdir(parents=True, exist_ok=True)
            (folder / artifact).symlink_to(base / artifact)


def trials(base: Path, stage: Stage, kind: str) -> Iterator[Path]:
    """Folders with all that a stage needs, one after another."""
    for number in range(10_000):
        folder = base.parent / f"{stage.name} {kind} {number}".replace(",", "").replace(" ", "_")
        lay(base, folder, stage.out)
        yield folder


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A file system of so many bytes at `folder`; yields what changes its size."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], check=True)

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
        folder.rmdir()


@contextmanager
def server(rng: random.Random | None) -> Iterator[str]:
    """An endpoint in a process of its own; with `rng` every third question meets a passing fault at first, and some
    a lasting one, and for a moment the whole server is away. Its address."""
    ours, theirs = multiprocessing.Pipe()
    seed = None if rng is None else rng.random()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what it says of requests that a kill cut short
        end_with_parent()
        started = time.monotonic()
        leaves = random.Random(seed).uniform(0.2, 1)

        def fault(text: str, asked: int) -> str | None:
            lasting = random.Random(text)  # the same in every run, so that all end alike
            if lasting.random() < 0.1:
                return lasting.choice([kind for kind in LASTING if kind != "long"])
            if seed is None:
                return None
            if 0 < time.monotonic() - started - leaves < 0.2:
                return "cut"
            own = random.Random(f"{seed} {text}")
            return (
                own.choice([kind for kind in PASSING if kind != "stall"]) if asked == 1 and own.random() < 0.3 else None
            )

        with Loopback(fault, delay=0.02) as loopback:
            theirs.send(loopback.url)
            while True:
                time.sleep(1)
    try:
        yield ours.recv()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def uncut(base: Path) -> None:
    """Every stage once, in order, with its time."""
    for stage in STAGES:
        started = time.monotonic()
        with server(None) if stage.address else nullcontext() as address:
            code = ended(begin(stage, base, *([f"{stage.address}={address}"] if address else [])))
        stage.seconds = time.monotonic() - started
        if code != 0:
            raise SystemExit(f"{stage.name} fails uncut, see {base}/log.txt")
        print(f"{stage.name}: {stage.seconds:.1f} s uncut", flush=True)
