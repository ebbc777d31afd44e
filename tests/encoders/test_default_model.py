"""Where no model is named, it is OpenAI's CLIP B/32; without its weights, one clear error comes first."""

import inspect
import re

import pytest
from huggingface_hub import constants
from onnx_folders import immich_folder
from typer.testing import CliRunner

from t2i_pipelines import build_insert_pipeline, build_search_pipeline, cli
from t2i_pipelines._towhee.door import ops
from t2i_pipelines.cli import demo, insert, search
from t2i_pipelines.config.settings import Settings
from t2i_pipelines.encoders import registry, weights
from t2i_pipelines.errors import CheckpointError
from t2i_pipelines.images import decode, read
from t2i_pipelines.operators import image_decode
from t2i_pipelines.operators.clip import Clip
from t2i_pipelines.operators.milvus import InCollection

WAYS_OUT = (
    "unset HF_HUB_OFFLINE once; or, on a machine with a network, run: hf download "
    "immich-app/ViT-B-32__openai --local-dir clip, copy the folder clip here and give it by "
    "checkpoint_path= (--checkpoint-path); or take the small model that is bundled, by model_name='t2i_mini' "
    "(--model-name t2i_mini)"
)
SAID = "no weights for 'clip_vit_base_patch32', the default model. Looked in: "


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """No cache and no network; gives the models that were looked for, one entry a try."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(registry, "_loaded", {})
    tries, look = [], weights.copies

    def copies(info, **more):
        tries.append(info.name)
        return look(info, **more)

    monkeypatch.setattr("t2i_pipelines.encoders.weights.copies", copies)
    return tries


@pytest.fixture
def opened(monkeypatch):
    """The images that were read or decoded."""
    paths = []
    monkeypatch.setattr(image_decode, "read", lambda path: paths.append(path) or read(path))
    monkeypatch.setattr(
        image_decode, "decode", lambda data, path="": paths.append(path) or decode(data, path)
    )
    return paths


def defaults(taker) -> dict[str, object]:
    return {name: one.default for name, one in inspect.signature(taker).parameters.items()}


@pytest.mark.parametrize(
    "taker",
    [build_insert_pipeline, build_search_pipeline, Settings, insert.insert, search.search],
)
def test_whoever_has_a_collection_takes_its_model_by_default(taker):
    assert defaults(taker)["model_name"] is None


@pytest.mark.parametrize("taker", [Clip, InCollection])
def test_openais_b32_is_the_default_of_operators(taker):
    assert defaults(taker)["model_name"] == "clip_vit_base_patch32"


def test_the_demo_needs_no_download():
    assert demo.MODEL == "t2i_mini"


def test_without_weights_an_insert_opens_no_picture_and_fails_once(pictures, tmp_path, fetched, opened):
    with pytest.raises(CheckpointError) as caught:
        build_insert_pipeline(uri=tmp_path / "milvus.db", batch_size=1)(pictures)
    assert str(caught.value).startswith(SAID)
    assert str(caught.value).endswith(f"Ways out: {WAYS_OUT}")
    assert (fetched, opened) == (["clip_vit_base_patch32"], [])
    assert not (tmp_path / "milvus.db").exists()


def test_without_weights_a_search_and_a_lone_operator_say_the_same(tmp_path, fetched):
    for ask in (build_search_pipeline(uri=tmp_path / "milvus.db"), ops.t2i.clip(modality="text")):
        with pytest.raises(CheckpointError, match=re.escape(WAYS_OUT)):
            ask("a dog")


@pytest.fixture
def t2i(monkeypatch, capsys, tmp_path):
    """Run the command as a shell would; give (exit code, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["t2i", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().err

    return run


def test_the_command_says_it_in_one_line_and_exits_with_2(pictures, t2i, fetched, opened):
    code, said = t2i("insert", "pictures")
    assert code == 2
    assert said.startswith(f"error: {SAID}")
    assert said.endswith(f"Ways out: {WAYS_OUT}\n")
    assert said.count("\n") == 1
    assert (fetched, opened) == (["clip_vit_base_patch32"], [])


def test_the_command_does_not_walk_through_the_source_before_the_model_is_there(
    t2i, pictures, fetched, monkeypatch
):
    walked = []
    monkeypatch.setattr(insert, "count", lambda source, **_: walked.append(source) or 0)
    assert t2i("insert", "pictures")[0] == 2
    assert walked == []


def test_a_source_that_is_not_there_is_told_before_the_model_is_loaded(t2i, fetched):
    code, said = t2i("insert", "/nonexistent")
    assert (code, said) == (2, "error: no such folder or file: '/nonexistent'\n")
    assert fetched == []


def test_another_model_without_weights_is_not_called_the_default(tmp_path, fetched):
    with pytest.raises(CheckpointError, match=r"^no weights for 'clip_vit_base_patch16'\. Looked in: "):
        build_search_pipeline(uri=tmp_path / "milvus.db", model_name="ViT-B/16")("a dog")


def test_the_ways_out_lead_out(pictures, tmp_path, t2i, fetched):
    folder = immich_folder(tmp_path / "mine", dim=512)
    assert t2i("insert", "pictures", "--checkpoint-path", str(folder), "--uri", "a.db")[0] == 0
    assert t2i("insert", "pictures", "--model-name", "t2i_mini", "--uri", "b.db")[0] == 0
    assert fetched == []


def test_help_tells_the_default_and_what_it_costs():
    for command in ("insert", "search"):
        shown = " ".join(
            CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "400"}).output.split()
        )
        assert "of a new collection clip_vit_base_patch32, downloaded once. t2i_mini is bundled." in shown
