"""What the benchmarks share: trainers, sides run as child processes, medians, tables."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import pytorch_lightning as pl
import torch
from pytorch_lightning import Callback
from shapes import SHAPES, save_model

from rationale import markdown
from rationale.models.device import device_of
from rationale.training.optim import Optim
from rationale.training.plan import plan

HERE = Path(__file__).resolve().parent
THREADS = 2
LR = 1e-6
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # of a dtype to compute in; weights stay float32


class StepTimes(Callback):
    """The time from the end of one step to the end of the next, data loading included, and what was logged."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, module: pl.LightningModule, *_: Any) -> None:
        settle(module.device)
        self.ends.append(time.perf_counter())
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})

    def seconds(self) -> list[float]:
        """Of every step but the first, which warms up."""
        return differences(self.ends)


def fit_ours(
    module: pl.LightningModule, data: pl.LightningDataModule, device: str = "cpu", dtype: str = "float32"
) -> StepTimes:
    """One of our modules through Lightning, without loggers and checkpoints."""
    times = StepTimes()
    trainer = pl.Trainer(
        accelerator=device_of(device).type, devices=1, precision=PRECISIONS[dtype], max_epochs=1,
        gradient_clip_val=1.0, callbacks=[times], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return times


def fit_trl(trainer: Any, wanted: str) -> tuple[list[float], list[dict]]:
    """A trainer of TRL's: the times between its steps, and what it logged that has the key `wanted`."""
    from transformers import TrainerCallback

    ends: list[float] = []
    logged: list[dict] = []

    class Times(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            settle(trainer.args.device)
            ends.append(time.perf_counter())

        def on_log(self, *_: Any, logs: dict, **__: Any) -> None:
            if wanted in logs:
                logged.append(logs)

    trainer.add_callback(Times())
    torch.set_num_threads(THREADS)
    trainer.train()
    return differences(ends), logged


def trl_settings(work: Path, batch: int, device: str, dtype: str) -> dict[str, Any]:
    """Of its config: float32 weights, AdamW at a constant rate, rows in their order, nothing cut or saved."""
    return {
        "output_dir": str(work / "trl"), "per_device_train_batch_size": batch, "gradient_accumulation_steps": 1,
        "max_length": None, "learning_rate": LR, "lr_scheduler_type": "constant", "weight_decay": 0.0,
        "max_grad_norm": 1.0, "num_train_epochs": 1, "train_sampling_strategy": "sequential", "logging_steps": 1,
        "report_to": "none", "use_cpu": device_of(device).type == "cpu", "bf16": dtype == "bfloat16",
        "save_strategy": "no", "gradient_checkpointing": False, "disable_tqdm": True,
        "model_init_kwargs": {"dtype": "float32"},
    }  # fmt: skip


def trl_rows(rows: list[dict[str, Any]]) -> Any:
    """TRL's data set of conversations: `images` holds paths, every other column (role, text) of one turn."""
    from datasets import Dataset, Features, Image, List, Value

    turn = [{"role": Value("string"), "content": [{"type": Value("string"), "text": Value("string")}]}]
    features = Features({"images": List(Image()), **{name: turn for name in rows[0] if name != "images"}})

    def said(role: str, text: str) -> list[dict]:
        image = [{"type": "image", "text": None}] if role == "user" else []
        return [{"role": role, "content": [*image, {"type": "text", "text": text}]}]

    filled = [{k: v if k == "images" else said(*v) for k, v in row.items()} for row in rows]
    return Dataset.from_list(filled, features=features)


OPTIM = Optim(lr=LR, warmup_ratio=0.0, min_lr_ratio=1.0)  # a constant rate
in_order = partial(plan, accumulate=1, epochs=1, seed=0, shuffle=False)


def differences(ends: list[float]) -> list[float]:
    """Between consecutive times."""
    return [b - a for a, b in itertools.pairwise(ends)]


def settle(device: torch.device) -> None:
    """Wait for what was begun on an accelerator."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_gigabytes(device: str = "cpu") -> float:
    """The most that this process has held so far: on an accelerator, or as resident size where that is the CPU."""
    if device_of(device).type != "cpu":
        return torch.accelerator.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def median_seconds(work: Callable[[], Any], repeats: int, warm_up: Callable[[], Any] | None = None) -> float:
    """Median duration of a call, after one that warms up, or a shorter `warm_up`."""
    (warm_up or work)()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def parser(about: str, placed: bool = False) -> argparse.ArgumentParser:
    """The options that every benchmark has; one that is `placed` runs on any device, in either dtype."""
    found = argparse.ArgumentParser(description=about)
    found.add_argument("--shape", nargs="+", choices=SHAPES)
    found.add_argument("--steps", type=int, help="measured steps or repeats, after one that warms up")
    found.add_argument("--json", type=Path, help="where the measurements go, as JSON")
    if placed:
        found.add_argument("--device", default="cpu", help="as the setting `device`: auto, cpu, cuda")
        found.add_argument("--dtype", default="float32", choices=PRECISIONS)
    found.add_argument("--side", help=argparse.SUPPRESS)  # of a child process
    found.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    return found


def run_sides(script: str, sides: dict[str, Callable[..., dict]], args: argparse.Namespace) -> dict[str, Any] | None:
    """Every side in a process of its own, one after another, on the same weights and data.

    In a child this runs the one side it is told and returns None; in the parent it returns all measurements.
    """
    place = {name: vars(args)[name] for name in ("device", "dtype") if name in args}
    device = place.get("device", "cpu")
    if args.side:
        torch.set_num_threads(THREADS)
        measured = sides[args.side](args.work, SHAPES[args.shape[0]], args.steps, **place)
        (args.work / f"{args.side}.json").write_text(
            json.dumps({**measured, "peak_gb": peak_gigabytes(device)}), encoding="utf-8"
        )
        return None
    found: dict[str, Any] = {"setup": setup(args), "shapes": {}}
    for name in args.shape:
        shape = SHAPES[name]
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            save_model(shape, work / "model", device)
            if device != "cpu" and torch.accelerator.is_available():
                torch.accelerator.empty_cache()  # it is the sides' to use
            found["shapes"][name] = {"shape": {**asdict(shape), "head_share": round(shape.head_share(), 3)}}
            for side in sides:
                print(f"{name}: {side}", file=sys.stderr, flush=True)
                command = [sys.executable, script, "--side", side, "--shape", name, "--work", folder,
                           "--steps", str(args.steps), *(f"--{k}={v}" for k, v in place.items())]  # fmt: skip
                subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **QUIET})
                found["shapes"][name][side] = json.loads((work / f"{side}.json").read_text(encoding="utf-8"))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": str(THREADS),
         "WANDB_MODE": "disabled", "TQDM_DISABLE": "1"}  # fmt: skip


def setup(args: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs in order to compare."""
    packages = ("torch", "transformers", "pytorch-lightning", "trl", "accelerate")
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    place = {"device": "cpu", "dtype": "float32"}
    return {"threads": THREADS, **{k: vars(args).get(k, v) for k, v in place.items()}, "steps": args.steps,
            "python": platform.python_version(), "processor": platform.machine(), "date": time.strftime("%Y-%m-%d"),
            "versions": found}  # fmt: skip


def table(header: list[str], rows: list[list[Any]]) -> str:
    """Markdown."""
    return "\n".join(markdown.table(header, ([str(cell) for cell in row] for row in rows)))


def bench(
    script: str,
    about: str,
    sides: dict[str, Callable[..., dict]],
    show: Callable[[dict], str],
    shapes: Sequence[str] = ("body-heavy", "head-heavy"),
    steps: int = 3,
    placed: bool = False,
) -> None:
    """The command line of a benchmark: measures every side and prints what `show` makes of it."""
    options = parser(about, placed)
    options.set_defaults(shape=list(shapes), steps=steps)
    measured = run_sides(script, sides, options.parse_args())
    if measured:
        print(show(measured))


def heading(name: str, sides: dict[str, Any]) -> str:
    """The line above the table of a shape."""
    return f"**{name}** (head {100 * sides['shape']['head_share']:.0f}% of the language model's FLOPs)\n\n"
