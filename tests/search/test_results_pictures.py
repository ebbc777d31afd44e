"""The images behind hits: decoded, put together, fetched when asked for."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from conftest import paint
from PIL import Image
from reading_html import Parsed
from web import serving

from t2i_pipelines import Hit
from t2i_pipelines.errors import ConfigError, ImageDecodeError, QueryError
from t2i_pipelines.search.hits import Hits
from t2i_pipelines.search.query import Img


def hits_of(*paths: object) -> Hits:
    return Hits([Hit(str(number), 0.5, str(path)) for number, path in enumerate(paths)])


def test_images_are_upright_rgb_and_in_order(tmp_path):
    wide = Image.new("RGB", (80, 40), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(tmp_path / "turned.jpg", exif=exif)
    Image.new("LA", (30, 20), (0, 0)).save(tmp_path / "clear.png")
    turned, clear = hits_of(tmp_path / "turned.jpg", tmp_path / "clear.png").images()
    assert (turned.mode, turned.size) == ("RGB", (40, 80))
    assert (clear.mode, clear.size) == ("RGB", (30, 20))
    assert clear.getpixel((0, 0)) == (255, 255, 255)


def test_images_come_smaller_when_asked_for(tmp_path):
    Image.effect_noise((2000, 1000), 50).convert("RGB").save(tmp_path / "large.jpg")
    hits = hits_of(tmp_path / "large.jpg")
    assert hits.images()[0].size == (2000, 1000)
    assert hits.images(longest=300)[0].size == (300, 150)


def test_an_image_that_is_missing_is_an_error_a_gap_or_left_out(tmp_path):
    red = paint(tmp_path / "red.png", "red")
    hits = hits_of(red, tmp_path / "gone.png", red)
    with pytest.raises(ImageDecodeError, match=r"gone.png: No such file.*missing='none'"):
        hits.images()
    assert [picture and picture.size for picture in hits.images(missing="none")] == [(16, 12), None, (16, 12)]
    assert len(hits.images(missing="skip")) == 2
    with pytest.raises(ConfigError, match="missing must be one of 'raise', 'skip', 'none', got 'no'"):
        hits.images(missing="no")
    with pytest.raises(ConfigError, match="longest must be between 1 and"):
        hits.images(longest=0)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    hits = hits_of("/dev/zero", tmp_path)
    assert hits.images(missing="none") == [None, None]
    assert Parsed(hits._repr_html_()).text.count("cannot be shown") == 2


def test_a_montage_is_five_by_two_tiles_as_in_the_tutorial(tmp_path):
    paths = [paint(tmp_path / f"{number}.png", (20 * number, 0, 0), (30, 60)) for number in range(12)]
    whole = hits_of(*paths).montage()
    assert (whole.mode, whole.size) == ("RGB", (750, 300))
    for number in range(10):
        x, y = 150 * (number % 5), 150 * (number // 5)
        tile = np.asarray(whole.crop((x, y, x + 150, y + 150)))
        assert (tile == (20 * number, 0, 0)).all(), "fills its square"


def test_a_montage_may_show_whole_pictures_with_gaps(tmp_path):
    red = paint(tmp_path / "red.png", "red", (10, 20))
    whole = hits_of(*[red] * 3).montage(columns=2, rows=2, size=20, crop=False, gap=4, background="#00f")
    assert whole.size == (44, 44)
    assert whole.getpixel((10, 10)) == (255, 0, 0)
    assert whole.getpixel((10, 2)) == whole.getpixel((22, 10)) == whole.getpixel((34, 34)) == (0, 0, 255)


def test_a_montage_has_as_many_rows_as_it_needs(tmp_path):
    red = paint(tmp_path / "red.png", "red")
    assert hits_of(red, red).montage(size=10).size == (50, 10)
    assert hits_of(*[red] * 6).montage(size=10).size == (50, 20)


def test_a_montage_marks_what_is_missing(tmp_path):
    red = paint(tmp_path / "red.png", "red")
    whole = hits_of(red, tmp_path / "gone.png").montage(columns=2, size=80)
    gone = whole.crop((80, 0, 160, 80))
    assert whole.getpixel((40, 40)) == (255, 0, 0)
    assert gone.getpixel((2, 2)) == (136, 136, 136)
    assert gone.getextrema()[0] == (136, 255), "a text in white"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"columns": 0}, "columns must be between 1 and 100, got 0"),
        ({"rows": 1.5}, "rows must be a whole number, got 1.5"),
        ({"size": 5000}, "size must be between 1 and 2000, got 5000"),
        ({"gap": -1}, "gap must be between 0 and 1000, got -1"),
        ({"background": "nope"}, "background must be a colour such as 'white' or '#fff', got 'nope'"),
    ],
)
def test_a_montage_says_what_it_cannot_do(wrong, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        hits_of(paint(tmp_path / "red.png", "red")).montage(**wrong)


def test_there_is_no_montage_of_nothing():
    with pytest.raises(QueryError, match="no hits to make a montage of"):
        Hits().montage()


def test_members_of_a_local_tar_are_shown(tmp_path):
    content = paint(tmp_path / "red.png", "red").read_bytes()
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("in/red.png")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    hits = hits_of(
        f"tar://in/red.png::{tmp_path}/a.tar",
        f"tar://in/red.png::{tmp_path}/gone.tar",
        f"tar://gone.png::{tmp_path}/a.tar",
    )
    parsed = Parsed(hits._repr_html_())
    assert len(parsed.values("src")) == 1
    assert [parsed.text.count(words) for words in ("missing", "cannot be shown", "red.png")] == [1, 1, 2]
    assert hits.images(missing="none")[0].size == (16, 12)


def test_pictures_on_the_web_are_shown_once_they_were_fetched(tmp_path):
    with serving() as web:
        web.pages["/red.png"] = paint(tmp_path / "red.png", "red").read_bytes()
        hits = hits_of(f"{web.url}/red.png", f"{web.url}/gone.png")
        hits.query = Img(f"{web.url}/red.png")
        assert Parsed(hits._repr_html_()).text.count("not fetched") == 2
        assert web.asked == {}
        assert hits.fetch() is hits
        parsed = Parsed(hits._repr_html_())
        assert len(parsed.values("src")) == 2, "the query's and the hit's"
        assert "cannot be shown" in parsed.text
        assert web.asked == {"/red.png": 1, "/gone.png": 1}
        hits.fetch()
        assert web.asked == {"/red.png": 1, "/gone.png": 2}, "what failed is tried again"
        assert hits.images(missing="skip")[0].size == (16, 12)
    for kept in (hits[:1], pickle.loads(pickle.dumps(hits)), hits.copy()):
        assert len(Parsed(kept._repr_html_()).values("src")) == 2
