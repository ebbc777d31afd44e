"""The models that ``model_name`` knows, as data.

Sources, by the names that the rows use:

* ``open_clip``: mlfoundations/open_clip, ``docs/openclip_retrieval_results.csv`` at 89fb801: recall at 1 of
  text-to-image retrieval, Flickr30k (1,000 test photos) and COCO (5,000), in percent.
* ``big_vision``: google-research/big_vision, issue 166, which quotes the SigLIP 2 paper for the same two.
* ``immich``: immich-app/immich, ``docs/docs/features/searching.md`` at 01a09bb: for each language the mean of
  recall at 1, 5 and 10 on Crossmodal-3600, and the milliseconds of one pass, on an AMD 7800X3D in fp32.
* where the weights are: open_clip 3.3 ``pretrained.py`` and immich ``machine-learning`` ``constants.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from t2i_pipelines.errors import ConfigError

LANGUAGE_FLOOR = 50.0


SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
"""Of files with a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """One model.

    :ivar name: what ``model_name`` takes, and what a collection remembers.
    :ivar aliases: further spellings of the name.
    :ivar family: ``CLIP``, ``OpenCLIP``, ``SigLIP``, ``SigLIP 2`` or ``t2i``.
    :ivar dim: length of a vector.
    :ivar resolution: side of the square that the model sees, in pixels.
    :ivar parameters: of both towers, in millions.
    :ivar quick_gelu: the activation of towers that are OpenAI's architecture; None where they are not.
    :ivar languages: ISO 639-1 codes: those whose ``recall`` is at least 50, or what its authors state.
    :ivar scripts: writing systems that it learned; empty if it learned from every language of the web.
    :ivar licence: of the weights.
    :ivar flickr30k: text-to-image R@1 in percent, None where it was not published; likewise ``coco``.
    :ivar source: who published these two.
    :ivar recall: language -> mean of R@1, 5 and 10 on Crossmodal-3600 in percent (``immich``).
    :ivar ms: one pass on the machine of ``immich``. A model that is not in its list has the figure of
        the listed model of its architecture. It ranks models; your machine has its own milliseconds.
    :ivar onnx: Hugging Face repository with ONNX towers in Immich's layout.
    :ivar torch: Hugging Face repository with open_clip's or transformers' files.
    """

    name: str
    aliases: tuple[str, ...] = ()
    family: str
    dim: int
    resolution: int
    parameters: float
    quick_gelu: bool | None = None
    languages: tuple[str, ...] = ("en",)
    scripts: tuple[str, ...] = ("Latin",)
    licence: str
    flickr30k: float | None = None
    coco: float | None = None
    source: str = ""
    recall: Mapping[str, float] = field(default_factory=dict)
    ms: float | None = None
    onnx: str | None = None
    torch: str | None = None

    def __post_init__(self) -> None:
        """Make the one mutable field read-only."""
        object.__setattr__(self, "recall", MappingProxyType(dict(self.recall)))


_XLM = {
    "en": 68.33, "de": 81.63, "fr": 79.65, "es": 75.01, "it": 77.31, "nl": 70.81, "da": 75.07, "cs": 61.01,
    "hr": 72.69, "fi": 63.08, "el": 64.69, "hu": 72.5, "ru": 80.56, "id": 74.15, "he": 72.73, "ar": 59.66,
    "zh": 72.52, "ja": 81.19, "ko": 65.44,
}  # fmt: skip
_SIGLIP = {"en": 71.64, "de": 75.19, "fr": 76.3, "es": 74.6, "it": 73.57, "nl": 65.29, "id": 57.52}
_SIGLIP2_B16 = {
    "en": 75.19, "de": 86.44, "fr": 84.3, "es": 82.22, "it": 83.78, "nl": 75.33, "da": 67.68, "cs": 54.81,
    "hr": 54.31, "el": 53.42, "hu": 58.31, "ru": 84.29, "id": 79.84, "he": 60.33, "ar": 61.71, "zh": 64.39,
    "ja": 58.1, "ko": 70.25,
}  # fmt: skip
_SIGLIP2_B32 = {
    "en": 73.15, "de": 84.44, "fr": 82.27, "es": 78.99, "it": 81.81, "nl": 72.72, "da": 67.2, "cs": 54.31,
    "hr": 53.3, "el": 53.24, "hu": 56.74, "ru": 81.59, "id": 77.02, "he": 58.49, "ar": 60.7, "zh": 62.56,
    "ja": 55.31, "ko": 67.54,
}  # fmt: skip

