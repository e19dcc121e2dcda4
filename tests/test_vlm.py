"""Loading and saving models: what does not fit is refused by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from rationale.artifacts import UserError
from rationale.models import vlm as loader
from rationale.models.encode import Encoder
from rationale.models.families import base_of
from rationale.models.fingerprints import processor_hash
from rationale.models.logps import response_logps
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
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="cannot be loaded as a vision-language model"):
        load(str(folder))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ImportError("\nQwen2VLVideoProcessor requires the Torchvision library\n"),
            "a package .* the Torchvision library",
        ),
        (KeyError("image_token"), "cannot be loaded as a vision-language model: 'image_token'"),
        (ValueError(""), "cannot be loaded as a vision-language model: ValueError"),
    ],
)
def test_whatever_a_processor_fails_with_is_said_in_one_line(error, said, tiny_dir, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(loader.AutoProcessor, "from_pretrained", fails)
    with pytest.raises(UserError, match=f"^{tiny_dir}: {said}"):
        load(str(tiny_dir))


def test_the_image_processor_s_class_is_part_of_what_a_processor_is(tiny):
    before = processor_hash(tiny.processor)
    tiny.processor.image_processor.__class__ = type("Faster", (type(tiny.processor.image_processor),), {})
    assert processor_hash(tiny.processor) != before


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


def stirred(vlm):
    """The same model with an adapter that changes it."""
    with torch.no_grad():
        for name, p in vlm.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return vlm


def logps(vlm, examples):
    vlm.model.eval()
    with torch.no_grad():
        return response_logps(vlm.model, Encoder(vlm.processor).batch(examples))


@pytest.mark.parametrize("pieces", [False, True], ids=["model", "gathered weights"])
def test_the_saved_adapter_on_the_starting_model_is_the_merged_model(pieces, tiny_dir, examples, tmp_path):
    vlm = stirred(load(str(tiny_dir), lora=LORA))
    weights = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    if pieces:  # as under ZeRO-3, where the model itself has none of them
        for p in vlm.model.parameters():
            p.detach().zero_()
    vlm.save(tmp_path / "model", weights if pieces else None)
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["base_model_name_or_path"] == str(tiny_dir)
    base = load(told["base_model_name_or_path"])
    before = logps(base, examples)
    base.model = PeftModel.from_pretrained(base.model, tmp_path / "adapter")
    merged = logps(load(str(tmp_path / "model")), examples)
    torch.testing.assert_close(logps(base, examples), merged, atol=1e-4, rtol=0)
    assert (before - merged).abs().max() > 0.1


def test_saving_leaves_a_lora_model_as_it_is(tiny_dir, tmp_path):
    vlm = stirred(load(str(tiny_dir), lora=LORA))
    before = {name: value.clone() for name, value in vlm.model.state_dict().items()}
    vlm.save(tmp_path / "model")
    after = vlm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_an_adapter_alone_is_refused_with_the_way_to_its_model(tiny_dir, tmp_path):
    load(str(tiny_dir), lora=LORA).save(tmp_path / "model")
    with pytest.raises(UserError, match=r"adapter: a LoRA adapter alone; set model.path to the merged model"):
        load(str(tmp_path / "adapter"))


def test_a_checkpoint_of_another_family_is_refused(tiny_dir):
    assert load(str(tiny_dir), family="llava").model.config.model_type == "llava"
    with pytest.raises(UserError, match=f"^{tiny_dir}: a model of family llava, not llava_next; choose model="):
        load(str(tiny_dir), family="llava_next")


def test_settings_of_the_image_processor_are_taken_and_saved_with_the_model(tiny_dir, examples, tmp_path):
    given = {"size": {"height": 32, "width": 48}}
    vlm = load(str(tiny_dir), processor=given)
    assert given == {"size": {"height": 32, "width": 48}}
    vlm.save(tmp_path / "model")
    for found in (vlm, load(str(tmp_path / "model"))):
        assert Encoder(found.processor).prompts(examples[:1])["pixel_values"].shape[2:] == (32, 48)
    with pytest.raises(UserError, match=r"knows no \['max_pixel'\], only .*'image_mean'"):
        load(str(tiny_dir), processor={"max_pixel": 1})


def test_lora_targets_that_are_not_there_are_refused(tiny_dir):
    with pytest.raises(UserError, match=r"lora: Target modules .* not found"):
        load(str(tiny_dir), lora={"r": 4, "target_modules": ["q_porj"]})
    with pytest.raises(UserError, match=r"lora: .* unexpected keyword argument 'rnak'"):
        load(str(tiny_dir), lora={"rnak": 4})


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_checkpointing_is_switched_on_and_gives_the_gradients_that_there_are_without(lora, tiny_dir, examples):
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        vlm = load(str(tiny_dir), lora=lora, gradient_checkpointing=checkpointing)
        vlm.model.train()
        assert base_of(vlm.model).is_gradient_checkpointing == checkpointing
        response_logps(vlm.model, Encoder(vlm.processor).batch(examples)).sum().backward()
        found.append({n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(("lora_" in n) == bool(lora) for n in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4)


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
