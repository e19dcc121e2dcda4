"""Settings: frozen values that check themselves by the annotations of their fields, whoever makes them.

The signature is the schema. A call from a config is looked at before anything runs (`binding`), a call from Python when
it is made; both read the same annotations, and a mapping becomes the value that is annotated. Where keys are free,
the annotation is `dict[str, ...]`: data sets, labels, parts of a model, what another library takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from inspect import signature
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, validate_call
from pydantic.dataclasses import dataclass

_CONFIG = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
settings = partial(dataclass, frozen=True, slots=True, config=_CONFIG)  # of a class: frozen, and a wrong value refused

Count = Annotated[int, Field(ge=1)]
Several = Annotated[int, Field(ge=2)]
Limit = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
HalfFraction = Annotated[float, Field(ge=0, le=0.5)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Addresses = str | Annotated[list[str], Field(min_length=1)]  # of servers: one, or several of the same model

Style = Literal["direct", "cot"]
Split = Literal["train", "val", "test"]
Side = Literal["sft", "dpo"]
Layout = Literal["auto", "rows", "tree"]


def typed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose arguments are refused, by name, where they are not what is annotated."""
    checked, names = validate_call(config=_CONFIG)(function), signature(function)

    @wraps(function)
    def called(*arguments: Any, **named: Any) -> Any:
        return checked(**names.bind(*arguments, **named).arguments)

    return called


@settings
class Validation:
    """What a training measures: rows held out, about a `fraction` of images or questions, every so many (`every`, a
    fraction) of its steps."""

    fraction: Fraction
    every: PositiveFraction
