"""Every kind of colour becomes 8-bit sRGB, and what is transparent lets the background through."""

import io
import struct

import cv2
import numpy as np
import pytest
from pictures import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    cmyk_profile,
    encoded,
    grey_profile,
    near,
    noise,
    photo_like,
    rgb_profile,
    tiff,
    two_halves,
)
from PIL import Image, ImageCms

from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.images import decode
from t2i_pipelines.images.colour import to_srgb

# X, Y, Z of red, green and blue under D50: Adobe RGB (1998), section 4.3.4.2; Display P3 and sRGB as ICC's
# registry has them
ADOBE = np.array([(0.60974, 0.20528, 0.14919), (0.31111, 0.62567, 0.06322), (0.01947, 0.06087, 0.74457)])
P3 = np.array([(0.51512, 0.29198, 0.15710), (0.24120, 0.69225, 0.06657), (-0.00105, 0.04189, 0.78407)])
SRGB = np.array([(0.43607, 0.38515, 0.14307), (0.22249, 0.71687, 0.06061), (0.01392, 0.09708, 0.71410)])


def srgb_of(linear) -> np.ndarray:
    """IEC 61966-2-1, linear RGB in [0, 1] -> 0 to 255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def expected(pixels, matrix, gamma) -> np.ndarray:
    linear = (np.asarray(pixels) / 255) ** gamma
    return srgb_of(linear @ matrix.T @ np.linalg.inv(SRGB).T)


def of_one_colour(colour, mode="RGB") -> Image.Image:
    return Image.new(mode, (16, 16), colour)


INSIDE = [(128, 128, 128), (200, 120, 100), (90, 140, 180), (255, 255, 255), (60, 90, 50)]


@pytest.mark.parametrize("colour", INSIDE, ids=str)
@pytest.mark.parametrize(
    ("matrix", "gamma"), [(ADOBE, 2.2), (P3, 2.2), (P3, 1.8)], ids=["Adobe", "P3", "1.8"]
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_embedded_profiles_are_converted_to_srgb(format, matrix, gamma, colour):
    options = (
        {"lossless": True} if format == "WEBP" else {} if format in ("PNG", "TIFF") else {"quality": 100}
    )
    content = encoded(of_one_colour(colour), format, icc_profile=rgb_profile(matrix, gamma), **options)
    image = decode(content)
    wanted = expected(colour, matrix, round(gamma * 256) / 256)
    assert np.abs(image[8, 8] - wanted).max() < (6 if format == "AVIF" else 3.5)
    assert colour == WHITE or np.abs(wanted - colour).max() > 3 or colour == (128, 128, 128)


def test_a_profile_counts_at_reduced_size_too():
    content = encoded(
        Image.new("RGB", (1100, 1000), (60, 160, 90)), "JPEG", icc_profile=rgb_profile(ADOBE, 2.2)
    )
    image = decode(content, side=lambda: 96)
    assert image.shape == (500, 550, 3)
    assert np.abs(image[250, 250] - expected((60, 160, 90), ADOBE, 2.19921875)).max() < 3


def test_a_profile_that_is_srgb_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = Image.fromarray(noise((16, 16)))
    assert (decode(encoded(picture, "PNG", icc_profile=srgb)) == np.asarray(picture)).all()
    image = noise((16, 16))
    assert to_srgb(image, srgb) is image, "it costs nothing either"


@pytest.mark.parametrize(
    "profile",
    [b"broken", rgb_profile(ADOBE, 2.2)[:200], bytes(500), cmyk_profile(lambda inks: (50, 0, 0))],
    ids=["words", "cut off", "zeros", "of another colour space"],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_a_profile_that_cannot_be_used_is_ignored(format, profile):
    picture = of_one_colour((200, 120, 100))
    assert near(decode(encoded(picture, format, icc_profile=profile))[8, 8], (200, 120, 100), 4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_grey_profiles_are_converted_to_srgb(format):
    content = encoded(of_one_colour(100, "L"), format, icc_profile=grey_profile(1.0))
    wanted = srgb_of(100 / 255)
    assert 160 < wanted < 175
    assert np.abs(decode(content)[8, 8] - wanted).max() < 3


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_in_a_colour_profile_takes_its_tones(format):
    content = encoded(of_one_colour(100, "L"), format, icc_profile=rgb_profile(P3, 1.0))
    assert np.abs(decode(content)[8, 8] - srgb_of(100 / 255)).max() < 3


def test_transparent_pictures_in_a_profile_are_converted_and_then_put_over_the_background():
    picture = of_one_colour((60, 160, 90, 255), "RGBA")
    picture.paste((60, 160, 90, 0), (0, 0, 8, 16))
    image = decode(
        encoded(picture, "PNG", icc_profile=rgb_profile(ADOBE, 2.2)), decoding=Decoding(background="#102030")
    )
    assert image[8, 2].tolist() == [0x10, 0x20, 0x30]
    assert np.abs(image[8, 12] - expected((60, 160, 90), ADOBE, 2.19921875)).max() < 3


def lab_of(inks):
    """A printer whose cyan ink is green."""
    cyan, magenta, _, black = inks
    return (20, 0, 0) if black else (60, -60, 50) if cyan else (50, 70, 0) if magenta else (100, 0, 0)


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_in_a_profile_is_converted_by_it(format):
    cyan = of_one_colour((255, 0, 0, 0), "CMYK")
    plain = decode(encoded(cyan, format, quality=100))[8, 8]
    assert near(plain, (0, 255, 255), 5)
    red, green, blue = decode(encoded(cyan, format, quality=100, icc_profile=cmyk_profile(lab_of)))[8, 8]
    assert green > 150
    assert green > int(red) + 80
    assert green > int(blue) + 80


@pytest.mark.parametrize(
    ("lab", "wanted"),
    # CIE L*a*b* under D50 of sRGB's primaries, after Lindbloom
    [((54, 81, 70), RED), ((88, -79, 81), GREEN), ((30, 68, -112), BLUE), ((100, 0, 0), WHITE)],
    ids=["red", "green", "blue", "white"],
)
def test_lab_is_converted(lab, wanted):
    lightness, a, b = lab
    pixel = [round(lightness * 2.55), a % 256, b % 256]
    content = tiff(np.full((8, 8, 3), pixel, np.uint8), photometric=8)
    assert near(decode(content)[4, 4], wanted, 30)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr"])
def test_other_modes_become_rgb(mode):
    format = "TIFF" if mode in ("CMYK", "YCbCr", "PA") else "PNG"
    image = decode(encoded(two_halves(mode), format))
    assert image.shape == (20, 40, 3)
    assert image[10, 5].tolist() != image[10, 35].tolist()
    if mode not in ("L", "1", "LA"):
        assert near(image[10, 5], RED)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize(("seen", "side"), [(None, 512), (64, 256)], ids=["whole", "reduced"])
def test_a_tiff_in_ycbcr_has_the_colours_that_went_in(compression, seen, side):
    colours = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8)
    picture = Image.fromarray(colours).convert("YCbCr").resize((512, 512), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    picture.save(stream, "TIFF", compression=compression)
    image = decode(stream.getvalue(), side=lambda: seen)
    assert image.shape == (side, side, 3)
    middles = image[side // 4 :: side // 2, side // 4 :: side // 2]
    assert np.abs(middles.astype(int) - colours).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_in_ycbcr_is_turned_upright_once(orientation):
    colours = np.repeat(np.array([[RED, RED], [GREEN, BLUE], [WHITE, WHITE]], np.uint8), 8, 0).repeat(16, 1)
    upright = []
    for mode in ("RGB", "YCbCr"):
        stream = io.BytesIO()
        Image.fromarray(colours).convert(mode).save(stream, "TIFF", tiffinfo={274: orientation})
        upright.append(decode(stream.getvalue()).astype(int))
    assert upright[0].shape == upright[1].shape
    assert np.abs(upright[0] - upright[1]).max() <= 2


def png16(pixels) -> bytes:
    """By OpenCV, which writes what Pillow cannot."""
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


RAMP = np.array([0, 256, 257 * 100, 40000, 65535], np.uint16)
EIGHT = (RAMP / 257).round()


@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "RGB"])
@pytest.mark.parametrize(
    "write",
    [png16, lambda pixels: tiff(pixels, 1 if pixels.ndim == 2 else 2, bits=16)],
    ids=["PNG", "TIFF"],
)
def test_sixteen_bits_are_scaled_not_clipped(write, channels):
    ramp = np.repeat(RAMP[None], 4, axis=0)
    pixels = ramp if channels == 1 else np.stack([ramp, ramp[:, ::-1], ramp // 2], -1)
    image = decode(write(pixels)).astype(int)
    assert np.abs(image[0, :, 0] - EIGHT).max() <= 1
    if channels == 3:
        assert np.abs(image[0, :, 1] - EIGHT[::-1]).max() <= 1
        assert np.abs(image[0, :, 2] - EIGHT / 2).max() <= 1


def test_sixteen_bits_with_alpha_are_scaled_and_put_over_white():
    ramp = np.repeat(RAMP[None], 4, axis=0)
    alpha = np.full_like(ramp, 65535)
    alpha[0] = 0
    image = decode(cv2.imencode(".png", np.stack([ramp, ramp, ramp, alpha], -1))[1].tobytes())
    assert (image[0] == 255).all()
    assert np.abs(image[1, :, 0] - EIGHT).max() <= 1


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 100, 255], [0, 100, 255]), ([0, 25700, 65535], [0, 100, 255])],
    ids=["to 1", "to 255", "to 65535"],
)
def test_floating_point_grey_is_scaled_by_what_its_values_show(values, wanted):
    pixels = np.array([values], np.float32)
    assert decode(tiff(pixels, 1, bits=32, sample_format=3))[0, :, 0].tolist() == wanted


def test_values_that_are_no_numbers_are_black():
    pixels = np.array([[np.nan, 0.5, 1]], np.float32)
    assert decode(tiff(pixels, 1, bits=32, sample_format=3))[0, :, 0].tolist() == [0, 128, 255]


def half_transparent() -> Image.Image:
    picture = two_halves("RGBA")
    alpha = np.full((20, 40), 255, np.uint8)
    alpha[:, 20:] = 0
    alpha[:, 36:] = 128
    picture.putalpha(Image.fromarray(alpha))
    return picture


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF", "ICO"])
def test_transparent_parts_become_white(format):
    options = {"sizes": [(40, 20)]} if format == "ICO" else {}
    image = decode(encoded(half_transparent(), format, **options))
    assert near(image[10, 5], RED)
    assert near(image[10, 28], WHITE, 2)
    assert near(image[10, 38], (127, 127, 255))


@pytest.mark.parametrize(("background", "colour"), [("black", (0, 0, 0)), ("#808080", (128, 128, 128))])
def test_the_background_is_an_option(background, colour):
    image = decode(encoded(half_transparent(), "PNG"), decoding=Decoding(background=background))
    assert near(image[10, 5], RED)
    assert near(image[10, 28], colour, 0)


def test_a_palette_with_a_transparent_colour_is_put_over_white():
    picture = two_halves("P")
    for format in ("PNG", "GIF"):
        image = decode(encoded(picture, format, transparency=picture.getpixel((35, 10))))
        assert near(image[10, 5], RED)
        assert near(image[10, 35], WHITE, 2)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_colour_that_png_calls_transparent_is_put_over_white(mode):
    picture = two_halves(mode)
    content = encoded(picture, "PNG", transparency=picture.getpixel((35, 10)))
    image = decode(content)
    assert near(image[10, 35], WHITE, 2)
    assert not near(image[10, 5], WHITE, 2)


def test_a_photo_in_a_wide_profile_is_nearer_to_the_scene_than_without():
    """What a camera set to Adobe RGB writes of an sRGB scene; undone, it is the scene again."""
    scene = photo_like(Image.open("data/gallery/002-cat.jpg"), (96, 128), amplitude=2)
    linear = np.where(scene <= 10, scene / 255 / 12.92, ((scene / 255 + 0.055) / 1.055) ** 2.4)
    adobe = (linear @ SRGB.T @ np.linalg.inv(ADOBE).T).clip(0, 1) ** (1 / 2.19921875)
    file = Image.fromarray((255 * adobe).round().astype(np.uint8))
    content = encoded(file, "PNG", icc_profile=rgb_profile(ADOBE, 2.2))
    assert np.abs(decode(content).astype(int) - scene).mean() < 1
    assert np.abs(decode(encoded(file, "PNG")).astype(int) - scene).mean() > 3


def test_the_profiles_built_here_are_what_other_readers_take_them_for():
    for profile, space in ((rgb_profile(ADOBE, 2.2), "RGB "), (cmyk_profile(lab_of), "CMYK")):
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        assert opened.xcolor_space == space
        assert len(profile) == struct.unpack(">I", profile[:4])[0]
