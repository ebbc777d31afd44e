"""What ``import t2i_pipelines.hub`` does to Towhee, and that a user's own registrations are kept."""

import importlib

import numpy as np
import pytest
from test_import import HEAVY, run
from towhee import AutoConfig, AutoPipes, ops, pipe, register

from t2i_pipelines._towhee.door import Pipeline, known_operator
from t2i_pipelines._towhee.hardening import HardenedPipeline
from t2i_pipelines.errors import ConfigError, QueryError, UnknownOperatorError

pytest_plugins = ["old_notebooks"]

NAMES = {
    "image-decode",
    "towhee/image-decode",
    "image-decode/cv2",
    "image-decode/cv2-rgb",
    "image-text-embedding/clip",
    "towhee/np-normalize",
    "ann-insert/faiss-index",
    "ann-search/faiss-index",
    "ann-insert/milvus-client",
    "ann-search/milvus-client",
    "ann-insert/osschat-milvus",
    "ann-search/osschat-milvus",
}


def test_without_the_import_the_names_are_unknown(towhee_as_it_is):
    assert [name for name in NAMES if known_operator(name)] == []


def test_the_import_registers_every_name_and_loads_nothing_heavy(hub):
    assert set(hub.OPERATORS) == NAMES
    assert all(known_operator(name) is operator for name, operator in hub.OPERATORS.items())
    loaded = f"print([name for name in {(*HEAVY, 'faiss')} if name in sys.modules])"
    assert run(f"import sys, t2i_pipelines.hub; {loaded}") == "[]"


def test_a_name_that_was_registered_before_is_kept(towhee_as_it_is):
    @register(name="image_decode/cv2")
    def mine(path):
        return f"mine: {path}"

    hub = importlib.import_module("t2i_pipelines.hub")
    assert known_operator("image-decode/cv2") is not hub.OPERATORS["image-decode/cv2"]
    assert pipe.input("a").map("a", "b", ops.image_decode.cv2()).output("b")("x").get() == ["mine: x"]
    assert known_operator("image-decode/cv2-rgb") is hub.OPERATORS["image-decode/cv2-rgb"], (
        "the others are ours"
    )


def test_a_name_that_is_registered_after_is_kept_too(hub):
    @register(name="towhee/np_normalize")
    class Mine:
        def __call__(self, vec):
            return "mine"

    importlib.reload(hub)
    assert pipe.input("a").map("a", "b", ops.towhee.np_normalize()).output("b")(1).get() == ["mine"]


def test_importing_twice_changes_nothing(hub):
    output, classes = Pipeline.output, {name: known_operator(name) for name in NAMES}
    importlib.reload(hub)
    assert Pipeline.output is output
    assert {name: known_operator(name) for name in NAMES} == classes


def test_an_unknown_operator_is_named_when_the_pipeline_is_closed(hub):
    with pytest.raises(UnknownOperatorError, match="no operator 'image-captioning/blip' is registered here"):
        pipe.input("a").map("a", "b", ops.image_captioning.blip()).output("b")


def test_an_operator_in_towhees_cache_still_runs(hub, tmp_path, monkeypatch):
    folder = tmp_path / "operators" / "mine" / "shout" / "versions" / "main"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "class Shout:\n"
        "    def __call__(self, text): return text.upper()\n"
        "def shout(): return Shout()\n"
        "from towhee.operator import SharedType\n"
        "Shout.shared_type = SharedType.Shareable\n"
    )
    monkeypatch.setenv("TOWHEE_HOME", str(tmp_path))
    p = pipe.input("a").flat_map("a", "b", list).map("b", "c", ops.mine.shout()).output("c")
    assert p("ab").to_list() == [["A"], ["B"]]


def test_what_an_operator_of_ours_refuses_arrives_as_it_is(hub):
    with pytest.raises(ConfigError, match="mode must be BGR or RGB, got 'hsv'"):
        pipe.input("a").map("a", "b", ops.image_decode.cv2("hsv")).output("b")
    search = ops.ann_search.milvus_client(collection_name="a", top_k=5)
    with pytest.raises(ConfigError, match="a search has no 'top_k'; it knows limit, "):
        pipe.input("a").map("a", "b", search).output("b")
    with pytest.raises(ConfigError, match="image-text-embedding/clip: .*missing 1 required .*'modality'"):
        pipe.input("a").map("a", "b", ops.image_text_embedding.clip("colour")).output("b")


def test_what_a_foreign_operator_refuses_is_told_as_towhee_does(hub):
    @register(name="mine/refuses")
    class Refuses:
        def __init__(self):
            raise ValueError("not today")

    with pytest.raises(RuntimeError, match="not today"):
        pipe.input("a").map("a", "b", ops.mine.refuses()).output("b")


def test_every_pipeline_is_hardened_from_the_import_on(hub):
    p = pipe.input("n").flat_map("n", "i", range).map("i", "i", check).output("i")
    assert isinstance(p, HardenedPipeline)
    with pytest.raises(QueryError, match="^two$"):
        p(3)


def check(number):
    if number == 2:
        raise QueryError("two")
    return number


@pytest.mark.slow
def test_a_pipeline_as_deep_as_the_tutorials_ends_however_long_it_is(hub):
    """Seven nodes after a flat_map hang in Towhee with five threads, one for each row they cannot take on."""
    answers = run("""
        import os
        os.cpu_count = lambda: 1
        import t2i_pipelines.hub
        from towhee import pipe, ops
        import threading
        p = pipe.input("n").flat_map("n", ("id", "x"), lambda n: ((i, i) for i in range(n)))
        for _ in range(6):
            p = p.map("x", "x", lambda x: x)
        p = p.output("id", "x")
        rows = []
        caller = threading.Thread(target=lambda: rows.extend(p(20_000).to_list()), daemon=True)
        caller.start()
        caller.join(120)
        print(rows == [[i, i] for i in range(20_000)], flush=True)
        os._exit(0)
    """)
    assert answers == "True"


def test_older_notebooks_import_from_dc2(hub):
    dc2 = importlib.import_module("towhee.dc2")
    assert (dc2.pipe, dc2.ops) == (pipe, ops)


def test_the_pipelines_that_towhee_brings_run(hub, pictures, settings):
    import t2i_pipelines.testing  # noqa: F401 - registers "colour"

    config = AutoConfig.load_config("text_image_embedding", model="colour")
    image = AutoPipes.pipeline("text_image_embedding", config=config)
    assert isinstance(image, HardenedPipeline)
    (vec,) = image(str(pictures / "yellow.png")).get()
    assert np.allclose(vec, [0.5**0.5, 0.5**0.5, 0])

    config = AutoConfig.load_config(
        "text_image_embedding", model="colour", modality="text", normalize_vec=False
    )
    text = AutoPipes.pipeline("text_image_embedding", config=config)
    assert text("a red and a blue ball").get()[0].tolist() == [1, 0, 1]
