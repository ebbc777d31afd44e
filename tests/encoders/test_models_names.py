"""Every name that people know a CLIP by finds it: open_clip's, Immich's, OpenAI's, the hub's and paths."""

import re
from pathlib import Path

import pytest
from onnx_folders import immich_folder

from t2i_pipelines import Searcher, build_insert_pipeline
from t2i_pipelines.encoders import load_encoder, named, unload
from t2i_pipelines.encoders.models import find
from t2i_pipelines.encoders.weights import HubEncoder
from t2i_pipelines.errors import CheckpointError, UnknownModelError

IMMICH = [
    "RN101__openai",
    "RN101__yfcc15m",
    "RN50__cc12m",
    "RN50__openai",
    "RN50__yfcc15m",
    "RN50x16__openai",
    "RN50x4__openai",
    "RN50x64__openai",
    "ViT-B-16-SigLIP-256__webli",
    "ViT-B-16-SigLIP-384__webli",
    "ViT-B-16-SigLIP-512__webli",
    "ViT-B-16-SigLIP-i18n-256__webli",
    "ViT-B-16-SigLIP__webli",
    "ViT-B-16-plus-240__laion400m_e31",
    "ViT-B-16-plus-240__laion400m_e32",
    "ViT-B-16__laion400m_e31",
    "ViT-B-16__laion400m_e32",
    "ViT-B-16__openai",
    "ViT-B-32__laion2b-s34b-b79k",
    "ViT-B-32__laion2b_e16",
    "ViT-B-32__laion400m_e31",
    "ViT-B-32__laion400m_e32",
    "ViT-B-32__openai",
    "ViT-H-14-378-quickgelu__dfn5b",
    "ViT-H-14-quickgelu__dfn5b",
    "ViT-H-14__laion2b-s32b-b79k",
    "ViT-L-14-336__openai",
    "ViT-L-14-quickgelu__dfn2b",
    "ViT-L-14__laion2b-s32b-b82k",
    "ViT-L-14__laion400m_e31",
    "ViT-L-14__laion400m_e32",
    "ViT-L-14__openai",
    "ViT-L-16-SigLIP-256__webli",
    "ViT-L-16-SigLIP-384__webli",
    "ViT-SO400M-14-SigLIP-384__webli",
    "ViT-g-14__laion2b-s12b-b42k",
    "XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k",
    "XLM-Roberta-Large-ViT-H-14__frozen_laion5b_s13b_b90k",
    "nllb-clip-base-siglip__mrl",
    "nllb-clip-base-siglip__v1",
    "nllb-clip-large-siglip__mrl",
    "nllb-clip-large-siglip__v1",
    "ViT-B-16-SigLIP2__webli",
    "ViT-B-32-SigLIP2-256__webli",
    "ViT-L-16-SigLIP2-256__webli",
    "ViT-L-16-SigLIP2-384__webli",
    "ViT-L-16-SigLIP2-512__webli",
    "ViT-SO400M-14-SigLIP2-378__webli",
    "ViT-SO400M-14-SigLIP2__webli",
    "ViT-SO400M-16-SigLIP2-256__webli",
    "ViT-SO400M-16-SigLIP2-384__webli",
    "ViT-SO400M-16-SigLIP2-512__webli",
    "ViT-gopt-16-SigLIP2-256__webli",
    "ViT-gopt-16-SigLIP2-384__webli",
    "fg-clip2-base",
    "LABSE-Vit-L-14",
    "XLM-Roberta-Large-Vit-B-16Plus",
    "XLM-Roberta-Large-Vit-B-32",
    "XLM-Roberta-Large-Vit-L-14",
]
"""Models of Immich's settings page; each has a repository ``immich-app/NAME`` with ONNX towers."""

B32 = "clip_vit_base_patch32"


def test_immichs_names_find_its_repositories():
    assert len(set(IMMICH)) == 59
    for name in IMMICH:
        assert f"immich-app/{name}" in find(name).onnx
        assert find(f"immich-app/{name}") is find(name)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("ViT-B/32", B32),
        ("ViT-B-32", B32),
        ("vit-b-32", B32),
        ("ViT-B-32/openai", B32),
        ("ViT-B-32-quickgelu/openai", B32),
        ("ViT-B-32__openai", B32),
        ("openai/clip-vit-base-patch32", B32),
        ("hf-hub:timm/vit_base_patch32_clip_224.openai", B32),
        ("timm/vit_base_patch32_clip_224.openai", B32),
        ("Xenova/clip-vit-base-patch32", B32),
        ("Qdrant/clip-ViT-B-32-vision", B32),
        ("Qdrant/clip-ViT-B-32-text", B32),
        ("sentence-transformers/clip-ViT-B-32", B32),
        ("clip-ViT-B-32", B32),
        ("RN50x4", "RN50x4"),
        ("RN50x4/openai", "RN50x4"),
        ("ViT-L/14@336px", "clip_vit_large_patch14_336"),
        ("ViT-L-14-336px", "clip_vit_large_patch14_336"),
        ("ViT-B-32-quickgelu/metaclip_400m", "ViT-B-32/metaclip_400m"),
        ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B-32__laion2b-s34b-b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("google/siglip2-base-patch16-224", "ViT-B-16-SigLIP2/webli"),
        ("google/siglip-so400m-patch14-384", "ViT-SO400M-14-SigLIP-384/webli"),
        ("onnx-community/siglip2-base-patch16-224-ONNX", "ViT-B-16-SigLIP2/webli"),
        ("OFA-Sys/chinese-clip-vit-base-patch16", "chinese-clip-vit-base-patch16"),
        ("sentence-transformers/clip-ViT-B-32-multilingual-v1", "clip-ViT-B-32-multilingual-v1"),
        ("M-CLIP/XLM-Roberta-Large-Vit-L-14", "XLM-Roberta-Large-Vit-L-14"),
        ("apple/MobileCLIP-S1-OpenCLIP", "MobileCLIP-S1/datacompdr"),
    ],
)  # fmt: skip
def test_every_spelling_finds_its_model(spelling, name):
    assert find(spelling).name == name
    assert load_encoder(spelling) is load_encoder(name)


