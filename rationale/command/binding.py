"""Every setting is read by something, bound by name and of the right kind: looked at before anything runs."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from difflib import get_close_matches
from functools import cache, reduce
from pkgutil import resolve_name
from typing import Any, get_args, get_type_hints

from typing_extensions import is_typeddict

from rationale.artifacts import UserError
from rationale.earlier import renamed
from rationale.endpoints.keys import strings

Problem = tuple[str, str]  # where the setting stands, and what is wrong with it
FLAGS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}  # Hydra's own
BY_CODE = {"stage", "steps", "objective", "force", "hydra"}  # what the command reads, and Hydra
REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([A-Za-z_][\w.]*+)(?!:)")  # its name ends in "." before a nested one
ALONE = re.compile(r"\$\{([A-Za-z_][\w.]*)\}")


def refuse(problems: Iterable[Problem], files: dict[str, str]) -> None:
    """Raise UserError with a line for each problem: its place, the files that write such a key, what is wrong."""
    lines = []
    for place, what in dict.fromkeys(problems):
        key = re.compile(rf"^[^#]*(?<![\w.]){re.escape(re.sub(r'.*[.]', '', place))}[\"']?:", re.MULTILINE)
        where = [name for name, text in files.items() if key.search(text)]
        lines.append(f"{place} ({', '.join(where[:3]) or 'command line'}): {renamed([place]) or what}")
    if lines:
        raise UserError("\n".join(lines))


def nearest(key: str, known: Iterable[str]) -> str:
    """What was probably meant, as the end of a message."""
    matches = get_close_matches(key, sorted(set(known)), n=1, cutoff=0.5)
    return f"; nearest: {matches[0]}" if matches else ""


def unread(config: dict[str, Any], files: dict[str, str]) -> Iterator[Problem]:
    """Settings of a composed config that no `${...}` of its `files` (text by name) reads, and no `_target_`.

    A reference to a node reads what is below it, but not one to a whole group: that is shown (logger.config) or, with a
    `_target_`, bound by name.
    """
    groups = {name.split("/")[0] for name in files if "/" in name}
    texts = [*files.values(), *(text for _, text in strings(config))]
    read = {name for text in texts for name in REFERENCE.findall(text)}

    def is_read(place: str) -> bool:
        words = place.split(".")
        above = {".".join(words[:n]) for n in range(1, len(words))}
        return place in read or any(f"{a}." in read or (a in read and a not in groups) for a in above)

    for place in leaves({key: node for key, node in config.items() if key not in BY_CODE}):
        if not is_read(place):
            yield place, f"nothing reads it{nearest(place, [name.rstrip('.') for name in read])}"


def leaves(node: dict[str, Any], place: str = "") -> Iterator[str]:
    """Places of what is read as one: values, lists and calls."""
    for key, value in node.items():
        here = f"{place}.{key}".lstrip(".")
        if isinstance(value, dict) and value and "_target_" not in value:
            yield from leaves(value, here)
        else:
            yield here


def misfits(value: Any, place: str, written: Any, config: dict[str, Any]) -> Iterator[Problem]:
    """Settings below a resolved node that the calls there do not take: by their names, then by their kinds.

    `written` is the node as it stands in `config`, unresolved, which leads to the place where a setting was made.
    """
    place, written = followed(place, written, config)
    if isinstance(value, dict) and "_target_" in value:
        yield from unbound(value, place, written, config)
        if value.get("_recursive_") is False:
            return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from misfits(item, at(place, key), child(written, key), config)


def at(place: str, key: Any) -> str:
    """The place of what a node holds."""
    return f"{place}[{key}]" if isinstance(key, int) else f"{place}.{key}"


def followed(place: str, written: Any, config: dict[str, Any]) -> tuple[str, Any]:
    """Where a node is written: itself, or what it only refers to."""
    seen = set()  # in a part of a config a name may lead to itself
    while isinstance(written, str) and (name := ALONE.fullmatch(written)) and written not in seen:
        seen.add(written)
        place, written = name[1], reduce(child, name[1].split("."), config)
    return place, written


def child(node: Any, key: Any) -> Any:
    """What a node holds under a key or number; None where it does not, or is itself a reference."""
    try:
        return node[key]
    except (KeyError, IndexError, TypeError):
        return None


def unbound(node: dict[str, Any], place: str, written: Any, config: dict[str, Any]) -> Iterator[Problem]:
    """What one call does not take."""
    name = node["_target_"]
    try:
        target = resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        yield f"{place}._target_", f"{name} cannot be imported: {error}"
        return
    taken, hints = schema(target)
    given = {key: value for key, value in node.items() if key not in FLAGS}
    places = {key: followed(at(place, key), child(written, key), config) for key in given}
    unknown = given.keys() - taken.keys()
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        yield from ((places[key][0], f"{name} takes no {key!r}{nearest(key, taken)}") for key in sorted(unknown))
    named = [p for p in taken.values() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    absent = [p.name for p in named if p.default is p.empty and p.name not in given]
    if absent and not node.get("_partial_"):
        yield place, f"{name} needs {', '.join(absent)}"
    # A call is looked at by itself; `out` comes from the command.
    plain = [key for key in given if key in hints and key != "out" and not calls(given[key])]
    strict = name.startswith("rationale.")
    wrong = [p for key in plain for p in of_another_kind(target, key, given[key], *places[key], config, strict)]
    yield from wrong
    if is_dataclass(target) and not (unknown or absent or wrong or calls(list(given.values()))):
        try:
            target(**given)  # a value: what it says of several settings together
        except ValueError as error:
            yield place, str(error)


@cache
def schema(target: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """Parameters of a call, and what they are annotated as."""
    plain = inspect.isclass(target) and not is_dataclass(target)
    return dict(inspect.signature(target).parameters), hints_of(target.__init__ if plain else target)


def hints_of(target: Any) -> dict[str, Any]:
    """What is annotated, where all of it can be looked up."""
    try:
        return get_type_hints(target, include_extras=True)
    except (NameError, TypeError):  # names that another library imports for its type checker alone
        return {}


def calls(value: Any) -> bool:
    """Whether a call is anywhere below."""
    if isinstance(value, list):
        return any(map(calls, value))
    return isinstance(value, dict) and ("_target_" in value or any(map(calls, value.values())))


def of_another_kind(
    target: Any, key: str, value: Any, place: str, written: Any, config: dict[str, Any], strict: bool
) -> Iterator[Problem]:
    """Where a plain value is not what a call's `key` is annotated as; `strict` as JSON is: "1" is no number, a list is
    a tuple."""
    from pydantic import ValidationError  # not needed where all is up to date

    if (taken := adapter(target, key)) is None:
        return
    try:
        taken.validate_json(json.dumps(value, default=str), strict=strict)
    except ValidationError as refusal:
        errors = refusal.errors()
        unknown = {error["loc"][:-1] for error in errors if error["loc"][-1:] == ("[key]",)}
        for error in errors:
            if error["loc"] not in unknown:  # of a key that is none, its value is not looked at
                yield located(error["loc"], place, value, written, config), in_words(error, schema(target)[1][key])


@cache
def adapter(target: Any, key: str) -> Any:
    """What checks a parameter by its annotation; None where that is a class of one's own, or a Protocol."""
    from pydantic import PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(schema(target)[1][key])
    except (PydanticUserError, NameError):
        return None


def located(loc: tuple[str | int, ...], place: str, value: Any, written: Any, config: dict[str, Any]) -> str:
    """Where an error is: the words of its place that are keys; pydantic names kinds of values there too."""
    words = [word for word in loc if word != "[key]"]
    for number, word in enumerate(words, start=1):
        if number == len(words) or (word in value if isinstance(value, dict) else isinstance(word, int)):
            place, written = followed(at(place, word), child(written, word), config)
            value = child(value, word)
    return place


def in_words(error: Any, hint: Any) -> str:
    """An error of pydantic's in the words of a setting."""
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden") or error["loc"][-1:] == ("[key]",):
        key = next(word for word in reversed(error["loc"]) if word != "[key]")
        return f"is no setting there{nearest(str(key), names_in(hint))}"
    return f"{re.sub('^Input ', '', error['msg'])}, found {error['input']!r}"


def names_in(hint: Any) -> Iterator[str]:
    """Keys that values of an annotation have: fields, and words."""
    if isinstance(hint, str):
        yield hint
    elif is_dataclass(hint) or is_typeddict(hint):
        yield from hint.__annotations__
        for part in hints_of(hint).values():
            yield from names_in(part)
    for part in get_args(hint):
        yield from names_in(part)
