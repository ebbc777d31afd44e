"""Every image comes out upright, in RGB, or with a reason."""

import struct
import sys

import numpy as np
import pytest
from pictures import BLUE, RED, encoded, heic, near, noise, tiff, turned, two_halves
from PIL import Image

from t2i_pipelines import build_insert_pipeline
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode, read
from t2i_pipelines.operators.image_decode import ImageDecode

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "ICO", "TGA", "PCX", "SGI"]


@pytest.mark.parametrize("format", [*FORMATS, "QOI", "DDS", "DIB"])
def test_every_format_gives_rgb(format):
    options = {"sizes": [(40, 20)]} if format == "ICO" else {}
    image = decode(encoded(two_halves(), format, **options))
    assert (image.shape, image.dtype) == ((20, 40, 3), np.uint8)
    assert near(image[10, 5], RED)
    assert near(image[10, 35], BLUE)


# where the red left half must be found once each of the eight EXIF orientations is undone
UPRIGHT = {1: (10, 5), 2: (10, 35), 3: (10, 35), 4: (10, 5), 5: (5, 10), 6: (5, 10), 7: (35, 10), 8: (35, 10)}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_rotation_is_applied_as_pillow_applies_it(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(two_halves(), format, exif=exif)
    image = decode(content)
    assert image.shape[:2] == ((20, 40) if orientation < 5 else (40, 20))
    assert near(image[UPRIGHT[orientation]], RED)


@pytest.mark.parametrize("orientation", [*range(1, 9)])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_a_lossless_picture_comes_back_from_each_orientation_pixel_by_pixel(format, orientation):
    picture = Image.fromarray(noise((13, 17)))
    lossless = {"lossless": True} if format == "WEBP" else {}
    assert (decode(turned(picture, orientation, format, **lossless)) == np.asarray(picture)).all()


@pytest.mark.parametrize("size", [(300, 225), (1601, 1203)], ids=["exact", "reduced"])
def test_eight_orientations_of_one_picture_have_one_vector(size):
    picture = Image.open("data/gallery/002-cat.jpg").convert("RGB").resize(size)
    files = [turned(picture, n, "JPEG", quality=95, subsampling=0) for n in range(1, 9)]
    vectors = load_encoder("t2i_mini").encode_images(ImageDecode("t2i_mini").many(files))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert (vectors @ vectors.T).min() >= 0.999


def test_an_orientation_in_xmp_counts_where_exif_has_none():
    xmp = b"<x:xmpmeta><rdf:Description tiff:Orientation='6' tiff:Orientation=\"6\"/></x:xmpmeta>"
    assert decode(encoded(two_halves(), "JPEG", xmp=xmp)).shape == (40, 20, 3)


@pytest.mark.parametrize("exif", [b"Exif\0\0broken", b"Exif\0\0II*\0\xff\xff\xff\xff", b"\0" * 50])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_is_no_reason_to_refuse_a_picture(format, exif):
    assert decode(encoded(two_halves(), format, exif=exif)).shape == (20, 40, 3)


@pytest.mark.parametrize("value", [0, 9, 60000])
def test_an_orientation_that_does_not_exist_is_upright(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert decode(encoded(two_halves(), "JPEG", exif=exif)).shape == (20, 40, 3)


def test_of_a_tiff_with_pages_the_first_counts():
    pages = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    content = encoded(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    for frames in ("first", "middle", "mean"):
        assert near(decode(content, decoding=Decoding(frames=frames))[4, 4], RED)


def test_of_a_photograph_with_a_second_view_the_first_counts():
    views = [Image.new("RGB", (64, 64), colour) for colour in (RED, BLUE)]
    content = encoded(views[0], "MPO", save_all=True, append_images=views[1:])
    for frames in ("first", "middle", "mean"):
        assert near(decode(content, decoding=Decoding(frames=frames))[32, 32], RED)


def test_heic_is_read_with_its_extra_and_turned():
    pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = 6
    assert near(decode(heic(two_halves()))[10, 5], RED)
    image = decode(heic(two_halves(), exif=exif.tobytes()))
    assert image.shape == (40, 20, 3)
    assert near(image[UPRIGHT[6]], RED)


def test_heic_without_its_extra_names_the_extra(monkeypatch):
    content = heic(two_halves())
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(
        ImageDecodeError, match=r"a\.heic: HEIC needs .*: pip install 't2i-pipelines\[heif\]'"
    ):
        decode(content, "a.heic")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "QOI"])
@pytest.mark.parametrize("part", [0.3, 0.7])
def test_a_file_that_is_cut_off_is_refused(format, part):
    content = encoded(Image.fromarray(noise((64, 64))), format)
    with pytest.raises(ImageDecodeError, match=r"cannot read image cut\.file: "):
        decode(content[: int(len(content) * part)], "cut.file")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM"])
def test_what_is_there_of_a_file_that_is_cut_off_is_accepted_on_demand(format):
    content = encoded(
        Image.fromarray(noise((64, 64))), format, **({"interlace": 0} if format == "GIF" else {})
    )
    whole = decode(content).astype(int)
    image = decode(content[: int(len(content) * 0.7)], decoding=Decoding(truncated="accept")).astype(int)
    if format == "BMP":  # is stored from the bottom
        whole, image = whole[::-1], image[::-1]
    assert image.shape == (64, 64, 3)
    assert np.abs(image[:16] - whole[:16]).max() == 0
    assert image[-1].std(0).max() == 0  # one colour, where noise is missing


def test_accepting_what_is_there_still_refuses_what_has_nothing():
    content = encoded(two_halves(), "WEBP")
    with pytest.raises(ImageDecodeError, match=r"cannot read image x: "):
        decode(content[:40], "x", Decoding(truncated="accept"))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"no picture at all", "not an image in a known format"),
        (b"abc", "not an image in a known format"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "cannot read image bad"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "cannot read image bad"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "not an image in a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in a known format"),
    ],
    ids=["words", "three bytes", "PNG", "JPEG", "EPS, which would start Ghostscript", "SVG"],
)
def test_what_is_no_picture_is_refused_with_its_name_and_cause(content, cause):
    with pytest.raises(ImageDecodeError, match=cause):
        decode(content, "bad")