MODELS: tuple[ModelInfo, ...] = (
    ModelInfo(
        name="t2i_mini", family="t2i", dim=768, resolution=128, parameters=15.19,
        languages=("en", "es", "zh", "de", "it"), scripts=("Latin", "Han"), licence="Apache-2.0",
    ),
    ModelInfo(
        name="clip_vit_base_patch32", aliases=("ViT-B/32", "ViT-B-32/openai"), family="CLIP", dim=512,
        resolution=224, parameters=151.28, quick_gelu=True, licence="MIT", flickr30k=58.78, coco=30.44,
        source="open_clip", recall={"en": 59.37, "fr": 35.17, "es": 29.84}, ms=2.26,
        onnx="immich-app/ViT-B-32__openai", torch="timm/vit_base_patch32_clip_224.openai",
    ),
    ModelInfo(
        name="clip_vit_base_patch16", aliases=("ViT-B/16", "ViT-B-16/openai"), family="CLIP", dim=512,
        resolution=224, parameters=149.62, quick_gelu=True, licence="MIT", flickr30k=62.16, coco=33.09,
        source="open_clip", recall={"en": 58.27, "fr": 36.47, "es": 32.1, "de": 20.83}, ms=5.03,
        onnx="immich-app/ViT-B-16__openai", torch="timm/vit_base_patch16_clip_224.openai",
    ),
    ModelInfo(
        name="clip_vit_large_patch14", aliases=("ViT-L/14", "ViT-L-14/openai"), family="CLIP", dim=768,
        resolution=224, parameters=427.62, quick_gelu=True, licence="MIT", flickr30k=64.96, coco=36.51,
        source="open_clip", recall={"en": 60.12, "fr": 42.54, "es": 37.59, "de": 27.63}, ms=19.91,
        onnx="immich-app/ViT-L-14__openai", torch="timm/vit_large_patch14_clip_224.openai",
    ),
    ModelInfo(
        name="clip_vit_large_patch14_336", aliases=("ViT-L/14@336px", "ViT-L-14-336/openai"), family="CLIP",
        dim=768, resolution=336, parameters=427.94, quick_gelu=True, licence="MIT", flickr30k=66.9,
        coco=37.09, source="open_clip", recall={"en": 59.09, "fr": 42.81, "es": 37.7, "de": 27.09}, ms=43.45,
        onnx="immich-app/ViT-L-14-336__openai", torch="timm/vit_large_patch14_clip_336.openai",
    ),
    ModelInfo(
        name="RN50", aliases=("RN50/openai",), family="CLIP", dim=1024, resolution=224, parameters=102.01,
        quick_gelu=True, licence="MIT", flickr30k=57.36, coco=28.54, source="open_clip",
        recall={"en": 58.32, "fr": 34.44, "es": 30.2, "de": 20.91}, ms=2.39,
        onnx="immich-app/RN50__openai", torch="timm/resnet50_clip.openai",
    ),
    ModelInfo(
        name="ViT-B-32/laion2b_s34b_b79k", family="OpenCLIP", dim=512, resolution=224, parameters=151.28,
        quick_gelu=False, languages=("en", "fr"), licence="MIT", flickr30k=66.78, coco=39.34,
        source="open_clip", recall={"en": 68.78, "fr": 56.08, "es": 42.5, "de": 36.6, "it": 33.8}, ms=2.29,
        onnx="immich-app/ViT-B-32__laion2b-s34b-b79k", torch="laion/CLIP-ViT-B-32-laion2B-s34B-b79K",
    ),
    ModelInfo(
        name="ViT-B-16/laion2b_s34b_b88k", family="OpenCLIP", dim=512, resolution=224, parameters=149.62,
        quick_gelu=False, licence="MIT", flickr30k=69.84, coco=42.31, source="open_clip", ms=5.03,
        torch="laion/CLIP-ViT-B-16-laion2B-s34B-b88K",
    ),
    ModelInfo(
        name="ViT-L-14/laion2b_s32b_b82k", family="OpenCLIP", dim=768, resolution=224, parameters=427.62,
        quick_gelu=False, languages=("en", "fr"), licence="MIT", flickr30k=75.52, coco=46.51,
        source="open_clip", recall={"en": 69.86, "fr": 61.78, "es": 49.56, "de": 42.88, "it": 41.73},
        ms=20.56, onnx="immich-app/ViT-L-14__laion2b-s32b-b82k",
        torch="laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
    ),
    ModelInfo(
        name="ViT-B-32/datacomp_xl_s13b_b90k", family="OpenCLIP", dim=512, resolution=224,
        parameters=151.28, quick_gelu=False, licence="MIT", flickr30k=61.08, coco=37.14, source="open_clip",
        ms=2.29, torch="laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
    ),
    ModelInfo(
        name="ViT-B-16/datacomp_xl_s13b_b90k", family="OpenCLIP", dim=512, resolution=224,
        parameters=149.62, quick_gelu=False, licence="MIT", flickr30k=67.56, coco=40.16, source="open_clip",
        ms=5.03, torch="laion/CLIP-ViT-B-16-DataComp.XL-s13B-b90K",
    ),
    ModelInfo(
        name="ViT-L-14/datacomp_xl_s13b_b90k", family="OpenCLIP", dim=768, resolution=224,
        parameters=427.62, quick_gelu=False, licence="MIT", flickr30k=73.38, coco=45.73, source="open_clip",
        ms=20.56, torch="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
    ),
    ModelInfo(
        name="xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", family="OpenCLIP", dim=512, resolution=224,
        parameters=366.12, languages=tuple(_XLM), scripts=(), licence="MIT", flickr30k=64.48, coco=37.78,
        source="open_clip", recall=_XLM, ms=3.2,
        onnx="immich-app/XLM-Roberta-Base-ViT-B-32__laion5b_s13b_b90k",
        torch="laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k",
    ),
    ModelInfo(
        name="ViT-B-16-SigLIP/webli", family="SigLIP", dim=768, resolution=224, parameters=203.16,
        languages=tuple(_SIGLIP), licence="Apache-2.0", flickr30k=74.68, coco=47.78, source="open_clip",
        recall=_SIGLIP, ms=5.77, onnx="immich-app/ViT-B-16-SigLIP__webli", torch="timm/ViT-B-16-SigLIP",
    ),
    ModelInfo(
        name="ViT-B-16-SigLIP2/webli", family="SigLIP 2", dim=768, resolution=224, parameters=375.19,
        languages=tuple(_SIGLIP2_B16), scripts=(), licence="Apache-2.0", flickr30k=80.7,
        coco=52.1, source="big_vision", recall=_SIGLIP2_B16, ms=5.81,
        onnx="immich-app/ViT-B-16-SigLIP2__webli", torch="timm/ViT-B-16-SigLIP2",
    ),
    ModelInfo(
        name="ViT-B-32-SigLIP2-256/webli", family="SigLIP 2", dim=768, resolution=256, parameters=376.86,
        languages=tuple(_SIGLIP2_B32), scripts=(), licence="Apache-2.0", recall=_SIGLIP2_B32, ms=3.31,
        onnx="immich-app/ViT-B-32-SigLIP2-256__webli", torch="timm/ViT-B-32-SigLIP2-256",
    ),
)  # fmt: skip

