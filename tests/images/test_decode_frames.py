"""An animation is its first frame, its middle one, or the mean of what the model sees in several."""

import sys

import numpy as np
import pytest
from pictures import BLUE, GREEN, RED, animation, encoded, near, two_halves
from PIL import Image

import t2i_pipelines.testing  # noqa: F401 - registers the model "colour"
from t2i_pipelines import build_insert_pipeline, build_search_pipeline
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.config.settings import Decoding
from t2i_pipelines.encoders import load_encoder, register_encoder
from t2i_pipelines.errors import EncodeError, ImageDecodeError
from t2i_pipelines.images import decode

ANIMATED = ["GIF", "PNG", "WEBP", "AVIF"]
YELLOW = (255, 255, 0)
FIVE = [RED, GREEN, BLUE, YELLOW, (255, 0, 255)]


@pytest.mark.parametrize("format", ANIMATED)
@pytest.mark.parametrize(("frames", "colour"), [("first", RED), ("middle", BLUE)])
def test_one_frame_of_an_animation_is_taken(format, frames, colour):
    image = decode(animation(FIVE, format), decoding=Decoding(frames=frames))
    assert image.shape == (20, 40, 3)
    assert near(image[10, 20], colour)


@pytest.mark.parametrize("format", ANIMATED)
def test_the_first_frame_is_what_is_taken_where_nothing_is_said(format):
    assert near(decode(animation(FIVE, format))[10, 20], RED)


@pytest.mark.parametrize("format", ANIMATED)
def test_for_the_mean_each_of_a_few_frames_is_taken(format):
    frames = decode(animation(FIVE, format), decoding=Decoding(frames="mean"))
    assert frames.shape == (5, 20, 40, 3)
    assert all(near(frame[10, 20], colour) for frame, colour in zip(frames, FIVE, strict=True))


def test_for_the_mean_of_many_frames_eight_are_taken_from_first_to_last():
    greys = [(n * 12, n * 12, n * 12) for n in range(20)]
    frames = decode(animation(greys, "WEBP"), decoding=Decoding(frames="mean"))
    assert [round(frame.mean() / 12) for frame in frames] == [0, 3, 5, 8, 11, 14, 16, 19]


@pytest.mark.parametrize("frames", ["first", "middle", "mean"])
def test_what_does_not_move_is_one_picture(frames):
    for format in ANIMATED:
        assert decode(encoded(two_halves(), format), decoding=Decoding(frames=frames)).shape == (20, 40, 3)


def test_only_so_many_frames_are_looked_at_that_their_pixels_stay_below_the_cap():
    greys = [(n * 10, n * 10, n * 10) for n in range(25)]
    content = animation(greys, "WEBP")  # 800 pixels a frame
    assert decode(content, decoding=Decoding(frames="middle"))[0, 0, 0] == 120
    assert decode(content, decoding=Decoding(frames="middle", max_pixels=8_000))[0, 0, 0] == 50
    assert decode(content, decoding=Decoding(frames="middle", max_pixels=800))[0, 0, 0] == 0


def growing_gif() -> bytes:
    """40 x 20 in red, then a frame of 60 x 30 in blue, which the format forbids."""

    def parts(size, index):
        picture = Image.new("P", size, index)
        picture.putpalette([*RED, *BLUE])
        picture.putpixel((0, 0), 1 - index)  # or the palette would have one colour
        content = encoded(picture, "GIF")
        palette = 13 + 3 * 2 ** ((content[10] & 7) + 1)
        return content[:palette], content[palette:-1]

    header, first = parts((40, 20), 0)
    _, second = parts((60, 30), 1)
    return header + first + second + b";"


def test_a_frame_that_is_larger_than_the_animation_is_cut_to_it():
    frames = decode(growing_gif(), decoding=Decoding(frames="mean"))
    assert frames.shape == (2, 20, 40, 3)
    assert near(frames[0, 10, 20], RED)
    assert near(frames[1, 10, 20], BLUE)


def test_a_frame_that_is_larger_than_the_cap_is_refused_before_it_is_unpacked(monkeypatch):
    assert decode(growing_gif(), decoding=Decoding(max_pixels=1700)).shape == (20, 40, 3)
    monkeypatch.setattr(
        sys.modules[decode.__module__], "_load", lambda header, decoding: pytest.fail("it was unpacked")
    )
    with pytest.raises(ImageDecodeError, match="60 x 30 are 1,800 pixels, more than max_pixels=1,700"):
        decode(growing_gif(), decoding=Decoding(max_pixels=1700, frames="middle"))


def test_the_vector_of_a_mean_is_the_mean_of_unit_vectors():
    image = ops.t2i.image_decode(model_name="colour", frames="mean")(animation([RED, YELLOW, BLUE], "PNG"))
    assert image.shape == (3, 1, 1, 3)
    vector = ops.t2i.clip(model_name="colour")(image)
    half = 1 / np.sqrt(2)
    assert vector == pytest.approx([(1 + half) / 3, half / 3, 1 / 3], abs=1e-6)


def test_pictures_beside_an_animation_keep_their_vectors_as_they_are():
    images = ops.t2i.image_decode(model_name="t2i_mini", frames="mean")(
        ["data/gallery/000-dog.webp", animation([RED, BLUE], "GIF"), "data/gallery/002-cat.jpg"]
    )
    vectors = ops.t2i.clip(model_name="t2i_mini")(list(images))
    assert len(vectors) == 3
    alone = ops.t2i.clip(model_name="t2i_mini")(ops.t2i.image_decode()("data/gallery/002-cat.jpg"))
    assert vectors[2] == pytest.approx(alone, abs=1e-4)


def test_forward_passes_are_no_larger_than_the_batch():
    batches = []

    class Counting(type(load_encoder("colour"))):
        def encode_images(self, images):
            batches.append(len(images))
            return super().encode_images(images)

    register_encoder("counting", lambda checkpoint, compute: Counting())
    animations = [animation([RED, BLUE, GREEN], "PNG")] * 2
    images = ops.t2i.image_decode(model_name="counting", frames="mean")(animations)
    ops.t2i.clip(model_name="counting")(list(images))
    assert batches == [2, 2, 2]


def test_a_black_frame_adds_nothing_to_the_mean():
    image = ops.t2i.image_decode(model_name="colour", frames="mean")(animation([RED, (0, 0, 0)], "PNG"))
    assert ops.t2i.clip(model_name="colour")(image).tolist() == [0.5, 0, 0]


def test_an_animation_is_found_by_all_that_happens_in_it(tmp_path, settings):
    (tmp_path / "moving.webp").write_bytes(animation([RED, BLUE], "WEBP"))
    (tmp_path / "still.png").write_bytes(animation([RED], "PNG"))
    rows = build_insert_pipeline(**settings, frames="mean")(tmp_path).to_list()
    assert [status for _, _, status, _ in rows] == ["inserted", "inserted"]
    _, hits = build_search_pipeline(**settings)("red and blue").get()
    assert hits[0].path.endswith("moving.webp")
    assert hits[0].score == pytest.approx(1, abs=1e-3)
    _, hits = build_search_pipeline(**settings)("red").get()
    assert hits[0].path.endswith("still.png")


def test_five_dimensions_are_no_picture():
    with pytest.raises(EncodeError, match=r"got uint8 \(1, 1, 1, 1, 3\)"):
        ops.t2i.clip(model_name="colour")(np.zeros((1, 1, 1, 1, 3), np.uint8))
