"""Installed from a wheel and away from the clone, the command finds its configs, base checkpoint and tables."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from rationale.command.cli import CONF

CLONE = Path(__file__).parent.parent
PROJECT = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = ["pyproject.toml", "README.md", "LICENSE", "rationale", "conf", "experiments"]


def built(source: Path, kind: str, out: Path) -> Path:
    """The wheel or the sdist of a source tree, by the build backend itself: without network."""
    call = f"import setuptools.build_meta as b; b.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", call], cwd=source, check=True, capture_output=True)
    (made,) = out.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The clone's files that a build reads, so that none is made in the clone itself."""
    folder = tmp_path_factory.mktemp("source")
    for name in NEEDED:
        copy = shutil.copytree if (CLONE / name).is_dir() else shutil.copy
        copy(CLONE / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return built(source, "wheel", tmp_path_factory.mktemp("wheel"))


def test_every_package_is_named():
    folders = {path.parent for path in (CLONE / "rationale").rglob("*.py")}
    found = {".".join(folder.relative_to(CLONE).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"rationale.conf", "rationale.experiments"}


def test_a_wheel_holds_every_config_and_every_file_that_a_config_names(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = [path.relative_to(CONF.parent) for path in CONF.rglob("*.yaml")]
    assert {f"rationale/{path}" for path in configs} <= set(names)
    texts = [(CONF.parent / config).read_text(encoding="utf-8") for config in configs]
    named = {path for text in texts for path in re.findall(r"\$\{repo:(.+?)\}", text)}
    assert "experiments/mini_base" in named
    for path in named:
        below = [file.relative_to(CLONE) for file in (CLONE / path).rglob("*") if file.is_file()] or [path]
        assert {f"rationale/{file}" for file in below} <= set(names)


def test_the_source_distribution_builds_the_same_wheel(source, wheel, tmp_path):
    with tarfile.open(built(source, "sdist", tmp_path), encoding="utf-8") as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = (path for path in tmp_path.iterdir() if path.is_dir())
    again = built(unpacked, "wheel", tmp_path)
    contents = [{i.filename: i.CRC for i in zipfile.ZipFile(path).infolist()} for path in (wheel, again)]
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_the_method_runs_from_a_wheel_in_an_empty_environment_and_folder(wheel, tmp_path):
    place, work = tmp_path / "environment", tmp_path / "work"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", place / "bin/python", "install", "--no-index", "--no-deps", wheel],
        check=True, capture_output=True,
    )  # fmt: skip
    (packages,) = place.glob("lib/python*/site-packages")
    # What it depends on, from here; a .pth there is not followed, so no editable installation comes along.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    work.mkdir()
    few = ["logger=csv", "dataset.images={train: 1, val: 1, test: 1}"]
    sft = [
        "stage=sft",
        "ablation=direct",
        "sft.mixture.pretrain=0",
        "sft.batch={micro_batch_size: 1, gradient_accumulation_steps: 1}",
    ]
    for step in (["stage=prepare"], ["stage=distill"], sft, ["stage=evaluate", "checkpoint=sft", "ablation=direct"]):
        done = subprocess.run(
            [place / "bin/rationale", *step, *few], cwd=work, capture_output=True, text=True, check=False,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    trained = json.loads((work / "runs/mini/seed_1/sft_direct/manifest.json").read_text(encoding="utf-8"))
    assert trained["counts"]["steps"] == 3
    assert str(packages) in trained["arguments"]["model"]["path"]
    assert (work / "runs/mini/seed_1/eval/sft_direct/summary.json").is_file()
