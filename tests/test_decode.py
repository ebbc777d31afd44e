"""Every picture comes out upright, in RGB, over white, or with a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode, read

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def two_halves(mode: str = "RGB") -> Image.Image:
    """40 x 20, left half red, right half blue."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = RED, BLUE
    return Image.fromarray(pixels).convert(mode)


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def near(pixel, colour, tolerance=40) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= tolerance)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_every_format_gives_rgb(format):
    image = decode(encoded(two_halves(), format))
    assert (image.shape, image.dtype) == ((20, 40, 3), np.uint8)
    assert near(image[10, 5], RED)
    assert near(image[10, 35], BLUE)


# where the red left half must be found once each of the eight EXIF orientations is undone
UPRIGHT = {1: (10, 5), 2: (10, 35), 3: (10, 35), 4: (10, 5), 5: (5, 10), 6: (5, 10), 7: (35, 10), 8: (35, 10)}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_rotation_is_applied_as_pillow_applies_it(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(two_halves(), format, exif=exif)
    image = decode(content)
    assert image.shape[:2] == ((20, 40) if orientation < 5 else (40, 20))
    assert near(image[UPRIGHT[orientation]], RED)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_transparent_parts_become_white(format):
    picture = two_halves("RGBA")
    alpha = np.full((20, 40), 255, np.uint8)
    alpha[:, 20:] = 0
    picture.putalpha(Image.fromarray(alpha))
    image = decode(encoded(picture, format))
    assert near(image[10, 5], RED)
    assert near(image[10, 35], WHITE, 2)


def test_a_palette_with_a_transparent_colour_is_put_over_white():
    picture = two_halves("P")
    image = decode(encoded(picture, "PNG", transparency=picture.getpixel((35, 10))))
    assert near(image[10, 5], RED)
    assert near(image[10, 35], WHITE, 2)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = decode(encoded(two_halves(mode), "TIFF" if mode == "CMYK" else "PNG"))
    assert image.shape == (20, 40, 3)
    assert image[10, 5].tolist() != image[10, 35].tolist()


def test_sixteen_bits_are_scaled_not_clipped():
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    assert decode(encoded(Image.fromarray(deep), "PNG"))[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_file_that_is_cut_off_is_refused(format, part):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    content = encoded(Image.fromarray(noise), format)
    with pytest.raises(ImageDecodeError, match=r"cannot read image cut\.file: "):
        decode(content[: int(len(content) * part)], "cut.file")


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"no picture at all", "not a picture in a known format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot read image bad"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "cannot read image bad"),
    ],
)
def test_what_is_no_picture_is_refused_with_its_name_and_cause(content, cause):
    with pytest.raises(ImageDecodeError, match=cause):
        decode(content, "bad")


def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_unpacked():
    header = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    with pytest.raises(ImageDecodeError, match=r"bomb\.png: .*400,000,000 pixels, .*raise max_pixels"):
        decode(header, "bomb.png")


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: None, "No such file or directory"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: path.touch(), "the file is empty"),
        (lambda path: path.symlink_to(path.with_name("gone")), "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_cause(tmp_path, make, cause):
    make(tmp_path / "x.png")
    with pytest.raises(ImageDecodeError, match=rf"cannot read image .*x\.png: {cause}"):
        read(tmp_path / "x.png")
