"""Models that a process holds: how many, and how they are let go."""

import gc
import weakref

import pytest

from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.encoders import load_encoder, register_encoder, registry, unload
from t2i_pipelines.testing import ColourEncoder


@pytest.fixture
def made(monkeypatch):
    """Names of the models that were made, in order; six can be."""
    names = []

    def factory(name):
        return lambda checkpoint, compute: names.append(name) or ColourEncoder()

    monkeypatch.setattr(registry, "_factories", dict(registry._factories))
    for number in range(6):
        register_encoder(f"model {number}", factory(f"model {number}"))
    unload()
    return names


def test_the_models_that_were_used_last_stay_loaded(made):
    for number in range(registry.LOADED_AT_MOST):
        load_encoder(f"model {number}")
    load_encoder("model 0")
    load_encoder("model 5")  # in place of model 1
    load_encoder("model 0")
    load_encoder("model 1")
    assert made == ["model 0", "model 1", "model 2", "model 3", "model 5", "model 1"]


def test_what_is_unloaded_is_freed_and_loaded_again_when_it_is_used(made, tmp_path, pictures):
    settings = {"uri": tmp_path / "x.db", "model_name": "model 0"}
    build_insert_pipeline(**settings)(pictures)
    search = Searcher(**settings)
    assert len(search("red")) == 7
    held = weakref.ref(load_encoder("model 0"))
    load_encoder("model 1")
    unload("model 0")
    gc.collect()
    assert held() is None
    assert load_encoder("model 1")
    assert len(search("red")) == 7
    assert made == ["model 0", "model 1", "model 0"]
