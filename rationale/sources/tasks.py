"""Tasks: functions that yield questions with their images, here from drawn worlds; `public` has those of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from itertools import product
from random import Random
from types import MappingProxyType
from typing import Any, Literal

from rationale.schema import Question, Sourced
from rationale.settings import Count, Fraction, Limit, Split
from rationale.worlds import WORLDS, drill, split_of


def png_bytes(image: Any) -> bytes:
    """A picture of Pillow as the bytes of a PNG file."""
    image.save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


def _drawn(
    name: str, split: str, count: int, seed: int, largest: Mapping[str, int] = MappingProxyType({})
) -> Iterator[tuple[str, dict, Random, bytes]]:
    """Worlds of a split with their numbers, what draws on from each, and its image.

    A world is drawn again until its content hash falls into that split.
    """
    module = WORLDS[name]
    for index in range(count):
        rng = Random(f"{seed}/{name}/{split}/{index}")
        while split_of(world := module.draw_world(rng, *([largest[name]] if name in largest else []))) != split:
            continue
        yield f"{index:05d}", world, rng, png_bytes(module.render(world))


def mini(
    images: dict[Split, Limit],
    questions_per_image: Limit,
    held_out_per_image: Limit,
    seed: int,
    largest: Mapping[Literal[tuple(WORLDS)], Count] = MappingProxyType({}),
) -> Iterator[Sourced]:
    """Multi-step questions about drawn images; `images` counts images of each world by split.

    `largest` sets how hard a world is: the largest value or price, or the number of objects; where it is silent, the
    world's own.

    Test images carry questions of the held-out templates as well, under the data set name `<world>_held_out`.
    The world and the question's arguments stay in `meta`: from them `teacher=program` works out a rationale.
    """
    for (name, module), (split, count) in product(WORLDS.items(), images.items()):
        known = [t for t in module.TEMPLATES if t.hop == 2 and not t.held_out]
        unseen = [t for t in module.TEMPLATES if t.held_out]
        for index, world, rng, data in _drawn(name, split, count, seed, largest):
            chosen = rng.sample(known, len(known))[:questions_per_image]
            if split == "test":
                chosen += rng.sample(unseen, min(held_out_per_image, len(unseen)))
            asked = 0
            for template in chosen:
                if (args := template.pick(world, rng)) is None:
                    continue
                solution = template.solve(world, args)
                question = Question(
                    question_id=f"{name}-{split}-{index}-{asked}",
                    dataset=f"{name}_held_out" if template.held_out else name, split=split, images=[],
                    question=rng.choice(template.ask).format(**args), answers=[solution.answer], kind=module.KIND,
                    scorer=module.SCORER, choices=solution.choices,
                    meta={"world": world, "task": name, "template": template.name, "args": args},
                )  # fmt: skip
                yield question, [(data, ".png")]
                asked += 1


def _open(question_id: str, world_name: str, skill: str, question: str, answer: str) -> Question:
    """A pre-training row, asked as it stands."""
    return Question(
        question_id=question_id, dataset=world_name, split="train", images=[], question=question, answers=[answer],
        kind="open", meta={"skill": skill},
    )  # fmt: skip


DESCRIBE = ("Describe the image.", "List what the image shows.")
FILLERS = (
    "Here is an image.", "Look at the image first.", "What is in it?", "I want to see what the image shows.",
    "Read it from left to right, row by row.", "There are red, blue and green things.", "Let me see what you read.",
    "Take a look and then answer.", "How many are there and which?", "A. one\nB. two\nC. three",
    "The answer is in the image.", "What is the value of each and which is first?",
)  # fmt: skip
STARTS = ("", "", "Here is what it shows. ", "I see this. ", "This is the list. ", "First the list. ")


def mini_base(
    copies: Limit,
    drills: Limit,
    images: Limit,
    readings: Fraction,
    steps: Fraction,
    seed: int,
    largest: Mapping[Literal[tuple(WORLDS)], Count] = MappingProxyType({}),
) -> Iterator[Sourced]:
    """What the base model is taught (`worlds.drill`), by skill: `copies` lists said again and `drills` single steps of
    language, as text alone; of `images` of each world a description each, for a share of `readings` one thing read
    off, for a share of `steps` a description and what follows from it.

    Drawn from the train split of the worlds with its own seed; no multi-step question and no rationale. Up to five
    filler sentences stand before each request and a phrase before some descriptions, so that where a description begins
    differs: with two wordings of like length a model learns to read at fixed distances from the image, and fails at any
    other prompt (experiments/LOG.md).
    """
    for skill, count in (("copy", copies), ("drill", drills)):
        rng = Random(f"{seed}/{skill}")
        for index in range(count):
            say = drill.repeat if skill == "copy" else rng.choice(drill.IN_TEXT)
            yield _open(f"{skill}-{index:06d}", "text", skill, *say(rng)), []
    for name, module in WORLDS.items():
        known = [t for t in module.TEMPLATES if t.hop == 1]
        for index, world, rng, data in _drawn(name, "train", images, seed, largest):
            rows = [("describe", rng.choice(DESCRIBE), rng.choice(STARTS) + module.listing(world, rng))]
            template = rng.choice(known)
            if rng.random() < readings and (args := template.pick(world, rng)) is not None:
                rows.append(("read", rng.choice(template.ask).format(**args), template.solve(world, args).answer))
            if rng.random() < steps:
                rows.append(("step", *drill.describe_and_say(module, world, rng)))
            for skill, asked, said in rows:
                asked = " ".join([*rng.choices(FILLERS, k=rng.randint(0, 5)), asked])
                yield _open(f"{skill}-{name}-{index}", name, skill, asked, said), [(data, ".png")]
