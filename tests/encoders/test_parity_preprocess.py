"""An image becomes the tensor that CLIP's own preprocessing makes of it."""

import importlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from clips import open_clip
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


@pytest.mark.parametrize("size", [*SIZES, (449, 225)], ids=str)
def test_the_longest_side_is_fitted_and_the_rest_filled_as_open_clip_does(size):
    image = picture(size)
    kwargs = {"resize_mode": "longest", "fill_color": 7}
    theirs = open_clip.image_transform(224, is_train=False, **kwargs)(Image.fromarray(image)).numpy()
    assert np.abs(clip(**kwargs).tensor([image])[0] - theirs).max() < TOLERANCE


PROCESSORS = {
    "clip": {"image_processor_type": "CLIPImageProcessor"},
    "clip of old": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224},
    "chinese": {"image_processor_type": "ChineseCLIPImageProcessor", "resample": 3},
    "from 256": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 224},
        "resample": 2,
    },
    "squashed to 256, cropped": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"height": 256, "width": 256},
    },
    "scaled otherwise": {"image_processor_type": "CLIPImageProcessor", "rescale_factor": 1 / 127.5},
    "not normalised": {
        "image_processor_type": "CLIPImageProcessor",
        "do_normalize": False,
        "do_rescale": False,
    },
    "siglip": {"image_processor_type": "SiglipImageProcessor"},
    "siglip 2": {"image_processor_type": "SiglipImageProcessor", "resample": 2, "do_convert_rgb": None},
    "lanczos": {"image_processor_type": "SiglipImageProcessor", "resample": 1, "image_mean": [0.1, 0.2, 0.3]},
    "vit": {"image_processor_type": "ViTImageProcessor"},
}


def processor(given, pillow=True):
    """transformers' own, from what a file holds."""
    kind = given.get("image_processor_type", "CLIPImageProcessor")
    module = {"CLIPImageProcessor": "clip", "ChineseCLIPImageProcessor": "chinese_clip"}
    module = module.get(kind, kind.removesuffix("ImageProcessor").lower())
    kind += "Pil" if pillow else ""
    name = f"transformers.models.{module}.image_processing_{'pil_' if pillow else ''}{module}"
    settings = {key: value for key, value in given.items() if not key.endswith("_type")}
    return getattr(importlib.import_module(name), kind)(**settings)


@pytest.mark.parametrize("size", [*SIZES, (449, 225), (300, 453), (225, 226)], ids=str)
@pytest.mark.parametrize("given", PROCESSORS.values(), ids=PROCESSORS)
def test_it_equals_transformers(given, size):
    """Also where the left-over is odd. Its default processor resizes by torch; this one is on Pillow."""
    image = picture(size)
    ours = Preprocess.of_processor(given, "test", 224)
    if size == (224, 224):  # counts as fitted
        ours = replace(ours, resize=None)
        given = {**given, "size": {"height": 224, "width": 224}}
    (theirs,) = processor(given)(Image.fromarray(image), return_tensors="np")["pixel_values"]
    assert np.abs(ours.tensor([image])[0] - theirs).max() < 5e-5 * max(theirs.std(), 1)


@pytest.mark.parametrize("size", [(300, 453), (453, 300), (480, 640)], ids=str)
def test_transformers_fast_processor_crops_the_same_and_resizes_nearly_the_same(size):
    image = picture(size)
    fast = processor(PROCESSORS["clip"], pillow=False)
    (theirs,) = fast(Image.fromarray(image), return_tensors="np")["pixel_values"]
    given = {"image_processor_type": "CLIPImageProcessorFast"}
    off = np.abs(Preprocess.of_processor(given, "test", 224).tensor([image])[0] - theirs)
    assert off.max() < 2.5 / 255 / min(CLIP_STD)
    assert (off > 1e-5).mean() < 0.02


def test_the_two_croppings_differ_but_not_in_what_collections_compare():
    theirs = Preprocess.of_processor({}, "test", 224)
    image = picture((300, 305))  # 227 pixels after the resize: 1.5 are left of the crop
    assert (theirs.fit(image) != clip().fit(image)).any()
    assert str(theirs) == str(clip())


def test_what_changes_a_tensor_by_more_than_a_pixel_is_in_what_collections_compare():
    plain = clip()
    lines = {str(replace(plain, **one)) for one in ({}, {"resize": 256}, {"scale": 1.0}, {"fill_color": 3})}
    assert len(lines) == 3
    assert str(replace(plain, resize=256, scale=1.0)) == f"{plain} from 256 scale 1"
    assert str(replace(plain, resize_mode="longest", fill_color=3)).endswith("0.2758 fill 3")
    assert str(replace(plain, resize=224)) == str(plain)


def test_what_is_written_is_read_back(tmp_path):
    given = replace(clip(), crop="transformers", resize=256, scale=1.0)
    (tmp_path / "preprocess_cfg.json").write_text(json.dumps(asdict(given)))
    assert Preprocess.load(tmp_path / "preprocess_cfg.json") == given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"image_processor_type": "Siglip2ImageProcessor"},
            "the processor Siglip2ImageProcessor is not known",
        ),
        ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "is code of its own repository, which is never run"),
        ({"resample": 0}, "resample must be one of .* got 0"),
        ({"do_pad": True}, "do_pad and do_resize=false are not supported"),
        ({"do_resize": False}, "do_pad and do_resize=false are not supported"),
        ({"do_center_crop": False}, "size None and crop_size None do not lead to a square of one size"),
        ({"size": {"shortest_edge": 200}}, "do not lead to a square of one size"),
        ({"size": {"height": 224, "width": 256}}, "a size must be square or a shortest_edge, got"),
        ({"size": 336, "crop_size": 336}, "leads to 336 pixels, the model sees 224"),
    ],
)
def test_a_processor_that_is_not_known_is_refused(given, message):
    with pytest.raises(CheckpointError, match=f"cfg.*{message}"):
        Preprocess.of_processor(given, "cfg", 224)


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
        ({"resize_mode": "cut"}, "resize_mode one of squash, shortest, longest; got 'bicubic' and 'cut'"),
        ({"interpolation": "nearest"}, "interpolation must be one of bicubic, bilinear"),
        ({"crop": "mine"}, "crop must be one of openai, transformers, got 'mine'"),
        ({"size": [224, 256]}, "size must be square, got"),
    ],
)
def test_what_is_not_known_is_refused(kwargs, message):
    with pytest.raises(CheckpointError, match=message):
        clip(**kwargs)
