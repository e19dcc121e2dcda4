"""Training rows in the forms of other projects: LLaVA, TRL and ShareGPT; a form is a reader and a writer of `Row`.

- llava: `conversations` of from/value turns with `<image>` in the text, one `image` (LLaVA's `train.py`; the released
  `Share4oReasoning/sft_data`). Pairs are `question`, `chosen`, `rejected`, `image`, as in `Share4oReasoning/dpo_data`
  and openbmb/RLAIF-V-Dataset, whose image is a file in the row.
- trl: `images` and lists of role/content messages: `prompt` with `completion`, or with `chosen` and `rejected`
  (TRL 1.16, "vision" data sets; `messages` is read too). The image is a part of the content, not a mark in the text.
- sharegpt: LLaMA-Factory's `messages` (role/content) or `conversations` (from/value), `images`, and for pairs one
  `chosen` and one `rejected` message (its `data/README.md`).

A row of ours also carries `record`, JSON text with what these forms have no key for; their loaders pass over it.
It is text because a column of nested objects that differ from row to row has no type in Arrow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rationale.schema import RowError
from rationale.sources.rows import unwrapped

MARK = "<image>"
WRAPS = ((f"{MARK}\n", ""), (MARK, ""), ("", f"\n{MARK}"), ("", MARK))  # where a prompt shows its image
HUMAN, MODEL = ("human", "user"), ("gpt", "assistant")
Image = str | bytes | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row to imitate, or one preference (`rejected` is a text), whatever its form.

    `prompt` is the user's turn without the mark of its image; `wrap` is what stood before and after it. `image` is a
    path as the row has it, the bytes of a file, or None. `rest` holds the keys that the form does not name, `fields`
    where prompt, response and rejected stood, for messages.
    """

    prompt: str
    image: Image
    response: str
    rejected: str | None = None
    record: str | None = None
    wrap: tuple[str, str] = ("", "")
    rest: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, str, str] = field(default=("prompt", "response", "rejected"), compare=False)


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where}: field {name!r} should be text, found {value!r:.80}")
    return value


def _image(value: Any, name: str, where: str) -> Image:
    """A path, or the bytes of a file that the row carries."""
    value = value if value is None or value == [] else unwrapped(value, f"{where}: field {name!r}")
    if value is not None and not (isinstance(value, str | bytes) and value):
        raise RowError(f"{where}: field {name!r} should be the path of an image, found {value!r:.80}")
    return value


def _one_image(row: dict, where: str) -> Image:
    images = row.get("images") or []
    if not isinstance(images, list) or len(images) > 1:
        raise RowError(f"{where}: field 'images' should be a list of one image or none, found {images!r:.80}")
    return _image(images[0], "images", where) if images else None


def _unwrapped(text: str, image: Image, name: str, where: str) -> tuple[str, tuple[str, str]]:
    """The prompt without the one mark of its image, which stands first, last or not at all."""
    if image is not None:
        for before, after in WRAPS:
            inner = text[len(before) : len(text) - len(after)]
            if before + inner + after == text and MARK not in inner:
                return inner, (before, after)
    if MARK in text:
        wanted = "at its start or end, once" if image is not None else "not at all, as the row has no image"
        raise RowError(f"{where}: field {name!r} should have {MARK} {wanted}, found {text!r:.120}")
    return text, ("", "")


def _turns(value: Any, roles: list[tuple[str, ...]], name: str, where: str) -> list[Any]:
    """Contents of turns whose roles are exactly `roles`; both ways to spell a turn are read."""
    turns = value if isinstance(value, list) else [value]
    found = []
    for turn in turns:
        keys = ("from", "value") if isinstance(turn, dict) and "from" in turn else ("role", "content")
        if not isinstance(turn, dict) or set(turn) != set(keys):
            raise RowError(f"{where}: field {name!r} should hold turns of {' and '.join(keys)}, found {turn!r:.80}")
        found.append((turn[keys[0]], turn[keys[1]]))
    if len(found) != len(roles) or any(role not in known for (role, _), known in zip(found, roles, strict=True)):
        wanted, seen = ", ".join(known[0] for known in roles), ", ".join(str(role) for role, _ in found)
        raise RowError(f"{where}: field {name!r} should have the turns {wanted} and no other, found {seen or 'none'}")
    return [content for _, content in found]


def _rest(row: dict, *used: str) -> dict:
    return {key: value for key, value in row.items() if key not in {*used, "record"}}


def read_llava(row: dict, where: str) -> Row:
    """`conversations` of two turns, or question, chosen and rejected."""
    image = _image(row.get("image"), "image", where)
    if "conversations" in row:
        name, rejected = "conversations", None
        asked, said = _turns(row[name], [HUMAN, MODEL], name, where)
        rest, fields = _rest(row, "image", name), (f"{name}[0]", f"{name}[1]", "")
    else:
        name = "question"
        asked, said, rejected = (_text(row.get(key), key, where) for key in ("question", "chosen", "rejected"))
        rest, fields = _rest(row, "image", name, "chosen", "rejected"), (name, "chosen", "rejected")
    prompt, wrap = _unwrapped(_text(asked, name, where), image, name, where)
    return Row(prompt, image, _text(said, name, where), rejected, row.get("record"), wrap, rest, fields)


def write_llava(row: Row) -> dict[str, Any]:
    """As LLaVA's loader takes it; a row of text alone has no `image`."""
    asked = row.wrap[0] + row.prompt + row.wrap[1]
    image = {} if row.image is None else {"image": row.image}
    if row.rejected is None:
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": row.response}]
        return {**row.rest, **image, "conversations": turns, **_record(row)}
    return {**row.rest, **image, "question": asked, "chosen": row.response, "rejected": row.rejected, **_record(row)}


