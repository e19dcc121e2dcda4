"""The parts of a vision-language model by the same three names in every family, whatever its parameters are called."""

from __future__ import annotations

from torch import nn

from rationale.models.prefix import base_of

VISION, PROJECTOR, LANGUAGE = PARTS = ("vision_tower", "multi_modal_projector", "language_model")

# What names of the vision tower and of the projector begin with, as transformers' modeling files have them.
_LLAVA = {PROJECTOR: ("model.multi_modal_projector.",), VISION: ("model.vision_tower.",)}
# The projector of the Qwen families is the end of the tower's own module; Qwen3's also takes features half way up.
_QWEN = {PROJECTOR: ("model.visual.merger.", "model.visual.deepstack_merger_list."), VISION: ("model.visual.",)}
_SMOL = {PROJECTOR: ("model.connector.",), VISION: ("model.vision_model.",)}
BEGINNINGS = {
    "llava": _LLAVA, "llava_next": _LLAVA, "llava_onevision": _LLAVA, "internvl": _LLAVA, "gemma3": _LLAVA,
    "qwen2_vl": _QWEN, "qwen2_5_vl": _QWEN, "qwen3_vl": _QWEN, "qwen3_5": _QWEN,
    "smolvlm": _SMOL, "idefics3": _SMOL,
}  # fmt: skip


def is_in(model: nn.Module, part: str, name: str) -> bool:
    """Whether the parameter `name` of this model belongs to a part: one of PARTS, or else a piece of names.

    The language model is all that is neither vision tower nor projector: its head, and LLaVA-NeXT's `image_newline`,
    which is an embedding among those of words. In a family that is not known here, every part is a piece of names.
    """
    own = BEGINNINGS.get(getattr(getattr(base_of(model), "config", None), "model_type", None))
    if part not in PARTS or own is None:
        return part in name
    name = name.removeprefix("base_model.model.")  # peft's
    return part == next((p for p, beginnings in own.items() if name.startswith(beginnings)), LANGUAGE)
