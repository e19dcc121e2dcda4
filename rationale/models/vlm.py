"""A vision-language model and its processor, loaded from a hub id or a folder that `save_pretrained` wrote."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from rationale.artifacts import UserError
from rationale.models.prefix import can_share, enable


@dataclass(slots=True)
class VLM:
    """Model and processor; `source` is where they came from."""

    model: nn.Module
    processor: Any
    source: str

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """A plain transformers folder that `from_pretrained` loads anywhere; LoRA weights are merged in.

        `weights` is the model's state dict where the model itself holds it only in part (ZeRO-3).
        """
        model = self.model if weights is None else _with_weights(self.model, weights)
        model = model.merge_and_unload() if isinstance(model, PeftModel) else model
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def _with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """A model built like this one that holds `weights`."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.device("meta"):
        built = type(base)(base.config)
        if isinstance(model, PeftModel):
            built = get_peft_model(built, model.peft_config["default"])
    built.load_state_dict(weights, assign=True)
    return built


def load(
    path: str,
    revision: str | None = None,
    dtype: str = "float32",
    attention: str = "sdpa",
    lora: dict[str, Any] | None = None,
    processor: dict[str, Any] | None = None,
) -> VLM:
    """Weights, processor and, where `lora` is given, a fresh LoRA adapter (keywords of peft.LoraConfig).

    safetensors only, no remote code. A checkpoint that lacks weights of the architecture that its config names,
    or holds others, is refused: training would start from random parts without a word.
    """
    local = Path(path).expanduser()
    if path.startswith((".", "/", "~", "runs", "experiments")) and not (local / "config.json").is_file():
        raise UserError(
            f"{path}: no model there (config.json is missing); run the stage that makes it, or set model.path"
        )
    if not local.exists() and path.count("/") != 1:
        raise UserError(f"{path}: neither a folder nor a hub id of the form owner/name; set model.path")
    common = {"revision": revision, "trust_remote_code": False}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*requires torchvision.*")
            loaded_processor = AutoProcessor.from_pretrained(path, **common, **(processor or {}))
        model, info = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, dtype), attn_implementation=attention, use_safetensors=True,
            output_loading_info=True, **common,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be loaded as a vision-language model: {str(error).splitlines()[0]}") from error
    wrong = {kind: sorted(info[kind]) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
    if wrong:
        shown = "; ".join(f"{kind} {len(keys)}, for example {keys[0]}" for kind, keys in wrong.items())
        raise UserError(
            f"{path}: the weights do not fit {type(model).__name__} ({shown}); use a checkpoint of this architecture"
        )
    if attention == "sdpa" and can_share(model):
        enable(model)
    if lora is not None:
        model = get_peft_model(model, LoraConfig(**lora))
    return VLM(model, loaded_processor, path)


def disable_dropout(model: nn.Module) -> None:
    """Zero every dropout, modules and the attention rates kept as floats alike.

    The preference loss compares two passes; noise in either would make the first loss differ from log 2.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout", "hidden_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def freeze(model: nn.Module, parts: Iterable[str]) -> None:
    """Stop gradients of every parameter whose name holds one of `parts`; a part that matches nothing is an error."""
    for part in parts:
        matched = [p for name, p in model.named_parameters() if part in name]
        if not matched:
            raise UserError(
                f"freeze: no parameter name holds {part!r}; names look like {next(iter(model.state_dict()))!r}"
            )
        for parameter in matched:
            parameter.requires_grad_(False)
