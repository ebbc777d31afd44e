"""All forms of one model have one digest, so that a collection that one has filled opens with another."""

import os

import numpy as np
import pytest
import torch
from clips import transformers_clip
from onnx_folders import immich_folder

from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.encoders import digest, load_encoder, unload
from t2i_pipelines.encoders.digest import cached_digest, digest_values
from t2i_pipelines.encoders.export import export_model
from t2i_pipelines.encoders.models import ModelInfo


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    """One model: as transformers saves it, as OpenAI's half-precision file, and as ONNX towers."""
    folder = tmp_path_factory.mktemp("forms")
    transformers_clip(folder / "transformers", "quick_gelu")
    encoder = load_encoder(str(folder / "transformers"))
    halves = {name: value.half() for name, value in encoder.model.module.state_dict().items()}
    torch.save(halves, folder / "ViT-B-32.pt")
    export_model(encoder, folder / "onnx")
    return folder


def test_a_folder_a_half_precision_file_and_an_onnx_export_have_one_digest(forms):
    from t2i_pipelines.encoders.weights import open_path

    stated = ModelInfo(name="stated", dim=24, resolution=32, quick_gelu=True)
    found = {
        load_encoder(str(forms / "transformers")).space.weights,
        load_encoder(str(forms / "onnx")).space.weights,
        open_path(forms / "ViT-B-32.pt", "pt", stated).space.weights,
    }
    assert len(found) == 1


def test_a_collection_of_the_onnx_export_opens_with_the_checkpoint(forms, pictures):
    place = {"uri": "memory://digests", "collection_name": "one"}
    build_insert_pipeline(**place, model_name=str(forms / "onnx"))(pictures)
    assert len(Searcher(**place, model_name=str(forms / "transformers"))("red")) == 7


def test_names_order_transposition_splits_and_precision_make_no_difference():
    random = np.random.default_rng(0)
    one, other = (random.standard_normal((40, 30)).astype(np.float32) for _ in range(2))
    expected = digest_values([one, other], quick_gelu=False)
    assert digest_values([other.T.copy(), one[:10], one[10:]], quick_gelu=False) == expected
    assert digest_values([other.astype(np.float16), one[None]], quick_gelu=False) == expected


@pytest.mark.parametrize(
    "folded", [np.ones(30, "f4"), np.ones((4, 3, 2, 2), "f4"), np.full((5, 5), -np.inf, "f4")]
)
def test_what_exporters_fold_and_masks_are_left_out(folded):
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert digest_values([matrix, folded], quick_gelu=True) == digest_values([matrix], quick_gelu=True)


def test_values_activations_and_integers_make_a_difference():
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    changed = matrix.copy()
    changed[1, 1] += 0.01
    integers = matrix.astype(np.int8)
    digests = [
        digest_values([matrix], quick_gelu=True),
        digest_values([matrix], quick_gelu=False),
        digest_values([changed], quick_gelu=True),
        digest_values([integers], quick_gelu=True),
        digest_values([integers + np.int8(1)], quick_gelu=True),
    ]
    assert len(set(digests)) == 5


@pytest.mark.parametrize("how", [{"location": "model.onnx.data"}, {"all_tensors_to_one_file": False}])
def test_weights_in_files_beside_an_onnx_tower_are_digested(tmp_path, how):
    import onnx

    inside = immich_folder(tmp_path / "inside", dim=512)
    outside = immich_folder(tmp_path / "outside", dim=512)
    for tower in ("visual", "textual"):
        path = outside / tower / "model.onnx"
        model = onnx.load(path)
        for one in model.graph.initializer:  # only what is stored as bytes goes into a file of its own
            one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one), one.name))
        onnx.save(model, path, save_as_external_data=True, size_threshold=0, **how)
    named = outside / "visual" / how.get("location", "table")
    assert named.stat().st_size > 1000
    found = {load_encoder(str(folder)).space.weights for folder in (inside, outside)}
    assert len(found) == 1
    numbers = np.fromfile(named, np.float32) + 1
    numbers.tofile(named)
    unload()
    assert load_encoder(str(outside)).space.weights not in found, "the digest of before was cached"


def test_a_digest_is_computed_once_for_each_state_of_a_file(tmp_path):
    file, computed = tmp_path / "weights", []
    file.write_text("one")

    def compute():
        computed.append(file.read_text())
        return digest.hashlib.blake2b(computed[-1].encode(), digest_size=16).hexdigest()

    first = cached_digest([file], compute)
    assert cached_digest([file], compute) == first
    assert computed == ["one"]
    file.write_text("two")
    os.utime(file, ns=(5, 5))
    assert cached_digest([file], compute) != first
    cached_digest([file], compute, "options")
    assert computed == ["one", "two", "two"]


def test_without_a_cache_it_is_computed_each_time(tmp_path, monkeypatch):
    import huggingface_hub

    def refuse(*parts):
        raise OSError("read-only")

    monkeypatch.setattr(huggingface_hub, "cached_assets_path", refuse)
    file = tmp_path / "weights"
    file.write_text("one")
    assert cached_digest([file], lambda: "0" * 32) == "0" * 32
