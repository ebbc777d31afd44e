"""Damaged files are refused, memory is bounded, and no native library writes to the terminal."""

import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, noise
from PIL import Image
from typer.testing import CliRunner

from t2i_pipelines.cli import app
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD, MOST_LONG, Preprocess
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.images import decode, decode_isolated
from t2i_pipelines.operators.image_decode import ImageDecode


def photo(size=(240, 320), **options) -> bytes:
    blocks = np.kron(noise((size[0] // 8, size[1] // 8)), np.ones((8, 8, 1), np.uint8))
    return encoded(Image.fromarray(blocks), "JPEG", **options)


def cut_in(content: bytes) -> int:
    start = content.index(b"\xff\xda")
    return start + (len(content) - start) // 5


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("side", [None, 16])
def test_a_jpeg_that_begins_anew_within_its_data_is_refused(progressive, side):
    whole = photo(progressive=progressive)
    damaged = whole[: cut_in(whole)] + whole
    with pytest.raises(ImageDecodeError, match="broken data stream"):
        decode(damaged, side=None if side is None else lambda: side)


ENDS = {
    "an end before the data": lambda whole, at: whole[:at] + b"\xff\xd9",
    "an end within the data": lambda whole, at: whole[:at] + b"\xff\xd9" + whole[at:],
    "a comment within the data": lambda whole, at: whole[:at] + b"\xff\xfe\0\4ab" + whole[at:],
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("side", [None, 16])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"progressive": True},
        {"restart_marker_rows": 1},
        {"subsampling": 0},
        {"mode": "CMYK"},
        {"mode": "L"},
    ],
)
def test_a_jpeg_that_ends_before_its_image_is_refused(options, side, end):
    image = Image.open(io.BytesIO(photo())).convert(options.pop("mode", "RGB"))
    whole = encoded(image, "JPEG", **options)
    damaged = ENDS[end](whole, cut_in(whole))
    with pytest.raises(
        ImageDecodeError, match="(premature end of data segment|before its last scan); truncated='accept'"
    ):
        decode(damaged, side=None if side is None else lambda: side)
    assert decode(damaged, decoding=Decoding(truncated="accept")).shape == (240, 320, 3)
    for complete in (whole, whole + b"more", whole[:-2] + b"\0\0\xff\xd9"):
        assert (decode(complete) == decode(whole)).all()


def test_a_progressive_jpeg_without_its_last_scans_is_refused():
    whole = photo(progressive=True)
    starts = [at.start() for at in re.finditer(b"\xff\xda", whole)]
    for start in starts[1:]:
        # the tables of a scan stand before it
        few = whole[: max(whole.rfind(b"\xff\xc4", 0, start), starts[starts.index(start) - 1])] + b"\xff\xd9"
        with pytest.raises(ImageDecodeError, match=r"before its last scan; truncated='accept'|premature end"):
            decode(few)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_grey_jpeg_is_complete(options):
    grey = encoded(Image.new("RGB", (64, 48), (128, 128, 128)), "JPEG", **options)
    assert (decode(grey) == 128).all()


def test_what_is_there_of_a_damaged_jpeg_can_be_accepted():
    whole = photo()
    image = decode(whole[: cut_in(whole)] + whole, decoding=Decoding(truncated="accept"))
    assert image.shape == (240, 320, 3)
    assert (image[0] == decode(whole)[0]).all()


def png(width: int, height: int, bits: int, kind: int, row: bytes, key: bytes = b"") -> bytes:
    """Write a PNG whose rows are equal, by the chunks of its specification."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(b"\0" + row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    transparent = chunk(b"tRNS", key) if key else b""
    parts = chunk(b"IHDR", head) + transparent + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("bits", "key", "row"),
    [
        (1, b"\0\1", b"\xf0"),
        (2, b"\0\1", b"\x55\xff"),
        (4, b"\0\7", b"\x77\x77\xff\xff"),
        (8, b"\0\x40", b"\x40" * 4 + b"\xff" * 4),
        (16, b"\x40\x40", b"\x40\x40" * 4 + b"\xff\xff" * 4),
    ],
)
def test_the_grey_that_a_png_makes_transparent_shows_the_background(bits, key, row):
    image = decode(png(8, 8, bits, 0, row, key), decoding=Decoding(background="#102030"))
    assert image[0, 0].tolist() == [16, 32, 48]
    assert image[0, 7].tolist() == ([0, 0, 0] if bits == 1 else [255, 255, 255])
    opaque = decode(png(8, 8, bits, 0, row))
    assert len(set(opaque[0, 0].tolist())) == 1
    assert opaque[0, 0].tolist() != [16, 32, 48]


def test_the_colour_of_16_bits_that_a_png_makes_transparent_shows_the_background():
    """Compared in all of its bits: the second pixel differs from the first in the lowest one."""
    colours = [(0x4041, 0x5052, 0x6063), (0x4041, 0x5052, 0x6062), (0x4141, 0x5052, 0x6063), (0xFFFF,) * 3]
    row = b"".join(struct.pack(">HHH", *colour) for colour in colours)
    content = png(4, 8, 16, 2, row, struct.pack(">HHH", *colours[0]))
    expected = [[16, 32, 48], [64, 80, 96], [65, 80, 96], [255, 255, 255]]
    assert decode(content, decoding=Decoding(background="#102030"))[7].tolist() == expected
    assert decode(png(4, 8, 16, 2, row), decoding=Decoding(background="#102030"))[0, 0].tolist() == [
        64,
        80,
        96,
    ]


@pytest.mark.parametrize("size", [(1, 1_000_001), (1_000_001, 1)])
def test_an_image_thinner_than_any_is_refused_undecoded(size):
    """One of 1 x 50 million pixels may have 74 bytes, and takes 2 GB."""
    content = png(*size, 8, 2, b"")
    said = f"thin: {size[0]} x {size[1]} pixels: a side may have 1,000,000 at most; cut the image into pieces"
    for truncated in ("refuse", "accept"):
        with pytest.raises(ImageDecodeError, match=said):
            decode(content, "thin", Decoding(truncated=truncated))


def test_an_image_of_the_longest_side_is_decoded():
    content = io.BytesIO()
    Image.new("RGB", (1_000_000, 1)).save(content, "PNG")
    assert decode(content.getvalue()).shape == (1, 1_000_000, 3)


def test_a_progressive_jpeg_is_refused_before_it_takes_more_memory_than_max_pixels_allows():
    image = encoded(Image.new("RGB", (100, 80)), "JPEG", progressive=True, subsampling=0)
    with pytest.raises(
        ImageDecodeError,
        match=r"progressive JPEG of 100 x 80 takes 0 MB .* max_pixels=9,500; raise max_pixels",
    ):
        decode(image, decoding=Decoding(max_pixels=9_500))
    assert decode(image, decoding=Decoding(max_pixels=9_600)).shape == (80, 100, 3)
    halved = encoded(Image.new("RGB", (100, 80)), "JPEG", progressive=True, subsampling=2)
    assert decode(halved, decoding=Decoding(max_pixels=8_000)).shape == (80, 100, 3)


MEASURE = """
import resource, sys
from t2i_pipelines.images import decode
content = open(sys.argv[1], "rb").read()
decode(open(sys.argv[2], "rb").read(), side=lambda: 224)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(content, side=lambda: 224)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def grey16(path: Path) -> None:
    path.write_bytes(png(13_000, 13_000, 16, 0, bytes(26_000)))


def float_tiff(path: Path) -> None:
    Image.new("F", (13_000, 13_000), 0.5).save(path, "TIFF")


def transparent(path: Path) -> None:
    path.write_bytes(png(13_000, 13_000, 8, 6, bytes(52_000)))


def strip(path: Path) -> None:
    path.write_bytes(png(1_000, 160_000, 8, 2, bytes(3_000)))


def progressive(path: Path) -> None:
    Image.new("RGB", (12_000, 12_000)).save(path, "JPEG", progressive=True, subsampling=0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux alone")
@pytest.mark.parametrize("make", [grey16, float_tiff, transparent, strip, progressive])
def test_an_image_within_max_pixels_takes_less_than_a_gigabyte(tmp_path, make):
    make(tmp_path / "large")
    (tmp_path / "small").write_bytes(photo())
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        MEASURE,
        str(tmp_path / "large"),
        str(tmp_path / "small"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    size = (tmp_path / "large").stat().st_size >> 20
    assert int(done.stdout) < 1000 + size


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16", "F", "LA"])
def test_bands_give_what_the_whole_gives(mode, monkeypatch):
    values = noise((70, 50))
    image = Image.fromarray(values)
    if mode in ("I;16", "F"):
        image = Image.fromarray(values[..., 0].astype(np.uint16 if mode == "I;16" else np.float32) * 3)
    elif mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(values[..., 1]))
        image = image.convert(mode)
    else:
        image = image.convert(mode)
    content = encoded(image, "TIFF")
    whole = decode(content)
    monkeypatch.setattr("t2i_pipelines.images.colour.BAND", 50 * 8)
    assert (decode(content) == whole).all()


CLIP = Preprocess(224, CLIP_MEAN, CLIP_STD, "bicubic", "shortest")


@pytest.mark.parametrize("size", [(1, 60_000), (3, 9_000), (60_000, 2)])
def test_a_thin_image_is_cut_before_it_is_enlarged(size, monkeypatch):
    resized = []
    resize = Image.Image.resize

    def spy(self, to, *arguments, **options):
        resized.append(to)
        return resize(self, to, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    image = np.zeros((size[1], size[0], 3), np.uint8)
    middle = image.shape[0] // 2, image.shape[1] // 2
    image[middle[0] - 1 : middle[0] + 2, :] = 255 if size[1] > size[0] else 0
    fitted = CLIP.fit(image)
    assert fitted.shape == (224, 224, 3)
    assert max(resized[0]) <= MOST_LONG * 224
    assert (fitted.max() == 255) == (size[1] > size[0])


def test_an_image_that_is_not_thin_is_resized_whole():
    image = noise((400, 400 * MOST_LONG // 8))
    by_hand = Image.fromarray(image).resize((224 * MOST_LONG // 8, 224), Image.Resampling.BICUBIC)
    left = round((by_hand.width - 224) / 2)
    assert (CLIP.fit(image) == np.asarray(by_hand)[:, left : left + 224]).all()


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (np.zeros((0, 0, 3), np.uint8), r"got \(0, 0, 3\) uint8"),
        (np.full((9, 9, 3), 0.5), r"got \(9, 9, 3\) float64; convert it, .*\(255 \* array\)"),
        (np.zeros((9, 9, 3), np.uint16), r"got \(9, 9, 3\) uint16"),
        (np.zeros((9, 9, 4), np.uint8), r"got \(9, 9, 4\) uint8"),
        (np.zeros((9, 9), np.uint8), r"got \(9, 9\) uint8"),
        (Image.new("RGB", (0, 5)), "it has no pixels: 0 x 5"),
    ],
)
@pytest.mark.parametrize("model_name", [None, "t2i_mini"])
def test_an_array_that_is_no_image_is_refused_with_the_way_out(item, reason, model_name):
    with pytest.raises(ImageDecodeError, match=reason):
        ImageDecode(model_name=model_name).many([item])


def damaged_files() -> dict[str, bytes]:
    picture = Image.fromarray(noise((64, 64)))
    tiff = bytearray(encoded(picture, "TIFF", compression="tiff_adobe_deflate"))
    tiff[300:900] = bytes(600)
    jpeg = bytearray(encoded(picture, "JPEG"))
    jpeg[-400:-380] = bytes(20)
    png_content = bytearray(encoded(picture, "PNG"))
    png_content[-200:-150] = bytes(50)
    lzw = bytearray(encoded(picture, "TIFF", compression="tiff_lzw"))
    lzw[200:400] = bytes(200)
    return {"tiff": tiff, "jpeg": jpeg[:-300] + b"\xff\xd9", "png": png_content, "lzw": lzw}


@pytest.mark.parametrize("way", [decode, decode_isolated])
def test_decoders_write_nothing_to_stderr(way):
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            for name, content in damaged_files().items():
                try:
                    way(bytes(content), name)
                except ImageDecodeError as err:
                    assert name in str(err)  # noqa: PT017 - some are read, some refused
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        assert file.read() == b""


@pytest.mark.parametrize("command", ["insert", "sync", "reembed"])
def test_each_setting_of_decoding_has_its_option(command):
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    for name in ("background", "frames", "truncated", "max-pixels", "max-bytes", "reduce", "isolate"):
        assert re.search(rf"--{name}\b", shown), name
    assert "--decode-timeout" in shown
    assert "--decode-workers" in shown


def test_the_limit_of_pixels_can_be_raised_where_the_message_says(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (300, 200), 90).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    place = ["--uri", str(tmp_path / "x.db"), "--model-name", "colour"]
    small = CliRunner().invoke(app, ["insert", str(tmp_path), "--max-pixels", "59999", *place])
    assert small.exit_code == 1
    assert "raise max_pixels (--max-pixels) if you trust the file" in " ".join(small.output.split())
    large = CliRunner().invoke(app, ["insert", str(tmp_path), "--max-pixels", "60000", *place])
    assert large.exit_code == 0
