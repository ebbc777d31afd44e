"""Images, profiles and files for the tests of the decoder; each by hand or by Pillow."""

import io
import struct

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)

# how to store an upright image so that EXIF's orientation, once undone, gives it back
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def two_halves(mode: str = "RGB") -> Image.Image:
    """40 x 20, left half red, right half blue."""
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20], pixels[:, 20:] = RED, BLUE
    return Image.fromarray(pixels).convert(mode)


def encoded(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def heic(picture: Image.Image, **options) -> bytes:
    import pillow_heif

    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, **options)
    return buffer.getvalue()


def turned(picture: Image.Image, orientation: int, format: str, **options) -> bytes:
    """The file of a camera that was held so that EXIF says ``orientation``; upright it is ``picture``."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    method = STORED[orientation]
    return encoded(picture if method is None else picture.transpose(method), format, exif=exif, **options)


def animation(colours, format: str, size=(40, 20)) -> bytes:
    """One frame a colour, lossless."""
    first, *further = [Image.new("RGB", size, colour) for colour in colours]
    lossless = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    options = {"save_all": True, "append_images": further, "duration": 100, **lossless.get(format, {})}
    return encoded(first, format, **options)


def near(pixel, colour, tolerance=40) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= tolerance)


def noise(size, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def photo_like(picture: Image.Image, size, amplitude=6, seed=0) -> np.ndarray:
    """An image enlarged to (height, width), with the 1/f spectrum of photographs and a sensor's noise."""
    height, width = size
    random = np.random.default_rng(seed)
    large = np.asarray(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), np.float32)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    for channel in range(3):
        spectrum = np.fft.rfft2(random.standard_normal(size, np.float32)) / frequency
        texture = np.fft.irfft2(spectrum, s=size)
        large[..., channel] += amplitude * texture / texture.std()
    large += random.normal(0, amplitude / 3, large.shape)
    return large.clip(0, 255).round().astype(np.uint8)


# ICC.1:2001-04, chapters 6 and 7: a header, a table of tags, the tags
def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, data, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, tag in tags.items():
        tag += bytes(-len(tag) % 4)
        table += name + struct.pack(">II", at + len(data), len(tag))
        data += tag
    d50 = struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    header = struct.pack(">I4xI4s4s4s12x4s", at + len(data), 0x02400000, kind, space, connection, b"acsp")
    header = header.ljust(68, b"\0") + d50
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def _fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _gamma(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


_TEXT = {
    b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
    b"cprt": b"text\0\0\0\0none\0",
    b"wtpt": _xyz(0.9642, 1.0, 0.8249),
}


def rgb_profile(matrix, gamma: float) -> bytes:
    """``matrix``: X, Y, Z (rows, under D50) of red, green, blue (columns)."""
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), np.transpose(matrix), strict=True)
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma))
    return _profile(b"mntr", b"RGB ", b"XYZ ", {**_TEXT, **{n: _xyz(*c) for n, c in columns}, **curves})


def grey_profile(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {**_TEXT, b"kTRC": _gamma(gamma)})


def cmyk_profile(lab_of) -> bytes:
    """``lab_of((c, m, y, k))`` for inks that are 0 or 1 gives L, a, b; between them it is linear."""
    corners = [[(n >> bit) & 1 for bit in (3, 2, 1, 0)] for n in range(16)]
    table = (np.array([lab_of(inks) for inks in corners]) * (2.55, 1, 1) + (0, 128, 128)).round()
    straight = bytes(range(256))
    identity = _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = b"mft1\0\0\0\0\4\3\2\0" + identity + 4 * straight + table.astype(np.uint8).tobytes() + 3 * straight
    return _profile(b"prtr", b"CMYK", b"Lab ", {**_TEXT, b"A2B0": lut})


def tiff(pixels: np.ndarray, photometric: int, bits: int = 8, sample_format: int = 1) -> bytes:
    """An uncompressed, little-endian TIFF 6.0 of one strip."""
    height, width = pixels.shape[:2]
    samples = pixels.shape[2] if pixels.ndim == 3 else 1
    data = np.ascontiguousarray(pixels).tobytes()
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    entries += [
        (273, 4, 8),
        (277, 3, samples),
        (278, 4, height),
        (279, 4, len(data)),
        (339, 3, sample_format),
    ]
    wide = b""
    packed = b""
    end = 8 + len(data)
    after = end + 2 + 12 * len(entries) + 4
    for tag, kind, value in entries:
        if tag in (258, 339) and samples > 1:
            packed += struct.pack("<HHII", tag, 3, samples, after + len(wide))
            wide += struct.pack(f"<{samples}H", *[value] * samples)
        else:
            packed += struct.pack("<HHII", tag, kind, 1, value)
    return (
        b"II*\0" + struct.pack("<I", end) + data + struct.pack("<H", len(entries)) + packed + bytes(4) + wide
    )
