"""Training t2i_mini: its tokenizer, its way through the network, its batches, and a run in small."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from t2i_pipelines.encoders.onnx import OnnxEncoder
from t2i_pipelines.errors import CheckpointError, SourceError
from t2i_pipelines.finetune.clip import contrast
from tools.drawings import exam, photos, train
from tools.drawings.captions import corpus
from tools.drawings.export import export_run
from tools.drawings.learning import encode_captions, rate_at
from tools.drawings.network import SIZES, encode_image, encode_text, make_clip
from tools.drawings.samples import is_true
from tools.drawings.scenes import FONT
from tools.drawings.vocabulary import make_tokenizer

needs_font = pytest.mark.skipif(not FONT.exists(), reason="fonts-noto-color-emoji is not installed")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = make_clip({**SIZES, "vocab_size": 300}).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bn3.weight"):  # born zero, which would hide whole blocks
            torch.nn.init.uniform_(parameter)
    return made


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(corpus()[:3000], vocab_size=300, context_length=32)


def test_the_end_of_a_text_has_the_highest_id(tokenizer):
    ids = tokenizer.encode("a dog").ids
    assert tokenizer.get_vocab_size() == 300
    assert (ids[0], max(ids), ids.index(299) > 1, ids[-1]) == (298, 299, True, 0)


@pytest.mark.parametrize("text", ["", "🦖\x00\ud7ff", "ｄｏｇ ﬁ", "Ω" * 500, "<|endoftext|>", "\n\t "])
def test_any_text_has_a_beginning_an_end_and_the_right_length(text, tokenizer):
    ids = tokenizer.encode(text).ids
    assert len(ids) == 32
    assert (ids[0], ids.count(298), 299 in ids) == (298, 1, True)


def test_case_and_width_of_letters_do_not_matter(tokenizer):
    assert tokenizer.encode("A Dog").ids == tokenizer.encode("ａ ｄｏｇ").ids


@torch.no_grad()
def test_the_fast_way_gives_what_towhee_gives(model, tokenizer):
    pictures = torch.randn(2, 3, 96, 96)
    torch.testing.assert_close(
        encode_image(model, pictures), model.encode_image(pictures), rtol=1e-3, atol=1e-4
    )
    ids = torch.tensor([one.ids for one in tokenizer.encode_batch(["a dog", "a photo of a dog", "x"])])
    wanted = model.encode_text(ids, device="cpu")
    torch.testing.assert_close(encode_text(model, ids[:, :24]), wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(encode_captions(model, ids), wanted, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_smaller_pictures_fit_the_same_network(model):
    assert encode_image(model, torch.randn(2, 3, 64, 64)).shape == (2, 256)


def test_a_caption_is_true_of_every_picture_that_shows_all_it_names():
    captions = [frozenset({"dog"}), frozenset({"dog", "on grass"}), frozenset({"cat"})]
    contents = [frozenset({"dog", "on grass"}), frozenset({"dog", "cat"})]
    assert is_true(captions, contents).tolist() == [[True, True], [True, False], [False, True]]


def test_captions_that_share_a_picture_are_no_rivals():
    apart = torch.eye(2)
    truth = torch.tensor([[True, False], [True, False], [False, True]])
    captions = torch.stack([apart[0], apart[0], apart[1]])
    good = contrast(apart, captions, truth, torch.tensor(100.0))
    bad = contrast(apart, captions.flip(0), truth, torch.tensor(100.0))
    assert good.item() == pytest.approx(np.log(2) / 4, abs=1e-3)  # two captions share the first image
    assert bad > 10


def test_the_pace_rises_shortly_and_falls_to_nothing():
    rates = [rate_at(share) for share in (0.0, 0.02, 0.5, 1.0, 1.1)]
    assert rates[0] < rates[1] > rates[2] > rates[3] == rates[4] == 0


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Three photographs of every label, two of them held out; each as bright as its number says."""
    monkeypatch.setattr(photos, "HELD_OUT", 2)
    path = tmp_path / "photos.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for label in photos.LABELS:
            for number in (2, 0, 1):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(buffer, "JPEG")
                member = tarfile.TarInfo(f"train/{label}/{number:04d}.jpg")
                member.size = buffer.tell()
                tar.addfile(member, io.BytesIO(buffer.getvalue()))
    return path


def test_the_last_photographs_of_every_label_are_held_out(archive):
    kept, held_out = photos.read_photos(archive)
    assert kept.labels.tolist() == list(range(10))
    assert held_out.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert kept.pixels.shape == (10, 32, 32, 3)
    assert kept.pixels.max() < 8
    assert abs(held_out.pixels[1::2, ..., 0].astype(int) - 160).max() < 8


def test_an_archive_without_photographs_is_refused(tmp_path, archive, monkeypatch):
    with pytest.raises(SourceError, match=r"no archive of photographs at .*none\.tar"):
        photos.read_photos(tmp_path / "none.tar")
    monkeypatch.setattr(photos, "HELD_OUT", 3)
    with pytest.raises(SourceError, match="holds 3 of 'airplane', more than 3 are needed"):
        photos.read_photos(archive)


@needs_font
@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped_and_exports(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(exam, "SCENES", 3)
    options = ["--photos", str(archive), "--out", str(tmp_path), "--batch", "8", "--threads", "1"]
    train.main([*options, "--steps", "1"])
    train.main([*options, "--steps", "2"])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["steps"] == 2
    assert export_run(tmp_path, tmp_path / "model") > 0.9999
    encoder = OnnxEncoder(str(tmp_path / "model"), "t2i_mini")
    assert encoder.encode_texts(["a dog"]).shape == (1, 256)
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["exported_from"]["file"] == "checkpoint.pt"


@needs_font
@pytest.mark.slow
def test_without_photographs_only_scenes_are_learned_from(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(exam, "SCENES", 3)
    with caplog.at_level("INFO"):
        train.main(["--out", str(tmp_path), "--batch", "8", "--threads", "1", "--steps", "1"])
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["steps"] == 1
    assert "final exam: en R@1" in caplog.text
    assert "photo P@10" not in caplog.text


def test_without_a_checkpoint_there_is_nothing_to_export(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*run: python -m tools\.drawings\.train"):
        export_run(tmp_path, tmp_path / "model")
