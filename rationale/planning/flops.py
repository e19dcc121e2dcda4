"""Floating-point operations of a training step, from sizes and tokens; a multiplication and an addition are two."""

from __future__ import annotations

from rationale.models.families import LANGUAGE, PROJECTOR, VISION
from rationale.planning.sizes import HEAD, Rows, Sizes

ATTENTION = "attention"  # of the language model


def forward(sizes: Sizes, rows: Rows) -> dict[str, float]:
    """Of one pass over a micro-batch, by part.

    A matrix of W numbers costs 2 W a token. Attention costs 4 x its width for each pair of tokens (scores, and the sum
    of the values), in the vision tower within each tile. The head sees response tokens alone (`models.logps`).
    Norms, activations and the softmax are left out, as is customary: they take time but hardly any operations.
    """
    vision, text = sizes.vision, sizes.text
    tower, projector, language = (2 * sizes.parts[name].multiplied for name in (VISION, PROJECTOR, LANGUAGE))
    return {
        VISION: (tower + 4 * vision.count * vision.attention * rows.tile_tokens) * rows.patches,
        PROJECTOR: projector * rows.patches,
        LANGUAGE: language * rows.tokens,
        ATTENTION: 4 * text.count * text.attention * rows.attended,
        HEAD: 2 * text.width * sizes.vocabulary * rows.predicted,
    }


def backward(sizes: Sizes, rows: Rows) -> dict[str, float]:
    """Of the gradients: as much as forward for those of a part's inputs, and once more for those of its weights.

    Inputs need none where nothing before them trains, and frozen weights need none: a frozen tower and projector cost
    no backward at all, and a LoRA of the language model half of it. A flash kernel makes the scores again: five
    products where forward has two. The tower's layers all count, though LLaVA reads the last but one.
    """
    once = forward(sizes, rows)
    share = {name: part.trainable / max(1, part.total) for name, part in sizes.parts.items()}
    tower = share[VISION] > 0
    through = {VISION: tower, PROJECTOR: tower, LANGUAGE: True, HEAD: True}
    found = {name: once[name] * (share[name] + through[name]) for name in sizes.parts}
    return found | {ATTENTION: 2.5 * once[ATTENTION]}


def recomputed(sizes: Sizes, rows: Rows, checkpointing: bool) -> dict[str, float]:
    """Of what backward computes once more: the head always, whose tiles are never kept; with gradient checkpointing
    the layers of the language model, and of the tower where it trains.

    A layer's last matrix is left out: recomputation ends when the last tensor that backward wants is there, which is
    that matrix's input (torch.utils.checkpoint, `use_reentrant=False`).
    """
    once = forward(sizes, rows)
    found = {HEAD: once[HEAD]}
    last_text, last_vision = (2 * layers.count * layers.inner * layers.width for layers in (sizes.text, sizes.vision))
    if checkpointing:
        found |= {ATTENTION: once[ATTENTION], LANGUAGE: once[LANGUAGE] - last_text * rows.tokens}
    if checkpointing and sizes.parts[VISION].trainable:
        found[VISION] = once[VISION] - last_vision * rows.patches
    return found


def training(sizes: Sizes, rows: Rows, checkpointing: bool, reference: str | None) -> float:
    """Of a micro-batch: forward, backward, what is computed again, and a forward of the reference if it has one.

    `scored` was computed beforehand: by one forward in all, where the others have one an epoch.
    """
    passes = [forward(sizes, rows), backward(sizes, rows), recomputed(sizes, rows, checkpointing)]
    if reference in ("frozen", "adapter_off"):
        passes.append(forward(sizes, rows))
    return sum(sum(each.values()) for each in passes)
