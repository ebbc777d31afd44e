"""Whatever is searched for: words, images, stored vectors and sums, one by one and many at once."""

import io
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from conftest import paint
from PIL import Image
from test_relevance_search import THINGS, WordedEncoder, rows_of

from t2i_pipelines import Img, Like, Q, Searcher, build_insert_pipeline, build_search_pipeline, encoders
from t2i_pipelines._towhee.door import DataCollection, ops
from t2i_pipelines.collection import Collection, open_collection
from t2i_pipelines.encoders import load_encoder, register_encoder
from t2i_pipelines.errors import ConfigError, ModelMismatchError, QueryError
from t2i_pipelines.images import path_key
from t2i_pipelines.operators.image_decode import ImageDecode
from t2i_pipelines.testing import COLOURS, ColourEncoder
from t2i_pipelines.types import Space


@pytest.fixture
def stored(pictures, settings):
    """The folder of coloured images, inserted."""
    build_insert_pipeline(**settings)(pictures)
    return pictures


@pytest.fixture
def searcher(stored, settings):
    return Searcher(**settings, limit=3)


def best(hits) -> str:
    return Path(hits[0].path).stem


def unit(*parts: float) -> np.ndarray:
    return np.array(parts) / np.sqrt(sum(part * part for part in parts))


def test_a_picture_is_found_by_itself_in_whatever_form_it_comes(searcher, stored, monkeypatch):
    path = stored / "magenta.png"
    pixels = np.asarray(Image.open(path))
    monkeypatch.chdir(stored)
    same = [path, path.read_bytes(), Image.open(path), pixels, Img("magenta.png"), Img(f"file://{path}")]
    for hits in (*searcher(same), *map(searcher, same)):
        assert (best(hits), hits[0].score) == ("magenta", pytest.approx(1))


def test_words_find_pictures_though_a_file_has_their_name(searcher, stored, monkeypatch):
    monkeypatch.chdir(stored)
    Path("red").write_bytes((stored / "blue.png").read_bytes())
    assert best(searcher("red")) == "red"
    assert best(searcher(str(stored / "blue.png") + " but red")) == "magenta", "words, both of them"


def test_a_query_picture_is_decoded_as_it_is_when_it_is_inserted(tmp_path, settings):
    """Turned by EXIF, transparent over the background that was chosen."""
    half = Image.new("RGBA", (8, 8), (0, 0, 255, 0))
    half.save(tmp_path / "half.png")
    for background, vector in (("white", unit(1, 1, 1)), ("red", unit(1, 0, 0))):
        embed = Searcher(**settings, background=background).embed
        for query in (tmp_path / "half.png", Image.open(tmp_path / "half.png"), half):
            assert embed(query) == pytest.approx(vector, abs=1e-6)


def test_a_picture_at_home_is_found_as_a_source_is(searcher, stored, monkeypatch):
    monkeypatch.setenv("HOME", str(stored))
    assert best(searcher(Path("~/cyan.png"))) == "cyan"


def test_a_pil_image_that_is_too_large_is_refused_as_a_file_is(settings):
    small = Searcher(**settings, max_pixels=100)
    with pytest.raises(QueryError, match="11 x 10 are 110 pixels, more than max_pixels=100"):
        small(Image.new("RGB", (11, 10)))


def test_a_pil_image_lies_as_its_exif_says(tmp_path):
    pixels = np.zeros((8, 4, 3), np.uint8)
    pixels[:4] = (255, 0, 0)
    turned = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    decode = ops.t2i.image_decode()
    wanted = np.rot90(pixels, -1)
    for one in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert np.array_equal(decode(one), wanted)


def test_like_is_the_stored_vector_and_embeds_nothing(searcher, stored):
    encoder = load_encoder("colour")
    id = path_key(str(stored / "cyan.png"))
    before = encoder.images, encoder.texts
    hits = searcher(Like(id))
    assert (hits[0].id, hits[0].score) == (id, pytest.approx(1))
    assert (encoder.images, encoder.texts) == before
    assert searcher.embed(Like(id)) == pytest.approx(unit(0, 1, 1), abs=1e-6)


