"""Tasks: functions that yield questions with their images, here from drawn worlds; `public` has those of rows."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from random import Random
from types import MappingProxyType
from typing import Any, Literal

from rationale.artifacts import UserError
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
    images: Limit, one_hop_per_image: Limit, sums_share: Fraction, seed: int, varied: bool = False
) -> Iterator[Sourced]:
    """What the base model knows: describing an image, reading off one thing, adding and subtracting two numbers.

    `sums_share` of the images carry a sum besides. Drawn from the train split of the worlds with its own seed; no
    multi-step question and no rationale. `varied` puts up to five filler sentences before each request and starts some
    descriptions with a phrase, so that where a description begins differs: with two wordings of like length a model
    learns to read at fixed distances from the image, and fails at any other prompt (experiments/LOG.md).
    """
    for name, module in WORLDS.items():
        readings = [t for t in module.TEMPLATES if t.hop == 1]
        for index, world, rng, data in _drawn(name, "train", images, seed):
            rows = [("describe", rng.choice(DESCRIBE), module.listing(world, rng))]
            for template in rng.sample(readings, min(one_hop_per_image, len(readings))):
                args = template.pick(world, rng)
                rows.append(("one_hop", rng.choice(template.ask).format(**args), template.solve(world, args).answer))
            if rng.random() < sums_share:
                a, b = rng.randint(0, 99), rng.randint(1, 40)
                high, low = max(a % 61, b), min(a % 61, b)
                plus = rng.random() < 0.5
                asked, answer = (f"What is {a} + {b}?", a + b) if plus else (f"What is {high} - {low}?", high - low)
                rows.append(("one_hop", asked, str(answer)))
            for number, (skill, question, answer) in enumerate(rows):
                if varied:
                    question = " ".join([*rng.choices(FILLERS, k=rng.randint(0, 5)), question])
                    answer = rng.choice(STARTS) + answer if skill == "describe" else answer
                yield _open(f"base-{name}-{index}-{number}", name, skill, question, answer), [(data, ".png")]


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
        for index, world, rng, data in _drawn(name, "train", images, seed, largest):
            for number in range(described_per_image):
                asked, said = drill.describe_and_say(module, world, rng)
                question = " ".join([*rng.choices(FILLERS, k=rng.randint(0, 2)), asked])
                yield _open(f"drill-{name}-{index}-{number}", name, "describe", question, said), [(data, ".png")]
            for number in range(drills_per_image):
                yield _open(f"text-{name}-{index}-{number}", "text", "drill", *rng.choice(drills)(rng)), []
