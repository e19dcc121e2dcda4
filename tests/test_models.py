"""The models of conf/model: each config's class, at tiny size, takes an SFT and a DPO step, part by part."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
import transformers
from families import CASES, EVERY, IMAGE, PAD, PROMPTS, RESPONSES
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.models import prefix
from rationale.models.families import COMPONENTS, FAMILIES, LANGUAGE, PROJECTOR, VISION, can_share, is_in
from rationale.models.layout import rows_batch, tree_batch
from rationale.models.vlm import VLM, configure, freeze
from rationale.objectives.dpo import Objective
from rationale.training.dpo import DPOModule, PairBatch
from rationale.training.optim import Optim, parameter_groups
from rationale.training.sft import SFTBatch, SFTModule

CONFIGS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
RATES = {VISION: 1e-4, PROJECTOR: 3e-4}
TRAINER = partial(
    pl.Trainer, accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False,
)  # fmt: skip


@cache
def config_of(name: str, *overrides: str):
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", [f"model={name}", *overrides]).model


def built(family: str):
    """The tiny model of a family, with shared prefixes as `load` sets them."""
    torch.manual_seed(0)
    found = EVERY[family]()
    if can_share(found.model):
        prefix.enable(found.model)
    return found


def batch_of(family, rows: list[int], responses: list[int]):
    """In the layout that `auto` means for the family."""
    examples, chosen = [CASES[i] for i in rows], [RESPONSES[i] for i in responses]
    prompts = partial(family.prompts, PROMPTS)
    if prefix.layout_for(family.model, "auto") == "rows":
        return rows_batch(examples, chosen, prompts, PAD)
    return tree_batch(examples, chosen, prompts, IMAGE, PAD)


def moves(module: pl.LightningModule, batch: object) -> dict[str, float]:
    """By part, how far the parameter that moves most moves in one step; and `loss`."""
    before = {name: p.detach().clone() for name, p in module.policy.named_parameters()}
    seen = {}

    class Loss(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *_):
            seen["loss"] = outputs["loss"].item()

    TRAINER(callbacks=[Loss()]).fit(module, DataLoader([batch], batch_size=None))
    far = {name: (p.detach() - before[name]).abs().max().item() for name, p in module.policy.named_parameters()}
    return seen | {part: max(d for name, d in far.items() if is_in(module.policy, part, name)) for part in COMPONENTS}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_sft_step_moves_every_part_by_its_own_learning_rate(name):
    """The first step of AdamW is the learning rate, whatever the size of the gradient; none, without one."""
    family = built(config_of(name).family)
    batch = batch_of(family, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    module = SFTModule(VLM(family.model, None, ""), Optim(lr=1e-3, part_lrs=RATES), total_steps=1)
    assert {group["lr"] for group in module.configure_optimizers()["optimizer"].param_groups} == {1e-3, 1e-4, 3e-4}
    moved = moves(module, SFTBatch(batch, int(batch.mask.sum())))
    assert moved[VISION] == pytest.approx(1e-4, rel=0.05)
    assert moved[PROJECTOR] == pytest.approx(3e-4, rel=0.05)
    assert moved[LANGUAGE] == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_dpo_step_starts_at_log_2_and_moves_nothing_that_is_frozen(name):
    family = built(config_of(name).family)
    freeze(family.model, [VISION, PROJECTOR])
    module = DPOModule(VLM(family.model, None, ""), Objective(), "frozen", Optim(lr=1e-3), total_steps=1)
    moved = moves(module, PairBatch(batch_of(family, [0, 1, 0, 1], [0, 1, 2, 3]), 2, 1))
    assert moved["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert moved[VISION] == moved[PROJECTOR] == 0
    assert moved[LANGUAGE] == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("name", EVERY)
def test_a_parameter_is_in_one_part_and_every_part_is_there(name):
    model = EVERY[name]().model
    held = defaultdict(set)
    for parameter, _ in model.named_parameters():
        (part,) = [p for p in COMPONENTS if is_in(model, p, parameter)]
        held[part].add(parameter)
    assert held.keys() == set(COMPONENTS)
    words = ("embed_tokens", "lm_head", "image_newline")
    assert {n for names in held.values() for n in names if any(w in n for w in words)} <= held[LANGUAGE]


@pytest.mark.parametrize("name", [name for name in EVERY if name != "gemma3"])  # its projector is no linear layer
def test_adapters_are_in_the_part_that_they_adapt(name):
    model = EVERY[name]().model
    part = {
        n.rpartition(".")[0]: next(p for p in COMPONENTS if is_in(model, p, n)) for n, _ in model.named_parameters()
    }
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear"))
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    found = {n: part[n.split(".lora_")[0].removeprefix("base_model.model.")] for n in trained}
    assert set(found.values()) == set(COMPONENTS)
    freeze(adapted, [VISION])
    assert {n for n, p in adapted.named_parameters() if p.requires_grad} == {n for n in found if found[n] != VISION}
    groups = parameter_groups(adapted, Optim(lr=1e-3, part_lrs={PROJECTOR: 3e-4}))
    sizes = {group["lr"]: len(group["params"]) for group in groups}
    assert sizes == {
        3e-4: sum(p == PROJECTOR for p in found.values()),
        1e-3: sum(p == LANGUAGE for p in found.values()),
    }


def test_mergers_of_qwen_are_the_projector_though_they_lie_in_the_tower():
    model = EVERY["qwen3_vl"]().model
    mergers = {name for name, _ in model.named_parameters() if "merger" in name}
    assert mergers == {name for name, _ in model.named_parameters() if is_in(model, PROJECTOR, name)}


def test_any_other_word_is_a_piece_of_names():
    model = EVERY["llava"]().model
    freeze(model, ["layers.1.", "lm_head"])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if "layers.1." in name or "lm_head" in name}


@pytest.mark.parametrize("name", EVERY)
def test_the_lora_preset_adapts_the_linear_layers_of_the_language_model(name):
    family = EVERY[name]()
    linear = {
        n for n, m in family.model.named_modules()
        if isinstance(m, nn.Linear) and is_in(family.model, LANGUAGE, n + ".") and n != "lm_head"
    }  # fmt: skip
    lora = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "lora" / "language.yaml"))
    adapted = get_peft_model(family.model, LoraConfig(**lora))
    trained = {n.split(".lora_")[0] for n, p in adapted.named_parameters() if p.requires_grad}
    assert {n.removeprefix("base_model.model.") for n in trained} == linear
    assert all(is_in(adapted, LANGUAGE, n) and not is_in(adapted, VISION, n) for n in trained)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_processor_of_the_family_takes_the_settings(name):
    cfg = config_of(name)
    settings = OmegaConf.to_container(cfg.processor) if cfg.processor else {}
    kind = getattr(transformers, PROCESSOR_MAPPING_NAMES[cfg.family])
    processor = kind.__new__(kind)  # without its tokenizer
    processor.image_processor = getattr(transformers, IMAGE_PROCESSOR_MAPPING_NAMES[cfg.family]["pil"])()
    configure(processor, settings)
    found = vars(processor) | processor.image_processor.to_dict()
    assert all(found[name] == value for name, value in settings.items())


def test_a_setting_that_the_image_processor_does_not_know_is_refused():
    processor = SimpleNamespace(image_processor=transformers.Qwen2VLImageProcessorPil())
    with pytest.raises(UserError, match=r"Qwen2VLImageProcessorPil knows no \['max_patches'\], only .*'size'"):
        configure(processor, {"max_patches": 3})


def test_settings_win_over_the_limits_of_the_checkpoint_s_file():
    """1,280 tokens of 28 x 28 pixels, where the file has 16,384."""
    file = {"min_pixels": 3136, "max_pixels": 12845056}
    processor = SimpleNamespace(image_processor=transformers.Qwen2VLImageProcessorPil.from_dict(file))
    wanted = {"size": {"shortest_edge": 3136, "longest_edge": 1003520}}
    configure(processor, wanted)
    assert (
        processor.image_processor.to_dict()["size"]
        == wanted["size"]
        == {"shortest_edge": 3136, "longest_edge": 1003520}
    )


def test_a_setting_that_the_processor_s_own_calls_override_is_refused():
    processor = SimpleNamespace(
        image_processor=transformers.Qwen2VLImageProcessorPil(), images_kwargs={"do_convert_rgb": True}
    )
    with pytest.raises(UserError, match=r"processor\.do_convert_rgb=False: Qwen2VLImageProcessorPil would do True all"):
        configure(processor, {"do_convert_rgb": False})


def test_presets_of_lora_and_quantisation_are_chosen_beside_a_model_or_one_derived_from_it():
    for name in ("qwen2_vl_2b", "qwen3_vl_2b"):
        cfg = config_of(name, "model/lora=language", "model/quantization=nf4")
        assert (cfg.lora.r, cfg.quantization.bnb_4bit_quant_type) == (64, "nf4")


def test_hub_models_are_named_by_owner_and_name_and_have_no_invented_commit():
    hub = {n: config_of(n) for n in CONFIGS if n != "mini"}
    assert len({cfg.path for cfg in hub.values()}) == len(hub) == 22
    assert all(len(Path(cfg.path).parts) == 2 for cfg in hub.values())
    known = {name: cfg.revision for name, cfg in hub.items() if cfg.revision is not None}
    assert known == {"llava_next_llama3_8b": "91abc338384b536537a35f2f1382bc2bc672f1b3"}
    assert all(cfg.lora is cfg.quantization is None for cfg in hub.values())


def test_a_preset_s_name_is_that_of_its_model():
    """SmolVLM's is not SmolVLM2's."""
    for name in sorted(set(CONFIGS) - {"mini", "llava_next_llama3_8b"}):
        assert name.replace("_", "") in re.sub(r"[-.]", "", Path(config_of(name).path).name.lower())


def test_the_docs_list_every_preset_by_the_layout_that_auto_means():
    text = (Path(__file__).parent.parent / "docs/models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| (`.+) \| (tree|rows) \|$", text, re.MULTILINE)
    listed = {name: layout for names, layout in rows for name in re.findall(r"`(\w+)`", names)}
    other = set(CONFIGS) - {"mini", "llava_next_llama3_8b"}
    assert listed == {n: "tree" if FAMILIES[config_of(n).family].sharing == "tree" else "rows" for n in other}
