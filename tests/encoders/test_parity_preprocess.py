"""An image becomes the tensor that CLIP's own preprocessing makes of it."""

from pathlib import Path

import numpy as np
import pytest
from clips import CLIPImageProcessorPil, open_clip
from PIL import Image

from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.images import decode

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
SIZES = [(480, 640), (640, 480), (300, 300), (224, 224), (100, 77), (1, 50), (231, 1000), (225, 449)]
SIGLIP = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
TOLERANCE = 1e-6


def clip(size=224, **kwargs) -> Preprocess:
    return Preprocess.of({"size": size, "mean": CLIP_MEAN, "std": CLIP_STD, **kwargs}, "test")


def picture(size) -> np.ndarray:
    """Smooth waves and noise, so that each filter and each pixel of a crop would show."""
    random = np.random.default_rng(sum(size))
    y, x = np.mgrid[: size[0], : size[1]] / 20
    waves = np.stack([np.sin(x + y), np.cos(x * y / 9), np.sin(y)], -1) * 80 + 128
    return (waves + random.normal(0, 20, (*size, 3))).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "kwargs",
    [{}, {"interpolation": "bilinear"}, SIGLIP],
    ids=["clip", "bilinear", "siglip squashes"],
)
def test_it_equals_open_clips(size, kwargs):
    image = picture(size)
    theirs = open_clip.image_transform(224, is_train=False, **kwargs)(Image.fromarray(image)).numpy()
    ours = clip(**kwargs).tensor([image])[0]
    assert ours.shape == (3, 224, 224)
    assert np.abs(ours - theirs).max() < TOLERANCE


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (300, 300), (224, 224), (448, 1000)], ids=str)
def test_it_equals_transformers(size):
    """On sizes whose left-over is even: transformers and OpenAI round an odd one differently.

    Its default processor resizes by torch, which rounds otherwise than Pillow; this one is on Pillow.
    """
    image = picture(size)
    processor = CLIPImageProcessorPil()
    (theirs,) = processor(Image.fromarray(image), return_tensors="np")["pixel_values"]
    assert np.abs(clip().tensor([image])[0] - theirs).max() < 5e-6


def test_photos_equal_what_clip_itself_made_of_them():
    if not GOLDEN.is_dir():
        pytest.skip("the photos and tensors of clip-retrieval's tests are not beside the repository")
    golden = np.load(GOLDEN / "preprocess_vit_b32.npz", allow_pickle=False)
    for name, wanted in zip(golden["names"], golden["pixel_values"], strict=True):
        path = GOLDEN / "photos" / str(name)
        path = path if path.suffix else path.with_suffix(".jpg")
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert np.abs(clip().tensor([pixels])[0] - wanted).max() < TOLERANCE, name


def test_photos_as_the_pipeline_decodes_them_stay_near():
    """OpenCV's JPEG decoder rounds some pixels otherwise than Pillow's; the resize evens that out."""
    if not GOLDEN.is_dir():
        pytest.skip("the photos and tensors of clip-retrieval's tests are not beside the repository")
    golden = np.load(GOLDEN / "preprocess_vit_b32.npz", allow_pickle=False)
    for name, wanted in zip(golden["names"], golden["pixel_values"], strict=True):
        path = (GOLDEN / "photos" / str(name)).with_suffix(".jpg")
        ours = clip().tensor([decode(path.read_bytes(), str(path))])[0]
        assert np.abs(ours - wanted).mean() < 0.01, name


def test_fitting_twice_changes_nothing():
    once = clip().fit(picture((300, 500)))
    assert clip().fit(once) is once


def test_older_configs_that_say_nothing_mean_shortest_and_bicubic():
    assert (clip().resize_mode, clip().interpolation) == ("shortest", "bicubic")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"resize_mode": "longest"}, "resize_mode one of squash, shortest; got 'bicubic' and 'longest'"),
        ({"interpolation": "nearest"}, "interpolation must be one of bicubic, bilinear"),
        ({"size": [224, 256]}, "size must be square, got"),
    ],
)
def test_what_is_not_known_is_refused(kwargs, message):
    with pytest.raises(CheckpointError, match=message):
        clip(**kwargs)