@pytest.mark.slow
def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_unpacked():
    bomb = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    words = r"bomb\.png: 20000 x 20000 are 400,000,000 pixels, more than max_pixels=178,956,970; raise max_p"
    with pytest.raises(ImageDecodeError, match=words):
        decode(bomb, "bomb.png")


def test_the_cap_on_pixels_is_an_option_and_counts_to_the_last():
    content = encoded(two_halves(), "PNG")
    assert decode(content, decoding=Decoding(max_pixels=800)).shape == (20, 40, 3)
    with pytest.raises(ImageDecodeError, match=r"are 800 pixels, more than max_pixels=799"):
        decode(content, decoding=Decoding(max_pixels=799))


@pytest.mark.slow
def test_a_larger_cap_lets_pictures_pass_that_pillow_would_refuse():
    """200 megapixels, as phones take them."""
    content = encoded(Image.new("L", (16320, 12240), 200), "JPEG")
    image = decode(content, decoding=Decoding(max_pixels=200_000_000), side=lambda: 224)
    assert image.shape == (1530, 2040, 3)
    assert near(image[700, 700], (200, 200, 200), 2)


def test_a_tiff_that_claims_more_pixels_than_it_has_is_refused():
    content = bytearray(tiff(noise((4, 4)), photometric=2))
    at = content.index(b"\x00\x01\x04\x00\x01\x00\x00\x00\x04")
    content[at + 8 : at + 12] = (13_000).to_bytes(4, "little")  # width
    content[at + 20 : at + 24] = (13_000).to_bytes(4, "little")  # height
    with pytest.raises(ImageDecodeError, match=r"cannot read image liar\.tif: "):
        decode(bytes(content), "liar.tif")


def ico(inside: bytes) -> bytes:
    """Claims 128 x 128."""
    return b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 128, 128, 0, 0, 1, 24, len(inside), 22) + inside


def icns(inside: bytes) -> bytes:
    """Claims 128 x 128."""
    return b"icns" + struct.pack(">I4sI", len(inside) + 16, b"ic07", len(inside) + 8) + inside


@pytest.mark.parametrize(
    ("icon", "message"),
    [
        (ico, "300 x 300 are 90,000 pixels, more than max_pixels=20,000"),
        (icns, "not one of the allowed sizes"),
    ],
)
def test_an_icon_that_claims_fewer_pixels_than_it_has_is_refused(icon, message):
    inside = encoded(Image.new("RGB", (300, 300)), "PNG")
    with pytest.raises(ImageDecodeError, match=message):
        decode(icon(inside), decoding=Decoding(max_pixels=20_000))


def directory(path):
    path.mkdir()


def dangling(path):
    path.symlink_to(path.with_name("gone"))


def unreadable(path):
    path.symlink_to("/proc/self/mem")  # even root cannot read its first byte


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda path: None, "No such file or directory"),
        (directory, "Is a directory"),
        (lambda path: path.touch(), "the file is empty"),
        (dangling, "No such file or directory"),
        (unreadable, "Input/output error"),
        (lambda path: path.write_text("words"), "not an image in a known format"),
    ],
    ids=["missing", "directory", "empty", "dangling link", "unreadable", "text"],
)
def test_each_bad_file_fails_alone_and_says_why(tmp_path, settings, make, cause):
    make(tmp_path / "x.png")
    good = tmp_path / "good.png"
    two_halves().save(good)
    rows = build_insert_pipeline(**settings)([tmp_path / "x.png", good]).to_list()
    assert [status for _, _, status, _ in rows] == ["failed", "inserted"]
    assert cause in rows[0][3]
    assert "x.png" in rows[0][3]
    if cause != "not an image in a known format":
        with pytest.raises(ImageDecodeError, match=rf"cannot read image .*x\.png: {cause}"):
            read(tmp_path / "x.png")


def test_a_name_that_is_not_utf8_fails_alone_and_says_why(tmp_path, settings):
    folder = tmp_path / "pictures"
    folder.mkdir()
    two_halves().save(folder / "good.png")
    (tmp_path / "pictures" / "good.png").with_name(b"\xff.png".decode(errors="surrogateescape")).write_bytes(
        encoded(two_halves(), "PNG")
    )
    rows = {row[2]: row[3] for row in build_insert_pipeline(**settings)(folder).to_list()}
    assert "not valid UTF-8" in rows.pop("failed")
    assert list(rows) == ["inserted"]
