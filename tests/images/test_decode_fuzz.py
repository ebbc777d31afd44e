"""Whatever the bytes, decoding gives an image or an ImageDecodeError, and nothing else."""

from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import animation, cmyk_profile, encoded, heic, noise, rgb_profile, tiff, turned, two_halves
from PIL import Image

from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode

CAP = 1_000_000
PLAIN = ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO", "QOI", "DIB", "DDS"]
PLAIN += ["SGI", "PCX", "TGA", "ICNS"]
MOVING = ["GIF", "PNG", "WEBP", "AVIF"]
NASTY = [b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)]


@cache
def files() -> list[bytes]:
    """At least one of every format, and of what makes decoders branch."""
    picture = Image.fromarray(noise((24, 16)))
    profile = rgb_profile(np.eye(3) / 3, 2.2)
    return [
        *(encoded(picture, format) for format in PLAIN),
        *(
            turned(picture, 6, format, icc_profile=profile)
            for format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")
        ),
        *(
            animation([(9 * n, 90, 200) for n in range(4)], format)
            for format in ("GIF", "PNG", "WEBP", "AVIF")
        ),
        *(encoded(picture.convert("P"), format) for format in ("PNG", "GIF", "TIFF", "PCX")),
        *(encoded(picture.convert(mode), "PNG") for mode in ("1", "LA", "RGBA", "I;16")),
        *(
            encoded(picture, "TIFF", compression=how)
            for how in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits")
        ),
        encoded(picture, "JPEG", progressive=True),
        encoded(picture.convert("CMYK"), "JPEG", icc_profile=cmyk_profile(lambda inks: (50, 10, 10))),
        encoded(Image.new("RGB", (1040, 1040), "red"), "JPEG"),
        encoded(picture, "MPO", save_all=True, append_images=[picture]),
        tiff(np.zeros((4, 4, 3), np.uint8), photometric=8),
        tiff(np.zeros((4, 4), np.float32), 1, bits=32, sample_format=3),
        tiff(np.zeros((4, 4, 3), np.uint16), 2, bits=16),
        b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x08\0\0\0\x08\0\x08\0\3" + bytes(14) + b"\x80" * 192,
        heic(two_halves()),
    ]


def cut(data, content):
    return content[: data.draw(st.integers(0, len(content)))]


def flip(data, content):
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    return bytes(content)


def edit_header(data, content):
    at = data.draw(st.integers(0, min(64, len(content))))
    new = data.draw(
        st.binary(min_size=1, max_size=8) | st.sampled_from([b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4)])
    )
    return content[:at] + new + content[at + len(new) :]


def splice(data, content):
    other = data.draw(st.sampled_from(files()))
    return content[: data.draw(st.integers(0, len(content)))] + other[data.draw(st.integers(0, len(other))) :]


def repeat(data, content):
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    return content[:end] + content[start:end] * data.draw(st.integers(1, 4)) + content[end:]


CHANGES = [cut, flip, edit_header, splice, repeat]
OPTIONS = st.builds(
    Decoding,
    frames=st.sampled_from(["first", "middle", "mean"]),
    truncated=st.sampled_from(["refuse", "accept"]),
    max_pixels=st.just(2 * CAP),
)


def check(content: bytes, decoding: Decoding) -> bool:
    """Whether it could be read."""
    try:
        image = decode(content, "fuzzed", decoding, lambda: 64)
    except ImageDecodeError as err:
        message = str(err)
    else:
        message = ""
    if message:
        assert message.startswith("cannot read image fuzzed: ")
        assert "\n" not in message
        return False
    assert image.dtype == np.uint8
    assert image.shape[-1] == 3
    assert image.ndim == 3 or (image.ndim == 4 and decoding.frames == "mean" and len(image) <= 8)
    assert 0 < image[..., 0].size <= 8 * 2 * CAP
    return True


def fuzz(examples: int):
    def run(property):
        unhurried = settings(
            max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
        )
        return unhurried(given(st.data(), OPTIONS)(property))

    return run


def damage_and_decode(data, decoding):
    content = data.draw(st.sampled_from(files()))
    for change in data.draw(st.lists(st.sampled_from(CHANGES), min_size=1, max_size=3)):
        content = change(data, content or b"\0")
    check(content, decoding)


def test_every_file_that_is_damaged_here_can_be_read_when_it_is_not():
    unread = [content[:12] for content in files() if not check(content, Decoding())]
    assert unread == []


@pytest.mark.slow
@fuzz(300)
def test_damaged_files_give_a_picture_or_our_error(data, decoding):
    damage_and_decode(data, decoding)


@pytest.mark.slow
@fuzz(5_000)
def test_many_damaged_files_give_a_picture_or_our_error(data, decoding):
    damage_and_decode(data, decoding)


@fuzz(200)
def test_any_bytes_behind_a_signature_give_a_picture_or_our_error(data, decoding):
    signature = data.draw(st.sampled_from([content[:16] for content in files()] + [b""]))
    check(signature + data.draw(st.binary(max_size=300)), decoding)


@pytest.mark.parametrize("length", range(20))
def test_each_beginning_of_each_file_gives_our_error(length):
    for content in files():
        check(content[:length], Decoding(max_pixels=CAP))


def test_each_single_byte_of_a_small_header_can_be_anything():
    for content in (encoded(Image.new("L", (2, 2)), "GIF"), encoded(Image.new("L", (2, 2)), "BMP")):
        for at in range(30):
            for value in (0, 1, 127, 128, 255):
                check(content[:at] + bytes([value]) + content[at + 1 :], Decoding(max_pixels=CAP))
