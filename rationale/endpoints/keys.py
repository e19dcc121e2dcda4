"""Keys and passwords: refused among the settings, which logs, manifests and Hydra's own files repeat."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from rationale.artifacts import UserError, leaves

_SECRET = r"[\w.-]*(?:api[_-]?key|secret|password|passwd|authorization|(?:access|auth|bearer|hf)[_-]?token)"
NAME = re.compile(rf"{_SECRET}|key|token", re.IGNORECASE)  # of a setting; max_tokens and image_token are none
# In an override or an address: a name of that kind and its value.
GIVEN = re.compile(rf"(?:(?<![\w.-])({_SECRET})[=:]|[?&](key|token)=)\s*[^\s]", re.IGNORECASE)
# What the keys of OpenAI and its like, of Hugging Face and of an Authorization header begin with.
KEY = re.compile(r"(?<![\w-])(?:sk-[\w-]{16,}|hf_[A-Za-z0-9]{16,}|Bearer\s+[\w.~+/=-]{8,})")
LOGIN = re.compile(r"://[^/@\s]+@")
VARIABLE = re.compile(r"[A-Za-z_]\w*")


def refuse_keys(settings: Any) -> None:
    """Raise UserError where settings hold a key or a password, by name or by look, or the content of an environment
    variable that they name in `key_variable`. The message says where, and never what."""
    contents = [os.environ[name] for name in key_variables(settings) if len(os.environ.get(name, "")) > 5]
    for place, text in strings(settings):
        name = place.rpartition(".")[2]
        if name == "key_variable":
            found = "is not a variable's name" if not VARIABLE.fullmatch(text) or KEY.search(text) else ""
        elif NAME.fullmatch(name) and text:
            found = "is called as a key or a password is"
        elif given := GIVEN.search(text):
            found = f"gives {given[1] or given[2]!r}"
        elif LOGIN.search(text):
            found = "holds a password"
        else:
            found = "holds a key" if KEY.search(text) or any(content in text for content in contents) else ""
        if found:
            raise UserError(
                f"{place} {found}: settings are written into artifacts and logs. Put the key into an environment "
                f"variable and set key_variable to that variable's name; if this key was real, replace it, for it "
                f"stands in your shell's history"
            )


def strings(node: Any) -> Iterator[tuple[str, str]]:
    """Each string below a node, with the place of the setting that holds it, alone or in a list."""
    return ((re.sub(r"(\.\d+)+$", "", place), value) for place, value, _ in leaves(node) if isinstance(value, str))


def key_variables(settings: Any) -> set[str]:
    """Names of the environment variables that settings say a key is in."""
    return {text for place, text in strings(settings) if place.rpartition(".")[2] == "key_variable"}
