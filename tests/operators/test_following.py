"""``model_name="auto"``: searches by whatever model the collection is of."""

import pytest
from test_reembed import insert, place  # noqa: F401 - a fixture
from two_models import Turned, answer

from t2i_pipelines import Like, Searcher, build_insert_pipeline, build_search_pipeline
from t2i_pipelines.collection import Collection, aliases, open_collection
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.errors import CollectionNotFoundError, ConfigError, ModelMismatchError
from t2i_pipelines.jobs.reembed import reembed, roll_back
from t2i_pipelines.operators.search import MilvusFollow
from t2i_pipelines.serve import build_app
from t2i_pipelines.testing import ColourEncoder

SPACE = ColourEncoder.space


def test_pipeline_and_searcher_follow_the_collection(place, pictures):  # noqa: F811
    pipeline = build_search_pipeline(model_name="auto", limit=2, **place)
    searcher = Searcher(model_name="auto", limit=2, **place)
    assert (pipeline("red").get()[1], pipeline(["red", "blue"]).get()[1]) == ([], [[], []])
    assert (searcher("red"), searcher(["red", "blue"])) == ([], [[], []])
    assert not place["uri"].exists()
    with pytest.raises(CollectionNotFoundError, match="there is no .*'photos'.*, so nothing tells its model"):
        next(searcher.iterate("red"))
    insert(str(pictures), place)
    for model_name in ("colour", "turned", "colour"):
        if model_name == "turned":
            reembed(model_name="turned", **place)
        elif searcher.now().settings["model_name"] == "turned":
            roll_back(**place)
        named = Searcher(model_name=model_name, limit=2, **place)
        assert answer(searcher, "red") == "right"
        assert searcher.now().settings["model_name"] == model_name
        expected = named(["green", "blue and red"])
        assert pipeline(["green", "blue and red"]).get()[1] == searcher(["green", "blue and red"]) == expected
        assert pipeline("green").get() == ["green", expected[0]]
        assert searcher("green", limit=5) == named("green", limit=5)
        assert list(searcher.iterate("green")) == list(named.iterate("green"))
        assert searcher.duplicates(0.7) == named.duplicates(0.7)
        like = Like(expected[0][0].id)
        assert searcher(like) == named(like)


def test_what_cannot_follow_is_refused(place, pictures):  # noqa: F811
    insert(str(pictures), place)
    searcher = Searcher(model_name="auto", **place)
    with pytest.raises(ConfigError, match=r"let searcher\.now\(\) do both"):
        searcher.embed("red")
    with pytest.raises(ConfigError, match=r"let searcher\.now\(\) do both"):
        searcher.find([1.0, 0.0, 0.0])
    now = searcher.now()
    assert now.find(now.embed("red")) == searcher("red")
    with pytest.raises(ConfigError, match="limits"):
        searcher("red", limits=3)
    for build in (build_insert_pipeline, build_app):
        with pytest.raises(ConfigError, match="'auto' is for searches that follow a swap; here, name the m"):
            build(model_name="auto", **place)


@pytest.fixture
def moving():
    """Let ``turned`` do something in the midst of a query, once."""
    todo = []

    class Moving(Turned):
        def encode_texts(self, texts):
            while todo:
                todo.pop()()
            return super().encode_texts(texts)

    register_encoder("turned", lambda *_: Moving())
    yield todo
    register_encoder("turned", lambda *_: Turned())


@pytest.mark.parametrize("is_noted", [True, False], ids=["by reembed", "by somebody else"])
def test_a_name_that_is_moved_in_the_midst_of_a_query_mixes_nothing(place, pictures, moving, is_noted):  # noqa: F811
    insert(str(pictures), place)
    done = reembed(model_name="turned", **place)
    named = open_collection(**place)

    def move():
        if is_noted:
            roll_back(**place)
            return
        for name in (done.old, done.new):
            aliases._note_beside(named, name, [])
        aliases._ask(named, "alter_alias", done.old, "photos")
        named.catalog.forget()

    follower, fixed = Searcher(model_name="auto", **place), Searcher(model_name="turned", **place)
    moving.append(move)
    assert answer(follower, "red") == "right"
    assert not moving
    assert answer(follower, "green") == "right"
    if is_noted:
        assert answer(fixed, "blue") == "right"
    else:
        with pytest.raises(ModelMismatchError, match="holds vectors of 'colour'"):
            fixed("blue")


@pytest.mark.parametrize("model_name", ["turned", "auto"])
def test_a_name_that_is_moved_between_look_up_and_search_mixes_nothing(
    place,  # noqa: F811
    pictures,
    monkeypatch,
    model_name,
):
    insert(str(pictures), place)
    reembed(model_name="turned", **place)
    search, todo = Collection.search, [True]

    def search_late(self, *arguments, **more):
        while todo:
            todo.pop()
            roll_back(**place)
        return search(self, *arguments, **more)

    monkeypatch.setattr(Collection, "search", search_late)
    assert answer(Searcher(model_name=model_name, **place), "red") == "right"
    assert todo == []


def test_how_the_model_runs_is_what_each_operator_was_given(place):  # noqa: F811
    follow = MilvusFollow(embed={"precision": "fp32"}, find={"uri": str(place["uri"]), "device": "cpu"})
    with pytest.raises(ConfigError, match="precision must be one of"):
        MilvusFollow(embed={"precision": "nonsense"}, find={"uri": str(place["uri"])})._steps(SPACE)
    steps = follow._steps(SPACE)
    assert steps._to_vectors[1]._model[2:4] == ("auto", "fp32")
    assert steps.milvus.target.device == "cpu"
