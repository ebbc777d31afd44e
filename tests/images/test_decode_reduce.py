"""Large images are decoded at a fraction of their size only where no vector shows it."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import open_clip
from pictures import encoded, noise, photo_like
from PIL import Image

from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from t2i_pipelines.images import decode
from t2i_pipelines.images.shrink import factor, plan, regrid
from t2i_pipelines.operators.image_decode import ImageDecode

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "photos"
GALLERY = [
    Path("data/gallery") / name for name in ("002-cat.jpg", "014-palm-tree-umbrella.jpg", "023-duck.webp")
]
PHOTOS = (sorted(GOLDEN.glob("*.jpg")) or GALLERY)[:3]
NEVER = Decoding(reduce="never")
CLIP = Preprocess.of({"size": 224, "mean": CLIP_MEAN, "std": CLIP_STD}, "test")


@cache
def photo(path: Path, size, amplitude) -> Image.Image:
    return Image.fromarray(photo_like(Image.open(path), size, amplitude))


def cosines(files) -> np.ndarray:
    """Of t2i_mini's vectors, reduced against exact, through the operator."""
    vectors = [
        load_encoder("t2i_mini").encode_images(ImageDecode("t2i_mini", reduce=reduce).many(files))
        for reduce in ("auto", "never")
    ]
    reduced, exact = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    return (reduced * exact).sum(1)


@pytest.mark.parametrize(
    ("size", "side", "by"),
    [
        ((4000, 3000), 224, 2),
        ((4000, 3000), 336, 2),
        ((4000, 3000), 384, 1),
        ((8000, 6000), 224, 4),
        ((4000, 3000), 96, 4),
        ((4096, 3072), 96, 8),
        ((4096, 3071), 96, 4),
        ((1792, 1792), 224, 2),
        ((1791, 9999), 224, 1),
        ((512, 512), 1, 2),
        ((511, 511), 1, 1),
    ],
)
def test_the_shorter_side_keeps_four_times_what_the_model_sees(size, side, by):
    assert factor(size, side) == by
    assert plan(size[::-1], lambda: side).by == by


def test_nothing_is_reduced_for_a_model_that_sees_no_square_or_where_there_is_none():
    assert plan((9000, 9000), lambda: None) == (1, (9000, 9000))
    assert plan((9000, 9000), None) == (1, (9000, 9000))


def test_small_pictures_are_decoded_exactly_and_the_model_is_not_asked():
    for format in ("JPEG", "PNG", "WEBP"):
        content = encoded(Image.fromarray(noise((375, 500))), format)
        assert np.array_equal(decode(content, side=lambda: 1 / 0), decode(content))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF"])
def test_reducing_can_be_forbidden(format):
    content = encoded(Image.fromarray(noise((520, 520))), format)
    assert decode(content, side=lambda: 64).shape == (260, 260, 3)
    assert np.array_equal(decode(content, "x", NEVER, lambda: 64), decode(content))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_in_each_mode_are_reduced(mode):
    picture = photo(PHOTOS[0], (803, 1001), 4).convert(mode)
    content = encoded(picture, "JPEG", quality=90)
    assert decode(content, side=lambda: 96).shape == (401, 500, 3)
    assert cosines([content]).min() >= 0.999


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_other_formats_are_reduced(format):
    content = encoded(photo(PHOTOS[1], (803, 1001), 4), format)
    assert decode(content, side=lambda: 96).shape == (401, 500, 3)
    assert cosines([content]).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("size", [(800, 1200), (771, 1031), (1167, 775), (1201, 1203)], ids=str)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_vectors_are_those_of_the_exact_way(size, subsampling):
    files = [
        encoded(photo(path, size, amplitude), "JPEG", quality=quality, subsampling=subsampling)
        for path in PHOTOS
        for amplitude, quality in ((0, 95), (6, 75))
    ]
    assert cosines(files).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("size", [(3000, 4000), (3001, 4003), (3088, 4112)], ids=str)
