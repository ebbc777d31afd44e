"""Folders of transformers' model families give, through our loaders, transformers' vectors."""

import json
import shutil
import sys

import clips
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.parity.__main__ import in_a_process
from benchmarks.parity.families import FAMILIES, NAMED
from benchmarks.parity.samples import least_cosines, sample_images, sample_texts
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.export import export_model
from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import CheckpointError, MissingExtraError
from t2i_pipelines.images import decode

LEAST = 0.99999


@pytest.mark.parametrize("name", FAMILIES)
def test_a_small_model_gives_its_librarys_vectors(tmp_path, name):
    found = least_cosines(FAMILIES[name], tmp_path, "small")
    assert min(found.images, found.texts) >= LEAST


@pytest.mark.parametrize("name", ["Chinese-CLIP", "SigLIP"])
def test_an_exported_model_reads_texts_of_any_length(tmp_path, name):
    """Chinese-CLIP's texts are as long as they need, SigLIP's always the same."""
    FAMILIES[name](tmp_path, "small")
    encoder = TorchEncoder(str(tmp_path), "m")
    assert export_model(encoder, tmp_path / "out") >= LEAST
    exported = OnnxEncoder(str(tmp_path / "out"), "m")
    assert exported.space.preprocessing == encoder.space.preprocessing
    for texts in (sample_texts(), ["草"], ["a dog and a cat and a rather long text of them"]):
        assert clips.cosines(exported.encode_texts(texts), encoder.encode_texts(texts)).min() >= LEAST
    files = [decode(one) for one in sample_images(8)]
    assert clips.cosines(exported.encode_images(files), encoder.encode_images(files)).min() >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *NAMED])
def test_a_model_of_true_shape_gives_its_librarys_vectors_in_two_gigabytes(name):
    found = in_a_process(name, "true", 6)  # `python -m benchmarks.parity` compares 20
    assert min(found["images"], found["texts"]) >= LEAST
    assert found["peak"] < 2.1


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    FAMILIES["SigLIP"](folder, "small")
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy to change."""
    return shutil.copytree(written, tmp_path / "m")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def vectors(folder):
    return load_encoder(str(folder), device="cpu", precision="fp32").encode_texts(["a cat", "ein Hund"])


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files_are_read_and_all_of_them_count(folder, written, kind):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem, save = ("model", save_file) if kind == "safetensors" else ("pytorch_model", torch.save)
    names = [f"{stem}-0000{n}-of-00002.{kind}" for n in (1, 2)]
    homes = {name: names[n % 2] for n, name in enumerate(weights)}
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": homes}))
    for one in names:
        save({key: weights[key] for key, home in homes.items() if home == one}, folder / one)
    assert (vectors(folder) == vectors(written)).all()
    before = TorchEncoder(str(folder), "m").space.weights
    changed = next(key for key in weights if key.endswith("mlp.fc1.weight") and homes[key] == names[1])
    weights[changed] += 1
    save({key: weights[key] for key in weights if homes[key] == names[1]}, folder / names[1])
    assert TorchEncoder(str(folder), "m").space.weights != before
    (folder / names[1]).unlink()
    with pytest.raises(CheckpointError, match=rf"index\.json lists '{names[1]}', which is not in its folder"):
        vectors_of_new(folder)
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.bin"}}))
    with pytest.raises(CheckpointError, match=r"lists '\.\./elsewhere\.bin', which is not in its folder"):
        vectors_of_new(folder)


def vectors_of_new(folder):
    return TorchEncoder(str(folder), "m").encode_texts(["a cat"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop("vision_model.head.probe"), r"vision_model\.head\.probe \(1, 1, 64\) is missing"),
        (
            lambda w: w.update({"text_model.head.bias": torch.zeros(3)}),
            r"text_model\.head\.bias is \(3,\), not \(64,\)",
        ),
        (lambda w: w.update({"adapter.weight": torch.zeros(2)}), r"adapter\.weight \(2,\) has no place"),
    ],
)
def test_wrong_weights_are_refused_by_their_first_mismatch(folder, edit, message):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=rf"does not fit the model that its config calls for: {message}"
    ):
        vectors_of_new(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "jina_clip", "auto_map": {"AutoModel": "x--y.Z"}},
            r"'jina_clip' model that needs code of its own repository \(auto_map\), which is never run",
        ),
        ({"model_type": "clip", "auto_map": {"AutoModel": "x--y.Z"}}, "is of a 'clip' model that needs code"),
        ({"model_type": "siglip2"}, "'siglip2' model, .*NaFlex form, .*; take a form of a fixed size"),
        (
            {"model_type": "nomic_bert"},
            "'nomic_bert' model, which is not supported: known are clip, chinese_clip",
        ),
        ({"model_type": None}, "is of a None model, which is not supported"),
        ({"vision_config": {"hidden_size": "wide"}}, r"config\.json is no config of SiglipModel: "),
    ],
)
def test_a_config_that_cannot_be_built_is_refused_with_the_reason(folder, config, message):
    change(folder / "config.json", **config)
    with pytest.raises(CheckpointError, match=message):
        vectors_of_new(folder)


def test_a_tokenizer_that_is_missing_or_code_is_refused(folder):
    config = folder / "tokenizer_config.json"
    change(config, auto_map={"AutoTokenizer": ["x.Y", None]})
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json names code of its own repository"):
        vectors_of_new(folder)
    config.write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="transformers cannot read the tokenizer in "):
        vectors_of_new(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer: none of tokenizer\.json, vocab\.txt"):
        vectors_of_new(folder)
    (folder / "spiece.model").write_bytes(b"")
    config.write_text('{"tokenizer_class": "SiglipTokenizer"}')
    with pytest.raises(
        CheckpointError, match=r"has no tokenizer\.json, which a SiglipTokenizer is read from"
    ):
        vectors_of_new(folder)


def test_images_are_prepared_as_the_family_does_where_the_folder_does_not_say_it(folder):
    assert TorchEncoder(str(folder), "m").space.preprocessing.startswith("squash 32 bicubic mean 0.5")
    (folder / "preprocessor_config.json").unlink()
    assert TorchEncoder(str(folder), "m").space.preprocessing.startswith("squash 32 bicubic mean 0.5")
    change(folder / "config.json")
    image = {
        "image_processor_type": "SiglipImageProcessor",
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": image}))
    assert TorchEncoder(str(folder), "m").space.preprocessing.startswith("squash 32 bilinear mean 0.5")


def test_without_transformers_one_sentence_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        MissingExtraError, match=r"transformers is not installed; run: .*t2i-pipelines\[openclip\]"
    ):
        vectors_of_new(folder)


def test_a_text_that_is_too_long_is_cut_and_said(folder):
    encoder = TorchEncoder(str(folder), "m")
    with pytest.warns(UserWarning, match="is cut to the 64 that m reads"):
        encoder.encode_texts(["word " * 100])
    assert encoder.cut(["word " * 100, "word"]) == 1
