"""What only some settings need and is not installed is named with the extra that brings it."""

from __future__ import annotations

import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from rationale import cli
from rationale.artifacts import UserError
from rationale.cli import CONF, PLUGINS, missing_plugin
from rationale.models.vlm import load

EXTRAS = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
QLORA = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def hide(monkeypatch, *names):
    """Make distributions as good as not installed."""
    version = metadata.version

    def found(name):
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", found)


def test_an_extra_brings_each_plugin():
    brought = {entry.partition(">")[0] for entry in EXTRAS["sweeps"]}
    assert brought == set(PLUGINS.values())


@pytest.mark.parametrize("path", sorted((CONF / "hydra").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_launcher_or_sweeper_without_its_plugin_is_named_with_its_extra(path, monkeypatch):
    word = f"hydra/{path.parent.name}={path.stem}"
    assert missing_plugin(["-m", "experiment=mini", word]) is None
    hide(monkeypatch, *PLUGINS.values())
    said = missing_plugin(["-m", "experiment=mini", word])
    assert said.startswith(f"{word} needs hydra-") and said.endswith("pip install 'rationale[sweeps]'")
    assert missing_plugin(["-m", "experiment=mini", "hydra/launcher=basic"]) is None


def test_the_command_stops_with_that_word_before_it_composes(monkeypatch, capsys):
    hide(monkeypatch, "hydra-joblib-launcher")
    monkeypatch.setattr(cli, "_main", lambda: pytest.fail("composed"))
    monkeypatch.setattr(sys, "argv", ["rationale", "-m", "hydra/launcher=processes"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "needs hydra-joblib-launcher: pip install 'rationale[sweeps]'" in capsys.readouterr().err


def test_a_hidden_bitsandbytes_stops_a_load_before_any_weight_is_read(tiny_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    with pytest.raises(UserError, match=r"pip install 'rationale\[qlora\]'"):
        load(str(tiny_dir), lora=lora, quantization=QLORA)
    assert any(entry.startswith("bitsandbytes") for entry in EXTRAS["qlora"])
