"""QuickGELU or GELU is what the files or the name say; where neither does, that is said."""

import dataclasses
import json

import pytest
import torch
from clips import PICTURES, cosines, openclip_clip, transformers_clip

from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.models import find
from t2i_pipelines.encoders.torch_encoder import TorchEncoder

QUICK = dataclasses.replace(find("ViT-B/32"), dim=24, resolution=32)
EXACT = dataclasses.replace(find("ViT-B-32/laion2b_s34b_b79k"), dim=24, resolution=32)


def config_of(folder) -> dict:
    return json.loads((folder / "open_clip_config.json").read_text())


def say(folder, quick_gelu) -> None:
    config = config_of(folder)
    config["model_cfg"]["quick_gelu"] = quick_gelu
    (folder / "open_clip_config.json").write_text(json.dumps(config))


@pytest.fixture
def silent(tmp_path):
    """A folder of open_clip's whose config does not tell the activation."""
    openclip_clip(tmp_path / "m", quick_gelu=False)
    assert "quick_gelu" not in config_of(tmp_path / "m")["model_cfg"]
    return tmp_path / "m"


def activations(encoder) -> tuple[bool, bool]:
    module = encoder.model.module
    blocks = module.visual.transformer.resblocks, module.transformer.resblocks
    quick = [type(block.mlp.gelu).__name__ == "QuickGELU" for tower in blocks for block in tower]
    assert len(quick) == 4
    return all(quick[:2]), all(quick[2:])


def test_a_config_that_does_not_say_is_taken_as_open_clip_takes_it_and_that_is_logged_once(silent, caplog):
    for _ in range(2):
        encoder = TorchEncoder(str(silent), "m")
        assert activations(encoder) == (False, False)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("t2i_pipelines.encoders.formats", "WARNING")
    assert record.message == (
        f"{silent}/open_clip_config.json does not say quick_gelu; GELU is taken, as open_clip does. "
        'OpenAI\'s weights need QuickGELU: if these are, put "quick_gelu": true into its model_cfg, or '
        "name the model, such as model_name='ViT-B/32', with this path as checkpoint_path. If GELU is right, "
        '"quick_gelu": false there ends this warning'
    )


def test_each_way_out_of_the_warning_does_what_it_says(silent, caplog):
    named = TorchEncoder(str(silent), "ViT-B/32", QUICK)
    assert activations(named) == (True, True)
    say(silent, True)
    stated = TorchEncoder(str(silent), "m")
    assert activations(stated) == (True, True)
    assert cosines(named.encode_images(PICTURES), stated.encode_images(PICTURES)).min() > 0.999999
    say(silent, False)
    assert activations(TorchEncoder(str(silent), "m")) == (False, False)
    assert caplog.records == []


def test_null_says_nothing(silent, caplog):
    say(silent, None)
    assert activations(TorchEncoder(str(silent), "m")) == (False, False)
    assert "does not say quick_gelu" in caplog.text


def test_a_name_that_means_gelu_is_enough(silent, caplog):
    assert activations(TorchEncoder(str(silent), EXACT.name, EXACT)) == (False, False)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("info", "files", "name"), [(QUICK, "GELU", "QuickGELU"), (EXACT, "QuickGELU", "GELU")]
)
def test_files_and_name_that_differ_are_told_and_the_files_win(silent, caplog, info, files, name):
    say(silent, files == "QuickGELU")
    assert activations(TorchEncoder(str(silent), info.name, info)) == (files == "QuickGELU",) * 2
    (record,) = caplog.records
    assert record.message == (
        f"{silent}/open_clip_model.safetensors is stored as a model with {files} in its image tower and "
        f"{files} in its text tower; {info.name} has {name}. What the files state is taken; make sure that "
        f"these are the weights of {info.name}"
    )


def test_transformers_config_is_compared_too(tmp_path, caplog):
    transformers_clip(tmp_path, "gelu")
    assert activations(TorchEncoder(str(tmp_path), "ViT-B/32", QUICK)) == (False, False)
    assert "; clip_vit_base_patch32 has QuickGELU. What the files state is taken" in caplog.text


def test_what_files_and_name_agree_on_is_not_commented(tmp_path, caplog):
    model = openclip_clip(tmp_path / "m", quick_gelu=True)
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    for path in (tmp_path / "m", tmp_path / "plain.pt"):
        assert activations(TorchEncoder(str(path), "ViT-B/32", QUICK)) == (True, True)
    assert activations(load_encoder(tmp_path / "m")) == (True, True)
    assert caplog.records == []