def test_a_sum_of_words_pictures_and_stored_vectors_finds_what_is_left(searcher, stored):
    white = Like(path_key(str(stored / "white.png")))
    # white is (1,1,1)/1.73: without as much of blue and of red only green is left
    third = 3**-0.5
    assert best(searcher(white - Q("blue") * third - Img(stored / "red.png") * third)) == "green"
    assert best(searcher("yellow" - Q("red") * 0.5)) == "green"


def test_an_id_that_is_not_stored_is_named(searcher, settings, tmp_path):
    for id in ("gone", 'x" or id != "', "a\\", "\n", "ü" * 500):
        with pytest.raises(QueryError, match="no image has the id '.*' in collection 'image_collection'"):
            searcher(Like(id))
    nowhere = Searcher(**{**settings, "uri": tmp_path / "nowhere.db"})
    with pytest.raises(QueryError, match=r"no image has the id 'gone' in .*nowhere\.db"):
        nowhere(["red", Q("red") + Like("gone")])
    assert not (tmp_path / "nowhere.db").exists()


def test_like_in_the_collection_of_another_model_is_refused(stored, settings):
    class Other(ColourEncoder):
        space = Space("other", "other weights", "none", 3)

    register_encoder("other", lambda checkpoint, device: Other())
    with pytest.raises(ModelMismatchError, match=r"(?s)colour.*other|other.*colour"):
        Searcher(**{**settings, "model_name": "other"})(Like("any"))


class TestManyAtOnce:
    """A list of queries, of every kind."""

    def test_it_is_one_encode_of_texts_one_of_pictures_one_look_up_and_one_search(
        self, stored, settings, monkeypatch
    ):
        calls = []

        def counts(owner, name):
            work = getattr(owner, name)

            def counted(self, *arguments, **options):
                calls.append(name)
                return work(self, *arguments, **options)

            monkeypatch.setattr(owner, name, counted)

        register_encoder("fresh", lambda checkpoint, compute: ColourEncoder())
        settings = {**settings, "model_name": "fresh"}
        names = [name for name in COLOURS if name != "white"]
        ids = {name: path_key(str(stored / f"{name}.png")) for name in names}
        queries = [
            one
            for name in names
            for one in (name, Q(f"a {name} thing") * 2 + name, stored / f"{name}.png", Like(ids[name]))
        ]
        search, searcher = build_search_pipeline(**settings, limit=1), Searcher(**settings, limit=1)
        for owner, name in (
            (ColourEncoder, "encode_texts"),
            (ColourEncoder, "encode_images"),
            (Collection, "rows"),
            (Collection, "search"),
        ):
            counts(owner, name)
        asked, found = search(queries).get()
        assert asked == queries
        assert [best(hits) for hits in found] == [name for name in names for _ in range(4)]
        assert sorted(calls) == ["encode_images", "encode_texts", "rows", "search"]
        calls.clear()
        assert searcher(queries) == found
        assert sorted(calls) == ["encode_images", "rows", "search"], "the texts are still known"

    def test_it_finds_what_each_query_finds_alone(self, searcher, stored):
        queries = [
            "red",
            Q("red") - "blue",
            Img(stored / "cyan.png") + "red",
            "a green field",
            "white",
        ]
        assert searcher(queries) == [searcher(query) for query in queries]
        assert [hits.query for hits in searcher(queries)] == queries

    def test_one_query_that_cannot_be_searched_for_is_named(self, searcher, stored):
        for wrong, message in (
            ("", "the query is empty"),
            (stored / "gone.png", r"an image of the query cannot be used: .*gone\.png: No such file"),
            (7, "got int"),
        ):
            with pytest.raises(QueryError, match=message):
                searcher(["red", wrong])

    def test_none_are_none(self, searcher, settings):
        assert searcher([]) == searcher.embed([]) == []
        assert build_search_pipeline(**settings)([]).get() == [[], []]

    def test_a_picture_that_several_share_is_read_and_embedded_once(self, searcher, stored, monkeypatch):
        encoder, decoded = load_encoder("colour"), []
        before = encoder.images
        decode = ImageDecode.many
        monkeypatch.setattr(
            ImageDecode, "many", lambda self, some: decoded.extend(some) or decode(self, some)
        )
        searcher([Img(stored / "red.png") - word for word in ("green", "blue", "cyan")])
        assert encoder.images == before + 1
        assert decoded == [str(stored / "red.png")]

    def test_a_text_that_is_none_is_refused_before_anything_is_read(self, settings):
        read = ops.t2i.read_query(**{**settings, "uri": str(settings["uri"])})
        with pytest.raises(QueryError, match="the query is empty"):
            read([Path("/no/such.png"), ""])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query is empty: ''; say what to look for"),
        ("  \n ", "the query is empty"),
        ("\0\0\1", r"the control character U\+0000 at position 0"),
        ("re\x1bd", r"the control character U\+001B at position 2"),
        ("r\udcffed", "half a surrogate pair"),
        (
            b"red",
            "an image of the query cannot be used: cannot read image <bytes>: not an image",
        ),
        (b"\x89PNG\r\n\x1a\n", "an image of the query cannot be used: cannot read image <bytes>"),
        (3.5, "a query is words .a str., an image .* or a sum of these; got float"),
        (("red",), "got tuple; several queries are a list"),
        (["red", ["blue"]], "got list"),
        (np.ones(3, np.float32), r"got float32 \(3,\); a stored vector is Like\(id\)"),
        (Path("no") / "such.png", r"an image of the query cannot be used: .*no/such\.png: No such file"),
        (Img("xyz://a"), "no protocol 'xyz' is known"),
    ],
)
def test_what_means_nothing_is_refused_by_pipeline_and_searcher_alike(stored, settings, query, message):
    for search in (build_search_pipeline(**settings), Searcher(**settings)):
        with pytest.raises(QueryError, match=message):
            search(query)


