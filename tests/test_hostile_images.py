"""A folder of hostile images: each is read as a person sees it, or its row is refused by name."""

import io
import json
import os
import socket
from functools import partial

import numpy as np
import pytest
from pictures import png_header
from PIL import Image, PngImagePlugin

from rationale.artifacts import produce
from rationale.images import open_image
from rationale.question_checks import Refusals
from rationale.schema import RowError
from rationale.sources.public import folder
from rationale.sources.rows import image_file
from rationale.stages import prepare
from rationale.stages.inputs import questions_by_id

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
RED, GREEN = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), (0, 255, 0))


def encoded(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_long_text():
    """A few kilobytes that unpack to two megabytes of text, more than Pillow takes in."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 2_000_000, zip=True)
    return encoded(RED, "PNG", pnginfo=info)


def lying():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(RED, "JPEG", exif=exif)


two_pages = {"save_all": True, "append_images": [GREEN]}
GOOD = {
    "wide.png": encoded(Image.new("RGB", (20_000, 100), "red"), "PNG"),
    "jpeg.png": encoded(RED, "JPEG"),
    "png.jpg": encoded(RED, "PNG"),
    "animated.webp": encoded(RED, "WEBP", lossless=True, **two_pages),
    "animated.png": encoded(RED, "PNG", **two_pages),
    "pages.tif": encoded(RED, "TIFF", **two_pages),
    "cmyk.jpg": encoded(RED.convert("CMYK"), "JPEG"),
    "palette.png": encoded(RED.convert("P", palette=Image.Palette.ADAPTIVE, colors=2), "PNG", bits=1),
    "lying.jpg": lying(),
    "lab.tif": encoded(RED.convert("LAB"), "TIFF"),
    "no_suffix": encoded(RED, "BMP"),
}
NO_SIZE = encoded(RED, "BMP")[:18] + bytes(8) + encoded(RED, "BMP")[26:]
BAD = {
    "narrow.png": (encoded(Image.new("RGB", (20_000, 1)), "PNG"), "20000 x 1 pixels, one side over 200 times"),
    "text.png": (b"a text", "is not a readable image"),
    "page.png": (b"<html><script>alert(1)</script></html>", "is not a readable image"),
    "long_text.png": (with_long_text(), "is not a readable image"),
    "bomb.png": (png_header(60_000, 60_000), "pixels"),
    "large.png": (png_header(8001, 8001), "8001 x 8001 pixels, over 64000000"),
    "cut.jpg": (encoded(NOISE, "JPEG", progressive=True)[:2000], "is not a readable image"),
    "no_frames.gif": (b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "is not a readable image"),
    "empty.png": (b"", "is not a readable image"),
    "no_pixels.bmp": (NO_SIZE, "is not a readable image|no pixels"),
    "float.tif": (encoded(Image.new("F", (2, 2), 0.5), "TIFF"), "floating-point pixels"),
    "wide_ints.tif": (encoded(Image.new("I", (2, 2), 70_000), "TIFF"), "pixels of 32 bits"),
    "program.eps": (encoded(RED, "EPS"), "drawn by another program"),
}  # fmt: skip
# What a row may say in place of a file's name.
PATHS = ["../secret.png", "/etc/passwd", "link.png", "up/secret.png", "pipe.png", "folder.png", "absent.png", "a\0b",
         "file:///etc/passwd", "http://127.0.0.1:9/a.png", "..\\secret.png", "C:\\a.png", "~/a.png"]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The folder; beside it a picture that no row may reach."""
    root = tmp_path_factory.mktemp("hostile") / "root"
    (root / "folder.png").mkdir(parents=True)
    (root.parent / "secret.png").write_bytes(GOOD["png.jpg"])
    for name, data in GOOD.items() | {(name, data) for name, (data, _) in BAD.items()}:
        (root / name).write_bytes(data)
    os.symlink(root / "jpeg.png", root / "inside.png")
    os.symlink(root.parent / "secret.png", root / "link.png")
    os.symlink(root.parent, root / "up")
    os.mkfifo(root / "pipe.png")
    return root


@pytest.mark.parametrize("name", [*GOOD, "inside.png"])
def test_it_is_read_as_a_person_sees_it(hostile, name):
    image = open_image(hostile / name)
    red, green, blue = image.getpixel((image.width // 2, image.height // 2))
    assert image.mode == "RGB" and red > 240 and max(green, blue) < 16


@pytest.mark.parametrize(("name", "reason"), [(name, reason) for name, (_, reason) in BAD.items()])
def test_it_is_refused_by_row(hostile, name, reason):
    with pytest.raises(RowError, match=rf"row-7: .*{name}.*({reason})"):
        open_image(hostile / name, "row-7")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read any file")
def test_a_file_that_may_not_be_read_is_refused_by_row(tmp_path):
    (tmp_path / "a.png").write_bytes(GOOD["png.jpg"])
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(RowError, match=r"row-7: .*a\.png cannot be read"):
        image_file("a.png", tmp_path, "row-7")


def prepared(root, names, limit):
    rows = [{"id": f"r{i}", "question": "?", "answer": "2", "image": n, "split": "train"} for i, n in enumerate(names)]
    (root / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = folder(str(root), "d", "exact")
    return produce("prepare", {"out": str(root.parent / f"out-{limit}")}, partial(prepare.run, task))


def test_a_folder_of_them_goes_through_prepare(hostile):
    out = prepared(hostile, [*GOOD, "inside.png"], "good")
    found = questions_by_id(str(out))
    assert len(found) == len(GOOD) + 1
    assert all(open_image(question.files(out)[0]).width >= 8 for question in found.values())


def test_one_run_names_every_bad_row_with_its_reason(hostile, monkeypatch):
    monkeypatch.setattr(Refusals.__init__, "__defaults__", (100, *Refusals.__init__.__defaults__[1:]))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a row's URL was fetched"))
    names = [*BAD, *GOOD]
    with pytest.raises(RowError) as refused:
        prepared(hostile, names, "bad")
    first, *lines = str(refused.value).splitlines()
    assert first == f"{len(BAD)} rows cannot be used:"
    wanted = [i for i, name in enumerate(names) if name not in GOOD]
    assert [int(line.partition("data.jsonl:")[2].partition(":")[0]) - 1 for line in lines] == wanted
    with pytest.raises(RowError) as refused:
        prepared(hostile, [*GOOD, *PATHS], "bad")
    first, *lines = str(refused.value).splitlines()
    assert first == f"{len(PATHS)} of {len(GOOD) + len(PATHS)} rows name an image that cannot be used; the first:"
    assert [int(line.partition("data.jsonl:")[2].partition(":")[0]) for line in lines] == [
        len(GOOD) + i for i in range(1, 6)
    ]
    assert not (hostile.parent / "out-bad").exists()


def test_at_twenty_bad_rows_the_run_stops(hostile, capsys):
    with pytest.raises(RowError, match="20 rows cannot be used, and the rows after them were not looked at"):
        prepared(hostile, ["text.png"] * 30, "many")
    assert "reading on to name other such rows" in capsys.readouterr().out
    assert not (hostile.parent / "out-many").exists()
