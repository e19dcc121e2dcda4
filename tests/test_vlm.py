"""Loading and saving models: what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from rationale.artifacts import UserError
from rationale.models.vlm import disable_dropout, freeze, load

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


def test_a_saved_model_loads_with_the_same_weights(tiny, tmp_path):
    tiny.save(tmp_path / "model")
    again = load(str(tmp_path / "model")).model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in tiny.model.state_dict().items())


def test_a_missing_folder_is_named_with_the_way_out():
    with pytest.raises(UserError, match=r"runs/nowhere: no model there .* run the stage that makes it"):
        load("runs/nowhere")


def test_a_checkpoint_of_another_architecture_is_refused(tiny_dir, tmp_path):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["another.tower.weight"] = torch.zeros(4, 4)
    del weights[next(name for name in weights if "projector" in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="do not fit LlavaForConditionalGeneration"):
        load(str(folder))


def test_a_model_that_is_no_vlm_is_refused(tiny_dir, tmp_path):
    folder = shutil.copytree(tiny_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    with pytest.raises(UserError, match="cannot be loaded as a vision-language model"):
        load(str(folder))


def test_lora_trains_the_adapter_alone_and_saves_merged(tiny_dir, tmp_path):
    vlm = load(str(tiny_dir), lora=LORA)
    names = [name for name, p in vlm.model.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    with torch.no_grad():
        for name, p in vlm.model.named_parameters():
            if "lora_B" in name:
                p.fill_(0.1)
    vlm.save(tmp_path / "merged")
    before, after = load(str(tiny_dir)).model, load(str(tmp_path / "merged")).model
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])


def test_freeze_stops_gradients_of_the_named_part_only(tiny):
    freeze(tiny.model, ["vision_tower"])
    frozen = {name for name, p in tiny.model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in tiny.model.named_parameters() if "vision_tower" in name}


def test_freezing_what_is_not_there_is_an_error(tiny):
    with pytest.raises(UserError, match="no parameter name holds 'vision_towr'"):
        freeze(tiny.model, ["vision_towr"])


def test_disable_dropout_reaches_attention_rates_kept_as_floats(tiny):
    layer = tiny.model.model.language_model.layers[0].self_attn
    layer.attention_dropout = 0.5
    disable_dropout(tiny.model)
    assert layer.attention_dropout == 0.0
