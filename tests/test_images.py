"""Images: read as a person sees them, or refused by name."""

import os
import struct

import numpy as np
import pytest
from pictures import png_header
from PIL import Image

from rationale import images
from rationale.images import content_name, open_image, resolve
from rationale.schema import RowError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def saved(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def pixels(path):
    image = open_image(path)
    assert image.mode == "RGB"
    return [[image.getpixel((x, y)) for x in range(image.width)] for y in range(image.height)]


def test_transparency_is_flattened_on_white(tmp_path):
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (255, 0, 0, alpha))
    # 51 of 255 is a fifth: four fifths of white's green and blue are left, 204.
    assert pixels(saved(tmp_path, image)) == [[WHITE, (255, 204, 204), RED]]


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert pixels(saved(tmp_path, image, transparency=0)) == [[WHITE, GREEN]]


def test_a_palette_with_partial_alpha_is_blended(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putpixel((1, 0), 1)
    assert pixels(saved(tmp_path, image, transparency=bytes([51, 255]))) == [[(255, 204, 204), GREEN]]


def test_gray_with_alpha_is_flattened_on_white(tmp_path):
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (10, 255))
    assert pixels(saved(tmp_path, image)) == [[WHITE, (10, 10, 10)]]


@pytest.mark.parametrize("name", ["image.jpg", "image.tif"])
def test_cmyk_is_read(tmp_path, name):
    path = saved(tmp_path, Image.new("CMYK", (8, 8), (0, 255, 255, 0)), name)
    assert pixels(path)[4][4] == RED


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16)))
    assert pixels(path) == [[(0, 0, 0), (100, 100, 100), WHITE]]


def grey_tiff(bits, data):
    """Two grey pixels of so many bits as Pillow does not write them: its head, eight tags of two words, the pixels."""
    tags = [(256, 2), (257, 1), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 8 * 12 + 4), (278, 1), (279, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + data


def test_a_tiff_of_twelve_bits_has_its_own_white(tmp_path):
    (tmp_path / "a.tif").write_bytes(grey_tiff(12, bytes([0xFF, 0xF0, 0x00])))  # 4095 and 0
    assert pixels(tmp_path / "a.tif") == [[WHITE, (0, 0, 0)]]


@pytest.mark.parametrize("value", [0, 200, 65535, 70_000])
def test_a_tiff_of_32_bits_is_refused_whatever_its_values(tmp_path, value):
    """200 of 4 billion is black, of 255 nearly white: nothing says which."""
    path = saved(tmp_path, Image.new("I", (2, 2), value), "image.tif")
    with pytest.raises(RowError, match="pixels of 32 bits, which do not say what is white"):
        open_image(path)


def test_a_pgm_of_sixteen_bits_is_scaled(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1000\n" + struct.pack(">2H", 1000, 0))
    assert pixels(tmp_path / "a.pgm") == [[WHITE, (0, 0, 0)]]


@pytest.mark.parametrize(("mode", "value", "seen"), [("L", 77, 77), ("1", 1, 255)])
def test_gray_and_bitmap_become_rgb(tmp_path, mode, value, seen):
    assert pixels(saved(tmp_path, Image.new(mode, (1, 1), value))) == [[(seen, seen, seen)]]


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: a viewer turns it a quarter clockwise
    assert pixels(saved(tmp_path, image, exif=exif)) == [[RED], [GREEN]]


def test_an_animation_is_its_first_frame(tmp_path):
    first, second = Image.new("RGB", (1, 1), RED), Image.new("RGB", (1, 1), GREEN)
    path = saved(tmp_path, first, "image.gif", save_all=True, append_images=[second])
    assert pixels(path) == [[RED]]


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tif"])
def test_a_truncated_file_is_refused_by_row(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise), f"image.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(RowError, match=r"row-7: .*image\.\w+ is not a readable image"):
        open_image(path, "row-7")


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_what_is_no_image_is_refused_by_row(tmp_path, data):
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with pytest.raises(RowError, match=r"row-7: .*image\.png is not a readable image"):
        open_image(path, "row-7")


@pytest.mark.parametrize(("width", "height"), [(8001, 8001), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_row(tmp_path, width, height):
    path = tmp_path / "image.png"
    path.write_bytes(png_header(width, height))
    with pytest.raises(RowError, match=r"row-7: .*image\.png .*pixels"):
        open_image(path, "row-7")


def test_the_largest_image_allowed_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 6)
    assert open_image(saved(tmp_path, Image.new("RGB", (2, 3)))).size == (2, 3)
    with pytest.raises(RowError, match="7 x 1 pixels, over 6"):
        open_image(saved(tmp_path, Image.new("RGB", (7, 1))))


def test_a_path_below_the_folder_is_resolved(tmp_path):
    (tmp_path / "images").mkdir()
    path = saved(tmp_path, Image.new("RGB", (1, 1)), "images/a.png")
    assert resolve(tmp_path, "images/../images/a.png", "row-7") == path


@pytest.mark.parametrize(
    "relative", ["../secret.png", "images/../../secret.png", "/etc/passwd", "link.png", "up/secret.png"]
)
def test_a_path_that_leaves_its_folder_is_refused_by_row(tmp_path, relative):
    root = tmp_path / "root"
    root.mkdir()
    secret = saved(tmp_path, Image.new("RGB", (1, 1)), "secret.png")
    os.symlink(secret, root / "link.png")
    os.symlink(tmp_path, root / "up")
    with pytest.raises(RowError, match=r"row-7: image path .* leaves its folder"):
        resolve(root, relative, "row-7")


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        ("sub/a b.PNG", "sub\\a b.PNG"),
        ("\u00e9.png", "e\u0301.png"),
        ("e\u0301.png", "\u00e9.png"),
        ("a\\b.png", "a\\b.png"),
    ],
)
def test_a_path_as_another_system_writes_it_is_found(tmp_path, stored, named):
    (tmp_path / "sub").mkdir()
    path = saved(tmp_path, Image.new("RGB", (1, 1)), stored)
    assert resolve(tmp_path, named, "row-7") == path


@pytest.mark.parametrize("relative", ["absent.png", "", "."])
def test_a_missing_file_is_refused_by_row(tmp_path, relative):
    with pytest.raises(RowError, match=r"row-7: image .* is not in"):
        resolve(tmp_path, relative, "row-7")


@pytest.mark.parametrize("relative", [5, None, ["a.png"], "a\0.png", "a" * 5000, "loop"])
def test_what_is_no_path_is_refused_by_row(tmp_path, relative):
    os.symlink("loop", tmp_path / "loop")
    with pytest.raises(RowError, match=r"row-7: .* is no path of an image"):
        resolve(tmp_path, relative, "row-7")


def test_the_same_bytes_have_the_same_name():
    assert content_name(b"a", ".png") == content_name(b"a", ".png") == "ca978112ca1bbdcafac2.png"
    assert content_name(b"b", ".png") != content_name(b"a", ".png")
