"""Each option of decoding is checked as soon as it is given, and reaches the decoder from the builders."""

import numpy as np
import pytest
from pictures import BLUE, RED, animation, encoded, noise
from PIL import Image
from typer.testing import CliRunner

import t2i_pipelines.testing  # noqa: F401 - registers the model "colour"
from t2i_pipelines import build_insert_pipeline, cli
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.config.settings import Decoding, Settings
from t2i_pipelines.errors import ConfigError
from t2i_pipelines.operators.image_decode import ImageDecode

WRONG = [
    ({"background": "no colour"}, r"background must be an opaque colour such as .*, got 'no colour'"),
    ({"background": "#ffffff80"}, "background must be an opaque colour"),
    ({"background": None}, "background must be an opaque colour"),
    ({"frames": "last"}, "frames must be one of 'first', 'middle', 'mean', got 'last'"),
    ({"truncated": True}, "truncated must be one of 'refuse', 'accept', got True"),
    ({"max_pixels": 0}, "max_pixels must be between 1 and 1099511627776, got 0"),
    ({"max_pixels": 1e6}, "max_pixels must be a whole number, got 1000000.0"),
    ({"reduce": "always"}, "reduce must be one of 'auto', 'never', got 'always'"),
    ({"isolate": "process"}, "isolate must be True or False, got 'process'"),
    ({"decode_workers": 0}, "decode_workers must be between 1 and 256, got 0"),
    ({"decode_timeout": 0}, "decode_timeout must be more than 0 seconds, got 0"),
]


@pytest.mark.parametrize("build", [Decoding, Settings, build_insert_pipeline, ImageDecode])
@pytest.mark.parametrize(("wrong", "message"), WRONG, ids=str)
def test_a_wrong_option_is_refused_with_its_value_and_the_way_out(build, wrong, message):
    with pytest.raises(ConfigError, match=message):
        build(**wrong)


def test_an_unknown_option_of_the_operator_is_refused_with_the_known():
    with pytest.raises(ConfigError, match="unknown setting colour; known settings are background, frames"):
        ImageDecode(colour="red")


def test_the_settings_have_each_option_with_its_default():
    assert Settings().decoding == Decoding()


def statuses(rows) -> list[str]:
    return [status for _, _, status, _ in rows.to_list()]


def test_the_cap_on_pixels_reaches_the_decoder(tmp_path, settings):
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    rows = build_insert_pipeline(**settings, max_pixels=99)(tmp_path).to_list()
    assert rows[0][2] == "failed"
    assert "10 x 10 are 100 pixels, more than max_pixels=99" in rows[0][3]


def test_accepting_what_is_cut_off_reaches_the_decoder(tmp_path, settings):
    content = encoded(Image.fromarray(noise((64, 64))), "PNG")
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    assert statuses(build_insert_pipeline(**settings)(tmp_path)) == ["failed"]
    assert statuses(build_insert_pipeline(**settings, truncated="accept")(tmp_path)) == ["inserted"]


def test_background_and_frames_reach_the_decoder():
    clear = encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG")
    assert (ops.t2i.image_decode(background="blue")(clear) == BLUE).all()
    moving = animation([RED, BLUE, RED], "GIF")
    assert (ops.t2i.image_decode(frames="middle")(moving)[0, 0] == BLUE).all()


def test_without_a_model_pictures_keep_their_size():
    large = encoded(Image.new("RGB", (1000, 900)), "JPEG")
    assert ops.t2i.image_decode()(large).shape == (900, 1000, 3)


def test_a_model_that_sees_no_square_gets_pictures_as_large_as_they_are():
    from t2i_pipelines.encoders import register_encoder

    shapes = []

    class Whole:
        def fit(self, image):
            shapes.append(image.shape)
            return image

    register_encoder("whole", lambda checkpoint, compute: Whole())
    large = encoded(Image.new("RGB", (1000, 900)), "JPEG")
    assert ops.t2i.image_decode(model_name="whole")(large).shape == (900, 1000, 3)
    assert shapes[-1] == (900, 1000, 3)


def test_never_reducing_reaches_the_decoder():
    from t2i_pipelines.encoders import register_encoder

    shapes = []

    class Square:
        def fit(self, image):
            shapes.append(image.shape[:2])
            return np.zeros((96, 96, 3), np.uint8)

    register_encoder("square", lambda checkpoint, compute: Square())
    large = encoded(Image.new("RGB", (1000, 900)), "JPEG")
    ops.t2i.image_decode(model_name="square", reduce="never")(large)
    assert shapes[-1] == (900, 1000)
    ops.t2i.image_decode(model_name="square")(large)
    assert shapes[-1] == (450, 500)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["insert", "sync"])
def test_the_command_takes_frames_and_isolation(command, tmp_path, monkeypatch):
    given = []
    real = Decoding.__post_init__
    monkeypatch.setattr(Decoding, "__post_init__", lambda self: given.append(self) or real(self))
    (tmp_path / "a.webp").write_bytes(animation([RED, BLUE], "WEBP"))
    where = ["--uri", str(tmp_path / "x.db"), "--model-name", "colour"]
    done = CliRunner().invoke(
        cli.app, [command, str(tmp_path / "a.webp"), *where, "--frames", "mean", "--isolate"]
    )
    assert done.exit_code == 0, done.output
    settings = [one for one in given if isinstance(one, Settings)]
    assert settings[-1].decoding == Decoding(frames="mean", isolate=True)
