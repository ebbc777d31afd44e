"""CLIP as several libraries store it, and text towers that were trained to give vectors of its space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.parity.of_transformers import by_transformers, text_shape, unigrams, write_vocabulary
from benchmarks.parity.samples import Library, Size, free, write_json
from benchmarks.peers.checkpoint import spread_out, write_openai, write_transformers
from benchmarks.peers.plan import TINY, VIT_B_32
from t2i_pipelines.encoders import load_encoder
from t2i_pipelines.encoders.two_towers import TextTower, TwoTowers
from t2i_pipelines.types import EXACT


def clip(folder: Path, size: Size) -> Library:
    """CLIP in a folder of transformers."""
    model = write_transformers(folder, VIT_B_32 if size == "true" else TINY)
    return by_transformers(folder, model, padding=True)


def openai(folder: Path, size: Size) -> Library:
    """CLIP as OpenAI's code stores it: a state dict, with a config that states the activation."""
    import clip as library

    shape = VIT_B_32 if size == "true" else TINY
    model = write_transformers(folder / "transformers", shape)
    write_openai(folder / "model.pt", model)
    del model
    free()
    theirs: Any = library.model.build_model(torch.load(folder / "model.pt")).float().eval()
    transform = library.clip._transform(shape.image_size)
    write_json(folder / "open_clip_config.json", {"model_cfg": _config(shape), "preprocess_cfg": {}})
    (folder / "model.pt").rename(folder / "open_clip_pytorch_model.bin")

    def images(opened: list[Any]) -> Any:
        # on white, as this package does; OpenAI's drops the transparency
        return theirs.encode_image(torch.stack([transform(on_white(one)) for one in opened]))

    return Library("OpenAI's clip", images, lambda texts: theirs.encode_text(library.tokenize(texts)))


def on_white(image: Any) -> Any:
    """Return an image in RGB, what is transparent on white."""
    from PIL import Image as Pillow
    from transformers.image_transforms import convert_to_rgb

    return Pillow.fromarray(convert_to_rgb(image, return_numpy=True))


def _config(shape: Any) -> dict[str, Any]:
    width, layers = shape.vision
    text_width, text_layers = shape.text
    vision = {
        "image_size": shape.image_size,
        "layers": layers,
        "width": width,
        "patch_size": shape.patch_size,
    }
    text = {"context_length": 77, "vocab_size": 49408, "width": text_width, "heads": text_width // 64}
    return {
        "embed_dim": shape.dim,
        "quick_gelu": True,
        "vision_cfg": vision,
        "text_cfg": {**text, "layers": text_layers},
    }


def sentences_clip(folder: Path, size: Size) -> Library:
    """sentence-transformers' ``clip-ViT-B-32``."""
    write_transformers(folder / "0_CLIPModel", VIT_B_32 if size == "true" else TINY)
    free()
    _write_modules(folder, ["CLIPModel"])
    return Library(
        "sentence-transformers",
        lambda opened: _sentences(folder, [on_white(one) for one in opened]),
        lambda texts: _sentences(folder, texts),
    )


def _sentences(folder: Path, given: list[Any]) -> np.ndarray:
    """Return what sentence-transformers gives, of a model that is loaded for it alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    vectors = np.stack([model.encode(one) for one in given])
    del model
    free()
    return vectors


def multilingual_clip(folder: Path, size: Size) -> Library:
    """sentence-transformers' ``clip-ViT-B-32-multilingual-v1``: DistilBERT and ViT-B/32."""
    import transformers

    true = size == "true"
    names = ("dim", "n_layers", "n_heads", "hidden_dim")
    shape = dict(zip(names, (768, 6, 12, 3072) if true else (64, 2, 4, 128), strict=True))
    vocabulary = {"vocab_size": 119547 if true else 1200}
    text, home = folder / "text", folder / "text" / "0_Transformer"
    model = transformers.DistilBertModel(transformers.DistilBertConfig(**shape, **vocabulary))
    _write(model, home)
    del model
    free()
    write_vocabulary(home)
    write_json(home / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    write_json(home / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    pooling = {"word_embedding_dimension": shape["dim"], "pooling_mode_cls_token": False}
    write_json(text / "1_Pooling/config.json", {**pooling, "pooling_mode_mean_tokens": True})
    dim = 512 if true else 64
    identity = "torch.nn.modules.linear.Identity"
    dense = {"in_features": shape["dim"], "out_features": dim, "bias": False, "activation_function": identity}
    write_json(text / "2_Dense/config.json", dense)
    linear = torch.randn(dim, shape["dim"], generator=torch.Generator().manual_seed(2))
    torch.save({"linear.weight": linear}, text / "2_Dense/pytorch_model.bin")
    _write_modules(text, ["Transformer", "Pooling", "Dense"])
    images = sentences_clip(folder / "image", size)
    return Library(
        "sentence-transformers",
        images.images,
        lambda texts: _sentences(text, texts),
        lambda: _joined(folder),
    )


def mclip(folder: Path, size: Size) -> Library:
    """M-CLIP and ViT-B/32; the true size is XLM-RoBERTa base's, with 60,000 embeddings."""
    import transformers

    true = size == "true"
    shape = {**text_shape(true, 60000), "max_position_embeddings": 514 if true else 60}
    if not true:
        shape["num_attention_heads"] = 1  # 64 wide, as in all bases
    model = transformers.XLMRobertaModel(
        transformers.XLMRobertaConfig(**shape, layer_norm_eps=1e-5, type_vocab_size=1)
    )
    spread_out(model)
    model.eval()
    linear = torch.nn.Linear(shape["hidden_size"], 512 if true else 64)
    spread_out(linear)
    text = folder / "text"
    text.mkdir(parents=True)
    weights = {f"transformer.{name}": value for name, value in model.state_dict().items()}
    weights |= {f"LinearTransformation.{name}": value for name, value in linear.state_dict().items()}
    torch.save(weights, text / "pytorch_model.bin")
    tokenizer = transformers.XLMRobertaTokenizer(vocab=unigrams(), model_max_length=512)
    tokenizer.save_pretrained(text)
    config = {"model_type": "M-CLIP", "modelBase": "xlm-roberta-base"}
    write_json(
        text / "config.json", {**config, "numDims": 512, "transformerDimensions": shape["hidden_size"]}
    )
    images = clip(folder / "image", size)

    def texts(given: list[str]) -> Any:
        """As ``MultilingualCLIP.forward`` of the multilingual-clip package, which transformers 5 breaks."""
        tokens = tokenizer(given, padding=True, return_tensors="pt")
        mask = tokens["attention_mask"]
        words = model(**tokens)[0]
        return linear((words * mask.unsqueeze(2)).sum(dim=1) / mask.sum(dim=1)[:, None])

    return Library("multilingual-clip's forward", images.images, texts, lambda: _joined(folder))


def _joined(folder: Path) -> TwoTowers:
    image: Any = load_encoder(str(folder / "image"), device="cpu", precision="fp32")
    return TwoTowers("both", image, TextTower(folder / "text", "both", EXACT))


def _write(model: Any, folder: Path) -> None:
    spread_out(model)
    model.eval().save_pretrained(folder)


def _write_modules(folder: Path, kinds: list[str]) -> None:
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    write_json(folder / "modules.json", modules)
