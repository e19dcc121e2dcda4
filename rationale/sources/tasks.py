"""Tasks: functions that yield questions with their images, here from drawn worlds; `public` has those of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, Literal

from rationale.artifacts import UserError
from rationale.schema import Question, Sourced
from rationale.settings import Count, Limit, Share, Split
from rationale.worlds import WORLDS, drill, split_of


def png_bytes(image: Any) -> bytes:
    """A picture of Pillow as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _draw(world_name: str, split: str, seed: int, index: int, largest: Mapping[str, int]) -> tuple[dict, Random]:
    """The index-th world of a split; drawn again until its content hash falls into that split."""
    size = [largest[world_name]] if world_name in largest else []
    rng = Random(f"{seed}/{world_name}/{split}/{index}")
    while True:
        world = WORLDS[world_name].draw_world(rng, *size)
        if split_of(world) == split:
            return world, rng


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
    for name, world_module in WORLDS.items():
        for split, count in images.items():
            for index in range(count):
                world, rng = _draw(name, split, seed, index, largest)
                data = png_bytes(world_module.render(world))
                asked = 0
                known = [t for t in world_module.TEMPLATES if t.hop == 2 and not t.held_out]
                chosen = rng.sample(known, len(known))[:questions_per_image]
                if split == "test":
                    unseen = [t for t in world_module.TEMPLATES if t.held_out]
                    chosen += rng.sample(unseen, min(held_out_per_image, len(unseen)))
                for template in chosen:
                    args = template.pick(world, rng)
                    if args is None:
                        continue
                    solution = template.solve(world, args)
                    yield (
                        Question(
                            question_id=f"{name}-{split}-{index:05d}-{asked}",
                            dataset=f"{name}_held_out" if template.held_out else name,
                            split=split,
                            image="",
                            question=rng.choice(template.ask).format(**args),
                            answers=[solution.answer],
                            kind=world_module.KIND,
                            scorer=world_module.SCORER,
                            choices=solution.choices,
                            meta={"world": world, "task": name, "template": template.name, "args": args},
                        ),
                        data,
                        ".png",
                    )
                    asked += 1


def _open(question_id: str, world_name: str, skill: str, question: str, answer: str) -> Question:
    """A pre-training row, asked as it stands."""
    return Question(
        question_id=question_id, dataset=world_name, split="train", image="", question=question, answers=[answer],
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
    images: Limit, one_hop_per_image: Limit, sums_share: Share, seed: int, varied: bool = False
) -> Iterator[Sourced]:
    """What the base model knows: describing an image, reading off one thing, adding and subtracting two numbers.

    `sums_share` of the images carry a sum besides. Drawn from the train split of the worlds with its own seed; no
    multi-step question and no rationale. `varied` puts up to five filler sentences before each request and starts some
    descriptions with a phrase, so that where a description begins differs: with two wordings of like length a model
    learns to read at fixed distances from the image, and fails at any other prompt (experiments/LOG.md).
    """
    for name, module in WORLDS.items():
        for index in range(images):
            world, rng = _draw(name, "train", seed, index, {})
            data = png_bytes(module.render(world))
            rows = [("describe", rng.choice(DESCRIBE), module.listing(world, rng))]
            readings = [t for t in module.TEMPLATES if t.hop == 1]
            for template in rng.sample(readings, min(one_hop_per_image, len(readings))):
                args = template.pick(world, rng)
                rows.append(("one_hop", rng.choice(template.ask).format(**args), template.solve(world, args).answer))
            if rng.random() < sums_share:
                a, b = rng.randint(0, 99), rng.randint(1, 40)
                high, low = max(a % 61, b), min(a % 61, b)
                plus = rng.random() < 0.5
                rows.append(
                    (
                        "one_hop",
                        f"What is {a} + {b}?" if plus else f"What is {high} - {low}?",
                        str(a + b if plus else high - low),
                    )
                )
            for number, (skill, asked, said) in enumerate(rows):
                question, answer = asked, said
                if varied:
                    question = " ".join([*rng.choices(FILLERS, k=rng.randint(0, 5)), asked])
                    answer = rng.choice(STARTS) + said if skill == "describe" else said
                yield _open(f"base-{name}-{index:05d}-{number}", name, skill, question, answer), data, ".png"


def mini_drills(
    images: Limit,
    described_per_image: Limit,
    drills_per_image: Limit,
    seed: int,
    largest: Mapping[Literal[tuple(WORLDS)], Count],
    only: Sequence[str] = (),
) -> Iterator[Sourced]:
    """Descriptions with single steps that follow from them, and the same steps on text alone (`worlds.drill`).

    `largest` is that of the questions to come (`mini`); `only` names the drills on text to draw from, if not all.
    """
    known = {d.__name__ for d in drill.IN_TEXT}
    if unknown := sorted(set(only) - known):
        raise UserError(f"dataset.only: no drill is called {unknown}; there are {sorted(known)}")
    drills = [d for d in drill.IN_TEXT if not only or d.__name__ in only]
    for name, module in WORLDS.items():
        for index in range(images):
            world, rng = _draw(name, "train", seed, index, largest)
            data = png_bytes(module.render(world))
            for number in range(described_per_image):
                asked, said = drill.describe_and_say(module, world, rng)
                question = " ".join([*rng.choices(FILLERS, k=rng.randint(0, 2)), asked])
                yield _open(f"drill-{name}-{index:05d}-{number}", name, "describe", question, said), data, ".png"
            for number in range(drills_per_image):
                yield _open(f"text-{name}-{index:05d}-{number}", "text", "drill", *rng.choice(drills)(rng)), None, ""
