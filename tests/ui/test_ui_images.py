"""Images of hits are files that the page gives, and no other file of this machine is."""

import io

import pytest
from conftest import paint
from PIL import Image

from t2i_pipelines import Searcher, build_insert_pipeline, testing
from t2i_pipelines.errors import ImageDecodeError
from t2i_pipelines.ui.finding import Finder, Wanted
from t2i_pipelines.ui.images import VIEW, Images

assert testing


@pytest.fixture
def stored(settings, tmp_path):
    """Insert files by name, and give their ids and what answers for them."""

    def insert(*paths, **own):
        rows = [{"path": str(path), "place": n} for n, path in enumerate(paths)]
        build_insert_pipeline(**settings)(rows).to_list()
        finder = Finder(Searcher(**settings))
        ids = {hit.path: hit.id for hit in finder.words("red", Wanted(limit=50, fold=False)).hits}
        return Images(Finder(Searcher(**settings, **own))), [ids[str(path)] for path in paths]

    return insert


def pixels(response):
    return Image.open(io.BytesIO(response.body))


def test_an_image_is_given_small_enlarged_and_as_it_is(stored, tmp_path):
    file = tmp_path / 'a b\u202e"é.jpg'
    Image.effect_noise((3000, 1500), 20).convert("RGB").save(file, exif=exif())
    images, (id,) = stored(file)
    small, view, original, download = (
        images.answer(kind, id) for kind in ("small", "view", "original", "download")
    )
    assert max(pixels(small).size) <= 256
    # turned upright, and without what the camera wrote
    assert (pixels(view).size, pixels(view).format, dict(pixels(view).getexif())) == (
        (1024, VIEW),
        "WEBP",
        {},
    )
    assert original.body == download.body == file.read_bytes()
    assert original.media_type == "image/jpeg"
    assert original.headers["content-disposition"] == "inline; filename*=UTF-8''a%20b%E2%80%AE%22%C3%A9.jpg"
    assert download.headers["content-disposition"].startswith("attachment; ")
    for one in (small, view, original, download):
        assert one.headers["content-security-policy"] == "default-src 'none'; img-src 'self'; sandbox"
        assert one.headers["cross-origin-resource-policy"] == "same-origin"


def exif():
    made = Image.Exif()
    made[0x0112], made[0x010F] = 6, "a camera"
    return made


def test_a_format_that_browsers_do_not_show_is_opened_as_another_and_downloaded_as_it_is(stored, tmp_path):
    file = tmp_path / "scan.tif"
    Image.new("RGB", (40, 30), "red").save(file)
    images, (id,) = stored(file)
    assert images.answer("original", id).media_type == "image/webp"
    assert images.answer("download", id).body == file.read_bytes()


@pytest.mark.parametrize("kind", ["small", "view", "original", "download"])
def test_what_is_no_image_of_the_collection_is_not_given(stored, tmp_path, kind):
    kept, gone, turned, other, secret = (paint(tmp_path / f"{name}.png", "red") for name in "kgtos")
    secret.write_text("secret")
    images, ids = stored(kept, gone, turned)
    gone.unlink()
    # a name that leads elsewhere since
    turned.unlink()
    turned.symlink_to(secret)
    assert images.answer(kind, ids[0]).status_code == 200
    for id in ("", "nowhere", str(secret), str(other), f"file://{secret}", "\x00", '" or id != "', *ids[1:]):
        with pytest.raises(ImageDecodeError):
            images.answer(kind, id)


@pytest.mark.parametrize("kind", ["small", "original"])
def test_own_conditions_of_the_searcher_hold(stored, tmp_path, kind):
    files = [paint(tmp_path / f"{name}.png", name) for name in ("red", "blue")]
    images, (red, blue) = stored(*files, filter="place == 0", limit=1, range_filter=0.5, radius=0.1)
    assert images.answer(kind, red).status_code == 200
    with pytest.raises(ImageDecodeError, match="no image with the id"):
        images.answer(kind, blue)


def test_a_remote_image_is_not_fetched(stored, tmp_path, monkeypatch):
    file = paint(tmp_path / "red.png", "red")
    images, (id,) = stored(file)
    monkeypatch.setattr(Finder, "hit", lambda *_: type("Hit", (), {"path": "http://127.0.0.1:9/x.png"})())
    with pytest.raises(ImageDecodeError, match="can be shown"):
        images.answer("view", id)


def test_a_file_too_large_is_not_read(stored, tmp_path):
    images, (id,) = stored(paint(tmp_path / "red.png", "red"), max_bytes=20)
    with pytest.raises(ImageDecodeError, match="more than max_bytes=20"):
        images.answer("download", id)
