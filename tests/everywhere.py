"""Every stage that runs a model, on the CPU and then on the double of an accelerator; started from test_device.py.

everywhere.py SETTINGS.json     paths: model, questions, opened (questions), rationales, pairs, image, out

Below `out/cpu` and `out/auto` are the artifacts that the command would make; in `out/found.json`, by device and stage,
what was printed and how many forward passes of which model ran where, and by name how trainings were refused.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path
from unittest import mock

import rationale  # noqa: F401, before what imports torchvision  # isort: skip
import second
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from rationale.artifacts import produce
from rationale.command.cli import CONF, quiet
from rationale.command.runs import call, explain
from rationale.training import sft as sft_module

STAGES = {
    "sample": ["sampling.limit=4", "sampling.num_samples=3", "sampling.batch_size=2", "sampling.max_new_tokens=8"],
    "score": ["score.batch_size=4"],
    "evaluate": ["evaluation.split=val", "evaluation.batch_size=4", "evaluation.max_new_tokens={direct: 4, cot: 4}"],
    "predict": ["question=What is it?", "evaluation.max_new_tokens={direct: 4, cot: 4}"],
    "distill": ["teacher=local", "teacher.max_new_tokens=4", "distill.split=val"],
    "check": ["check.max_new_tokens=2"],
    "replay": [],
    "sft": ["sft.batch.micro_batch_size=3", "sft.pretrain_questions=null"],
    "dpo": ["dpo.batch.micro_batch_size=4"],
    "grpo": ["grpo.batch.micro_batch_size=2", "grpo.limit=4", "grpo.rollout={num_samples: 3, max_new_tokens: 6}"],
    "pretrain": ["pretrain.batch.micro_batch_size=3", "pretrain.architecture.width=16", "pretrain.stop_after=2"],
}
TRAINED = ("check", "sft", "dpo", "grpo", "pretrain")  # by Lightning, which does not know this device by itself
TRAINER = {"trainer.accelerator": second.NAME, "trainer.strategy": second.STRATEGY}


def composed(stage: str, given: dict[str, str]) -> DictConfig:
    """The config of a stage on the tiny model and data."""
    paths = {
        "model.path": given["model"], "image": given["image"], "replay.batch": f"{given['out']}/stopped/nonfinite",
        "paths.questions": given["questions"], "paths.pretrain_questions": given["opened"],
        "paths.pairs": given["pairs"],
    }  # fmt: skip
    if stage != "distill":
        paths["paths.rationales"] = given["rationales"]
    if stage in ("dpo", "grpo"):
        paths["paths.sft"] = f"{given['out']}/start"
    words = [f"{name}={path}" for name, path in paths.items()]
    return compose("config", [f"stage={stage}", "logger=csv", "checkpoint=model", *words, *STAGES[stage]])


def run(cfg: DictConfig, device: str, root: Path, **more: str) -> str:
    """Run a stage on a device, its artifact below `root`; what it printed."""
    for name, value in {"device": device, "root": str(root), **more}.items():
        OmegaConf.update(cfg, name, value, force_add=True)
    stage, arguments, work = call(cfg.stage)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if "out" in arguments:
            produce(stage, arguments, work)
        else:
            work(Path())
    return said.getvalue()


def refusal(cfg: DictConfig, root: Path, **more: str) -> str | None:
    """What is said to a training that would not run where it should."""
    try:
        run(cfg, "auto", root, **more)
    except InstantiationException as error:
        return explain(error)
    return None


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    out = Path(given["out"])
    (out / "start").mkdir()
    (out / "start/model").symlink_to(given["model"])
    (out / "stopped").mkdir()
    quiet()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        configs = {stage: composed(stage, given) for stage in STAGES}
    training = configs["sft"]
    found = {
        "refused": refusal(training, out),
        "refused_named": refusal(training, out, **{"trainer.accelerator": second.NAME}),
    }
    OmegaConf.update(training, "trainer.accelerator", "${device}")
    OmegaConf.update(training, "device", "cpu")
    infinite = mock.patch.object(sft_module, "response_logps", lambda *asked: logps(*asked) - float("inf"))
    logps = sft_module.response_logps
    with infinite, contextlib.suppress(InstantiationException):  # for stage replay
        call(training.stage)[2](out / "stopped")
    for device in ("cpu", "auto"):
        for stage, cfg in configs.items():
            second.PASSES.clear()
            said = run(cfg, device, out / device, **(TRAINER if device == "auto" and stage in TRAINED else {}))
            found[f"{device}/{stage}"] = {"said": said, "passes": dict(second.PASSES)}
    (out / "found.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    code = 1
    try:
        main()
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
