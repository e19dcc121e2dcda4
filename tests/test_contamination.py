"""Rows that are trained on and also evaluated: found in any encoding and wording, and taken out only by choice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from rationale.artifacts import UserError
from rationale.command.cli import CONF
from rationale.images import open_image
from rationale.schema import Question, read_jsonl
from rationale.sources.contamination import (
    Contamination,
    Item,
    Match,
    image_matches,
    near,
    perceptual_hash,
    text_matches,
)
from rationale.stages import prepare

REAL = Path(os.environ.get("RATIONALE_REAL_DATA", "")) / "chartqa_cot"
real = pytest.mark.skipif(
    not os.environ.get("RATIONALE_REAL_DATA") or not REAL.is_dir(),
    reason="RATIONALE_REAL_DATA names no folder with chartqa_cot; set it to check the leaked chart",
)
LEAKED = REAL / "images/val/two_col_5884.png"  # byte-identical to a chart of the official test set


def drawn(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Rectangles of many greys; another seed is another picture."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", size, "white")
    for _ in range(40):
        x, y, w, h = rng.integers(0, 100, 4)
        ImageDraw.Draw(image).rectangle([x, y, x + w, y + h], fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    return image


def saved(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def check(**changes) -> Contamination:
    settings = {"against": [], "splits": ["train"], "held_out": ["test"], "images": "perceptual", "distance": 12,
                "ngram": 8, "action": "report"}  # fmt: skip
    return Contamination(**settings | changes)


def row(question_id: str, split: str, image: Path, question: str = "What is it?"):
    made = Question(question_id, "d", split, [], question, ["x"])
    return made, [(image.read_bytes(), image.suffix)]


def prepared(tmp_path: Path, rows: list, contamination: Contamination | None) -> tuple[Path, dict]:
    out = tmp_path / "questions"
    out.mkdir()
    return out, prepare.run(rows, out, contamination)


def kinds(ours: list[Path], others: list[Path], level: str = "perceptual") -> list[tuple[str, str]]:
    found = image_matches([Item(p.name, (p,)) for p in ours], [Item(p.name, (p,)) for p in others], level, distance=12)
    return sorted((m.question_id, m.kind) for m in found)


def test_each_level_finds_what_the_one_before_it_cannot(tmp_path):
    image = drawn(0)
    ours = saved(image, tmp_path / "ours.png")
    copies = {
        "exact": shutil.copy(ours, tmp_path / "copy.png"),
        "pixels": saved(image, tmp_path / "other.bmp"),
        "perceptual": saved(image.resize((96, 72)), tmp_path / "small.jpg", quality=75),
    }
    order = list(copies)
    for number, level in enumerate(order):
        for kind, copy in copies.items():
            expected = [("ours.png", kind)] if order.index(kind) <= number else []
            assert kinds([ours], [Path(copy)], level) == expected


def test_a_transparent_image_has_the_pixels_of_its_copy_on_white(tmp_path):
    layer = drawn(1).convert("RGBA")
    layer.putalpha(Image.linear_gradient("L").resize(layer.size))
    flat = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    assert kinds([saved(layer, tmp_path / "a.png")], [saved(flat, tmp_path / "b.png")], "pixels") == [
        ("a.png", "pixels")
    ]


def test_other_pictures_do_not_match(tmp_path):
    files = [saved(drawn(seed), tmp_path / f"{seed}.png") for seed in range(12)]
    assert kinds(files[:6], files[6:]) == []


def test_a_blank_image_matches_a_blank_one_and_nothing_else(tmp_path):
    blank, grey = (saved(Image.new("RGB", (80, 60), c), tmp_path / f"{c}.png") for c in ("white", "grey"))
    assert kinds([blank], [grey, saved(drawn(0), tmp_path / "drawn.png")]) == [("white.png", "perceptual")]


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=5), st.integers(0, 256))
@settings(max_examples=50, deadline=None)
def test_near_finds_the_pairs_that_counting_bits_one_by_one_finds(hashes, distance):
    bits = [int.from_bytes(h) for h in hashes]
    expected = {
        (i, j, d) for i, a in enumerate(bits) for j, b in enumerate(bits) if (d := (a ^ b).bit_count()) <= distance
    }
    rows = np.stack([np.frombuffer(h, np.uint8) for h in hashes])
    assert set(near(rows, rows, distance, block=2)) == expected


def test_a_hash_ignores_brightness():
    image = drawn(3)
    assert (perceptual_hash(image) == perceptual_hash(image.point(lambda v: v * 0.5 + 60))).mean() > 0.9


def texts(ours: str, *others: str, n: int = 4) -> list[Match]:
    rows = [Item(f"t{i}", (), text) for i, text in enumerate(others)]
    return list(text_matches([Item("q", (), ours, "train")], rows, n))


def test_n_words_in_a_row_match_and_fewer_do_not():
    assert texts("how many red bars are there", "so many red bars are gone") == [
        Match("q", "train", "ngram", "t0", 1, 2)  # "many red bars are"; "how" and "there" stand outside
    ]
    assert texts("how many red bars", "many red bars there") == []


def test_a_question_shorter_than_n_words_matches_as_a_whole_only():
    assert texts("What is it?", "what is it", "what is it then") == [Match("q", "train", "text", "t0", 1, 0)]


def test_case_and_punctuation_are_of_no_account_and_the_closest_row_is_named():
    found = texts("Is the BAR, in 2019, red?", "the bar in 2019 fell", "why is the bar in 2019 red", "none of it")
    assert found == [Match("q", "train", "ngram", "t1", 2, 0)]


def test_a_row_without_text_matches_none():
    assert texts("?!", "...") == []


def leaking(tmp_path: Path) -> list:
    shared, own = saved(drawn(0), tmp_path / "shared.png"), saved(drawn(1), tmp_path / "own.png")
    return [
        row("a", "train", shared, "How tall is the left bar?"), row("b", "train", own, "Which bar is blue?"),
        row("c", "test", shared, "Is it red?"), row("d", "test", shared, "Is it green?"),
    ]  # fmt: skip


def test_report_lists_every_match_and_changes_no_row(tmp_path):
    (tmp_path / "plain").mkdir()
    plain, _ = prepared(tmp_path / "plain", leaking(tmp_path), None)
    out, counts = prepared(tmp_path, leaking(tmp_path), check())
    assert read_jsonl(out / "contamination.jsonl", Match) == [Match("a", "train", "exact", "this artifact: c", 2, 0)]
    assert (out / "questions.jsonl").read_bytes() == (plain / "questions.jsonl").read_bytes()
    assert counts["contamination"] == {
        "checked": 2, "evaluated": 2, "matches": {"exact": 1}, "rows_matched": 1, "dropped": 0,
    }  # fmt: skip


def test_drop_takes_the_training_row_out_and_lists_it_with_its_reason(tmp_path):
    out, counts = prepared(tmp_path, leaking(tmp_path), check(action="drop"))
    assert [q.question_id for q in read_jsonl(out / "questions.jsonl", Question)] == ["b", "c", "d"]
    (line,) = [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert line["reasons"] == ["exact (0): this artifact: c"]
    assert line["question"]["question_id"] == "a"
    assert (counts["questions"], counts["by_split"], counts["contamination"]["dropped"]) == (
        3, {"d/test": 2, "d/train": 1}, 1
    )  # fmt: skip


def test_images_of_dropped_rows_go_unless_another_row_needs_them(tmp_path):
    evaluated = tmp_path / "evaluated"
    rows = leaking(tmp_path)
    saved(drawn(1), evaluated / "copy.png")
    out, _ = prepared(tmp_path, rows, check(against=[str(evaluated)], action="drop"))
    kept = {image for q in read_jsonl(out / "questions.jsonl", Question) for image in q.images}
    assert {f"images/{p.name}" for p in (out / "images").iterdir()} == kept
    assert len(kept) == 1


def test_rows_evaluated_elsewhere_are_found_and_its_training_rows_are_not_meant(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shared, trained = saved(drawn(5), tmp_path / "5.png"), saved(drawn(6), tmp_path / "6.png")
    elsewhere, _ = prepared(other, [row("x", "test", shared), row("y", "train", trained)], None)
    rows = [row("a", "train", shared), row("b", "train", trained)]
    out, _ = prepared(tmp_path, rows, check(against=[str(elsewhere)], ngram=None))
    assert [(m.question_id, m.other) for m in read_jsonl(out / "contamination.jsonl", Match)] == [
        ("a", f"{elsewhere}: x")
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": "hash"}, "contamination.images: 'hash'"),
        ({"action": "remove"}, "contamination.action: 'remove'"),
        ({"ngram": 0}, "contamination.ngram: 0"),
        ({"splits": ["test"]}, r"\['test'\] is both"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check(**changes)


def test_a_folder_with_nothing_to_compare_is_refused_before_any_row_is_read(tmp_path):
    def task():
        pytest.fail("a row was read")
        yield

    with pytest.raises(UserError, match=r"neither questions\.jsonl nor an image"):
        prepared(tmp_path, task(), check(against=[str(tmp_path / "empty")]))


def test_a_set_that_leaks_as_a_whole_is_not_dropped_in_silence(tmp_path):
    shared = saved(drawn(0), tmp_path / "evaluated/shared.png")
    with pytest.raises(UserError, match="every row matches"):
        prepared(tmp_path, [row("a", "train", shared)], check(against=[str(shared.parent)], action="drop"))


def charts() -> list[Item]:
    return [Item(path.name, (path,)) for path in sorted((REAL / "images").rglob("*.png"))]


@real
def test_the_leaked_chart_is_found_once_among_all_by_its_bytes(tmp_path):
    copy = shutil.copy(LEAKED, tmp_path / "two_col_83243.png")
    found = list(image_matches(charts(), [Item("official", (Path(copy),))], "exact", 12))
    assert [(m.question_id, m.kind, m.distance) for m in found] == [(LEAKED.name, "exact", 0)]
    assert len(charts()) == 1265


@real
@pytest.mark.slow
def test_the_leaked_chart_is_found_once_among_many_re_encoded_and_resized(tmp_path):
    with Image.open(LEAKED) as image:
        flat = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    encoded = saved(flat, tmp_path / "encoded.bmp")
    resized = saved(flat.resize((400, 278), Image.Resampling.LANCZOS), tmp_path / "resized.jpg", quality=60)
    some = [chart for number, chart in enumerate(charts()) if chart.name == LEAKED.name or number % 5 == 0]
    found = image_matches(some, [Item("encoded", (encoded,)), Item("resized", (resized,))], "perceptual", 12)
    assert [(m.question_id, m.kind, m.other) for m in found] == [
        (LEAKED.name, "pixels", "encoded"), (LEAKED.name, "perceptual", "resized"),
    ]  # fmt: skip


@real
@pytest.mark.slow
def test_no_two_of_the_charts_match_at_the_configured_distance():
    hashes = np.stack([perceptual_hash(open_image(item.images[0])) for item in charts()])
    distance = yaml.safe_load((CONF / "contamination/report.yaml").read_text(encoding="utf-8"))["distance"]
    assert [(i, j) for i, j, _ in near(hashes, hashes, distance) if i < j] == []
    assert sum(i < j for i, j, _ in near(hashes, hashes, 32)) == 102  # as conf/contamination/report.yaml says
