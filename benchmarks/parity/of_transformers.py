"""Families that transformers builds, compared with its processors and models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.parity.samples import DATA, Library, Size, write_json
from benchmarks.peers.checkpoint import spread_out


def chinese_clip(folder: Path, size: Size) -> Library:
    """Chinese-CLIP, ViT-B/16 and RoBERTa-wwm-ext, with ``vocab.txt`` alone to read texts by."""
    import transformers

    true = size == "true"
    config = transformers.ChineseCLIPConfig(
        projection_dim=512 if true else 24,
        vision_config={**_vision(true, patch=16), "hidden_act": "quick_gelu"},
        text_config={
            **text_shape(true, 21128),
            "pad_token_id": 0,
            "max_position_embeddings": 512 if true else 60,
        },
    )
    model = _write(transformers.ChineseCLIPModel(config), folder)
    write_vocabulary(folder)
    write_processor(folder, "ChineseCLIPFeatureExtractor", 224 if true else 32)
    return by_transformers(folder, model, padding=True)


def altclip(folder: Path, size: Size) -> Library:
    """AltCLIP: ViT-L/14 and XLM-RoBERTa large are published; true is half as deep, to fit into memory."""
    import transformers

    true = size == "true"
    vision = {**_vision(true, patch=14, wide=True), "hidden_act": "quick_gelu"}
    positions = {"pad_token_id": 1, "max_position_embeddings": 514 if true else 60}
    text = {**text_shape(true, 250002, wide=True), **positions, "project_dim": 768 if true else 24}
    if true:
        vision["num_hidden_layers"] = text["num_hidden_layers"] = 6
        text["vocab_size"] = 60000
    config = transformers.AltCLIPConfig(
        projection_dim=768 if true else 24, vision_config=vision, text_config=text
    )
    model = _write(transformers.AltCLIPModel(config), folder)
    transformers.XLMRobertaTokenizer(vocab=unigrams(), model_max_length=512).save_pretrained(folder)
    write_processor(folder, "CLIPFeatureExtractor", 224 if true else 32)
    return by_transformers(folder, model, padding=True)


def metaclip_2(folder: Path, size: Size) -> Library:
    """MetaCLIP 2, of ViT-B/32's shape; of its 901,629 embeddings true has 60,000."""
    import transformers

    true = size == "true"
    text = {**text_shape(true, 60000), "max_position_embeddings": 77, "hidden_size": 512 if true else 64}
    text |= {"intermediate_size": 2048 if true else 128, "num_attention_heads": 8 if true else 4}
    text |= {"projection_dim": 512 if true else 24, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    config = transformers.MetaClip2Config(
        projection_dim=512 if true else 24, vision_config=_vision(true, patch=32), text_config=text
    )
    model = _write(transformers.MetaClip2Model(config), folder)
    transformers.XLMRobertaTokenizer(vocab=unigrams(), model_max_length=77).save_pretrained(folder)
    write_processor(folder, "CLIPImageProcessorFast", 224 if true else 32)
    return by_transformers(folder, model, padding="max_length")


def siglip(folder: Path, size: Size) -> Library:
    """SigLIP, B/16 of 224 pixels."""
    import transformers

    true = size == "true"
    config = transformers.SiglipConfig(
        vision_config=_vision(true, patch=16),
        text_config={**text_shape(true, 32000), "max_position_embeddings": 64, "pad_token_id": 1},
    )
    model = _write(transformers.SiglipModel(config), folder)
    _siglip_tokenizer().save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "model_max_length": 64},
    )
    side = 224 if true else 32
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": side, "width": side},
            "resample": 3,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    )
    return by_transformers(folder, model, tokenize=_siglip_ids)


def siglip2(folder: Path, size: Size) -> Library:
    """SigLIP 2 of a fixed size, B/16 of 224 pixels; of Gemma's 256,000 embeddings true has 60,000."""
    import transformers

    true = size == "true"
    config = transformers.SiglipConfig(
        vision_config=_vision(true, patch=16),
        text_config={**text_shape(true, 60000), "max_position_embeddings": 64, "pad_token_id": 0},
    )
    model = _write(transformers.SiglipModel(config), folder)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{n:02X}>" for n in range(256)), "▁"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, *letters()]))}
    tokenizer = transformers.GemmaTokenizer(vocab=vocabulary, merges=[], model_max_length=64)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(folder)
    side = 224 if true else 32
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": side, "width": side},
            "resample": 2,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
    )
    return by_transformers(folder, model, padding="max_length", max_length=64)


