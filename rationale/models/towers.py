"""The vision tower's output where nothing trains it: counted without being made, or made once for each image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from rationale.models.families import base_of, family_of
from rationale.models.fingerprints import bytes_of, digest
from rationale.models.prefix import forward_replaced


class Shapes(TorchFunctionMode):
    """Linear maps and attention give anything of the right shape at once, normalisations and activations what came."""

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is F.linear:
            states, weight = args[:2]
            return states.new_empty(*states.shape[:-1], len(weight))
        if function is F.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        if function in (F.layer_norm, F.gelu, F.silu):
            return args[0].contiguous()
        return function(*args, **(kwargs or {}))


@contextmanager
def read_once(model: nn.Module) -> Iterator[None]:
    """Within it the tower reads no image, or tile of one, a second time, and no gradient goes into it. Nothing is
    changed where the projector is part of the tower's module (Qwen)."""
    base = base_of(model)
    family = family_of(base)
    if family is None or family.projector[0].startswith(family.vision):
        yield
        return
    tower, kept = base.get_submodule(family.vision.removesuffix(".")), {}
    plain = tower.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        number = next(len(leaf) for leaf in leaves if isinstance(leaf, Tensor))

        def given(tiles: list[int]) -> list[Any]:
            return [leaf[tiles] if isinstance(leaf, Tensor) and len(leaf) == number else leaf for leaf in leaves]

        keys = [
            digest(bytes_of(leaf) if isinstance(leaf, Tensor) else repr(leaf).encode() for leaf in given([i]))
            for i in range(number)
        ]
        if new := list({key: i for i, key in enumerate(keys) if key not in kept}.values()):
            again, named = tree_unflatten(given(new), spec)
            with torch.no_grad():
                made, out = tree_flatten(plain(*again, **named))
            for place, tile in enumerate(new):
                kept[keys[tile]] = [leaf if leaf is None else leaf[place : place + 1] for leaf in made], out
        parts, outs = zip(*(kept[key] for key in keys), strict=True)
        whole = [tiles[0] if tiles[0] is None else torch.cat(tiles) for tiles in zip(*parts, strict=True)]
        return tree_unflatten(whole, outs[0])

    with forward_replaced(tower, forward):
        yield
