"""The weights that people have already are found, in whatever form and cache they are."""

import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from onnx_folders import immich_folder, transformers_js_folder
from typer.testing import CliRunner

from t2i_pipelines import quantize
from t2i_pipelines.cli import app
from t2i_pipelines.encoders import load_encoder, places, unload
from t2i_pipelines.encoders.models import ModelInfo, find
from t2i_pipelines.encoders.onnx_folder import FILES, read_onnx_folder
from t2i_pipelines.encoders.places import check, fetch, find_local, forms_of, kinds
from t2i_pipelines.encoders.weights import HubEncoder
from t2i_pipelines.errors import CheckpointError, MissingExtraError
from t2i_pipelines.types import Compute

B32 = find("ViT-B/32")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without any model, and no hub."""
    home = tmp_path / "home"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("FASTEMBED_CACHE_PATH", str(home / "fastembed"))
    monkeypatch.delenv("SENTENCE_TRANSFORMERS_HOME", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / ".cache/huggingface/hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return home


def snapshot(cache: Path, repository: str, name: str = "abc") -> Path:
    """Return an empty snapshot folder of a repository."""
    folder = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / name
    folder.mkdir(parents=True)
    return folder


def in_hub_cache(home: Path, repository: str, name: str = "abc") -> Path:
    return snapshot(home / ".cache/huggingface/hub", repository, name)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    return folder


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (FILES, [("onnx", set(FILES))]),
        ((*FILES, "visual/model.onnx.data", "README.md", "textual/tokenizer_config.json"),
         [("onnx", {*FILES, "visual/model.onnx.data", "textual/tokenizer_config.json"})]),
        ((*FILES, "textual/onnx__MatMul_1", "visual/Constant_2_attr__value", "visual/t.weight",
          "visual/model.armnn", "visual/fp16/model.armnn", "textual/vocab.json", "textual/merges.txt"),
         [("onnx", {*FILES, "textual/onnx__MatMul_1", "visual/Constant_2_attr__value", "visual/t.weight"})]),
        (("onnx/vision_model.onnx", "onnx/text_model.onnx", "onnx/vision_model.onnx_data",
          "onnx/vision_model.onnx_data_1", "onnx/vision_model_q4.onnx_data"),
         [("onnx", {"onnx/vision_model.onnx", "onnx/text_model.onnx", "onnx/vision_model.onnx_data",
                    "onnx/vision_model.onnx_data_1"})]),
        (("onnx/vision_model.onnx", "onnx/text_model.onnx", "onnx/vision_model_fp16.onnx", "config.json"),
         [("onnx", {"onnx/vision_model.onnx", "onnx/text_model.onnx", "config.json"})]),
        (("onnx/vision_model_fp16.onnx", "onnx/text_model_fp16.onnx", "onnx/text_model_quantized.onnx"),
         [("onnx", {"onnx/vision_model_fp16.onnx", "onnx/text_model_fp16.onnx"})]),
        (("onnx/vision_model.onnx",), []),
        (("model.onnx", "config.json"), [("onnx", {"model.onnx", "config.json"})]),
        (("open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin",
          "merges.txt"),
         [("torch", {"open_clip_config.json", "open_clip_model.safetensors", "merges.txt"})]),
        (("config.json", "pytorch_model.bin", "flax_model.msgpack", "vocab.txt"),
         [("torch", {"config.json", "pytorch_model.bin", "vocab.txt"})]),
        (("config.json", "model.safetensors", "pytorch_model.bin"),
         [("torch", {"config.json", "model.safetensors"})]),
        (("config.json", "model.safetensors.index.json", *SHARDS, "pytorch_model-1-of-1.bin"),
         [("torch", {"config.json", "model.safetensors.index.json", *SHARDS})]),
        (("config.json", "model.safetensors.index.json", SHARDS[1]), []),
        (("config.json", "model.safetensors.index.json"), []),
        (("modules.json", "0_CLIPModel/config.json", "0_CLIPModel/model.safetensors",
          "0_CLIPModel/pytorch_model.bin", "onnx/model.onnx"),
         [("torch", {"modules.json", "0_CLIPModel/config.json", "0_CLIPModel/model.safetensors"})]),
        (("config.json", "README.md"), []),
    ],
)  # fmt: skip
def test_the_forms_of_a_repository_and_the_files_that_each_needs(names, expected):
    assert [(form.kind, set(form.files)) for form in forms_of(names)] == expected


@pytest.mark.parametrize(
    "config",
    [
        {"vision_config": {"image_size": "x"}, "projection_dim": 3},
        {"vision_config": [1], "projection_dim": 3},
        {"embed_dim": 3, "vision_cfg": {}, "text_cfg": {"context_length": None}},
        {"embed_dim": 3, "vision_cfg": {}, "text_cfg": {"tokenizer_kwargs": None}},
    ],
)
def test_a_config_with_values_of_another_kind_is_refused(tmp_path, config):
    (immich_folder if "embed_dim" in config else transformers_js_folder)(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"{tmp_path} holds a JSON file with a value of another kind"):
        read_onnx_folder(tmp_path)


def test_places_are_searched_in_their_order(home):
    touch(home / ".cache/clip", "ViT-B-32.pt")
    touch(in_hub_cache(home, "openai/clip-vit-base-patch32"), "config.json", "pytorch_model.bin")
    touch(in_hub_cache(home, "immich-app/ViT-B-32__openai"), *FILES)
    flat = home / ".cache/torch/sentence_transformers/sentence-transformers_clip-ViT-B-32"
    touch(flat, "modules.json", "0_CLIPModel/pytorch_model.bin")
    for half in ("vision", "text"):
        touch(snapshot(home / "fastembed", f"Qdrant/clip-ViT-B-32-{half}"), "model.onnx", "config.json")
    found = [(one.kind, str(one.path.relative_to(home))) for one in find_local(B32)]
    hub = ".cache/huggingface/hub"
    assert found == [
        ("torch", ".cache/clip/ViT-B-32.pt"),
        ("onnx", f"{hub}/models--immich-app--ViT-B-32__openai/snapshots/abc"),
        ("onnx", "fastembed/models--Qdrant--clip-ViT-B-32-vision/snapshots/abc"),
        ("torch", f"{hub}/models--openai--clip-vit-base-patch32/snapshots/abc"),
        ("torch", ".cache/torch/sentence_transformers/sentence-transformers_clip-ViT-B-32"),
    ]
    assert fetch(B32).path == home / ".cache/clip/ViT-B-32.pt"
    onnx_only = Compute("cpu", "int8", "auto")
    assert fetch(B32, compute=onnx_only).path.parent.parent.name == "models--immich-app--ViT-B-32__openai"


def test_what_is_asked_of_the_model_decides_the_form():
    assert kinds(Compute("cpu", "fp32", "torch")) == kinds(Compute(), torch_only=True) == ("torch",)
    assert kinds(Compute("cpu", "bf16", "openvino")) == kinds(Compute("cpu", "int8")) == ("onnx",)
    assert kinds(Compute("cuda")) == ("onnx", "torch")


def test_of_several_snapshots_the_one_of_main_is_taken_and_incomplete_ones_are_not(home):
    repository = "immich-app/ViT-B-32__openai"
    touch(in_hub_cache(home, repository, "newest"), *FILES)
    named = touch(in_hub_cache(home, repository, "main"), *FILES)
    touch(in_hub_cache(home, repository, "cut off"), *FILES[:2])
    assert len(find_local(B32)) == 2
    (named.parent.parent / "refs").mkdir()
    (named.parent.parent / "refs/main").write_text("main")
    os.utime(named, (1, 1))  # the oldest
    assert fetch(B32).path == named


@pytest.mark.parametrize("main", [b"", b"\xff\xfe\x00", b"of no snapshot"])
def test_a_damaged_note_of_the_latest_snapshot_is_no_error(home, main):
    named = touch(in_hub_cache(home, "immich-app/ViT-B-32__openai"), *FILES)
    (named.parent.parent / "refs").mkdir()
    (named.parent.parent / "refs/main").write_bytes(main)
    assert fetch(B32).path == named


def test_places_that_may_not_be_read_are_passed_over_with_a_warning(home, monkeypatch, caplog):
    (home / ".cache/clip").mkdir(parents=True)
    touch(snapshot(home / "fastembed", "Qdrant/clip-ViT-B-32-vision"), "model.onnx")
    named = touch(in_hub_cache(home, "immich-app/ViT-B-32__openai"), *FILES)
    theirs = (str(home / "fastembed"), str(home / ".cache/clip"))
    stat = Path.stat

    def refused(path, **options):
        if str(path).startswith(theirs):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refused)
    assert [found.path for found in find_local(B32)] == [named]
    for place in theirs:
        assert f"{place} is not searched for models: [Errno 13] Permission denied" in caplog.text


def spoiled_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    return f"no tokenizer.json in {folder}"


def spoiled_size(folder):
    transformers_js_folder(folder, dim=24)
    return f"{folder} is not clip_vit_base_patch32: its embed_dim is 24, not 512"


@pytest.mark.parametrize("spoil", [spoiled_tokenizer, spoiled_size])
def test_a_copy_that_cannot_be_used_does_not_hide_the_next(home, caplog, spoil):
    latest = transformers_js_folder(in_hub_cache(home, "Xenova/clip-vit-base-patch32", "latest"), dim=512)
    (latest.parent.parent / "refs").mkdir()
    (latest.parent.parent / "refs/main").write_text("latest")
    why = spoil(latest)
    with pytest.raises(CheckpointError, match=re.escape(why)):
        HubEncoder(B32).encode_texts(["red cat"])
    transformers_js_folder(in_hub_cache(home, "Xenova/clip-vit-base-patch32", "older"), dim=512)
    assert HubEncoder(B32).encode_texts(["red cat"])[0, :3].tolist() == [2, 4, 0]
    assert f"passed over: {why}" in caplog.text


def test_a_damaged_checkpoint_does_not_hide_the_next_place(home):
    touch(home / ".cache/clip", "ViT-B-32.pt")
    with pytest.raises(CheckpointError, match=r"clip/ViT-B-32.pt is not plain weights: .* or is damaged"):
        HubEncoder(B32).encode_texts(["red cat"])
    transformers_js_folder(in_hub_cache(home, "Xenova/clip-vit-base-patch32"), dim=512)
    assert HubEncoder(B32).encode_texts(["red cat"])[0, :3].tolist() == [2, 4, 0]


def test_half_of_a_pair_of_towers_is_no_model(home):
    touch(in_hub_cache(home, "Qdrant/clip-ViT-B-32-vision"), "model.onnx", "config.json")
    assert find_local(B32) == []
    with pytest.raises(CheckpointError, match="no weights for 'clip_vit_base_patch32'"):
        fetch(B32)


def test_towers_of_transformers_js_give_the_same_vectors(tmp_path):
    theirs = load_encoder(transformers_js_folder(tmp_path / "js"))
    ours = load_encoder(immich_folder(tmp_path / "immich"))
    images = [np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)]
    np.testing.assert_allclose(theirs.encode_images(images), ours.encode_images(images))
    np.testing.assert_allclose(theirs.encode_texts(["red cat", "a"]), [[2, 4, 0], [1, 0, 0]])
    assert theirs.space.weights == ours.space.weights


def test_two_repositories_with_a_tower_each_are_one_model(home):
    for half in ("vision", "text"):
        transformers_js_folder(
            in_hub_cache(home, f"Qdrant/clip-ViT-B-32-{half}"),
            dim=512,
            image=half == "vision",
            text=half == "text",
        )
    encoder = load_encoder("Qdrant/clip-ViT-B-32-vision", backend="onnxruntime")
    assert encoder.encode_texts(["red cat"])[0, :3].tolist() == [2, 4, 0]
    assert encoder.encode_images([np.zeros((8, 8, 3), np.uint8)]).shape == (1, 512)


@pytest.mark.parametrize(
    ("spoiled", "message"),
    [
        ("tokenizer.json", "no tokenizer.json in"),
        ("onnx/text_model.onnx", "has no text tower: none of onnx/vision_model.onnx"),
        ("preprocessor_config.json", "preprocessor_config.json cannot be read"),
    ],
)
def test_a_layout_that_lacks_a_part_says_which(tmp_path, spoiled, message):
    folder = transformers_js_folder(tmp_path)
    (folder / spoiled).unlink()
    with pytest.raises(CheckpointError, match=message):
        read_onnx_folder(folder)


def test_a_checkpoint_that_is_here_is_not_downloaded_in_another_form_where_torch_lacks(home, monkeypatch):
    touch(home / ".cache/clip", "ViT-B-32.pt")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError,
        match=r"is here, as a torch checkpoint \(.*ViT-B-32.pt\), and torch is not installed; run: pip "
        r"install 't2i-pipelines\[torch\]', or download its ONNX form once: hf download immich-app/ViT-B-32",
    ):
        fetch(B32)
    touch(in_hub_cache(home, "immich-app/ViT-B-32__openai"), *FILES)
    assert fetch(B32).kind == "onnx"


def test_where_it_was_looked_for_is_said(home):
    (home / "fastembed").mkdir(parents=True)
    with pytest.raises(CheckpointError) as caught:
        fetch(B32)
    said = str(caught.value)
    assert f"Looked in: {home}/.cache/clip (no ViT-B-32.pt); the Hugging Face cache {home}/.cache/" in said
    assert f"; the cache {home}/fastembed; not the hub, because HF_HUB_OFFLINE is set" in said
    assert "hf download immich-app/ViT-B-32__openai --local-dir clip, copy the folder clip here" in said


def test_a_check_says_where_a_model_is_and_how_large(home):
    touch(in_hub_cache(home, "immich-app/ViT-B-32__openai"), *FILES)
    found = check(B32)
    assert (found.usable, found.size, found.needs) == (True, 10 * len(FILES), "")
    assert found.place.endswith("models--immich-app--ViT-B-32__openai/snapshots/abc")
    shutil.rmtree(home)
    found = check(B32)
    assert (found.usable, found.place) == (False, "")
    assert found.size == pytest.approx(4 * 151.28e6)
    assert found.needs == "a download of immich-app/ViT-B-32__openai, and HF_HUB_OFFLINE is set"


def test_a_check_without_torch_says_that_it_is_needed(home, monkeypatch):
    monkeypatch.setattr(places, "find_spec", lambda name: None)
    only_torch = ModelInfo(name="x", torch=("org/x",))
    assert check(only_torch).needs == "torch: pip install 't2i-pipelines[torch]'"
    touch(in_hub_cache(home, "org/x"), "config.json", "model.safetensors")
    found = check(only_torch)
    assert (found.usable, found.size) == (False, 20)
    assert found.needs == "torch: pip install 't2i-pipelines[torch]'"


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("t2i_mini", 0, "t2i_mini is here: bundled"),
        ("ViT-B/32", 0, "clip_vit_base_patch32 is here: {home}/.cache/huggingface/hub/models--immich-app--"),
        (
            "ViT-B-16__openai",
            1,
            "clip_vit_base_patch16 cannot be had here (about 598 MB): needs a download of",
        ),
        ("jinaai/jina-clip-v2", 2, "cannot be used: its towers are defined by code in its own repository"),
        ("ViT-B/33", 2, "unknown model 'ViT-B/33'"),
        ("", 2, "unknown model ''"),
        ("./tests", 2, "tests holds no model: there is no "),
    ],
)
def test_t2i_models_checks_a_name_without_loading_it(home, name, code, said):
    touch(in_hub_cache(home, "immich-app/ViT-B-32__openai"), *FILES)
    done = CliRunner().invoke(app, ["models", "--check", name], env={"COLUMNS": "500"})
    output = done.output + (str(done.exception) if done.exception else "")
    assert said.format(home=home) in output
    assert (done.exit_code != 0) == (code != 0)


def pair(home):
    for half in ("vision", "text"):
        folder = in_hub_cache(home, f"Qdrant/clip-ViT-B-32-{half}")
        transformers_js_folder(folder, dim=512, image=half == "vision", text=half == "text")


def beside_a_checkpoint(home):
    touch(home / ".cache/clip", "ViT-B-32.pt")
    transformers_js_folder(in_hub_cache(home, "Xenova/clip-vit-base-patch32"), dim=512)


@pytest.mark.parametrize("kept", [pair, beside_a_checkpoint])
def test_int8_is_made_of_the_export_of_a_name(home, monkeypatch, caplog, kept):
    monkeypatch.setattr(
        huggingface_hub, "cached_assets_path", partial(huggingface_hub.cached_assets_path, assets_dir=home)
    )
    unload()
    kept(home)
    assert quantize("data/gallery", model_name="ViT-B/32", images=16).least_cosine > 0.99
    assert "passed over" not in caplog.text, "the checkpoint was opened"


@pytest.mark.parametrize(
    ("name", "compute", "message"),
    [
        (
            "AltCLIP",
            Compute("cpu", "int8"),
            "an ONNX export, .* `t2i export AltCLIP FOLDER` writes one of its",
        ),
        (
            "ViT-B-16-plus-240/laion400m_e32",
            Compute("cpu", "fp32", "torch"),
            r"a torch checkpoint, .* put vit_b_16_plus_240-laion400m_e32-\w+.pt into /.*/.cache/clip",
        ),
    ],
)
def test_a_form_that_no_repository_has_is_said_with_a_way_out(home, name, compute, message):
    with pytest.raises(CheckpointError, match=f"{name!r} has no repository with {message}"):
        fetch(find(name), compute=compute)


def test_the_way_out_is_a_repository_of_the_form_that_is_asked_for(home):
    with pytest.raises(CheckpointError, match="run: hf download openai/clip-vit-base-patch32 --local-dir"):
        fetch(B32, torch_only=True)
