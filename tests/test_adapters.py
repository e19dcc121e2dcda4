"""LoRA after LoRA takes the SFT model as reference; QLoRA trains adapters alone, and is saved without its 4 bits."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from families import BUILDERS
from fitting import fit
from omegaconf import OmegaConf
from peft import PeftModel
from torch import nn

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.models import quantised
from rationale.models.encode import Encoder
from rationale.models.families import LANGUAGE, is_in
from rationale.models.logps import response_logps
from rationale.models.vlm import load, read_model
from rationale.objectives.dpo import Objective
from rationale.training import step as step_module
from rationale.training.dpo import DPOModule, dpo_data
from rationale.training.optim import Optim
from rationale.training.plan import plan
from rationale.training.sft import SFTModule, sft_data

LORA = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "lora" / "language.yaml"))
NF4 = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "quantization" / "nf4.yaml"))
TRAINER = partial(pl.Trainer, accelerator="cpu", devices=1, enable_progress_bar=False)
ORDER = partial(plan, accumulate=1, epochs=3, seed=0)


@pytest.fixture
def qlora(tiny_dir):
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes: pip install -e '.[qlora]'")
    torch.manual_seed(0)
    return partial(load, str(tiny_dir), lora=LORA, quantization=NF4)


def trained(module, data) -> list[float]:
    """The loss of every step."""
    losses = []

    class Losses(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *_):
            losses.append(outputs["loss"].item())

    TRAINER(max_epochs=1, callbacks=[Losses()], logger=False, enable_checkpointing=False).fit(module, data)
    return losses


def sft(vlm, examples):
    data = sft_data(Encoder(vlm.processor), examples, partial(ORDER, micro_batch=8))
    return trained(SFTModule(vlm, Optim(lr=1e-2), data.plan.num_steps), data)


def dpo(vlm, examples, reference):
    pairs = [(a, replace(a, response=b.response)) for a, b in zip(examples[:4], examples[4:], strict=True)]
    data = dpo_data(Encoder(vlm.processor, layout="tree"), pairs, partial(ORDER, micro_batch=4))
    return trained(DPOModule(vlm, Objective(), reference, Optim(lr=1e-2), data.plan.num_steps), data)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_learn_and_nothing_beneath_them_moves(checkpointing, qlora, examples):
    vlm = qlora(gradient_checkpointing=checkpointing)
    before = {name: p.detach().clone() for name, p in vlm.model.named_parameters()}
    losses = sft(vlm, examples)
    assert losses[-1] < losses[0]
    moved = {name for name, p in vlm.model.named_parameters() if not torch.equal(before[name], p)}
    assert moved == {name for name in before if "lora_" in name}
    assert {p.dtype for n, p in vlm.model.named_parameters() if n in moved} == {torch.float32}


@pytest.mark.parametrize("reference", ["adapter_off", "frozen"])
def test_the_first_preference_loss_is_log_2(reference, qlora, examples):
    losses = dpo(qlora(), examples, reference)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("gathered", [False, True])
def test_what_is_saved_is_the_unquantised_starting_model_with_the_adapter(
    gathered, qlora, tiny_dir, examples, tmp_path
):
    vlm = qlora()
    sft(vlm, examples)
    vlm.save(tmp_path / "model", dict(vlm.model.state_dict()) if gathered else None)
    start = load(str(tiny_dir)).model
    expected = PeftModel.from_pretrained(start, tmp_path / "adapter").merge_and_unload().state_dict()
    found, base = load(str(tmp_path / "model")).model.state_dict(), load(str(tiny_dir)).model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    changed = {name for name, value in found.items() if not torch.equal(value, base[name])}
    assert changed == {name for name in found if "language_model.layers" in name and name.endswith("_proj.weight")}


@pytest.mark.parametrize("reference", ["adapter_off", "frozen"])
def test_lora_dpo_after_lora_sft_takes_the_sft_model_as_reference(reference, tiny_dir, examples, tmp_path, monkeypatch):
    """Adapters off is the SFT model and not the base, since SFT's adapter was merged (hiyouga/LLaMA-Factory#8974)."""
    vlm = load(str(tiny_dir), lora=LORA)
    data = sft_data(Encoder(vlm.processor), examples, partial(ORDER, micro_batch=8))
    module = SFTModule(vlm, Optim(lr=1e-2), data.plan.num_steps)
    fit(module, data, tmp_path, save_every=10)

    seen = []

    def told(model, batch):
        logps = response_logps(model, batch)
        if not logps.requires_grad:  # the reference's
            seen.append((batch, logps))
        return logps

    monkeypatch.setattr(step_module, "response_logps", told)
    losses = dpo(load(str(tmp_path / "model"), lora=LORA), examples, reference)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    for batch, logps in (seen[0], seen[-1]):  # before the first step and after some
        with torch.no_grad():
            own, base = (
                response_logps(load(path).model.eval(), batch) for path in (str(tmp_path / "model"), str(tiny_dir))
            )
        torch.testing.assert_close(logps, own, atol=1e-4, rtol=0)
        assert (logps - base).abs().max() > 0.1


@pytest.mark.parametrize("family", BUILDERS)
def test_the_preset_quantises_the_layers_of_the_language_model_alone(family, tmp_path):
    bnb = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes: pip install -e '.[qlora]'")
    whole = BUILDERS[family]().model
    whole.save_pretrained(tmp_path)
    model = read_model(str(tmp_path), None, "float32", "sdpa", None, quantised.config_of(NF4, LORA))
    found = {name for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    linear = {name for name, m in whole.named_modules() if isinstance(m, nn.Linear)}
    assert found == {name for name in linear if is_in(whole, LANGUAGE, name + ".") and name != "lm_head"}


@pytest.mark.parametrize(
    ("quantization", "lora", "message"),
    [
        (NF4, None, "4-bit weights cannot be trained; set model/lora=language"),
        ({**NF4, "bnb_4bit_quant_typ": "fp4"}, LORA, "BitsAndBytesConfig knows no bnb_4bit_quant_typ"),
        ({"load_in_8bit": True}, LORA, "only load_in_4bit=true"),
    ],
)
def test_quantisation_that_cannot_be_trained_is_refused_before_weights_areread_model(
    quantization, lora, message, tiny_dir
):
    with pytest.raises(UserError, match=message):
        load(str(tiny_dir), lora=lora, quantization=quantization)


def test_a_missing_bitsandbytes_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install bitsandbytes"):
        quantised.config_of(NF4, LORA)
