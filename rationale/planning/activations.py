"""Bytes that forward keeps for backward, layer by layer, as transformers' modules are written."""

from __future__ import annotations

from rationale.models import prefix
from rationale.models.families import PROJECTOR, VISION
from rationale.planning.sizes import Rows, Sizes

FLOAT = 4  # bytes
AUTOCAST = 1.2  # of a layer, measured on CPU (tests/test_planning.py): what is cast is kept as it was and as it is


def text_layer(sizes: Sizes, rows: Rows, width: int, varlen: bool) -> float:
    """Of one layer of a Llama or Qwen, without checkpointing; `width` bytes are a number in the layer's own type.

    A token keeps, of each of two RMSNorms, its input in float32 (it is squared there), its normalised input and its
    output; query, key, value and the output of attention; and of the MLP four inner vectors: the gate before and after
    SiLU, the other branch, and their product. With branches there is one copy more of the output, put together or
    turned round. In segments (`varlen`: on CUDA, `models.packed`) keys and values are copied along every branch's path;
    elsewhere they are repeated for every head, and there are the parts of the output, and a mask as numbers, of branch
    tokens by row.
    """
    h, a, k, f = (getattr(sizes.text, name) for name in ("width", "attention", "keys", "inner"))
    norms = 2 * (FLOAT + 2 * width) * h
    kept = rows.tokens * (norms + width * (2 * a + 2 * k + 4 * f))
    if rows.branches > 1 and varlen:
        kept += width * (rows.tokens * a + 2 * k * rows.rows * rows.branches * rows.prefix)
    elif rows.branches > 1:
        late = rows.branches * rows.response
        kept += width * (rows.tokens * (3 * a - 2 * k) + rows.rows * late * (rows.prefix + late))
    return kept


def vision_layer(sizes: Sizes, rows: Rows, width: int) -> float:
    """Of one layer of CLIP: of each of two LayerNorms input and output; query, key, value and the output of attention;
    and of the MLP three inner vectors, since QuickGELU keeps its input, a sigmoid, and what they make."""
    return rows.patches * width * (8 * sizes.vision.width + 3 * sizes.vision.inner)


def saved(
    sizes: Sizes, rows: Rows, width: int, checkpointing: bool, varlen: bool = True, autocast: bool = False,
    peak: bool = False,
) -> float:  # fmt: skip
    """Bytes kept at the end of forward; with `peak` the most in backward, which goes through one layer at a time that
    checkpointing did not keep.

    With checkpointing a layer keeps its input alone; under autocast that is float32, as the weights are. Whatever lies
    before the first trained weight keeps nothing: a frozen tower and projector. Weights of the language model that are
    frozen beneath a LoRA need less than is counted here, which is then a bound. After the layers: the last norm, and
    the states that meet the vocabulary.
    """
    text, vision = sizes.text, sizes.vision
    stream, cast = (FLOAT, AUTOCAST) if autocast else (width, 1)
    whole = [text_layer(sizes, rows, width, varlen) * cast]
    layer = rows.tokens * text.width * stream if checkpointing else whole[0]
    total = text.count * layer + rows.tokens * text.width * (FLOAT + stream) + rows.predicted * text.width * width
    if sizes.parts[VISION].trainable:
        whole.append(vision_layer(sizes, rows, width) * cast)
        layer = rows.patches * vision.width * stream if checkpointing else whole[1]
        total += vision.count * layer + rows.patches * width * (3 * vision.width + sizes.pixels)
    if sizes.parts[VISION].trainable or sizes.parts[PROJECTOR].trainable:
        total += rows.patches * width * (vision.width + 2 * text.width)
    return total + max(whole) * (peak and checkpointing)


def logits(sizes: Sizes, rows: Rows, width: int) -> tuple[float, float]:
    """Bytes of the logits and their gradients, each in the layer's own type and in float32: of one tile of the head
    (`models.prefix.head_logps`), and of all response tokens, were they made at once."""
    numbers = rows.predicted * sizes.vocabulary
    each = 2 * (width + FLOAT)
    return each * min(numbers, prefix.TILE_ELEMENTS), each * numbers
