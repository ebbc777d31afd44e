"""Towers that only open_clip can build: timm's images, transformers' texts in any language."""

import json

import numpy as np
import pytest
import torch
from clips import PICTURES, SMALL, cosines, load_exact, open_clip, openclip_clip, spread
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from t2i_pipelines.encoders.export import export_model
from t2i_pipelines.errors import CheckpointError

TEXTS = ["ein Hund im Schnee", "一只 猫", "a cat", "unknown words here"]
WORDS = ["<s>", "<pad>", "</s>", "<unk>", "ein", "Hund", "im", "Schnee", "一只", "猫", "a", "cat"]
LEAST = 0.99999


def multilingual(folder):
    """A timm image tower and an XLM-RoBERTa text tower, of two layers each."""
    (folder / "text").mkdir(parents=True)
    text = {
        "model_type": "xlm-roberta", "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 40, "pad_token_id": 1,
        "bos_token_id": 0, "eos_token_id": 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    }  # fmt: skip
    (folder / "text/config.json").write_text(json.dumps(text))
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    cfg = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "hf_model_name": str(folder / "text"),
            "hf_tokenizer_name": str(folder / "text"),
            "hf_pooler_type": "mean_pooler",
            "context_length": 12,
        },
        "custom_text": True,
    }
    return openclip_clip(folder, False, cfg)


def ids_of(texts):
    rows = [[0, *(WORDS.index(word) if word in WORDS else 3 for word in text.split()), 2] for text in texts]
    return torch.tensor([row + [1] * (12 - len(row)) for row in rows])


def check(encoder, images, texts):
    assert cosines(encoder.encode_images(PICTURES), images).min() >= LEAST
    assert cosines(encoder.encode_texts(TEXTS), texts).min() >= LEAST


@pytest.mark.slow
def test_a_timm_tower_and_a_multilingual_one_give_open_clips_vectors_exported_too(tmp_path):
    model = multilingual(tmp_path / "m")
    transform = open_clip.image_transform(160, is_train=False)
    pixels = torch.stack([transform(Image.fromarray(picture)) for picture in PICTURES])
    with torch.no_grad():
        images, texts = model.encode_image(pixels), model.encode_text(ids_of(TEXTS))
    encoder = load_exact(tmp_path / "m")
    check(encoder, images, texts)
    assert spread(texts) < 1 - 1e-5
    assert export_model(encoder, tmp_path / "out") >= LEAST
    check(load_exact(tmp_path / "out"), images, texts)


@pytest.mark.slow
def test_padding_is_masked_out(tmp_path):
    multilingual(tmp_path / "m")
    encoder = load_exact(tmp_path / "m")
    (alone,) = encoder.encode_texts(["a cat"])
    with_others = encoder.encode_texts(["ein Hund im Schnee ein Hund", "a cat"])
    assert np.abs(with_others[1] - alone).max() < 1e-5


def test_a_wrong_tower_is_refused_by_its_first_mismatch(tmp_path):
    multilingual(tmp_path / "m")
    path = tmp_path / "m/open_clip_model.safetensors"
    weights = load_file(path)
    del weights["visual.head.proj.weight"]
    save_file(weights, path)
    with pytest.raises(
        CheckpointError, match=r"calls for: visual\.head\.proj\.weight \(24, \d+\) is missing"
    ):
        load_exact(tmp_path / "m").encode_texts(["a cat"])


def test_a_captioning_model_is_refused(tmp_path):
    openclip_clip(tmp_path, False)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"] = {**SMALL, "multimodal_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="is a CoCa model, which writes captions; it is not supported"):
        load_exact(tmp_path).encode_texts(["x"])
