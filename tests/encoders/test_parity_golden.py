"""Vectors of the real CLIP ViT-B/32, through the real operators, find what a person would find."""

from pathlib import Path

import numpy as np
import pytest

from t2i_pipelines._towhee.door import ops
from t2i_pipelines.encoders import register_encoder
from t2i_pipelines.types import Space

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
KITTENS = {"123_456.jpg", "456_123.jpg"}


class Golden:
    """A model whose vectors were computed elsewhere: 512 numbers each."""

    space = Space("golden_b32", "clip-retrieval and Detic", "none", 512)

    def fit(self, image):
        return image

    def encode_images(self, images):
        raise AssertionError("the vectors are inserted as they are")

    encode_texts = encode_images


@pytest.fixture
def photos():
    """File names and CLIP's vectors of seven photos."""
    if not GOLDEN.is_dir():
        pytest.skip("the vectors of clip-retrieval's tests are not beside the repository")
    stored = np.load(GOLDEN / "image_embeddings_vit_b32.npz", allow_pickle=False)
    names = [f"{Path(str(name)).stem}.jpg" for name in stored["names"]]
    return names, stored["embeddings"].astype(np.float32)


@pytest.fixture
def words():
    stored = np.load(GOLDEN / "text_embeddings_vit_b32.npz", allow_pickle=False)
    return dict(zip(stored["names"].tolist(), stored["embeddings"].astype(np.float32), strict=True))


def test_clips_own_vectors_find_the_kittens_through_milvus(tmp_path, photos, words):
    register_encoder("golden_b32", lambda place, device: Golden())
    model = {"uri": str(tmp_path / "milvus.db"), "model_name": "golden_b32"}
    names, vectors = photos
    normalize = ops.t2i.normalize()
    ids = ops.t2i.milvus_insert(**model)(names, normalize(list(vectors)))
    assert len(set(ids)) == 7
    search = ops.t2i.milvus_search(**model, limit=7)
    hits = search(normalize(words["kitten"]))
    assert {hit.path for hit in hits[:2]} == KITTENS
    assert hits[1].score > hits[2].score + 0.02
    exact = vectors @ words["kitten"] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(words["kitten"])
    for hit in hits:
        assert hit.score == pytest.approx(exact[names.index(hit.path)], abs=2e-3)