def _record(row: Row) -> dict[str, str]:
    return {} if row.record is None else {"record": row.record}


def _parts(content: Any, name: str, where: str) -> tuple[str, tuple[str, str]]:
    """Text of a message's content, and where among its parts the image stands."""
    if isinstance(content, str):
        return content, ("", "")
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content or ()]
    if kinds not in (["text"], ["image", "text"], ["text", "image"]):
        raise RowError(f"{where}: field {name!r} should be text, or one text and one image, found {content!r:.120}")
    wrap = {1: ("", ""), 2: (MARK, "") if kinds[0] == "image" else ("", MARK)}[len(kinds)]
    return _text(content[kinds.index("text")].get("text"), name, where), wrap


def read_trl(row: dict, where: str) -> Row:
    """`messages`, `prompt` with `completion`, or `prompt` with `chosen` and `rejected`."""
    image = _one_image(row, where)
    if "messages" in row:
        asked, said = _turns(row["messages"], [HUMAN, MODEL], "messages", where)
        said, rejected = _parts(said, "messages", where)[0], None
        fields = ("messages[0]", "messages[1]", "")
    else:
        (asked,) = _turns(row.get("prompt"), [HUMAN], "prompt", where)

        def reply(key: str) -> str:
            return _parts(_turns(row.get(key), [MODEL], key, where)[0], key, where)[0]

        fields = ("prompt", "chosen" if "chosen" in row else "completion", "rejected")
        said, rejected = reply(fields[1]), reply("rejected") if "chosen" in row else None
    prompt, wrap = _parts(asked, fields[0], where)
    if image is None and wrap != ("", ""):
        raise RowError(f"{where}: field 'images' is empty, but the prompt has a part of type image")
    rest = _rest(row, "images", "messages", "prompt", "completion", "chosen", "rejected")
    return Row(prompt, image, said, rejected, row.get("record"), wrap, rest, fields)


def write_trl(row: Row) -> dict[str, Any]:
    """As `DPOTrainer` and `SFTTrainer` take it; every part has both keys, so that all rows have one type in Arrow."""

    def message(role: str, text: str, wrap: tuple[str, str] = ("", "")) -> list[dict]:
        picture = {"type": "image", "text": None}
        parts = [picture] * bool(wrap[0]) + [{"type": "text", "text": text}] + [picture] * bool(wrap[1])
        return [{"role": role, "content": parts}]

    replies = (
        {"completion": row.response} if row.rejected is None else {"chosen": row.response, "rejected": row.rejected}
    )
    said = {key: message("assistant", text) for key, text in replies.items()}
    images = [] if row.image is None else [row.image]
    return {**row.rest, "images": images, "prompt": message("user", row.prompt, row.wrap), **said, **_record(row)}


def read_sharegpt(row: dict, where: str) -> Row:
    """`messages` or `conversations`; with `chosen` and `rejected` beside them it is a pair."""
    image = _one_image(row, where)
    name = "messages" if "messages" in row else "conversations"
    if "chosen" in row:
        fields = (f"{name}[0]", "chosen", "rejected")
        (asked,) = _turns(row.get(name), [HUMAN], name, where)
        said, rejected = (
            _text(*_turns(row.get(key), [MODEL], key, where), key, where) for key in ("chosen", "rejected")
        )
    else:
        fields = (f"{name}[0]", f"{name}[1]", "")
        (asked, said), rejected = _turns(row.get(name), [HUMAN, MODEL], name, where), None
    prompt, wrap = _unwrapped(_text(asked, name, where), image, name, where)
    rest = _rest(row, "images", name, "chosen", "rejected")
    return Row(prompt, image, _text(said, name, where), rejected, row.get("record"), wrap, rest, fields)


def write_sharegpt(row: Row) -> dict[str, Any]:
    """As LLaMA-Factory takes it with the `dataset_info.json` of `sharegpt_info`."""
    asked = row.wrap[0] + row.prompt + row.wrap[1]
    images = [] if row.image is None else [row.image]
    if row.rejected is None:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": row.response}]
        return {**row.rest, "messages": turns, "images": images, **_record(row)}
    pair = {"chosen": {"from": "gpt", "value": row.response}, "rejected": {"from": "gpt", "value": row.rejected}}
    asking = [{"from": "human", "value": asked}]
    return {**row.rest, "conversations": asking, **pair, "images": images, **_record(row)}


def sharegpt_info(files: dict[str, str]) -> dict[str, Any]:
    """LLaMA-Factory's description of the files, by whether they hold "sft" rows or "dpo" pairs."""
    openai = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    known = {
        "sft": {"columns": {"messages": "messages", "images": "images"}, "tags": openai},
        "dpo": {"ranking": True, "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected",
                                             "images": "images"}},
    }  # fmt: skip
    return {f"rationale_{kind}": {"file_name": name, "formatting": "sharegpt", **known[kind]}
            for kind, name in files.items()}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """How a project spells a row; `wrap` is where it shows the image, `suffix` the kind of its files."""

    read: Callable[[dict, str], Row]
    write: Callable[[Row], dict[str, Any]]
    wrap: tuple[str, str]
    suffix: str


FORMS = {
    "llava": Form(read_llava, write_llava, WRAPS[0], ".json"),
    "trl": Form(read_trl, write_trl, WRAPS[1], ".jsonl"),
    "sharegpt": Form(read_sharegpt, write_sharegpt, WRAPS[0], ".json"),
}
