"""What tests of fine-tuning share: a small CLIP with random weights, and captioned images."""

import json
from pathlib import Path

import numpy as np
from clips import SMALL, SMALL_RESNET, openclip_clip
from conftest import COLOURS
from PIL import Image
from safetensors.torch import load_file

from tools.drawings.vocabulary import PAD, make_tokenizer

WORDS = 300
TEXT = {"context_length": 16, "vocab_size": WORDS, "width": 64, "heads": 1, "layers": 1}
TINY = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "layers": 1}, "text_cfg": TEXT}
TINY_RESNET = {**SMALL_RESNET, "text_cfg": TEXT}
QUICK = {"epochs": 2, "batch_size": 8, "export": False, "precision": "fp32", "learning_rate": 1e-3}


def small_clip(folder: Path, *, resnet: bool = False) -> Path:
    """A CLIP of one layer a tower that knows 300 tokens, as open_clip stores it."""
    openclip_clip(folder, quick_gelu=True, cfg=TINY_RESNET if resnet else TINY)
    tokenizer = make_tokenizer(COLOURS, vocab_size=WORDS, context_length=TEXT["context_length"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": PAD}))
    return folder


def coloured(folder: Path, each: int = 4) -> list[tuple[str, str]]:
    """Noise with a part of one colour, ``each`` a colour, as (path, caption); captions come again."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    pairs = []
    for name, rgb in COLOURS.items():
        for number in range(each):
            pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
            pixels[:, : int(random.integers(12, 28))] = rgb
            path = folder / f"{name}-{number}.png"
            Image.fromarray(pixels).save(path)
            pairs.append((str(path), f"a {name} image"))
    return pairs


def weights_of(result):
    """The tensors of a result, by name."""
    return load_file(result.path / "open_clip_model.safetensors")
