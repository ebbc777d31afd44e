"""The real ``huggingface_hub`` client downloads, caches, resumes and goes offline, against a hub of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub import serving
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars
from onnx_folders import immich_folder

from t2i_pipelines.encoders.models import find
from t2i_pipelines.encoders.onnx_folder import FILES
from t2i_pipelines.encoders.places import fetch
from t2i_pipelines.encoders.weights import HubEncoder
from t2i_pipelines.errors import CheckpointError

B32 = find("ViT-B/32")
REPOSITORY = B32.onnx[0]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has B/32 in its ONNX form, and a cache of the test's own."""
    with serving() as (hub, address):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        disable_progress_bars()
        hub.repos[REPOSITORY] = immich_folder(tmp_path / "published", dim=512)
        (tmp_path / "published" / "README.md").write_text("not needed")
        yield hub


def run(code: str, address: str, home: Path, **env: str) -> str:
    """Run in a process of its own, so that the client reads its environment as it does for users."""
    done = subprocess.run(
        [sys.executable, "-c", "import warnings; warnings.simplefilter('ignore')\n" + code],
        check=False, capture_output=True, text=True,
        env={**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1", **env},
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


EMBED = """
from t2i_pipelines.encoders import load_encoder
print(load_encoder("ViT-B/32").encode_texts(["red cat"])[0, :3].tolist())
"""


@pytest.mark.slow
def test_users_download_once_then_use_the_cache_then_go_offline(hub, tmp_path):
    home = tmp_path / "home"
    assert run(EMBED, constants.ENDPOINT, home) == "[2.0, 4.0, 0.0]"
    asked = len(hub.seen)
    assert asked > 0
    assert run(EMBED, constants.ENDPOINT, home) == "[2.0, 4.0, 0.0]"
    assert run(EMBED, "http://127.0.0.1:9", home, HF_HUB_OFFLINE="1") == "[2.0, 4.0, 0.0]"
    assert len(hub.seen) == asked  # what is cached is not asked for again
    said = run(EMBED, constants.ENDPOINT, tmp_path / "empty", HF_HUB_OFFLINE="1")
    assert "not the hub, because HF_HUB_OFFLINE is set" in said
    assert len(hub.seen) == asked


def test_only_what_is_needed_is_downloaded(hub):
    folder = fetch(B32).path
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {*FILES, "textual/tokenizer_config.json"}


def test_a_download_that_broke_off_is_resumed(hub, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)  # it resumes at whole chunks, else of 10 MB
    hub.cut = [2000]
    folder = fetch(B32).path
    (asked,) = [asked for method, path, asked in hub.seen if asked and path.endswith(".onnx")]
    assert asked == "bytes=2000-"
    for name in ("visual/model.onnx", "textual/model.onnx"):
        assert (folder / name).read_bytes() == (hub.repos[REPOSITORY] / name).read_bytes()


def test_a_repository_that_lacks_a_file_is_not_taken_for_the_model(hub):
    (hub.repos[REPOSITORY] / "textual/tokenizer.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"immich-app/ViT-B-32__openai \(it has no form that onnx runs\)"
    ):
        fetch(B32)


def test_a_snapshot_that_lacks_a_file_is_completed(hub):
    whole = fetch(B32).path
    (whole / "textual/tokenizer.json").unlink()
    (whole / "textual/tokenizer.json").symlink_to("nowhere")
    assert HubEncoder(B32).encode_texts(["red cat"])[0, :3].tolist() == [2, 4, 0]


def test_no_weights_names_what_was_tried_and_three_ways_out(hub):
    hub.repos.clear()
    with pytest.raises(CheckpointError) as caught:
        HubEncoder(B32).space  # noqa: B018
    said = str(caught.value)
    home = os.environ["HOME"]
    assert "no weights for 'clip_vit_base_patch32', the default model. Looked in: " in said
    assert (
        f"{home}/.cache/clip (no ViT-B-32.pt); the Hugging Face cache {constants.HF_HUB_CACHE} (no " in said
    )
    for names in (*B32.onnx, *B32.torch):
        assert said.count(f"{constants.ENDPOINT}/{names} (") == 1, "each place is named once"
    for way_out in (
        f"Ways out: reach {constants.ENDPOINT} once, or a mirror named by HF_ENDPOINT; ",
        f"on a machine with a network, run: hf download {REPOSITORY} --local-dir clip, copy the folder ",
        "checkpoint_path=",
        "model_name='t2i_mini'",
    ):
        assert way_out in said


def test_offline_the_hub_is_not_asked_and_the_way_out_is_the_switch(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        CheckpointError, match="not the hub, because HF_HUB_OFFLINE is set.*unset HF_HUB_OFFLINE"
    ):
        fetch(B32)
    assert hub.seen == []


def test_the_users_token_is_sent(hub, monkeypatch):
    hub.token = "hf_secret"
    with pytest.raises(CheckpointError, match="no weights"):
        fetch(B32)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert fetch(B32).path.is_dir()


def test_after_a_failure_the_next_call_looks_again(hub):
    encoder = HubEncoder(B32)
    published = hub.repos.pop(REPOSITORY)
    with pytest.raises(CheckpointError, match="no weights"):
        encoder.encode_texts(["red"])
    hub.repos[REPOSITORY] = published
    assert encoder.encode_texts(["red cat"])[0, :3].tolist() == [2, 4, 0]


def test_where_there_is_no_onnx_form_open_clips_files_are_taken(hub, tmp_path):
    from clips import openclip_clip

    info = find("ViT-B-16/laion2b_s34b_b88k")
    openclip_clip(tmp_path / "torch", False)
    (tmp_path / "torch" / "flax_model.msgpack").write_bytes(b"not needed")
    hub.repos[info.torch[0]] = tmp_path / "torch"
    folder = fetch(info).path
    assert sorted(path.name for path in folder.iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
    ]
    # it is a small stand-in, and is told from the real one
    with pytest.raises(
        CheckpointError, match="is not ViT-B-16/laion2b_s34b_b88k: its vectors have 24 numbers"
    ):
        HubEncoder(info).encode_texts(["x"])


def test_building_a_pipeline_downloads_nothing(hub):
    from t2i_pipelines.encoders import load_encoder

    load_encoder("ViT-L/14")
    assert hub.seen == []
