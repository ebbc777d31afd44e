"""ONNX folders in Immich's layout: one item a pass, a tokenizer that neither pads nor cuts."""

import json

import numpy as np
import pytest
from onnx import TensorProto
from onnx_folders import immich_folder

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.errors import CheckpointError, EncodeError

RED, GREEN = (np.full((20, 30, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0)))


@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_towers_of_any_batch_size_are_run(tmp_path, batch):
    encoder = load_encoder(immich_folder(tmp_path, batch=batch))
    red, green = [1, 0, 0], [0, 1, 0]
    assert encoder.encode_images([RED, GREEN, RED, RED]).tolist() == [red, green, red, red]
    assert encoder.encode_texts(["red cat", "green dog", "a", "x x x"]).tolist() == [
        [2, 4, 0], [3, 5, 0], [1, 0, 0], [6, 6, 6],
    ]  # fmt: skip


@pytest.mark.parametrize("ids", [TensorProto.INT32, TensorProto.INT64], ids=["int32", "int64"])
@pytest.mark.parametrize("mask", [False, True], ids=["ids alone", "with attention mask"])
def test_the_text_tower_gets_the_type_and_the_mask_that_it_asks_for(tmp_path, ids, mask):
    encoder = load_encoder(immich_folder(tmp_path, ids=ids, mask=mask))
    assert encoder.encode_texts(["red cat"]).tolist() == [[2, 4, 0]]


def test_texts_are_cleaned_padded_and_cut_as_the_config_says(tmp_path):
    encoder = load_encoder(immich_folder(tmp_path))
    with pytest.warns(UserWarning, match="a text of 6 tokens is cut to the 4 that"):
        found = encoder.encode_texts(["A RED, cat! a dog dog", "<b>red</b>"])
    assert found[0].tolist() == [1, 2, 4]


def test_the_config_gives_the_dimension_and_leaves_the_digest_to_the_weights(tmp_path):
    one = load_encoder(immich_folder(tmp_path / "one")).space
    config = {"embed_dim": 3, "vision_cfg": {}, "text_cfg": {"context_length": 4}}
    other = load_encoder(immich_folder(tmp_path / "other", config=config)).space
    assert one.dim == other.dim == 3
    assert one.preprocessing == "squash 8 bicubic mean 0 0 0 std 1 1 1"
    assert one.weights == other.weights


def test_pictures_are_squashed_where_the_config_says_squash(tmp_path):
    encoder = load_encoder(immich_folder(tmp_path))
    halves = np.concatenate([np.tile(RED, (1, 2, 1)), np.tile(GREEN, (1, 2, 1))])
    assert encoder.fit(halves).shape == (8, 8, 3)
    wide = np.concatenate([RED, GREEN, GREEN, GREEN], axis=1)  # a centre crop would see no red
    assert encoder.encode_images([wide])[0].tolist() == pytest.approx([0.25, 0.75, 0], abs=0.02)


def test_a_path_may_be_the_model_name_and_keeps_its_folders_name(tmp_path):
    encoder = load_encoder(str(immich_folder(tmp_path / "my-model")))
    assert encoder.space.model_name == "my-model"
    assert load_encoder(tmp_path / "my-model") is encoder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vision_cfg": {}}, r"config\.json has no embed_dim"),
        ({"embed_dim": 3, "vision_cfg": {}}, r"has a vision_cfg, but no text_cfg"),
        ([1], r"config\.json holds a list, not an object"),
    ],
)
def test_a_config_that_says_too_little_is_refused(tmp_path, config, message):
    immich_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path).encode_texts(["red"])


def test_a_folder_without_one_of_its_files_names_it(tmp_path):
    (immich_folder(tmp_path) / "textual/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no textual/tokenizer\.json in .*; a model folder holds"):
        load_encoder(tmp_path)


def test_a_truncated_tower_is_named(tmp_path):
    path = immich_folder(tmp_path) / "visual/model.onnx"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"visual/model\.onnx cannot be loaded"):
        load_encoder(tmp_path).encode_images([RED])


def test_a_folder_of_another_dimension_is_not_the_model_that_was_named(tmp_path):
    immich_folder(tmp_path)
    with pytest.raises(CheckpointError, match="is not clip_vit_base_patch32: its embed_dim is 3, not 512"):
        load_encoder("ViT-B/32", tmp_path)


def test_a_tower_that_gives_another_dimension_than_the_config_is_named(tmp_path):
    config = {"embed_dim": 5, "vision_cfg": {}, "text_cfg": {"context_length": 4}}
    with pytest.raises(EncodeError, match=r"gave \(1, 3\), not \(1, 5\)"):
        load_encoder(immich_folder(tmp_path, config=config)).encode_texts(["red"])


def test_an_english_model_warns_of_chinese_once(tmp_path):
    encoder = load_encoder("ViT-B/32", immich_folder(tmp_path, dim=512))
    with pytest.warns(UserWarning, match="clip_vit_base_patch32 never learned Han script") as seen:
        encoder.encode_texts(["猫", "狗"])
    assert len(seen) == 1