def test_none_is_refused_by_both(settings):
    with pytest.raises(QueryError, match="a query is words .* got NoneType"):
        Searcher(**settings)(None)
    with pytest.raises(ConfigError, match="query must not be None: Towhee takes that for a call w"):
        build_search_pipeline(**settings)(None)
    with pytest.raises(QueryError, match="got NoneType"):
        build_search_pipeline(**settings)(["red", None])


def test_a_text_with_line_breaks_is_searched_for(searcher):
    assert best(searcher("something\n\tred\r\n")) == "red"


def test_a_text_of_any_length_is_searched_for(searcher):
    assert best(searcher("word " * 100_000 + "red")) == "red"


def test_a_text_beyond_what_the_model_reads_is_cut_as_if_it_had_ended_there(tmp_path):
    # a model of its own: each warns once
    model = copytree(Path(encoders.__file__).parent / "t2i_mini", tmp_path / "model")
    searcher = Searcher(model_name="t2i_mini", checkpoint_path=model, uri=tmp_path / "none.db")
    start = "a red car on a road " * 20
    with pytest.warns(UserWarning, match="a text of .* tokens is cut to the .* that t2i_mini reads") as seen:
        one, other = searcher.embed([start + "and a dog", start + "and a penguin in the snow"])
    assert len(seen) == 1
    searcher.embed(start + "and something else")  # a warning would be an error here
    assert np.array_equal(one, other)


def test_hits_know_their_query(searcher, settings):
    query = Q("red") - "blue"
    assert searcher(query).query is query
    _, hits = build_search_pipeline(**settings)(query).get()
    assert hits.query is query


def test_searcher_and_pipeline_find_the_same(stored, settings):
    searcher, search = Searcher(**settings, limit=4), build_search_pipeline(**settings, limit=4)
    for query in ("red", Q("red") + "blue", stored / "cyan.png", ["red", "blue"]):
        assert search(query).get()[1] == searcher(query)


def test_options_of_a_call_are_for_that_call(searcher, stored):
    assert len(searcher("red", limit=5)) == 5
    assert len(searcher("red")) == 3
    assert [len(hits) for hits in searcher(["red", "blue"], limit=2)] == [2, 2]
    path = str(stored / "blue.png")
    assert [hit.path for hit in searcher("red", filter=f'path == "{path}"')] == [path]


