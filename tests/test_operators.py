"""torchvision whose compiled part does not fit torch: its Python part is imported all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# As torchvision does it: without the operator's name this line raises.
WHEEL = """
import torch
torch.library.register_fake("torchvision::nms")(lambda *_: None)
torch.library.register_fake("torchvision::qnms")(lambda *_: None)
"""


def imported(line: str, folder) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[1])])
    return subprocess.run(
        [sys.executable, "-c", line],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def wheel(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(WHEEL, encoding="utf-8")
    (tmp_path / "torchvision" / "_C.so").write_bytes(b"made for another torch")
    return tmp_path


def test_operators_have_names_where_the_library_does_not_load(wheel):
    assert "torchvision::nms does not exist" in imported("import torchvision", wheel).stderr
    assert imported("import rationale, torchvision", wheel).returncode == 0


def test_torch_is_not_imported_for_it_before_torchvision_is(wheel):
    said = imported("import rationale, sys; print('torch' in sys.modules)", wheel).stdout
    assert said.strip() == "False"
