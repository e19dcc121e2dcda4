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
Wrap = tuple[str, str]  # what stands before and after a prompt, where it shows its image
WRAPS: tuple[Wrap, ...] = ((f"{MARK}\n", ""), (MARK, ""), ("", f"\n{MARK}"), ("", MARK))
HUMAN, MODEL = ("human", "user"), ("gpt", "assistant")
DIALOGUES = ("conversations", "messages")  # fields of several turns
Image = str | bytes | None
Turn = tuple[str, Any]  # the field that it stands in, for messages, and its content


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
    wrap: Wrap = ("", "")
    rest: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = field(default=("prompt", "response", "rejected"), compare=False)

    @property
    def asked(self) -> str:
        """The prompt with the mark of its image."""
        return self.wrap[0] + self.prompt + self.wrap[1]

    @property
    def images(self) -> list[str | bytes]:
        return [] if self.image is None else [self.image]

    @property
    def replies(self) -> dict[str, str]:
        """What was said, under the names that a preference has; one to imitate has a `completion` alone."""
        if self.rejected is None:
            return {"completion": self.response}
        return {"chosen": self.response, "rejected": self.rejected}


def _text(turn: Turn, where: str) -> str:
    if not isinstance(turn[1], str):
        raise RowError(f"{where}: field {_key(turn)!r} should be text, found {turn[1]!r:.80}")
    return turn[1]


def _key(turn: Turn) -> str:
    return turn[0].partition("[")[0]


def _image(row: dict, name: str, where: str) -> Image:
    """A path, or the bytes of a file that the row carries; the form names one in `image`, or a list in `images`."""
    value = row.get(name)
    if name == "images":
        if not isinstance(images := value or [], list) or len(images) > 1:
            raise RowError(f"{where}: field 'images' should be a list of one image or none, found {images!r:.80}")
        value = images[0] if images else None
    value = value if value is None or value == [] else unwrapped(value, f"{where}: field {name!r}")
    if value is not None and not (isinstance(value, str | bytes) and value):
        raise RowError(f"{where}: field {name!r} should be the path of an image, found {value!r:.80}")
    return value


def _turns(row: dict, name: str, roles: list[tuple[str, ...]], where: str) -> list[Turn]:
    """The turns of a field, whose roles are exactly `roles`; both ways to spell a turn are read."""
    turns = row[name] if isinstance(row.get(name), list) else [row.get(name)]
    found = []
    for turn in turns:
        keys = ("from", "value") if isinstance(turn, dict) and "from" in turn else ("role", "content")
        if not isinstance(turn, dict) or set(turn) != set(keys):
            raise RowError(f"{where}: field {name!r} should hold turns of {' and '.join(keys)}, found {turn!r:.80}")
        found.append((turn[keys[0]], turn[keys[1]]))
    if len(found) != len(roles) or any(role not in known for (role, _), known in zip(found, roles, strict=True)):
        wanted, seen = ", ".join(known[0] for known in roles), ", ".join(str(role) for role, _ in found)
        raise RowError(f"{where}: field {name!r} should have the turns {wanted} and no other, found {seen or 'none'}")
    return [(f"{name}[{i}]" if name in DIALOGUES else name, content) for i, (_, content) in enumerate(found)]


def _marked(turn: Turn, image: Image, where: str) -> tuple[str, Wrap]:
    """The prompt without the one mark of its image, which stands first, last or not at all."""
    text = _text(turn, where)
    if image is not None:
        for before, after in WRAPS:
            inner = text[len(before) : len(text) - len(after)]
            if before + inner + after == text and MARK not in inner:
                return inner, (before, after)
    if MARK in text:
        wanted = "at its start or end, once" if image is not None else "not at all, as the row has no image"
        raise RowError(f"{where}: field {_key(turn)!r} should have {MARK} {wanted}, found {text!r:.120}")
    return text, ("", "")


def _parts(turn: Turn, where: str) -> tuple[str, Wrap]:
    """Text of a message's content, and where among its parts the image stands."""
    name, content = turn
    if isinstance(content, str):
        return content, ("", "")
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content or ()]
    if kinds not in (["text"], ["image", "text"], ["text", "image"]):
        raise RowError(f"{where}: field {name!r} should be text, or one text and one image, found {content!r:.120}")
    place = kinds.index("text")
    return _text((name, content[place].get("text")), where), (MARK * place, MARK * (len(kinds) - 1 - place))


def llava_turns(row: dict, where: str) -> tuple[Image, list[Turn]]:
    """`conversations` of two turns, or question, chosen and rejected."""
    image = _image(row, "image", where)
    if "conversations" in row:
        return image, _turns(row, "conversations", [HUMAN, MODEL], where)
    return image, [(name, row.get(name)) for name in ("question", "chosen", "rejected")]


