"""The table of models says what its sources say, and ``recommend`` picks from it."""

import re
from pathlib import Path

import pytest
from clips import open_clip

from t2i_pipelines import ModelInfo, models, recommend
from t2i_pipelines.encoders import known_models, load_encoder
from t2i_pipelines.encoders.models import LANGUAGE_FLOOR, find
from t2i_pipelines.errors import CheckpointError, ConfigError, UnknownModelError

HAND_WRITTEN = ("t2i", "multilingual", "M-CLIP", "FG-CLIP 2", "Chinese-CLIP", "AltCLIP", "TinyCLIP")
"""Families that open_clip's registry does not have."""
TAGGED = [info for info in models() if info.family not in HAND_WRITTEN]


def tag(info) -> tuple[str, str]:
    """Return open_clip's pair of a model."""
    pairs = [name for name in (info.name, *info.aliases) if "/" in name and "ViT-B/" not in name]
    return tuple(pairs[0].split("/"))


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_sizes_are_those_of_open_clips_own_configs(info):
    config = open_clip.get_model_config(tag(info)[0])
    assert (info.dim, info.resolution) == (config["embed_dim"], config["vision_cfg"]["image_size"])


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_torch_weights_and_activations_are_those_of_open_clips_own_table(info):
    pretrained = open_clip.get_pretrained_cfg(*tag(info))
    if info.name != "ViT-B-16-plus-240/laion400m_e32":  # open_clip names the repository of e31 for it
        assert pretrained["hf_hub"].rstrip("/").removesuffix("/pytorch_model.bin") in info.torch
    if info.quick_gelu is not None:
        config = open_clip.get_model_config(tag(info)[0])
        stated = pretrained.get("quick_gelu", False) or config.get("quick_gelu", False)
        assert stated is info.quick_gelu
    for pair in (name.split("/") for name in info.aliases if "/" in name and not name.startswith("ViT-B/")):
        if len(pair) == 2 and pair[0] in open_clip.list_models():
            same = open_clip.get_pretrained_cfg(*pair)
            assert same["hf_hub"] == pretrained["hf_hub"]


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_files_of_the_cache_are_those_that_open_clip_downloads(info):
    url = open_clip.get_pretrained_cfg(*tag(info)).get("url", "")
    assert info.files == ((url.rpartition("/")[2],) if url else ())


def test_every_pair_of_open_clip_is_known_or_left_out_on_purpose():
    unknown = {f"{name}/{tag}" for name, tag in open_clip.list_pretrained() if find(f"{name}/{tag}") is None}
    assert all("commonpool_" in one or "datacomp_" in one for one in unknown)
    assert {one.partition("/")[2].split("_")[1] for one in unknown} == {"m", "s"}  # trained on too little


@pytest.mark.parametrize(
    "name", ["RN50", "ViT-B-32", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-B-32-SigLIP2-256"]
)
def test_parameters_are_counted_right(name):
    config = {**open_clip.get_model_config(name)}
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with open_clip.factory.torch.device("meta"):
        count = sum(weight.numel() for weight in kind(**config).parameters()) / 1e6
    (listed,) = {info.parameters for info in TAGGED if tag(info)[0] == name}
    assert listed == pytest.approx(count, abs=0.02)


def test_the_hubs_and_openais_spellings_are_one_model():
    for alias, name in {
        "ViT-B/32": "clip_vit_base_patch32",
        "ViT-B/16": "clip_vit_base_patch16",
        "ViT-L/14": "clip_vit_large_patch14",
        "ViT-L/14@336px": "clip_vit_large_patch14_336",
    }.items():
        assert find(alias) is find(name)
        assert load_encoder(alias) is load_encoder(name)


def test_no_two_models_share_a_spelling_and_all_are_known():
    spellings = {}
    for info in models():
        for name in (info.name, *info.aliases):
            assert spellings.setdefault(re.sub("[^a-z0-9]+", "-", name.lower()), info) is info, name
            assert find(name) is info
    assert {info.name for info in models()} <= set(known_models())


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_languages_are_those_that_are_found_well(info):
    well = {code for code, found in info.recall.items() if found >= LANGUAGE_FLOOR}
    if well:
        assert set(info.languages) == well


def test_the_table_is_of_public_frozen_rows():
    assert {type(info) for info in models()} == {ModelInfo}
    assert ModelInfo.__dataclass_params__.frozen


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError, match="does not support item assignment"):
        models()[1].recall["de"] = 100.0
    with pytest.raises(AttributeError, match="cannot assign to field 'dim'"):
        models()[1].dim = 3


