"""QLoRA (Dettmers et al., 2023): frozen weights in 4 bits beneath adapters in float32."""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import BitsAndBytesConfig

from rationale.artifacts import UserError


def config_of(quantization: dict[str, Any], lora: dict[str, Any] | None) -> BitsAndBytesConfig:
    """What `from_pretrained` takes; refused where it would not be trained, or not be as asked."""
    if lora is None:
        raise UserError(
            "model.quantization without adapters: 4-bit weights cannot be trained; set model/lora=language, or "
            "model.quantization=null"
        )
    if unknown := sorted(quantization.keys() - inspect.signature(BitsAndBytesConfig).parameters.keys()):
        raise UserError(f"model.quantization: transformers.BitsAndBytesConfig knows no {', '.join(unknown)}")
    if not quantization.get("load_in_4bit"):
        raise UserError("model.quantization: only load_in_4bit=true is supported")
    if find_spec("bitsandbytes") is None:
        raise UserError(
            "model.quantization needs bitsandbytes: pip install bitsandbytes, or in the clone pip install -e '.[qlora]'"
        )
    return BitsAndBytesConfig(**quantization)


def prepared(model: nn.Module) -> nn.Module:
    """Frozen, and what is not in 4 bits (norms, embeddings, head, what was skipped) in float32, as peft prepares it.

    On a CPU with bfloat16 instructions bitsandbytes would repack weights when it first evaluates: they would move, and
    a reference in evaluation mode would no longer give the values of the policy in training mode. That is turned off.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    import peft

    return peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