def test_a_repository_that_the_table_lacks_is_taken_from_the_hub():
    info = named("someone/my-clip")
    assert (info.name, info.onnx, info.torch, info.dim) == ("someone/my-clip",) + 2 * (
        ("someone/my-clip",),
    ) + (0,)
    assert isinstance(load_encoder("hf-hub:someone/my-clip"), HubEncoder)


def test_a_folder_that_is_here_goes_before_a_repository_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone/local-clip").mkdir(parents=True)
    assert named("someone/local-clip") is None
    with pytest.raises(CheckpointError, match="someone/local-clip holds no model"):
        load_encoder("someone/local-clip").encode_texts(["x"])
    assert isinstance(load_encoder("hf-hub:someone/local-clip"), HubEncoder)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("jinaai/jina-clip-v2", "code from a repository is never run"),
        ("nomic-ai/nomic-embed-vision-v1.5", "code from a repository is never run"),
        ("coca_ViT-B-32/laion2b_s13b_b90k", "CoCa models write captions"),
        ("Qdrant/Unicom-ViT-B-16", "it embeds images alone"),
    ],
)
def test_a_model_that_cannot_work_says_why(name, why):
    with pytest.raises(UnknownModelError, match=f"'{name}' cannot be used: .*{why}"):
        load_encoder(name)


def test_a_tag_that_a_known_architecture_does_not_have_is_unknown_and_not_looked_for_on_the_hub():
    with pytest.raises(UnknownModelError, match="'ViT-B-32/laion3b'; the nearest are ViT-B-32/laion"):
        load_encoder("ViT-B-32/laion3b")


def test_every_name_of_the_documented_table_is_known():
    table = Path("docs/how-to/models.md").read_text(encoding="utf-8").partition("## Places")[0]
    rows = [line.rpartition("| ")[2] for line in table.splitlines() if line.startswith("| ")]
    names = [name for row in rows[2:] for name in re.findall("`([^`]+)`", row) if name[0] not in "./~"]
    assert len(names) >= 17
    for name in names:
        assert find(name).family or find(name).name == name, name


@pytest.mark.parametrize("path", ["./ViT-B/32", "local-dir:ViT-B/32", "~/ViT-B/32", "{here}/ViT-B/32"])
def test_a_path_is_not_taken_for_the_model_that_is_spelled_like_it(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"no file or folder at {tmp_path}/ViT-B/32"):
        load_encoder(path.format(here=tmp_path))


@pytest.mark.parametrize("name", ["ViT-B-32", "jina-clip-v2", "t2i_mini"])
def test_a_collection_finds_a_folder_that_is_named_like_another_model_again(tmp_path, pictures, name):
    place = {"uri": f"memory://{name}", "collection_name": "one"}
    build_insert_pipeline(**place, model_name=str(immich_folder(tmp_path / name)))(pictures)
    assert len(Searcher(**place)("red")) == 7


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("", UnknownModelError, "unknown model ''"),
        ("x" * 5000, UnknownModelError, "unknown model 'xxx"),
        (f"{'x' * 5000}.pt", CheckpointError, r"no file or folder at /.*xxx\.pt"),
        ("~nobody-of-this-name/clip", CheckpointError, "no file or folder at /.*~nobody-of-this-name/clip"),
    ],
    ids=["empty", "long", "long path", "no such user"],
)
def test_odd_names_are_refused_in_words(name, error, message):
    with pytest.raises(error, match=message):
        load_encoder(name)


def test_a_repository_may_be_given_as_a_path_object(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_encoder(Path("someone/my-clip")) is load_encoder("someone/my-clip")


def test_a_relative_path_is_of_the_working_directory_at_that_moment(tmp_path, monkeypatch):
    for folder, dim in (("one", 3), ("other", 5)):
        immich_folder(tmp_path / folder / "clip", dim=dim)
        monkeypatch.chdir(tmp_path / folder)
        assert load_encoder("./clip").space.dim == dim
    unload("./clip")