def test_a_searcher_shows_its_settings_and_no_secret(searcher, settings):
    where = settings["uri"]
    assert repr(searcher) == (
        f"<Searcher: model_name='colour', uri={where!r}, collection_name='image_collection', limit=3>"
    )
    remote = {"uri": "http://me:secret@localhost:19530", "token": "me:secret", "model_name": "colour"}
    assert repr(Searcher(**remote, filter="year > 2000")) == (
        "<Searcher: model_name='colour', uri='http://localhost:19530', collection_name='image_collection', "
        "limit=10, filter='year > 2000'>"
    )


def test_wrong_options_are_refused(searcher, settings):
    with pytest.raises(
        ConfigError, match=r"unknown setting limt \(did you mean limit\?\); known settings are limit, offset"
    ):
        searcher("red", limt=5)
    with pytest.raises(ConfigError, match=r"unknown setting year; known settings are limit, offset"):
        searcher("red", year=5)
    with pytest.raises(ConfigError, match="limit must be between 1 and 16384, got 0"):
        searcher("red", limit=0)
    with pytest.raises(ConfigError, match=r"unknown setting modell \(did you mean model_name\?\)"):
        Searcher(**settings, modell="colour")


def test_what_is_not_there_finds_nothing_and_is_not_made(on_disk):
    searcher = Searcher(**on_disk)
    assert searcher("red") == []
    assert searcher(["red", Q("red") - "blue"]) == [[], []]
    assert not on_disk["uri"].exists()


def test_a_collection_that_was_just_made_or_emptied_finds_nothing(pictures, settings):
    searcher = Searcher(**settings)
    collection = open_collection(uri=settings["uri"])
    collection.prepare(load_encoder("colour").space)
    assert searcher("red") == []
    build_insert_pipeline(**settings)(pictures)
    assert best(searcher("red")) == "red"
    collection.delete([hit.id for hit in searcher("red", limit=100)])
    assert searcher("red") == []
    with pytest.raises(QueryError, match="no image has the id"):
        searcher(Like("any"))


def test_a_file_that_was_deleted_since_still_lists(searcher, stored):
    (stored / "red.png").unlink()
    hits = searcher("red")
    assert (Path(hits[0].path).name, hits[0].score) == ("red.png", pytest.approx(1))
    assert best(searcher(Like(hits[0].id))) == "red"


def test_data_collection_shows_a_search(stored, settings, capsys):
    search = build_search_pipeline(**settings, limit=2)
    for query in ("something red", Q("red") - "blue", ["red", "blue"]):
        DataCollection(search(query)).show()
    shown = capsys.readouterr().out
    assert "something red" in shown
    assert "red - blue" in shown
    assert "Hit" in shown


def test_operators_compose_by_hand_for_texts_and_for_queries(stored, settings):
    place = {**settings, "uri": str(settings["uri"])}
    read, clip = ops.t2i.read_query(**place), ops.t2i.clip(model_name="colour", modality="text")
    normalize, search = ops.t2i.normalize(), ops.t2i.milvus_search(**place, limit=1)
    assert best(search(normalize(clip("red")))) == "red"
    assert best(search(normalize(clip(read(Q("red") + "blue"))))) == "magenta"
    assert read("red") == "red"
    found = search(normalize(clip(read(["red", stored / "cyan.png"]))))
    assert [best(hits) for hits in found] == ["red", "cyan"]
    with pytest.raises(QueryError, match=r"ops.t2i.read_query comes before ops.t2i.clip, .* such as red\^2"):
        clip(Q("red") * 2)


