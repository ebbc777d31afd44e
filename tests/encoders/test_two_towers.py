"""Images by one model and texts by another make one encoder; towers that do not fit are refused."""

import json
import shutil

import clips
import pytest
import torch

from benchmarks.parity import of_texts
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.two_towers import TextTower, TwoTowers, is_text_tower
from t2i_pipelines.errors import CheckpointError


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("towers")
    of_texts.multilingual_clip(folder, "small")
    return folder


@pytest.fixture
def text(written, tmp_path):
    """A copy of the text tower to change."""
    return shutil.copytree(written / "text", tmp_path / "text")


@pytest.fixture(scope="module")
def image(written):
    return load_encoder(str(written / "image"), device="cpu", precision="fp32")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def encode(folder):
    return TextTower(folder, "m").encode_texts(["a cat", "ein Hund im Schnee"])


def test_two_towers_are_one_encoder(written, image):
    both = TwoTowers("both", image, TextTower(written / "text", "both"))
    assert (both.space.model_name, both.space.dim) == ("both", 64)
    assert both.space.preprocessing == image.space.preprocessing
    assert both.space.weights not in (image.space.weights, TextTower(written / "text", "x").digest)
    assert both.running == image.running
    fitted = both.fit(clips.PICTURES[0])
    assert (both.encode_images([fitted]) == image.encode_images([fitted])).all()
    assert both.encode_texts([]).shape == (0, 64)
    assert both.cut(["word " * 200, "a"]) == 1
    with pytest.warns(UserWarning, match="is cut to the 128 that both reads"):
        both.encode_texts(["word " * 200])


def test_the_digest_covers_the_layers_and_how_texts_are_pooled(text):
    digests = {TextTower(text, "m").digest}
    change(text / "1_Pooling/config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    first = encode(text)
    digests.add(TextTower(text, "m").digest)
    weights = torch.load(text / "2_Dense/pytorch_model.bin")
    torch.save({name: 2 * value for name, value in weights.items()}, text / "2_Dense/pytorch_model.bin")
    digests.add(TextTower(text, "m").digest)
    assert encode(text) == pytest.approx(2 * first, rel=1e-4)
    change(text / "0_Transformer/sentence_bert_config.json", max_seq_length=5)
    digests.add(TextTower(text, "m").digest)
    assert len(digests) == 4


def test_tanh_and_a_bias_count(text):
    plain = encode(text)
    weights = torch.load(text / "2_Dense/pytorch_model.bin")
    torch.save({**weights, "linear.bias": torch.ones(64)}, text / "2_Dense/pytorch_model.bin")
    change(text / "2_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh")
    assert encode(text) == pytest.approx(torch.tanh(torch.tensor(plain) + 1).numpy(), abs=1e-5)


def modules(text, *kinds):
    stored = json.loads((text / "modules.json").read_text())
    for one, kind in zip(stored, kinds, strict=False):
        one["type"] = f"sentence_transformers.models.{kind}"
    (text / "modules.json").write_text(json.dumps(stored[: len(kinds)]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: modules(t, "Transformer", "Pooling", "WordWeights"), "a WordWeights there is not"),
        (lambda t: modules(t, "Transformer"), r"modules\.json has no Pooling"),
        (lambda t: modules(t, "BoW"), r"holds no text tower: neither modules\.json with a Transformer, nor"),
        (lambda t: (t / "modules.json").write_text("[1]"), r"modules\.json cannot be read: TypeError"),
        (
            lambda t: change(t / "1_Pooling/config.json", pooling_mode_max_tokens=True),
            r"1_Pooling/config\.json: pooling must be mean or cls, got (mean, max|max, mean)",
        ),
        (
            lambda t: change(t / "2_Dense/config.json", activation_function="torch.nn.GELU"),
            r"2_Dense/config\.json: activation must be one of Identity, Tanh, got torch\.nn",
        ),
        (
            lambda t: torch.save({"linear.weight": torch.zeros(64, 9)}, t / "2_Dense/pytorch_model.bin"),
            "the layers do not fit one another",
        ),
        (
            lambda t: torch.save({"x": torch.zeros(1)}, t / "2_Dense/pytorch_model.bin"),
            r"linear\.weight is missi",
        ),
        (lambda t: (t / "2_Dense/pytorch_model.bin").unlink(), r"2_Dense has no weights: none of"),
        (
            lambda t: change(t / "0_Transformer/sentence_bert_config.json", do_lower_case=True),
            r"sentence_bert_config\.json: do_lower_case is not supported",
        ),
        (lambda t: change(t / "0_Transformer/config.json", model_type="t5"), "type 't5' is not supported"),
        (
            lambda t: change(t / "0_Transformer/config.json", auto_map={}),
            "'distilbert' needs code of its own",
        ),
        (
            lambda t: change(t / "0_Transformer/config.json", n_layers=3),
            r"model\.safetensors does not fit .*: transformer\.layer\.2\..* is missing",
        ),
    ],
)
def test_a_text_tower_that_cannot_be_built_is_refused(text, edit, message):
    edit(text)
    with pytest.raises(CheckpointError, match=message):
        encode(text)


def test_towers_of_different_lengths_are_refused(text, image):
    torch.save({"linear.weight": torch.zeros(32, 64)}, text / "2_Dense/pytorch_model.bin")
    both = TwoTowers("both", image, TextTower(text, "both"))
    with pytest.raises(
        CheckpointError, match="its text tower gives vectors of 32 numbers, the image .* of 64;"
    ):
        both.encode_texts(["a"])


def test_a_text_tower_alone_is_no_encoder(written, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"holds Transformer, Pooling, Dense, which read texts alone; join"
    ):
        load_encoder(str(written / "text")).encode_texts(["a"])
    (tmp_path / "config.json").write_text('{"model_type": "M-CLIP"}')
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match="'M-CLIP' model, which is not supported: it reads texts alone; join"
    ):
        load_encoder(str(tmp_path)).encode_texts(["a"])


def test_text_towers_are_told_from_models(written, tmp_path):
    assert is_text_tower(written / "text")
    assert not is_text_tower(written / "image")
    assert not is_text_tower(tmp_path)


@pytest.mark.parametrize(
    ("base", "weights", "message"),
    [
        ("t5-base", {}, "modelBase must be an XLM-RoBERTa, LaBSE or multilingual BERT, got 't5-base'"),
        (
            "xlm-roberta-base",
            {},
            r"does not fit: transformer\.embeddings\.word_embeddings\.weight is missing",
        ),
    ],
)
def test_an_mclip_of_another_base_is_refused(tmp_path, base, weights, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "M-CLIP", "modelBase": base}))
    torch.save({"LinearTransformation.weight": torch.zeros(2, 2), **weights}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=message):
        encode(tmp_path)
