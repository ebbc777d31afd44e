"""All forms of one model have one digest, so that a collection that one has filled opens with another."""

import os
import time
from functools import partial

import huggingface_hub
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
from t2i_pipelines.encoders.weights import open_path
from t2i_pipelines.errors import CheckpointError


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
    stated = ModelInfo(name="stated", quick_gelu=True, dim=24, resolution=32)
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
    "folded",
    [
        np.ones(30, "f4"),
        np.ones((4, 3, 2, 2), "f4"),
        np.full((5, 5), -np.inf, "f4"),
        np.full((5, 5), -1e4, "f2"),
    ],
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


def test_a_digest_is_computed_once_for_each_state_of_a_file(tmp_path, monkeypatch):
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
    monkeypatch.setattr(digest, "_VERSION", "counted otherwise")
    cached_digest([file], compute, "options")
    assert computed == ["one", "two", "two", "two"]


def test_a_file_that_looks_unchanged_is_read_again(tmp_path):
    file = tmp_path / "weights"
    file.write_text("one")
    before = file.stat()
    cached_digest([file], lambda: "1" * 32)
    time.sleep(0.05)  # clocks of file systems tick that slowly
    file.write_text("two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cached_digest([file], lambda: "2" * 32) == "2" * 32


def keep_in(folder, monkeypatch):
    """Let ``huggingface_hub`` keep its assets in a folder."""
    place = partial(huggingface_hub.cached_assets_path, assets_dir=folder)
    monkeypatch.setattr(huggingface_hub, "cached_assets_path", place)


@pytest.mark.parametrize("junk", [b"", b"z" * 32, b"\xff" * 32, b"0" * 31])
def test_a_damaged_file_of_the_cache_is_written_anew(tmp_path, monkeypatch, junk):
    keep_in(tmp_path / "cache", monkeypatch)
    file = tmp_path / "weights"
    file.write_text("one")
    cached_digest([file], lambda: "1" * 32)
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    kept.write_bytes(junk)
    assert cached_digest([file], lambda: "2" * 32) == "2" * 32
    assert kept.read_text() == "2" * 32


def test_a_file_in_the_place_of_the_cache_is_no_error(tmp_path, monkeypatch):
    file = tmp_path / "weights"
    file.write_text("one")
    keep_in(file, monkeypatch)
    assert cached_digest([file], lambda: "3" * 32) == "3" * 32


@pytest.mark.parametrize("low", [1e-7, 5.96e-8])
def test_what_converters_to_float16_round_up_makes_no_difference(low):
    values = np.linspace(-4e-7, 4e-7, 200, dtype=np.float32).reshape(10, 20)
    tiny = np.abs(values) < low
    rounded = np.where(tiny, np.copysign(np.float32(low), values), values).astype(np.float16)
    assert digest_values([rounded], quick_gelu=False) == digest_values([values], quick_gelu=False)
    doubled = digest_values([2 * values], quick_gelu=False)
    assert doubled != digest_values([values], quick_gelu=False)


def test_bfloat16_is_counted(tmp_path):
    from onnx import TensorProto, helper, numpy_helper

    arrays = [
        numpy_helper.to_array(helper.make_tensor("m", kind, (2, 2), [1, 2, 3, 4]))
        for kind in (TensorProto.BFLOAT16, TensorProto.FLOAT)
    ]
    assert len({digest_values([array], quick_gelu=False) for array in arrays}) == 1


def test_a_model_without_matrices_has_no_digest():
    with pytest.raises(CheckpointError, match="the model has no matrices, so its digest"):
        digest_values([np.ones(3, "f4")], quick_gelu=False)


def test_an_empty_file_and_lacking_weights_are_said(tmp_path):
    import onnx

    folder = immich_folder(tmp_path, dim=512)
    path = folder / "visual/model.onnx"
    model = onnx.load(path)
    for one in model.graph.initializer:
        one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one), one.name))
    onnx.save(model, path, save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    for spoil in (lambda: os.truncate(path.with_name("model.onnx.data"), 8),
                  path.with_name("model.onnx.data").unlink):  # fmt: skip
        spoil()
        with pytest.raises(CheckpointError, match=r"visual/model.onnx lacks the values of 'table': "):
            load_encoder(str(folder)).space  # noqa: B018
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"visual/model.onnx is no ONNX model, .*: it has no nodes"):
        load_encoder(str(folder)).space  # noqa: B018


def test_without_a_cache_it_is_computed_each_time(tmp_path, monkeypatch):
    def refuse(*parts):
        raise OSError("read-only")

    monkeypatch.setattr(huggingface_hub, "cached_assets_path", refuse)
    file = tmp_path / "weights"
    file.write_text("one")
    assert cached_digest([file], lambda: "0" * 32) == "0" * 32