def test_the_photo_ensemble_is_one_pass_and_part_of_both_ways_to_search(stored, settings):
    class Remembers(ColourEncoder):
        seen: list = []  # noqa: RUF012

        def encode_texts(self, texts):
            self.seen.append(list(texts))
            return super().encode_texts(texts)

    register_encoder("remembers", lambda checkpoint, compute: Remembers())
    settings = {**settings, "model_name": "remembers", "templates": "photo", "limit": 1}
    _, found = build_search_pipeline(**settings)(["red", "blue"]).get()
    assert [best(hits) for hits in found] == ["red", "blue"]
    assert [best(hits) for hits in Searcher(**settings)(["red", "blue"])] == ["red", "blue"]
    assert len(Remembers.seen) == 1
    assert len(Remembers.seen[0]) == 16
    assert Remembers.seen[0][0] == "a photo of red."


def test_wrong_templates_are_refused_when_the_pipeline_is_built(settings):
    for build in (build_search_pipeline, build_insert_pipeline, Searcher):
        with pytest.raises(ConfigError, match="templates must be 'photo' or texts .*; got 'foto'"):
            build(**settings, templates="foto")


def test_bytes_of_a_file_and_of_a_stream_are_pictures(searcher, stored):
    stream = io.BytesIO((stored / "blue.png").read_bytes())
    assert best(searcher(stream.getvalue())) == "blue"
    assert best(searcher(bytearray(stream.getvalue()))) == "blue"


def test_a_picture_without_direction_is_refused(settings, tmp_path):
    paint(tmp_path / "black.png", (0, 0, 0))
    with pytest.raises(QueryError, match="the query .* has no direction"):
        Searcher(**settings)(tmp_path / "black.png")


def test_iterate_gives_every_hit_in_pages(searcher, stored):
    pages = list(searcher.iterate(Q("red") + "blue", batch_size=3))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert best(pages[0]) == "magenta"
    together = [hit for page in pages for hit in page]
    assert together == searcher(Q("red") + "blue", limit=100)
    assert {page.query for page in pages} == {Q("red") + "blue"}
    path = str(stored / "blue.png")
    assert [best(page) for page in searcher.iterate("red", filter=f'path == "{path}"')] == ["blue"]


def test_iterate_refuses_at_once_what_cannot_work(searcher, settings, tmp_path):
    with pytest.raises(QueryError, match="iterate takes one query; got a list of 2"):
        searcher.iterate(["red", "blue"])
    with pytest.raises(QueryError, match="the query is empty"):
        searcher.iterate("")
    with pytest.raises(ConfigError, match="batch_size must be between 1 and 16384, got 0"):
        searcher.iterate("red", batch_size=0)
    assert list(Searcher(**{**settings, "uri": tmp_path / "none.db"}).iterate("red")) == []


def test_iterate_ends_where_relevance_does(tmp_path, monkeypatch):
    place = {"uri": str(tmp_path / "worded.db"), "model_name": "worded"}
    collection = open_collection(place["uri"])
    collection.prepare(WordedEncoder.space)
    collection.upsert(list(rows_of(THINGS, 2)))
    searcher = Searcher(**place)
    hits = searcher("a lantern", limit=100)
    least = sorted(hit.relevance for hit in hits)[20]
    pages = list(searcher.iterate("a lantern", batch_size=7, min_relevance=least))
    wanted = [hit.id for hit in hits if hit.relevance >= least]
    assert sorted(hit.id for page in pages for hit in page) == sorted(wanted)
    assert 7 < len(wanted) < len(hits)
    assert [page.no_match for page in pages] == [False] + [None] * (len(pages) - 1)
    read = []
    real = Collection.iterate
    monkeypatch.setattr(
        Collection, "iterate", lambda *given: (read.append(page) or page for page in real(*given))
    )
    list(searcher.iterate("a lantern", batch_size=7, min_relevance=least))
    assert len(read) < len(hits) / 7 - 1, "what follows is not read"


def test_duplicates_are_groups_of_alike_pictures(searcher, stored, settings):
    paint(stored / "pink.png", (255, 10, 250))
    build_insert_pipeline(**settings)(stored)
    (group,) = searcher.duplicates(0.99)
    assert [Path(one.path).stem for one in group] == ["magenta", "pink"]
    assert searcher.duplicates(0.99, filter='path like "%red.png"') == []
    with pytest.raises(ConfigError, match="threshold must be a number from -1 to 1, got 2"):
        searcher.duplicates(2)