def trl_turns(row: dict, where: str) -> tuple[Image, list[Turn]]:
    """`messages`, `prompt` with `completion`, or `prompt` with `chosen` and `rejected`."""
    image = _image(row, "images", where)
    if "messages" in row:
        return image, _turns(row, "messages", [HUMAN, MODEL], where)
    replies = ("chosen", "rejected") if "chosen" in row else ("completion",)
    said = [turn for name in replies for turn in _turns(row, name, [MODEL], where)]
    return image, _turns(row, "prompt", [HUMAN], where) + said


def sharegpt_turns(row: dict, where: str) -> tuple[Image, list[Turn]]:
    """`messages` or `conversations`; with `chosen` and `rejected` beside them it is a pair."""
    image, name = _image(row, "images", where), "messages" if "messages" in row else "conversations"
    if "chosen" not in row:
        return image, _turns(row, name, [HUMAN, MODEL], where)
    said = [turn for name in ("chosen", "rejected") for turn in _turns(row, name, [MODEL], where)]
    return image, _turns(row, name, [HUMAN], where) + said


def as_llava(row: Row) -> dict[str, Any]:
    """As LLaVA's loader takes it; a row of text alone has no `image`."""
    image = {} if row.image is None else {"image": row.image}
    if row.rejected is not None:
        return {**image, "question": row.asked, **row.replies}
    return {**image, "conversations": [{"from": "human", "value": row.asked}, {"from": "gpt", "value": row.response}]}


def as_trl(row: Row) -> dict[str, Any]:
    """As `DPOTrainer` and `SFTTrainer` take it; every part has both keys, so that all rows have one type in Arrow."""

    def message(role: str, text: str, wrap: Wrap = ("", "")) -> list[dict]:
        picture = {"type": "image", "text": None}
        parts = [picture] * bool(wrap[0]) + [{"type": "text", "text": text}] + [picture] * bool(wrap[1])
        return [{"role": role, "content": parts}]

    said = {name: message("assistant", text) for name, text in row.replies.items()}
    return {"images": row.images, "prompt": message("user", row.prompt, row.wrap), **said}


def as_sharegpt(row: Row) -> dict[str, Any]:
    """As LLaMA-Factory takes it with the `dataset_info.json` of `sharegpt_info`."""
    if row.rejected is None:
        turns = [{"role": "user", "content": row.asked}, {"role": "assistant", "content": row.response}]
        return {"messages": turns, "images": row.images}
    said = {name: {"from": "gpt", "value": text} for name, text in row.replies.items()}
    return {"conversations": [{"from": "human", "value": row.asked}], **said, "images": row.images}


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
    """How a project spells a row: `turns` finds a row's image and its prompt, response and what was rejected; `spell`
    writes them. `wrap` is where it shows the image, `suffix` the kind of its files, `keys` those that are the form's
    own whether or not a row's turns stand there. `marked`: the image is a mark in the text, not a part beside it."""

    turns: Callable[[dict, str], tuple[Image, list[Turn]]]
    spell: Callable[[Row], dict[str, Any]]
    wrap: Wrap
    suffix: str
    keys: tuple[str, ...]
    marked: bool = True

    def read(self, row: dict, where: str) -> Row:
        image, turns = self.turns(row, where)
        prompt, wrap = _marked(turns[0], image, where) if self.marked else _parts(turns[0], where)
        if image is None and wrap != ("", ""):
            raise RowError(f"{where}: field 'images' is empty, but the prompt has a part of type image")
        said = [_text(turn, where) if self.marked else _parts(turn, where)[0] for turn in turns[1:]]
        rest = {key: kept for key, kept in row.items() if key not in {*self.keys, *map(_key, turns), "record"}}
        fields = (*(field for field, _ in turns), "")[:3]
        return Row(prompt, image, *[*said, None][:2], row.get("record"), wrap, rest, fields)

    def write(self, row: Row) -> dict[str, Any]:
        return {**row.rest, **self.spell(row), **({} if row.record is None else {"record": row.record})}


ROW_FORMS = {
    "llava": Form(llava_turns, as_llava, WRAPS[0], ".json", ("image",)),
    "trl": Form(trl_turns, as_trl, WRAPS[1], ".jsonl",
                ("images", "messages", "prompt", "completion", "chosen", "rejected"), marked=False),
    "sharegpt": Form(sharegpt_turns, as_sharegpt, WRAPS[0], ".json", ("images", "chosen", "rejected")),
}  # fmt: skip
