"""Texts are padded no further than the longest of a pass needs, which changes no vector."""

import json

import numpy as np
import pytest
import torch
from clips import cosines, spread, transformers_clip, transformers_reader
from onnx_folders import immich_folder

from t2i_pipelines.encoders import load_encoder, torch_encoder
from t2i_pipelines.encoders.export import export_model
from t2i_pipelines.encoders.onnx_folder import ENDED
from t2i_pipelines.encoders.tokenizer import by_length

TEXTS = ["red", "a photo of a kitten", "one two three four five six seven", " ".join(["dog"] * 60), ""]
END = 49407


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with a small CLIP of transformers', the model itself, and its tokenizer."""
    folder = tmp_path_factory.mktemp("clip")
    model = transformers_clip(folder, "quick_gelu")
    tokenizer, _ = transformers_reader(tmp_path_factory.mktemp("reader"))
    return folder, model, tokenizer


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "out"
    export_model(load_encoder(small[0], precision="fp32"), out)
    return out


def reference(small, texts):
    """transformers' own vectors of texts that are padded to 77."""
    _, model, tokenizer = small
    ids = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert ids["input_ids"].shape[1] == 77
    with torch.no_grad():
        return model.get_text_features(**ids).pooler_output


def loaded(small, exported, backend):
    folder = small[0] if backend == "torch" else exported
    return load_encoder(folder, device="cpu", precision="fp32", backend=backend)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
@pytest.mark.parametrize("texts", [[text] for text in TEXTS] + [TEXTS], ids=lambda texts: str(len(texts)))
def test_short_and_long_texts_have_the_vectors_of_texts_padded_to_77(small, exported, backend, texts):
    found = loaded(small, exported, backend).encode_texts(texts)
    assert cosines(found, reference(small, texts)).min() >= 0.99999
    assert spread(reference(small, TEXTS)) < 0.999


def ids_of(*lengths):
    ids = np.zeros((len(lengths), 77), np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = END
        row[length:77] = 5  # padding, whatever it is
    return ids


def passes(*lengths):
    return [(list(at), ids.shape[1]) for at, ids in by_length(ids_of(*lengths))]


def test_lengths_are_multiples_of_eight_and_at_most_the_full_one():
    assert [passes(one)[0][1] for one in (1, 8, 9, 72, 73, 77)] == [8, 8, 16, 72, 77, 77]


def test_few_texts_go_together_and_many_by_their_length():
    assert passes(9, 3) == [([0, 1], 16)]
    assert passes(*[3] * 20, 30, *[7] * 20) == [([20], 32), ([*range(20), *range(21, 41)], 8)]
    assert sorted(at for some, _ in passes(*range(1, 78)) for at in some) == list(range(77))


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_short_text_costs_a_short_pass(small, exported, backend, monkeypatch):
    encoder, seen = loaded(small, exported, backend), []
    owner, name = (torch_encoder, "run_pass") if backend == "torch" else (encoder, "_run")
    run = getattr(owner, name)

    def watched(tower, items, *more):
        seen.append(tuple((items if backend == "torch" else items[0]).shape))
        return run(tower, items, *more)

    monkeypatch.setattr(owner, name, watched)
    encoder.encode_texts(["a red dog", "red"])
    assert seen == [(2, 8)]


def test_texts_of_a_list_keep_their_places(small, exported):
    texts = [*["a red dog"] * 30, " ".join(["dog"] * 40), *["kitten"] * 30]
    encoder = loaded(small, exported, "onnxruntime")
    found = encoder.encode_texts(texts)
    for at in (0, 29, 30, 31, 60):
        assert cosines(found[at : at + 1], reference(small, texts[at : at + 1])).min() >= 0.99999


def test_folders_that_do_not_say_so_get_every_text_at_full_length(exported, tmp_path):
    """As those that were exported before, and those of others, have a fixed length."""
    assert json.loads((exported / "config.json").read_text())[ENDED] is True
    old = load_encoder(immich_folder(tmp_path))
    assert old.encode_texts(["red", "red cat dog"]).tolist() == [[2, 0, 0], [2, 4, 5]]