@pytest.mark.parametrize(
    ("languages", "max_ms", "name"),
    [
        (("en",), 20, "ViT-B-16-SigLIP2/webli"),
        (("en",), 3, "ViT-B-32/laion2b_s34b_b79k"),
        (("de",), 20, "ViT-B-16-SigLIP2/webli"),
        (("de",), 4, "ViT-B-32-SigLIP2-256/webli"),
        (("de",), 3.25, "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"),
        (("zh", "ja"), 20, "nllb-clip-base-siglip/mrl"),
    ],
)
def test_the_best_model_for_the_language_that_is_fast_enough_is_recommended(languages, max_ms, name):
    assert recommend(languages=languages, max_ms=max_ms).name == name


def test_memory_and_licence_are_limits_too():
    assert recommend(["zh", "ja"], licence=["MIT", "apache-2.0"]).name.startswith("xlm-roberta-base")
    assert recommend(["en"], memory=1000).name == "ViT-B-16/laion400m_e31"
    with pytest.raises(ConfigError, match=r"memory=5 MiB is too little; the smallest is ViT-.*, \d+ MiB"):
        recommend(["fr"], memory=5)
    with pytest.raises(ConfigError, match=r"licence=\['BSD'\] is not that of .*; theirs are .*MIT"):
        recommend(["fr"], licence=["BSD"])
    with pytest.raises(ConfigError, match=r"licence must be a list such as .*, got 'MIT'"):
        recommend(["fr"], licence="MIT")


def test_speed_is_a_class_of_the_milliseconds():
    speeds = {find(name).speed for name in ("ViT-B/32", "ViT-L/14", "ViT-L-14-336", "t2i_mini")}
    assert speeds == {"fast", "medium", "slow", ""}


def test_what_no_model_can_do_is_said():
    with pytest.raises(ConfigError, match=r"no model knows tlh at once; known are ar, bn, cs, da, de"):
        recommend(languages=["tlh"])
    with pytest.raises(ConfigError, match=r"max_ms=1 is too little; the fastest is .*laion5b.*, 3.2 ms"):
        recommend(languages=["zh"], max_ms=1)
    with pytest.raises(ConfigError, match=r"languages must be a list of codes .*, got 'de'"):
        recommend(languages="de")


def test_an_unknown_name_lists_the_known_and_says_that_a_path_would_do():
    with pytest.raises(
        UnknownModelError, match="'ViT-B/33'; the nearest are ViT-B/32, .*the path of a model will do"
    ):
        load_encoder("ViT-B/33")


@pytest.mark.parametrize("path", ["./none", "~/none", "none.safetensors", "/none/at/all"])
def test_a_path_that_is_not_there_is_said_to_be_a_path(path):
    with pytest.raises(CheckpointError, match=r"no file or folder at /.*none"):
        load_encoder(path)


def test_only_models_that_open_clip_alone_can_build_have_a_pair():
    assert find("apple/MobileCLIP-S1-OpenCLIP").pair == "MobileCLIP-S1/datacompdr"
    assert [find(name).pair for name in ("ViT-B/32", "ViT-B-32/laion2b_e16", "t2i_mini", "org/any")] == [
        None
    ] * 4


def test_the_changelog_says_how_many_models_are_listed():
    assert f"lists {len(models())} models" in Path("CHANGELOG.md").read_text(encoding="utf-8")
