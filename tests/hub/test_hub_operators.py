"""The hub's operators on images and vectors: names, arguments and shapes of results."""

import cv2
import numpy as np
import pytest
from conftest import paint
from towhee import ops, pipe
from towhee.types import Image

from t2i_pipelines._towhee.door import SharedType
from t2i_pipelines.errors import ConfigError, EncodeError, ImageDecodeError, QueryError, VectorError

pytest_plugins = ["old_notebooks"]
pytestmark = pytest.mark.usefixtures("hub")

ORANGE = (255, 128, 0)
MODELS = [
    "clip_vit_base_patch16",
    "clip_vit_base_patch32",
    "clip_vit_large_patch14",
    "clip_vit_large_patch14_336",
]


def clip(modality="image", **more):
    return ops.image_text_embedding.clip(model_name="colour", modality=modality, **more)


@pytest.mark.parametrize(
    ("operator", "mode", "pixel"),
    [
        (lambda: ops.image_decode(), "BGR", ORANGE[::-1]),
        (lambda: ops.image_decode("rgb"), "RGB", ORANGE),
        (lambda: ops.towhee.image_decode(), "BGR", ORANGE[::-1]),
        (lambda: ops.image_decode.cv2(), "BGR", ORANGE[::-1]),
        (lambda: ops.image_decode.cv2("BGR"), "BGR", ORANGE[::-1]),
        (lambda: ops.image_decode.cv2("rgb"), "RGB", ORANGE),
        (lambda: ops.image_decode.cv2(mode="Rgb"), "RGB", ORANGE),
        (lambda: ops.image_decode.cv2_rgb(), "RGB", ORANGE),
    ],
)
def test_pictures_come_as_towhees_images_with_their_channels_in_order(tmp_path, operator, mode, pixel):
    path = paint(tmp_path / "orange.png", ORANGE, size=(600, 900))
    for given in (str(path), path.read_bytes()):
        image = operator()(given)
        assert type(image) is Image
        assert (image.mode, image.shape, image.dtype) == (mode, (600, 900, 3), np.uint8)
        assert (image == pixel).all()


def test_bgr_is_what_opencv_reads(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "noise.png"), noise)
    assert np.array_equal(ops.image_decode.cv2()(str(tmp_path / "noise.png")), noise)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    p = pipe.input("path").map("path", "img", ops.image_decode.cv2("rgb")).output("img")
    for name in ("text.jpg", "missing.jpg"):
        with pytest.raises(ImageDecodeError, match=name):
            p(str(tmp_path / name))


def test_vectors_are_not_normalised_and_see_the_right_colours(tmp_path):
    path = str(paint(tmp_path / "orange.png", ORANGE))
    expected = np.array(ORANGE, np.float32) / 255
    for decode in (ops.image_decode(), ops.image_decode.cv2(), ops.image_decode.cv2("rgb")):
        p = pipe.input("path").map("path", "img", decode).map("img", "vec", clip()).output("vec")
        (vec,) = p(path).get()
        assert type(vec) is np.ndarray
        assert (vec.shape, vec.dtype) == ((3,), np.float32)
        assert np.allclose(vec, expected)
    plain = np.full((4, 4, 3), ORANGE, np.uint8)
    assert np.allclose(clip()(plain), expected), "an array of no mode is RGB"


def test_a_list_gives_a_list_also_of_one():
    assert [one.tolist() for one in clip("text")(["red"])] == [[1, 0, 0]]
    assert [one.tolist() for one in clip("text")(["red", "green"])] == [[1, 0, 0], [0, 1, 0]]
    assert clip("text")("red").tolist() == [1, 0, 0]
    black = Image(np.zeros((2, 2, 3), np.uint8), "RGB")
    assert [one.tolist() for one in clip()([black])] == [[0, 0, 0]]


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ("cpu", "cpu"),
        (-1, "cpu"),
        (0, "auto"),
        (1, "auto"),
        (None, "auto"),
        ("auto", "auto"),
        ("cuda", "cuda"),
        ("cuda:1", "cuda"),
    ],
)
def test_the_hubs_words_for_a_device(hub, given, ours):
    assert hub.operators.device_of(given) == ours


@pytest.mark.parametrize("given", ["gpu", "cpu:0", "cuda:", "cuda:x", True, 1.5])
def test_other_devices_are_refused(hub, given):
    with pytest.raises(ConfigError, match=r"device must be 'cpu', 'cuda', 'cuda:0', a number or None, got "):
        hub.operators.device_of(given)


def test_the_device_and_the_checkpoint_reach_the_model(hub):
    operator = clip(device=0, checkpoint_path="weights").get_op()
    assert operator._model[:3] == ("colour", "weights", "auto")
    positional = ops.image_text_embedding.clip("colour", "text", "cpu", "weights").get_op()
    assert positional._model[:3] == ("colour", "weights", "cpu")
    assert positional("red").tolist() == [1, 0, 0]


def test_clip_refuses_what_it_cannot_embed():
    with pytest.raises(EncodeError, match="an image is an"):
        clip()(np.zeros((3, 3), np.uint8))
    with pytest.raises(QueryError, match="empty"):
        clip("text")(" ")
    with pytest.raises(ConfigError, match="modality must be 'image' or 'text', got 'sound'"):
        pipe.input("a").map("a", "b", clip("sound")).output("b")


def test_the_models_are_those_that_the_tutorial_prints():
    operator = ops.image_text_embedding.clip(model_name=MODELS[0], modality="image").get_op()
    assert operator.supported_model_names() == MODELS
    assert operator.supported_model_names(format="onnx") == MODELS
    assert operator.supported_model_names("pytorch") == MODELS
    with pytest.raises(ConfigError, match="format must be None, 'onnx' or 'pytorch'; got 'tensorrt'"):
        operator.supported_model_names(format="tensorrt")


def test_np_normalize_divides_by_the_norm_along_its_axis():
    vec = np.array([3, 4, 0], np.float32)
    normal = ops.towhee.np_normalize()(vec)
    assert normal.dtype == np.float32
    assert np.allclose(normal, [0.6, 0.8, 0])
    assert np.allclose(ops.towhee.np_normalize()([3, 4]), [0.6, 0.8])
    several = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    for axis in (0, 1, -1):
        expected = several / np.linalg.norm(several, axis=axis, keepdims=True)
        assert np.allclose(ops.towhee.np_normalize(axis=axis)(several), expected)


def test_np_normalize_refuses_what_has_no_direction():
    with pytest.raises(VectorError, match="a vector of length 0.0 has no direction"):
        ops.towhee.np_normalize()(np.zeros(3))
    with pytest.raises(VectorError, match=r"np_normalize\(axis=1\) of shape \(3,\): axis 1 is out of bounds"):
        ops.towhee.np_normalize(axis=1)(np.ones(3))
    with pytest.raises(VectorError, match=r"np_normalize\(axis=0\) of shape \(\): could not convert string"):
        ops.towhee.np_normalize()("words")


def test_operators_are_shared_by_all_calls(hub):
    assert all(operator.shared_type == SharedType.Shareable for operator in hub.OPERATORS.values())