def test_vectors_of_twelve_megapixels_are_those_of_the_exact_way(size):
    files = [
        encoded(photo(path, size, 6), "JPEG", quality=quality, subsampling=subsampling)
        for path in PHOTOS
        for quality, subsampling in ((92, "4:2:0"), (75, "4:4:4"))
    ]
    assert cosines(files).min() >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1801, 2403), (1800, 2400), (2403, 1801), (1795, 2701)], ids=str)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_what_clip_sees_differs_by_less_than_half_a_step_of_eight_bits(format, size):
    """Its shorter side becomes 224; the longer one is cut to whole pixels as that of the large image."""
    content = encoded(photo(PHOTOS[0], size, 4), format)
    reduced, exact = decode(content, side=lambda: 224), decode(content)
    assert max(reduced.shape) < max(size) / 2 + 1
    difference = np.abs(CLIP.fit(reduced).astype(int) - CLIP.fit(exact))
    assert difference.mean() < 0.5


def test_the_longer_side_is_cut_as_that_of_the_large_picture():
    random = np.random.default_rng(0)
    for width, height in random.integers(1792, 5000, (500, 2)).tolist():
        columns, rows = plan((width, height), lambda: 224).grid
        wanted = int(224 * max(width, height) / min(width, height))
        assert int(224 * max(columns, rows) / min(columns, rows)) == wanted, (width, height)


@pytest.mark.parametrize("size", [(1025, 1031), (1030, 1029), (1027, 1024)], ids=str)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_each_pixel_stays_where_it_was_if_the_size_cannot_be_divided(format, size):
    """Ramps that rise by 1.7 from one pixel of the model's to the next: they must be as steep as before."""
    rows, columns = size
    side = 125
    dither = np.random.default_rng(0).normal(0, 6, (*size, 3))
    dither[..., 0] += np.linspace(20, 230, columns)[None]
    dither[..., 1] += np.linspace(20, 230, rows)[:, None]
    best = {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    content = encoded(Image.fromarray(dither.astype(np.uint8)), format, **best)
    seen, exact = (
        np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC), float)
        for image in (decode(content, side=lambda: side), decode(content))
    )
    across = (seen - exact)[..., 0].mean(0)
    down = (seen - exact)[..., 1].mean(1)
    for difference in (across[2:-2], down[2:-2]):
        assert abs(np.polyfit(np.linspace(0, 1, len(difference)), difference, 1)[0]) < 0.06


def test_a_size_that_is_whole_is_left_as_it_is():
    image = noise((20, 30))
    assert regrid(image, (30.0, 20.0), (30, 20)) is image


def test_a_size_that_is_not_whole_is_stretched_by_as_much_as_is_missing():
    ramp = np.repeat(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], 8, axis=0).repeat(3, axis=2)
    stretched = regrid(ramp, (99.5, 8.0), (100, 8))
    assert stretched.shape == (8, 100, 3)
    middles = (np.arange(100) + 0.5) * 0.995 - 0.5  # where the new pixels are among the old
    assert np.abs(stretched[4, 2:-2, 0] - 2 * middles[2:-2]).max() <= 0.6


@pytest.mark.slow
def test_a_tower_as_large_as_clips_gives_the_same_vectors():
    """B/32 with random weights: as sensitive to pixels as any, since nothing was learnt to be ignored."""
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-32", pretrained=None).eval()

    def vectors(images):
        with torch.inference_mode():
            tensor = model.encode_image(torch.from_numpy(CLIP.tensor(images)))
        return torch.nn.functional.normalize(tensor, dim=-1).numpy()

    sizes = [(3000, 4000), (1801, 2403)]
    files = [encoded(photo(path, size, 6), "JPEG", quality=90) for path in PHOTOS for size in sizes]
    reduced = vectors([decode(file, side=lambda: 224) for file in files])
    exact = vectors([decode(file) for file in files])
    assert (reduced * exact).sum(1).min() >= 0.999
