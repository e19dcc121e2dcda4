"""Doubles, not downloads: a tiny LLaVA with random weights, and a few drawn questions."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from commands import SMALL, run
from families import BUILDERS, Family
from filelock import FileLock
from hypothesis import HealthCheck, settings

from rationale.models import prefix
from rationale.models.batch import Example
from rationale.models.vlm import VLM, load
from rationale.prompts import SUFFIXES, prompt_text
from rationale.schema import Question, read_jsonl
from rationale.sources import tasks
from rationale.stages import distill, prepare
from rationale.tools.small_llava import build_model, build_processor, train_tokenizer
from rationale.worlds.teacher import ProgramTeacher

# Machines under load are slow, not wrong.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


# The longest files, which begin first, so that no process is left with one at the end. The run that four files share
# is made by the first of them, while the other process is at work on something else.
LONGEST = ["pipeline", "configs", "sharded", "sweeps", "planning", "experiments", "device", "mutations", "dashboard"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, then by their number of slow tests."""
    rank = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (rank.get(item.path.stem, len(rank)), -slow[item.path]))


@pytest.fixture(scope="session")
def questions_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared artifact: 24 train questions of three worlds, and some for validation and test."""
    out = tmp_path_factory.mktemp("questions")
    images = {"train": 4, "val": 1, "test": 2}
    prepare.run(tasks.mini(images, questions_per_image=2, held_out_per_image=1, seed=0), out)
    return out


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a whole run of experiment=mini at the smallest size; one for all of pytest's processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "pipeline"
    with FileLock(f"{folder}.lock"):
        if not (folder / "runs/mini_small/report").exists():
            folder.mkdir(exist_ok=True)
            run(folder, *SMALL)
    return folder


@pytest.fixture(scope="session")
def rationales_dir(questions_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rationales of the train questions by the programmatic teacher."""
    out = tmp_path_factory.mktemp("rationales")
    distill.run(str(questions_dir), ProgramTeacher(), split="train", chunk=8, out=out)
    return out


@pytest.fixture(scope="session")
def questions(questions_dir: Path) -> list[Question]:
    return read_jsonl(questions_dir / "questions.jsonl", Question)


@pytest.fixture(scope="session")
def tiny_dir(questions: list[Question], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved LLaVA of a few thousand weights."""
    out = tmp_path_factory.mktemp("tiny")
    texts = (
        [q.question for q in questions] + list(SUFFIXES.values()) + ["### Answer: 1 From left to right the bars are"]
    )
    processor = build_processor(train_tokenizer(texts * 4, 400), image_size=64, patch_size=16)
    model = build_model(processor, vision_width=16, vision_layers=2, width=32, layers=2, heads=4, seed=0)
    VLM(model, processor, "random").save(out)
    return out


@pytest.fixture
def tiny(tiny_dir: Path) -> VLM:
    """A fresh copy of the tiny model."""
    torch.manual_seed(0)
    return load(str(tiny_dir))


@pytest.fixture
def examples(questions: list[Question], questions_dir: Path) -> list[Example]:
    """Eight examples of uneven length."""
    train = [q for q in questions if q.split == "train"][:8]
    return [
        Example(q.question_id, q.files(questions_dir), prompt_text(q, "cot"), "so it is " * (i + 1) + q.answer)
        for i, q in enumerate(train)
    ]


@pytest.fixture(params=BUILDERS)
def family(request) -> Family:
    torch.manual_seed(0)
    built = BUILDERS[request.param]()
    assert built.model.config.model_type == request.param
    built.model.eval()
    prefix.enable(built.model)
    return built
