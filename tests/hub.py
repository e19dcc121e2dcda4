"""Real processors of published checkpoints, and tiny models with random weights for them."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

HUB = Path(os.environ.get("RATIONALE_HUB_FILES", ""))

MISTRAL, SMOLVLM, SMOLVLM2, DOCLING, QWEN2, QWEN25, QWEN3, INTERNVL, ONEVISION = FOLDERS = (
    "llava-hf__llava-v1.6-mistral-7b-hf", "HuggingFaceTB__SmolVLM-256M-Instruct",
    "HuggingFaceTB__SmolVLM2-256M-Video-Instruct", "ibm-granite__granite-docling-258M", "Qwen__Qwen2-VL-2B-Instruct",
    "Qwen__Qwen2.5-VL-7B-Instruct", "Qwen__Qwen3-VL-8B-Instruct", "OpenGVLab__InternVL3-8B-hf",
    "llava-hf__llava-onevision-qwen2-7b-ov-hf",
)  # fmt: skip

LLAMA3 = "llava-hf__llama3-llava-next-8b-hf"  # the paper's model; its tokenizer is not there


@cache
def processor_of(folder: str) -> Any:
    """Its processor; reading a tokenizer takes a second or two."""
    return AutoProcessor.from_pretrained(HUB / folder)


TEXT = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "depth": 1,
    "num_heads": 2, "out_hidden_size": 16, "embed_dim": 16, "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
}  # fmt: skip


def tiny_config(folder: str) -> Any:
    """Its config with one narrow layer each; ids, vocabulary and image settings are the checkpoint's."""
    config = AutoConfig.from_pretrained(HUB / folder)
    for part, sizes in ((config.get_text_config(), TEXT), (config.vision_config, VISION)):
        for name in sizes.keys() & part.to_dict().keys():
            setattr(part, name, sizes[name])
    text, vision = config.get_text_config(), config.vision_config
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1]
    if "mrope_section" in (getattr(text, "rope_parameters", None) or {}):
        text.rope_parameters["mrope_section"] = [1, 1, 2]
    if vision.model_type == "qwen2_vl":
        vision.hidden_size = text.hidden_size  # of what leaves the tower
    return config


def tiny_checkpoint(folder: str, out: Path, **others: str) -> Path:
    """A checkpoint of the real class and files with random weights; `others` replaces files' text by name."""
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(tiny_config(folder)).save_pretrained(out)
    for file in (HUB / folder).iterdir():
        if file.name not in ("config.json", "SOURCE.md"):
            shutil.copyfile(file, out / file.name)
    for name, text in others.items():
        (out / f"{name}.json").write_text(text, encoding="utf-8")
    return out
