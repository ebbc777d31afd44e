"""The background of relevance in a model's space: embedded once, and kept on the disk."""

from types import SimpleNamespace

import numpy as np
import pytest

from t2i_pipelines.search import relevance
from t2i_pipelines.types import Space

SPACE = Space("lengths", "lengths, version 1", "none", 4)


class LengthEncoder:
    """A text's vector is made of its length."""

    space = SPACE

    def __init__(self) -> None:
        self.passes = 0

    def encode_texts(self, texts):
        self.passes += 1
        return np.array([[len(text), text.count(" "), len(set(text)), 1] for text in texts], np.float32)


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A model whose background is not embedded yet."""
    monkeypatch.setattr(
        "huggingface_hub.cached_assets_path", lambda *parts: folder_of(tmp_path / "assets", parts)
    )
    return LengthEncoder()


def folder_of(root, parts):
    folder = root.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def test_the_background_is_embedded_once_for_each_model(model):
    first = relevance.embedded(model)
    passes = model.passes
    assert passes > 0
    again = relevance.embedded(model)
    assert model.passes == passes
    assert all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert [len(part) for part in first] == [len(part) for part in relevance.background()]
    assert np.linalg.norm(np.concatenate(first), axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("damage", [lambda data: data[:200], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_damaged_file_of_the_background_is_made_anew(model, tmp_path, damage):
    first = relevance.embedded(model)
    (file,) = (tmp_path / "assets").rglob("*.npy")
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert np.array_equal(relevance.embedded(model).everyday, first.everyday)
    assert file.read_bytes() == sound


def test_vectors_of_another_length_are_not_read(model):
    relevance.embedded(model)
    other = SimpleNamespace(
        space=Space("lengths", SPACE.weights, "none", 3),
        encode_texts=lambda texts: np.ones((len(texts), 3), np.float32),
    )
    assert relevance.embedded(other).everyday.shape[1] == 3


def test_where_the_background_cannot_be_kept_it_is_embedded_again(model, tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(relevance.tempfile, "NamedTemporaryFile", refuse)
    assert np.array_equal(relevance.embedded(model).elsewhere, relevance.embedded(model).elsewhere)
    assert not list((tmp_path / "assets").rglob("*.npy"))


def test_texts_without_a_direction_are_left_out(model):
    real = model.encode_texts
    model.encode_texts = lambda texts: real(texts) * np.array([[text != "mask"] for text in texts])
    everyday, _ = relevance.embedded(model)
    assert len(everyday) == len(relevance.background().everyday) - 1
