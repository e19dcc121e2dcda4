"""What is known of each family of vision-language models: its components' parameters, and how responses share a prompt.

A new family is one entry of FAMILIES, and a builder in tests/families.py.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

VISION, PROJECTOR, LANGUAGE = COMPONENTS = ("vision_tower", "multi_modal_projector", "language_model")


@dataclass(frozen=True, slots=True)
class Family:
    """`vision` and `projector` begin the names of their parameters, as transformers' modeling files have them.

    `sharing` is how responses share a prompt. tree: in one row of `models.prefix`, compared with plain rows, values and
    gradients (tests/test_prefix.py). state: without gradient, by copies of the cache after it, which holds a state that
    runs through the layers (tests/test_prefill.py). None: not at all; it may lose our keywords, or look at less.
    """

    vision: str
    projector: tuple[str, ...]
    sharing: Literal["tree", "state"] | None = "tree"

    def component(self, name: str) -> str:
        """That of a parameter. The language model is all that is neither vision tower nor projector: its head, and
        LLaVA-NeXT's `image_newline`, which is an embedding among those of words."""
        name = name.removeprefix("base_model.model.")  # peft's
        if name.startswith(self.projector):
            return PROJECTOR
        return VISION if name.startswith(self.vision) else LANGUAGE


_LLAVA = Family("model.vision_tower.", ("model.multi_modal_projector.",))
# The projector is the end of the tower's own module; Qwen3's also takes features half way up.
_QWEN = Family("model.visual.", ("model.visual.merger.", "model.visual.deepstack_merger_list."))
_SMOL = Family("model.vision_model.", ("model.connector.",))
FAMILIES = {  # by the config's model_type
    "llava": _LLAVA, "llava_next": _LLAVA, "llava_onevision": _LLAVA,
    "qwen2_vl": _QWEN, "qwen2_5_vl": _QWEN, "qwen3_vl": _QWEN, "qwen3_5": replace(_QWEN, sharing="state"),
    "smolvlm": _SMOL, "idefics3": _SMOL, "internvl": _LLAVA, "gemma3": replace(_LLAVA, sharing=None),
}  # fmt: skip
# Language models inside those whose tree was compared (tests/test_text_models.py).
TEXT_MODELS = ("llama", "mistral", "qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text")


def has_adapter(model: nn.Module) -> bool:
    """Whether peft's LoRA is around a model. Where nobody imported peft, which takes seconds, there is none."""
    peft = sys.modules.get("peft")
    return peft is not None and isinstance(model, peft.PeftModel)


def base_of(model: nn.Module) -> nn.Module:
    """The transformers model itself, its LoRA layers in place."""
    return model.get_base_model() if has_adapter(model) else model


def family_of(model: nn.Module) -> Family | None:
    """None where it is not known."""
    return FAMILIES.get(getattr(getattr(base_of(model), "config", None), "model_type", None))


def is_in(model: nn.Module, component: str, name: str) -> bool:
    """Whether the parameter `name` of this model belongs to one of COMPONENTS. Anything else, and every component of a
    family that is not known, is a piece of names."""
    family = family_of(model)
    if component not in COMPONENTS or family is None:
        return component in name
    return component == family.component(name)


def obstacle(model: nn.Module) -> str | None:
    """Why this model's prefix cannot be shared in a tree, in words; None where it can.

    A row of a tree is exact where every layer looks at all that came before: no window shorter than the longest row, no
    chunks, no state that runs through the branches.
    """
    config = base_of(model).config
    text = config.get_text_config()
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    compared = [name for name, family in FAMILIES.items() if family.sharing == "tree"]
    if config.model_type not in compared:
        return f"{config.model_type} was not compared; those that were: {', '.join(compared)}"
    if text.model_type not in TEXT_MODELS:
        return f"{config.model_type} with {text.model_type} inside was not compared, only with {', '.join(TEXT_MODELS)}"
    if partial := sorted(set(kinds or ()) - {"full_attention"}):
        return f"layers of its {text.model_type} are {' and '.join(partial)}"
    if window is not None and not kinds and window < text.max_position_embeddings:
        return f"its {text.model_type} looks back {window} tokens, of at most {text.max_position_embeddings}"
    return None


def can_share(model: nn.Module) -> bool:
    """Whether this model's prefix can be shared in a tree."""
    return obstacle(model) is None


def can_copy(model: nn.Module) -> bool:
    """Whether a prompt can be read once, without gradient, and its cache copied for every response to it."""
    family = family_of(model)
    return can_share(model) or (family is not None and family.sharing == "state")
