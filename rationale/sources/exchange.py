"""Training rows in the forms of other projects: LLaVA, TRL and ShareGPT; a form is a reader and a writer of `Row`.

- llava: `conversations` of from/value turns with `<image>` in the text, one `image` or a list (LLaVA's and LLaVA-NeXT's
  `train.py`; the released `Share4oReasoning/sft_data`). Pairs are `question`, `chosen`, `rejected`, `image`, as in
  `Share4oReasoning/dpo_data` and openbmb/RLAIF-V-Dataset, whose image is a file in the row.
- trl: `images` and lists of role/content messages: `prompt` with `completion`, or with `chosen` and `rejected`
  (TRL 1.16, "vision" data sets; `messages` is read too). The image is a part of the content, not a mark in the text.
- sharegpt: LLaMA-Factory's `messages` (role/content) or `conversations` (from/value), `images`, and for pairs one
  `chosen` and one `rejected` message (its `data/README.md`).

A row of ours also carries `record`, JSON text with what these forms have no key for; their loaders pass over it.
It is text because a column of nested objects that differ from row to row has no type in Arrow.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rationale.prompts import PLACE
from rationale.schema import RowError
from rationale.sources.rows import listed, unwrapped

MARK = "<image>"
Wrap = tuple[str, str]  # what stands before and after a prompt, where it shows images there
FIRST, LAST = re.compile(rf"(?:{MARK}\n?)*"), re.compile(rf"(?:\n?{MARK})*\Z")
HUMAN, MODEL = ("human", "user"), ("gpt", "assistant")
DIALOGUES = ("conversations", "messages")  # fields of several turns
Images = list[str | bytes]
Turn = tuple[str, Any]  # the field that it stands in, for messages, and its content


@dataclass(frozen=True, slots=True)
class Row:
    """One row to imitate, or one preference (`rejected` is a text), whatever its form.

    `prompt` is the user's turn without the marks of images that stand before or after it; `wrap` is what stood there.
    Within it images are `<image 2>` and so on, by their place in `images`, which are paths as the row has them, or the
    bytes of files. `rest` holds the keys that the form does not name, `fields`
    where prompt, response and rejected stood, for messages.
    """

    prompt: str
    images: Images
    response: str
    rejected: str | None = None
    record: str | None = None
    wrap: Wrap = ("", "")
    rest: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = field(default=("prompt", "response", "rejected"), compare=False)

    @property
    def asked(self) -> str:
        """The prompt with the marks of its images."""
        return self.wrap[0] + MARK.join(self.texts) + self.wrap[1]

    @property
    def texts(self) -> list[str]:
        """The prompt between the images that stand within it."""
        return PLACE.split(self.prompt)[::2] if len(self.images) > 1 else [self.prompt]

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


def _images(row: dict, name: str, where: str) -> Images:
    """Paths, or the bytes of files that the row carries; a form names one in `image`, or a list in `images`."""
    if name == "images" and not isinstance(row.get(name) or [], list):
        raise RowError(f"{where}: field 'images' should be a list of images, found {row[name]!r:.80}")
    found = [unwrapped(value, f"{where}: field {name!r}") for value in listed(row.get(name))]
    for value in found:
        if not (isinstance(value, str | bytes) and value):
            raise RowError(f"{where}: field {name!r} should be the path of an image, found {value!r:.80}")
    return found


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


def _marked(turn: Turn, num: int, where: str) -> tuple[str, Wrap]:
    """The prompt without the marks of its `num` images before or after it; those of several may stand within it. A
    prompt that is shown its image without a mark has none."""
    text = _text(turn, where)
    before = FIRST.match(text)[0]
    after = LAST.search(text)[0] if not before else ""
    after = after * (after.count(MARK) == num)
    texts = text[len(before) : len(text) - len(after)].split(MARK)
    if text.count(MARK) not in (0, num) or (num < 2 and len(texts) > 1):
        wanted = {0: "not at all, as the row has no image", 1: "at its start or end, once"}.get(num, f"{num} times")
        raise RowError(f"{where}: field {_key(turn)!r} should have {MARK} {wanted}, found {text!r:.120}")
    return _joined(texts, num, before.count(MARK), turn, where), (before, after)


def _joined(texts: list[str], num: int, shown: int, turn: Turn, where: str) -> str:
    """Texts with the images between them, of which `shown` stand before."""
    if num > 1 and (spelled := PLACE.search("".join(texts))):
        said = f"{where}: field {_key(turn)!r} says {spelled[0]} in words"
        raise RowError(f"{said}, which would show an image there; write {spelled[0][1:-1]}")
    return texts[0] + "".join(f"<image {shown + k}>{text}" for k, text in enumerate(texts[1:], 1))


def _parts(turn: Turn, num: int, where: str) -> tuple[str, Wrap]:
    """Text of a message's content, and where among its parts the `num` images stand, if they do."""
    name, content = turn
    if isinstance(content, str):
        return _joined([content], num, 0, turn, where), ("", "")
    kinds = [part.get("type") if isinstance(part, dict) else None for part in content or ()]
    count = kinds.count("image")
    if set(kinds) not in ({"text"}, {"text", "image"}) or (num < 2 and kinds.count("text") > 1) or count > max(1, num):
        wanted = "one text and one image" if num < 2 else f"texts and {num} images"
        raise RowError(f"{where}: field {name!r} should be text, or {wanted}, found {content!r:.120}")
    if count and not num:
        raise RowError(f"{where}: field 'images' is empty, but the {name} has a part of type image")
    if count not in (0, num):
        raise RowError(f"{where}: field 'images' holds {num}, but the {name} has {count} parts of type image")
    texts = [""]  # between the images
    for part in content:
        if part["type"] == "image":
            texts.append("")
        else:
            texts[-1] += _text((name, part.get("text")), where)
    before = next((k for k, text in enumerate(texts) if text), count)
    after = count if not before and not any(texts[1:]) else 0
    prompt = _joined(texts[before : count + 1 - after], num, before, turn, where)
    return prompt, (MARK * before, MARK * after)


