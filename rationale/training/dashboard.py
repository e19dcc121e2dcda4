"""wandb's run of one artifact: how it is named, found and filtered, what it goes on from, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from rationale.hashes import read_manifest

KEPT = ("manifest", "model", "none")  # of an artifact, by `artifacts`
HIDDEN = "(hidden)"
ENDED: list[ConnectionError] = []  # where wandb's process is gone
WANDB_ID = "wandb_id"  # in a working folder: the run that a cut stage goes on with
# Where wandb keeps files that an artifact or a table names, and its logs: both below the home directory, if not told.
WANDB_FOLDERS = {"WANDB_DATA_DIR": "", "WANDB_CACHE_DIR": "cache"}
GIVEN = {name: os.environ.get(name) for name in WANDB_FOLDERS}  # by the user
ALWAYS = {"seed", "model"}
# The groups of numbers that weights hang on; those that they do not are no part of what a run is known by.
WEIGHTS = {
    "pretrain": {"pretrain"},
    "sft": {"ablation", "train_set", "sft"},
    "dpo": {"ablation", "train_set", "sft", "sampling", "pairing", "dpo", "variant"},
    "grpo": {"ablation", "train_set", "sft", "grpo", "variant"},
}
EVALUATION = {"checkpoint", "evaluation", "generator"}
SECRET_ARGUMENT = re.compile(r"(^|_)(api_?key|token|password|secret|authorization)$", re.IGNORECASE)
SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET|CREDENTIALS)$")


class Dashboard(WandbLogger):
    """A run named by its artifact's path below `folder`, which holds all that is to be uploaded.

    Nothing is logged that is not named here or by the stage: no console, command line or environment. A run
    that was cut goes on under its id; offline, where wandb would begin a second file, what it left is replaced and the
    steps before the first new one are logged again from its CSV, `earlier`.
    """

    def __init__(
        self, out: Path, project: str, group: str, name: str, mode: str, folder: str, stage: str,
        config: dict[str, Any], table_rows: int, earlier: list[dict[str, str]],
    ) -> None:  # fmt: skip
        root = Path(folder).resolve()
        (root / "wandb").mkdir(parents=True, exist_ok=True)
        for variable, below in WANDB_FOLDERS.items():
            os.environ[variable] = GIVEN.get(variable) or str(root / "wandb" / below)
        run, cut = _identity(out)
        if cut and mode == "offline":
            for left in root.glob(f"wandb/offline-run-*-{run}"):
                shutil.rmtree(left, ignore_errors=True)  # wandb's own process may outlive the cut one for a moment
        self.table_rows, self._earlier = table_rows, earlier if mode == "offline" else []
        job = stage.split(".")[-2] if "." in stage else stage
        known = known_by(job, config)
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_meta=True, use_dot_wandb=False
        )
        super().__init__(
            project=project, group=group, name=short(name, folder), save_dir=str(root), id=run, mode=mode,
            job_type=job or None, tags=tags(known), config=hidden(known), settings=settings,
        )  # fmt: skip

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with unless_ended():
            self._log(metrics, step)

    def _log(self, metrics: dict[str, float], step: int | None) -> None:
        earlier, self._earlier = self._earlier, []
        for row in earlier:
            if step is not None and int(row["step"]) < step:
                values = {key: float(value) for key, value in row.items() if value and key != "step"}
                super().log_metrics(values, int(row["step"]))
        super().log_metrics(metrics, step)


@contextmanager
def unless_ended() -> Iterator[None]:
    """wandb's own process may end before ours: a scheduler that ends a job signals both, and a training then still
    saves its state. What is logged from then on stands in the CSV alone."""
    try:
        yield
    except ConnectionError as error:
        if not ENDED:
            print(f"wandb's process has ended ({error}); from here on metrics are in the CSV alone", file=sys.stderr)
        ENDED.append(error)


def _identity(out: Path) -> tuple[str, bool]:
    """A run's id, and whether it is that of a run which was cut."""
    path = out / WANDB_ID
    if path.is_file():
        return path.read_text(encoding="utf-8"), True
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(uuid.uuid4().hex[:8], encoding="utf-8")
    return path.read_text(encoding="utf-8"), False


def short(name: str, folder: str) -> str:
    """An artifact's path below `folder`, or whatever else it is called by."""
    path = Path(name)
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else name


def known_by(job: str, config: dict[str, Any]) -> dict[str, Any]:
    """Those of the composed groups that a run hangs on, by the names of their overrides."""
    subject = config.get("checkpoint") if job == "evaluate" else job
    groups = ALWAYS | WEIGHTS.get(subject, set()) | (EVALUATION if job == "evaluate" else {"trainer"})
    return {key: value for key, value in config.items() if key in groups and value is not None}


def tags(known: dict[str, Any]) -> list[str]:
    """Words to filter runs by: whose weights, the ablation, the variant, the seed."""
    words = [known[key] for key in ("checkpoint", "ablation", "variant") if key in known]
    return [str(tag)[:64] for tag in words + ([f"seed_{known['seed']}"] if "seed" in known else [])]  # wandb's limit


def hidden(node: Any) -> Any:
    """A node without what is secret: arguments called so, keys of the environment, and credentials in URLs."""
    named = set(_named(node))
    # A value of a few letters is no key, and taking it out would blank half of what is shown.
    secrets = [v for k, v in os.environ.items() if (SECRET_VARIABLE.search(k) or k in named) and len(v) > 5]

    def clean(node: Any, name: str = "") -> Any:
        if isinstance(node, dict):
            return {key: clean(value, str(key)) for key, value in node.items()}
        if isinstance(node, list):
            return [clean(value, name) for value in node]
        if not isinstance(node, str):
            return node
        if SECRET_ARGUMENT.search(name):
            return HIDDEN
        for secret in secrets:
            node = node.replace(secret, HIDDEN)
        return re.sub(r"(?<=://)[^/@\s]+@", "", node)

    return clean(node)


def _named(node: Any) -> Iterator[str]:
    """Names of environment variables that arguments say a key is in."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "key_variable" and value)
        for value in node.values():
            yield from _named(value)


def finish(out: Path) -> None:
    """End the run that a stage opened, if it did: its artifact's counts, and the manifest as an artifact of wandb's.

    That holds manifest and config, and refers to the artifact's files where they lie; `artifacts=model` uploads the
    weights too.
    """
    run = wandb.run
    if run is not None:
        with unless_ended():
            _finish(run, out)


def _finish(run: wandb.Run, out: Path) -> None:
    manifest = hidden(read_manifest(out))
    kept = manifest["arguments"]["logger"]["artifacts"]
    run.summary.update({f"counts/{name}": value for name, value in manifest["counts"].items()})
    run.summary.update({"commit": manifest["commit"], "wall_seconds": manifest["wall_seconds"]})
    if kept != "none":
        called = re.sub(r"[^\w.-]+", ".", run.name)  # wandb allows no other characters
        artifact = wandb.Artifact(called, type=manifest["stage"], metadata={"path": str(out), "key": manifest["key"]})
        for name, value in (("manifest", manifest), ("config", dict(run.config))):
            with artifact.new_file(f"{name}.json") as file:
                json.dump(value, file, indent=1, ensure_ascii=False)
        artifact.add_reference(out.resolve().as_uri(), name="files", checksum=False)
        if kept == "model" and (out / "model").is_dir():
            artifact.add_dir(str(out / "model"), name="model")
        run.log_artifact(artifact)
    run.finish()