_BY_NAME = {spelling: model for model in MODELS for spelling in (model.name, *model.aliases)}


def models() -> tuple[ModelInfo, ...]:
    """Return every model that is known by name, the bundled one first."""
    return MODELS


def find(name: str) -> ModelInfo | None:
    """Return the model of a name or alias, or None."""
    return _BY_NAME.get(name)


def recommend(languages: Sequence[str] = ("en",), max_ms: float = 20) -> ModelInfo:
    """Return the model that finds best in the languages that you name, among those that are fast enough.

    Best is the highest ``recall``, taken for each model in the language it is worst at; models without
    published recall are left out, ``t2i_mini`` among them.

    :param languages: ISO 639-1 codes.
    :param max_ms: the most that ``ModelInfo.ms`` may be. That is another machine's time: give the
        milliseconds of a model that is fast enough for you, or 20 for anything up to ViT-L/14.
    :raises ConfigError: If no model does; the message lists what models can do.
    """
    if isinstance(languages, str) or not languages:
        raise ConfigError(f"languages must be a list of codes such as ['en', 'de'], got {languages!r}")
    fits = [model for model in MODELS if set(languages) <= set(model.languages) & set(model.recall)]
    if not fits:
        spoken = sorted({language for model in MODELS for language in model.recall})
        raise ConfigError(f"no model knows {', '.join(languages)} at once; known are {', '.join(spoken)}")
    fast = [model for model in fits if model.ms is not None and model.ms <= max_ms]
    if not fast:
        fastest = min(fits, key=lambda model: model.ms or 0)
        raise ConfigError(f"max_ms={max_ms} is too little; the fastest is {fastest.name}, {fastest.ms} ms")
    return max(fast, key=lambda model: min(model.recall[language] for language in languages))
