"""What only some settings need and is not installed is named with the extra that brings it."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from rationale.artifacts import UserError
from rationale.command import cli
from rationale.command.cli import CONF, PLUGINS, missing_plugin
from rationale.models.vlm import load

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
QLORA = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def hide(monkeypatch, *names):
    """Make distributions as good as not installed."""
    version = metadata.version

    def found(name):
        if name in names:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", found)


def test_no_remedy_names_an_index_that_does_not_hold_this_package():
    """What `rationale` is on PyPI is not ours."""
    files = [*ROOT.glob("*.md"), *(f for place in ("docs", "conf", "rationale") for f in (ROOT / place).rglob("*.*"))]
    texts = {str(file): file.read_text(encoding="utf-8") for file in files if file.suffix in (".md", ".yaml", ".py")}
    said = {name: re.findall(r"pip install [^\n]*?\brationale(?:-vlm)?\b", text) for name, text in texts.items()}
    assert not {name: found for name, found in said.items() if found}


def test_an_extra_brings_each_plugin():
    brought = {entry.partition(">")[0] for entry in EXTRAS["sweeps"]}
    assert brought == set(PLUGINS.values())


@pytest.mark.parametrize("path", sorted((CONF / "hydra").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_a_launcher_or_sweeper_without_its_plugin_is_named_with_its_extra(path, monkeypatch):
    word = f"hydra/{path.parent.name}={path.stem}"
    assert missing_plugin(["-m", "experiment=mini", word]) is None
    hide(monkeypatch, *PLUGINS.values())
    said = missing_plugin(["-m", "experiment=mini", word])
    assert said.startswith(f"{word} needs hydra-") and said.endswith("in the clone pip install -e '.[sweeps]'")
    assert missing_plugin(["-m", "experiment=mini", "hydra/launcher=basic"]) is None


def test_the_command_stops_with_that_word_before_it_composes(monkeypatch, capsys):
    hide(monkeypatch, "hydra-joblib-launcher")
    monkeypatch.setattr(cli, "_main", lambda: pytest.fail("composed"))
    monkeypatch.setattr(sys, "argv", ["rationale", "-m", "hydra/launcher=processes"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "needs hydra-joblib-launcher: pip install hydra-joblib-launcher, or" in capsys.readouterr().err


def test_a_hidden_bitsandbytes_stops_a_load_before_any_weight_is_read(tiny_dir, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    with pytest.raises(UserError, match=r"pip install -e '\.\[qlora\]'"):
        load(str(tiny_dir), lora=lora, quantization=QLORA)
    assert any(entry.startswith("bitsandbytes") for entry in EXTRAS["qlora"])