def llava_turns(row: dict, where: str) -> tuple[Images, list[Turn]]:
    """`conversations` of two turns, or question, chosen and rejected."""
    images = _images(row, "image", where)
    if "conversations" in row:
        return images, _turns(row, "conversations", [HUMAN, MODEL], where)
    return images, [(name, row.get(name)) for name in ("question", "chosen", "rejected")]


def trl_turns(row: dict, where: str) -> tuple[Images, list[Turn]]:
    """`messages`, `prompt` with `completion`, or `prompt` with `chosen` and `rejected`."""
    images = _images(row, "images", where)
    if "messages" in row:
        return images, _turns(row, "messages", [HUMAN, MODEL], where)
    replies = ("chosen", "rejected") if "chosen" in row else ("completion",)
    said = [turn for name in replies for turn in _turns(row, name, [MODEL], where)]
    return images, _turns(row, "prompt", [HUMAN], where) + said


def sharegpt_turns(row: dict, where: str) -> tuple[Images, list[Turn]]:
    """`messages` or `conversations`; with `chosen` and `rejected` beside them it is a pair."""
    images, name = _images(row, "images", where), "messages" if "messages" in row else "conversations"
    if "chosen" not in row:
        return images, _turns(row, name, [HUMAN, MODEL], where)
    said = [turn for name in ("chosen", "rejected") for turn in _turns(row, name, [MODEL], where)]
    return images, _turns(row, name, [HUMAN], where) + said


def as_llava(row: Row) -> dict[str, Any]:
    """As LLaVA's loader takes it, and LLaVA-NeXT's several images; a row of text alone has no `image`."""
    image = {"image": row.images if len(row.images) > 1 else row.images[0]} if row.images else {}
    if row.rejected is not None:
        return {**image, "question": row.asked, **row.replies}
    return {**image, "conversations": [{"from": "human", "value": row.asked}, {"from": "gpt", "value": row.response}]}


def as_trl(row: Row) -> dict[str, Any]:
    """As `DPOTrainer` and `SFTTrainer` take it; every part has both keys, so that all rows have one type in Arrow."""

    picture = {"type": "image", "text": None}

    def message(role: str, texts: list[str], wrap: Wrap = ("", "")) -> list[dict]:
        between = [part for text in texts for part in (picture, {"type": "text", "text": text})][1:]
        kept = [part for part in between if part["text"] != "" or not any(texts)]
        parts = [picture] * wrap[0].count(MARK) + kept + [picture] * wrap[1].count(MARK)
        return [{"role": role, "content": parts}]

    said = {name: message("assistant", [text]) for name, text in row.replies.items()}
    return {"images": row.images, "prompt": message("user", row.texts, row.wrap), **said}


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
    """How a project spells a row: `turns` finds a row's images and its prompt, response and what was rejected; `spell`
    writes them. `wrap` is where it shows an image, `suffix` the kind of its files, `keys` those that are the form's
    own whether or not a row's turns stand there. `marked`: images are marks in the text, not parts beside it."""

    turns: Callable[[dict, str], tuple[Images, list[Turn]]]
    spell: Callable[[Row], dict[str, Any]]
    wrap: Wrap
    suffix: str
    keys: tuple[str, ...]
    marked: bool = True

    def read(self, row: dict, where: str) -> Row:
        images, turns = self.turns(row, where)
        prompt, wrap = (_marked if self.marked else _parts)(turns[0], len(images), where)
        said = [_text(turn, where) if self.marked else _parts(turn, 0, where)[0] for turn in turns[1:]]
        rest = {key: kept for key, kept in row.items() if key not in {*self.keys, *map(_key, turns), "record"}}
        fields = (*(field for field, _ in turns), "")[:3]
        return Row(prompt, images, *[*said, None][:2], row.get("record"), wrap, rest, fields)

    def write(self, row: Row) -> dict[str, Any]:
        return {**row.rest, **self.spell(row), **({} if row.record is None else {"record": row.record})}


ROW_FORMS = {
    "llava": Form(llava_turns, as_llava, (f"{MARK}\n", ""), ".json", ("image",)),
    "trl": Form(trl_turns, as_trl, (MARK, ""), ".jsonl",
                ("images", "messages", "prompt", "completion", "chosen", "rejected"), marked=False),
    "sharegpt": Form(sharegpt_turns, as_sharegpt, (f"{MARK}\n", ""), ".json", ("images", "chosen", "rejected")),
}  # fmt: skip