def _vision(true: bool, patch: int, wide: bool = False) -> dict[str, Any]:
    shape = (1024, 24, 16, 4096) if wide else (768, 12, 12, 3072)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = dict(zip(names, shape if true else (64, 2, 4, 128), strict=True))
    return {**sizes, "image_size": 224 if true else 32, "patch_size": patch if true else 8}


def text_shape(true: bool, vocabulary: int, wide: bool = False) -> dict[str, Any]:
    """The sizes of a text tower."""
    shape = (1024, 24, 16, 4096) if wide else (768, 12, 12, 3072)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    sizes = dict(zip(names, shape if true else (64, 2, 4, 128), strict=True))
    return {**sizes, "vocab_size": vocabulary if true else 1200}


def _write(model: Any, folder: Path) -> Any:
    spread_out(model)
    model.eval().requires_grad_(False).save_pretrained(folder)
    return model


def write_vocabulary(folder: Path) -> None:
    """Write BERT's ``vocab.txt``, of single characters."""
    known = letters(lower=True)
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known, *(f"##{one}" for one in known)]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")


def letters(lower: bool = False) -> list[str]:
    """Every character of the captions, and of English."""
    text = (DATA / "gallery.csv").read_text(encoding="utf-8") + "abcdefghijklmnopqrstuvwxyz0123456789"
    return sorted({one for one in (text.lower() if lower else text) if not one.isspace()})


def unigrams() -> list[tuple[str, float]]:
    """XLM-RoBERTa's vocabulary, of single characters and a few words."""
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*marks, "▁", *letters(), "▁un", "▁de", "en", "er", "<mask>"]
    return [(piece, -float(number % 7 + 1)) for number, piece in enumerate(pieces)]


def _siglip_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters(lower=True), "▁un", "▁de", "en", "er"]
    scores = [(piece, -float(number % 7 + 1)) for number, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["</s>"])
    return tokenizer


def _siglip_ids(texts: list[str]) -> dict[str, Any]:
    """SigLIP's ids; its own tokenizer needs sentencepiece, so its cleaning of texts is repeated here."""
    import re
    import string

    tokenizer = _siglip_tokenizer()
    rows = []
    for text in texts:
        text = text.lower().translate(str.maketrans("", "", string.punctuation))
        ids = tokenizer.encode(re.sub(r"\s+", " ", text).strip()).ids[:64]
        rows.append(ids + [1] * (64 - len(ids)))
    return {"input_ids": torch.tensor(rows)}


def write_processor(folder: Path, kind: str, side: int) -> None:
    """Write ``preprocessor_config.json`` as CLIP's publishers do."""
    from t2i_pipelines.encoders.preprocess import CLIP_MEAN, CLIP_STD

    key = "feature_extractor_type" if "Extractor" in kind else "image_processor_type"
    given: dict[str, Any] = {"do_center_crop": True, "do_resize": True, "do_normalize": True, "resample": 3}
    given |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    given |= {"image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "do_convert_rgb": True, key: kind}
    write_json(folder / "preprocessor_config.json", given)


def by_transformers(
    folder: Path, model: Any, tokenize: Callable[[list[str]], Any] | None = None, **options: Any
) -> Library:
    """Return transformers' processor and model, the processor on Pillow."""
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    if tokenize is None:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

        def tokenize(texts: list[str]) -> Any:
            return tokenizer(texts, truncation=True, return_tensors="pt", **options)

    def images(opened: list[Any]) -> Any:
        vectors = [model.get_image_features(**processor(one, return_tensors="pt")) for one in opened]
        return torch.cat([one.pooler_output for one in vectors])

    def texts(given: list[str]) -> Any:
        ids = dict(tokenize(given))
        if model.config.model_type == "siglip":
            ids.pop("attention_mask", None)  # its processor leaves the mask out
        return model.get_text_features(**ids).pooler_output

    return Library("transformers", images, texts)
