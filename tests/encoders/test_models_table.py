"""The table of models says what its sources say, and ``recommend`` picks from it."""

import pytest
from clips import open_clip

from t2i_pipelines import ModelInfo, models, recommend
from t2i_pipelines.encoders import known_models, load_encoder
from t2i_pipelines.encoders.models import LANGUAGE_FLOOR, find
from t2i_pipelines.errors import CheckpointError, ConfigError, UnknownModelError

TAGGED = [info for info in models() if info.family != "t2i"]
OPENAI = {
    "clip_vit_base_patch32": ("ViT-B-32", "openai"),
    "clip_vit_base_patch16": ("ViT-B-16", "openai"),
    "clip_vit_large_patch14": ("ViT-L-14", "openai"),
    "clip_vit_large_patch14_336": ("ViT-L-14-336", "openai"),
    "RN50": ("RN50", "openai"),
}
# of immich-app/immich, machine-learning/immich_ml/models/constants.py
IMMICH = {
    "RN50__openai", "ViT-B-32__openai", "ViT-B-16__openai", "ViT-L-14__openai", "ViT-L-14-336__openai",
    "ViT-B-32__laion2b-s34b-b79k", "ViT-L-14__laion2b-s32b-b82k", "ViT-B-16-SigLIP__webli",
    "ViT-B-16-SigLIP2__webli", "ViT-B-32-SigLIP2-256__webli", "XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k",
}  # fmt: skip


def tag(info) -> tuple[str, str]:
    return OPENAI.get(info.name) or tuple(info.name.split("/"))


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_sizes_are_those_of_open_clips_own_configs(info):
    config = open_clip.get_model_config(tag(info)[0])
    assert (info.dim, info.resolution) == (config["embed_dim"], config["vision_cfg"]["image_size"])


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_torch_weights_and_activations_are_those_of_open_clips_own_table(info):
    pretrained = open_clip.get_pretrained_cfg(*tag(info))
    assert pretrained["hf_hub"].rstrip("/") == info.torch
    if info.quick_gelu is not None:
        assert pretrained.get("quick_gelu", False) is info.quick_gelu


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


def test_onnx_forms_are_among_those_that_immich_publishes():
    assert {info.onnx for info in models() if info.onnx} == {f"immich-app/{name}" for name in IMMICH}


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
    spellings = [one for info in models() for one in (info.name, *info.aliases)]
    assert len(spellings) == len(set(spellings))
    assert {info.name for info in models()} <= set(known_models())


@pytest.mark.parametrize("info", TAGGED, ids=lambda info: info.name)
def test_languages_are_those_that_are_found_well(info):
    assert info.licence
    if info.recall:
        assert set(info.languages) == {code for code, found in info.recall.items() if found >= LANGUAGE_FLOOR}


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
        (("zh", "ja"), 20, "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k"),
    ],
)
def test_the_best_model_for_the_language_that_is_fast_enough_is_recommended(languages, max_ms, name):
    assert recommend(languages=languages, max_ms=max_ms).name == name


def test_what_no_model_can_do_is_said():
    with pytest.raises(ConfigError, match=r"no model knows tlh at once; known are ar, cs, da, de"):
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
