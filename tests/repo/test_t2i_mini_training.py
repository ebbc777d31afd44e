"""The first steps of training t2i_mini, on archives made here; and the parts that decide its vectors."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("emoji")

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.export import load_clip
from t2i_pipelines.encoders.twofold import SHORT, Lite0, SameConv
from tools.drawings.emoji_names import LANGUAGES
from tools.drawings.scenes import FONT
from tools.t2i_mini import assemble, features, lite, train
from tools.t2i_mini.nouns import Nouns
from tools.t2i_mini.quality import measure_tiny
from tools.t2i_mini.space import fit, roots, unit
from tools.t2i_mini.texts import everyday, items
from tools.t2i_mini.tower import OFFSET, STEEPNESS, fit_gate, join

HEADER = "synset,imagenet_index,tiny_imagenet,hypernyms,en,es,zh,de,it"
DOGS = ("n1,,0,,thing,cosa,物,Ding,cosa", "n2,,0,n1,dog,perro,狗,Hund,cane")


@pytest.fixture
def words(tmp_path):
    """A table of 1,000 classes, each with a name of its own, of which the first ten are dogs."""
    english = {name for _, some in everyday() for name in some} - {"dog"}
    names = [*(f"hound {n}" for n in range(10)), *sorted(english), *(f"thing {n}" for n in range(1000))][
        :1000
    ]
    rows = [f"c{n:04},{n},1,{'n2' if n < 10 else 'n1'},{name},,,," for n, name in enumerate(names)]
    (tmp_path / "words.csv").write_text("\n".join([HEADER, *DOGS, *rows]), encoding="utf-8")
    return tmp_path / "words.csv"


def archive(path, labels, many, side):
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for label in labels:
            for number in range(many):
                buffer = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(buffer, "JPEG")
                member = tarfile.TarInfo(f"train/{label}/{number:04}.jpg")
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
    return path


def test_classes_below_a_noun_are_those_of_the_whole_tree(words):
    nouns = Nouns(words)
    assert np.flatnonzero(nouns.below[nouns.number["n2"]]).tolist() == list(range(10))
    assert nouns.below[nouns.number["n1"]].all()
    assert nouns.all[nouns.number["n2"]].names == dict(
        zip(LANGUAGES, [("dog",), ("perro",), ("狗",), ("hund",), ("cane",)], strict=True)
    )


def test_folded_norms_compute_what_convolution_and_norm_do():
    torch.manual_seed(1)
    conv, norm = torch.nn.Conv2d(3, 32, 3, bias=False), torch.nn.BatchNorm2d(32, eps=lite.EPSILON)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    norm.weight.data.normal_()
    state = {"_conv_stem.weight": conv.weight, "_fc.weight": torch.zeros(1), "_fc.bias": torch.zeros(1)}
    state |= {f"_bn0.{name}": value for name, value in norm.state_dict().items()}
    folded = lite.fold({name: value.detach() for name, value in state.items()})
    x = torch.randn(2, 3, 9, 9)
    made = torch.nn.functional.conv2d(x, folded["stem.weight"], folded["stem.bias"])
    assert torch.allclose(made, norm.eval()(conv(x)), atol=1e-5)


@pytest.mark.parametrize("side", [8, 9])
def test_padding_is_that_of_tensorflow(side):
    """Of an even side, stride 2 and kernel 3, all padding is on the right and below."""
    conv = SameConv(1, 1, 3, 2)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    made = conv(torch.ones(1, 1, side, side))[0, 0]
    assert made.shape == (-(-side // 2), -(-side // 2))
    assert made[0, 0] == (9 if side == 8 else 4)
    assert made[-1, -1] == 4


def test_a_noun_is_as_near_as_it_is_probable():
    torch.manual_seed(2)
    below = np.zeros((3, 1000), bool)
    below[0, 0], below[1, 1], below[2, :10] = True, True, True
    scores = np.zeros((3, 1000), np.float32)
    scores[[0, 1, 2], [0, 1, 5]] = 18
    space = fit(scores, below, Lite0())
    vectors = space.vectors(scores)
    cosines = vectors @ space.directions(np.eye(3)).T
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    uncertain = space.vectors(scores * 0.2) @ space.directions(np.eye(3)).T
    assert uncertain[0, 0] < cosines[0, 0], "what is less probable is less near"
    assert cosines[:, 0].argmax() == 0
    assert cosines[:, 1].argmax() == 1
    assert roots(scores, below.astype(np.float32))[2, 2] > 0.9, "a class counts for what is above it"


@pytest.mark.parametrize("is_photo", [True, False])
def test_an_image_has_a_vector_of_one_space_and_nothing_in_the_other(is_photo):
    torch.manual_seed(6)
    below = np.random.default_rng(6).random((5, 1000)) < 0.1
    model = Lite0()
    scores, drawn = torch.randn(2, 1000), torch.randn(2, 256)
    space = fit(scores.numpy(), below, model)
    gate = torch.nn.Linear(1280, 1)
    torch.nn.init.zeros_(gate.weight)
    torch.nn.init.constant_(gate.bias, 99.0 if is_photo else -99.0)
    tower = torch.nn.Module()
    tower.output_dim = 256
    made = join(model, tower, space, gate).join(torch.randn(2, 1280), scores, drawn).detach().numpy()
    of_photograph, of_drawing = np.split(made, [space.basis.shape[1]], axis=1)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    if is_photo:
        assert np.allclose(of_photograph, space.vectors(scores.numpy()), atol=1e-5)
        assert np.abs(of_drawing).max() < 1e-6
    else:
        assert np.allclose(of_drawing, SHORT * unit(drawn.numpy()), atol=1e-5)
        assert np.abs(of_photograph[:, :-1]).max() < 1e-6
    steady = space.vectors(scores.numpy())[:, -1]
    assert (steady > 0.5).all(), "the last dimension keeps what is uncertain short in the others"


def test_the_gate_tells_two_kinds_of_features_apart():
    rng = np.random.default_rng(3)
    photographs, drawings = rng.normal(0.3, 1, (400, 1280)), rng.normal(-0.3, 1, (60, 1280))
    gate = fit_gate(photographs[:300], drawings[:40], steps=200)
    answers = [
        gate(torch.from_numpy(some).float())[:, 0] > OFFSET * STEEPNESS
        for some in (photographs[300:], drawings[40:])
    ]
    assert answers[0].float().mean() > 0.95
    assert answers[1].float().mean() < 0.05


def test_the_names_of_drawn_things_know_their_photographs(words):
    nouns = Nouns(words)
    kept = {noun.synset: at for at, noun in enumerate(nouns.all) if noun.synset != "n1"}
    found = {(item.language, item.name): item for item in items(nouns, kept)}
    assert found["de", "welpe"].nouns == found["en", "dog"].nouns == (kept["n2"],)
    assert found["en", "dog"].key == "dog"
    assert not found["en", "ghost"].nouns
    assert found["en", "ghost"].key == "ghost"


def test_photographs_are_right_for_their_label_and_what_is_above_it(words, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "HELD_OUT", 6)
    labels = archive(tmp_path / "tiny.tar.gz", ["c0001", "c0002"], 7, 64)
    figures = {one.name: one.value for one in measure_tiny(load_encoder("t2i_mini"), labels, words)}
    assert figures["Tiny ImageNet, 1 hypernyms, P@10"] == 1, "both labels are dogs"
    assert figures["Tiny ImageNet, 2 names, English, P@10"] == pytest.approx(0.5, abs=0.1), "6 of 12"
    assert 0 <= figures["Tiny ImageNet, other names: match"] <= 1


@pytest.mark.slow
@pytest.mark.skipif(not FONT.exists(), reason="fonts-noto-color-emoji is not installed")
def test_training_runs_from_archives_to_a_model_that_is_read_back(words, tmp_path, monkeypatch):
    torch.manual_seed(4)
    tower = Lite0().eval().requires_grad_(False)
    monkeypatch.setattr(train, "lite0", lambda: tower)
    monkeypatch.setattr(features, "HELD_OUT", 2)
    arguments = ["--words", str(words), "--out", str(tmp_path / "out"), "--steps", "2", "--batch", "6"]
    arguments += ["--tiny", str(archive(tmp_path / "tiny.tar.gz", ["c0001", "c0002"], 4, 64))]
    arguments += ["--cifar", str(archive(tmp_path / "cifar.tar.gz", ["cat", "dog"], 4, 32))]
    arguments += ["--drawings", "8", "--each", "2"]
    train.main(arguments)
    labels = json.loads((tmp_path / "out/features.json").read_text())
    assert labels["tiny_held_out"] == ["c0001", "c0001", "c0002", "c0002"]
    assert labels["cifar"] == ["cat", "cat", "dog", "dog"]
    assert len(labels["scenes"]) == 8
    trained = torch.load(tmp_path / "out/model.pt", weights_only=True)
    assert assemble.assemble(tmp_path / "out", tmp_path / "folder") > 0.9999
    encoder = load_encoder(str(tmp_path / "folder"), precision="fp32")
    pixels = encoder.fit(np.random.default_rng(5).integers(0, 255, (70, 50, 3), np.uint8))
    # a gate learned from eight scenes of noise turns on rounding, so the vector is not compared
    assert np.linalg.norm(encoder.encode_images([pixels])) == pytest.approx(1, abs=0.3)
    assert encoder.encode_texts(["a dog", "ein Hund", "一只狗"]).shape == (3, 768)
    again = load_clip(tmp_path / "folder").state_dict()
    assert again.keys() == trained.keys()
    for name, value in trained.items():
        if not name.endswith("num_batches_tracked"):
            step = float(value.abs().max()) / 127  # of 8 bits
            torch.testing.assert_close(again[name], value, rtol=1e-3, atol=0.51 * step, msg=name)
    monkeypatch.setattr(train, "compute", None)  # what is there is not computed again
    train.main(arguments)
