"""Checkpoints are read as data and nothing else; a wrong or damaged one is refused by its first mismatch."""

import io
import json
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from clips import PICTURES, SMALL, TEXTS, cosines, openclip_clip, transformers_clip
from safetensors.torch import load_file, save_file

from t2i_pipelines._towhee.door import clip_models
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.checkpoints import activation_of, read_weights
from t2i_pipelines.encoders.torch_encoder import TorchEncoder
from t2i_pipelines.errors import CheckpointError


class Harm:
    """Unpickled, it makes a folder: had it been, the test would see it."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("openclip")
    openclip_clip(folder, quick_gelu=True)
    return folder


@pytest.fixture
def torchscript(folder, tmp_path):
    """An archive as OpenAI publishes them: a traced model in half precision, its sizes beside the weights."""
    model = clip_models().CLIP(24, 32, 2, 64, 8, None, 77, 49408, 64, 1, 2).eval()
    model.load_state_dict(load_file(folder / "open_clip_model.safetensors"))

    class Published(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual, self.transformer = model.visual, model.transformer
            self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
            self.positional_embedding, self.text_projection = (
                model.positional_embedding,
                model.text_projection,
            )
            self.logit_scale = model.logit_scale
            self.register_buffer("input_resolution", torch.tensor(32))
            self.register_buffer("context_length", torch.tensor(77))
            self.register_buffer("vocab_size", torch.tensor(49408))

        def forward(self, image, text):
            sizes = self.input_resolution + self.context_length + self.vocab_size + self.logit_scale
            return self.visual(image), model.__class__.encode_text(self, text, device="cpu") + 0 * sizes

        dtype = torch.float32

    path = tmp_path / "ViT.pt"
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        example = (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long))
        torch.jit.trace(Published(), example, check_trace=False).save(str(path))
    return path


def test_a_torchscript_archive_is_read_without_running_it(folder, torchscript):
    wanted = load_encoder(folder)
    encoder = load_encoder(torchscript)
    assert cosines(encoder.encode_images(PICTURES), wanted.encode_images(PICTURES)).min() > 0.99999
    assert cosines(encoder.encode_texts(TEXTS), wanted.encode_texts(TEXTS)).min() > 0.99999
    assert activation_of(torchscript) is True


def test_a_torchscript_archives_weights_are_all_there_and_its_sizes_are_not_weights(folder, torchscript):
    wanted = load_file(folder / "open_clip_model.safetensors")
    found = read_weights(torchscript)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def repack(source, target, change) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def test_a_torchscript_archive_with_other_things_in_its_pickle_is_not_opened(torchscript, tmp_path):
    harm = pickle.dumps(Harm(tmp_path / "harmed"))
    bad = tmp_path / "bad.pt"
    repack(torchscript, bad, lambda name, data: harm if name.endswith("/data.pkl") else data)
    with pytest.raises(CheckpointError, match=r"the archive names (posix|nt)\.mkdir, which is not weights"):
        read_weights(bad)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a torch archive"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, inside):
    path, harmed = tmp_path / "evil.pt", tmp_path / "harmed"
    evil = {"weight": torch.zeros(1), "x": Harm(harmed)}
    if inside:
        torch.save(evil, path)
    else:
        path.write_bytes(pickle.dumps({"x": Harm(harmed)}))
    with pytest.raises(CheckpointError, match=r"evil\.pt is not plain weights: it would run code"):
        read_weights(path)
    assert not harmed.exists()


def test_plain_state_dicts_are_read_however_they_are_wrapped(tmp_path):
    weights = {"a": torch.ones(2).half(), "b": torch.arange(3)}
    for name, stored in {
        "plain": weights,
        "wrapped": {"state_dict": weights, "epoch": 3},
        "parallel": {f"module.{key}": value for key, value in weights.items()},
    }.items():
        torch.save(stored, tmp_path / f"{name}.pt")
        found = read_weights(tmp_path / f"{name}.pt")
        assert {key: (value.dtype, value.tolist()) for key, value in found.items()} == {
            "a": (torch.float32, [1, 1]),
            "b": (torch.int64, [0, 1, 2]),
        }


@pytest.mark.parametrize("kept", [0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_truncated_checkpoint_is_refused(folder, tmp_path, suffix, kept):
    path = tmp_path / f"cut{suffix}"
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=rf"cut\{suffix} (cannot be read|is not plain weights)"):
        read_weights(path)


@pytest.mark.parametrize(
    ("stored", "message"), [([1, 2], "holds a list, not a state dict"), ({}, "no weights")]
)
def test_what_holds_no_weights_is_refused(tmp_path, stored, message):
    torch.save(stored, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "odd.pt")


def changed(folder, tmp_path, change):
    weights = load_file(folder / "open_clip_model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    return load_encoder(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("visual.transformer.resblocks.1.mlp.c_fc.bias"), r"c_fc\.bias \(256,\) is missing"),
        (lambda w: w.pop("ln_final.weight"), r"it has no ln_final\.weight \(it holds \d+ weights"),
        (
            lambda w: w.update({"visual.ln_post.bias": torch.zeros(9)}),
            r"visual\.ln_post\.bias is \(9,\), not \(64,\)",
        ),
        (lambda w: w.update({"adapter.weight": torch.zeros(2)}), r"adapter\.weight \(2,\) has no place"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_its_first_mismatch(folder, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=rf"open_clip_model\.safetensors .*{message}"):
        changed(folder, tmp_path, change).encode_texts(["x"])


def test_a_transformers_checkpoint_without_one_projection_is_refused(tmp_path):
    transformers_clip(tmp_path, "gelu")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_model.encoder.layers.0.self_attn.v_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"visual\.transformer\.resblocks\.0\.attn\.in_proj_weight .*missing"
    ):
        load_encoder(tmp_path).encode_texts(["x"])


def test_the_config_and_the_weights_must_agree(folder, tmp_path):
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["embed_dim"] = 99
    save_file(load_file(folder / "open_clip_model.safetensors"), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has embed_dim 24 and image_size 32, the config .* 99 and 32"):
        load_encoder(tmp_path).encode_texts(["x"])


def test_a_checkpoint_of_another_model_than_the_one_named_is_refused(folder):
    with pytest.raises(
        CheckpointError, match=r"is not clip_vit_base_patch32: its vectors have 24 .* sees 32 .* 512 and 224"
    ):
        load_encoder("ViT-B/32", folder).encode_texts(["x"])


def test_an_activation_that_nothing_tells_is_not_guessed(folder, tmp_path):
    torch.save(load_file(folder / "open_clip_model.safetensors"), tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"does not tell its activation, QuickGELU or GELU, .*ViT-B/32"):
        load_encoder(tmp_path / "plain.pt").encode_texts(["x"])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"model_type": "blip"},
            "is of a 'blip' model, which is not supported: known are clip, chinese_clip",
        ),
        ({"text_config": {"hidden_act": "relu"}}, "hidden_act must be quick_gelu or gelu, got 'relu'"),
        ({"text_config": {"eos_token_id": 7}}, "texts end at token 7 of 49408"),
        ({"text_config": {"layer_norm_eps": 0.1}}, "the towers' layer_norm_eps differ"),
    ],
)
def test_a_transformers_config_that_is_not_openais_clip_is_refused(tmp_path, edit, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **edit}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        load_encoder(tmp_path).encode_texts(["x"])


def test_an_empty_folder_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        CheckpointError, match=r"there is no open_clip_config\.json with .*, or config\.json with"
    ):
        load_encoder(tmp_path).encode_texts(["x"])


def test_a_file_of_another_kind_is_no_checkpoint(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"notes\.txt is no checkpoint: those end in \.pt"):
        load_encoder(tmp_path / "notes.txt")


def test_a_vocabulary_that_is_not_openais_needs_a_tokenizer(tmp_path):
    cfg = {**SMALL, "text_cfg": {**SMALL["text_cfg"], "vocab_size": 100}}
    openclip_clip(tmp_path, False, cfg)
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json, and the model's vocabulary of 100"):
        load_encoder(tmp_path).encode_texts(["x"])


def test_half_precision_weights_are_computed_in_full(folder, tmp_path):
    encoder = changed(folder, tmp_path, lambda w: w.update({k: v.half() for k, v in w.items()}))
    assert encoder.encode_images(PICTURES).dtype == np.float32
    wanted = load_encoder(folder).encode_images(PICTURES)
    assert cosines(encoder.encode_images(PICTURES), wanted).min() > 0.9999


def test_nothing_is_read_before_it_is_needed(tmp_path):
    (tmp_path / "later.pt").write_bytes(io.BytesIO(b"not weights").read())
    encoder = TorchEncoder(str(tmp_path / "later.pt"), "later")
    with pytest.raises(CheckpointError, match=r"later\.pt"):
        encoder.space  # noqa: B018
