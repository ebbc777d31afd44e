"""Small CLIPs with random weights, written by transformers and by open_clip themselves."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision_beside_cpu_torch  # noqa: F401 - before what follows

from t2i_pipelines.encoders import load_encoder

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # as importing open_clip would set it
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import open_clip
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.utils import logging

logging.disable_progress_bar()
__all__ = ["CLIPImageProcessorPil", "CLIPTokenizer", "open_clip"]

PICTURES = [
    np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    for seed, size in enumerate([(40, 60, 3), (33, 32, 3), (64, 64, 3), (90, 31, 3)])
]
TEXTS = ["a photo of a kitten", "Café déjà vu", "a dog 🐶 &amp; a ball", "red", "one two three four five six"]
SMALL = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
SMALL_RESNET = {
    **SMALL,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}
B32 = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
RN50 = {
    **B32,
    "embed_dim": 1024,
    "vision_cfg": {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None},
}


def wake(model):
    """Random weights that let everything have a say: many start as zero or one, or very small."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if name.endswith(("bias", "class_embedding")) or "positional" in name or "position" in name:
                weight.copy_(0.3 * noise)
            elif weight.ndim > 1:
                # so that what the activation gives decides much
                scale = 8 if name.endswith(("mlp.c_proj.weight", "mlp.fc2.weight")) else 1
                weight.copy_(noise * scale * (2 / weight[0].numel()) ** 0.5)
            elif weight.ndim == 1:
                weight.copy_(1 + 0.2 * noise)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(1 + 0.5 * torch.rand(buffer.shape, generator=generator))
    return model.eval()


def transformers_clip(folder: Path, activation: str, cfg=SMALL, heads=(2, 4)):
    """A CLIPModel, saved by ``save_pretrained``; heads are not width / 64, so that they must be read."""
    vision, text = cfg["vision_cfg"], cfg["text_cfg"]
    config = CLIPConfig(
        projection_dim=cfg["embed_dim"],
        vision_config={
            "hidden_size": vision["width"], "intermediate_size": 4 * vision["width"],
            "num_hidden_layers": vision["layers"], "num_attention_heads": heads[0],
            "image_size": vision["image_size"], "patch_size": vision["patch_size"],
            "projection_dim": cfg["embed_dim"], "hidden_act": activation,
        },
        text_config={
            "hidden_size": text["width"], "intermediate_size": 4 * text["width"],
            "num_hidden_layers": text["layers"], "num_attention_heads": heads[1],
            "vocab_size": text["vocab_size"], "projection_dim": cfg["embed_dim"], "hidden_act": activation,
            "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1,
        },
    )  # fmt: skip
    model = wake(CLIPModel(config))
    model.save_pretrained(folder)
    return model


def transformers_reader(folder: Path):
    """CLIP's tokenizer and image processor as transformers has them, saved beside the model.

    Vocabulary and merges are those that open_clip ships, which spells the two marks otherwise.
    """
    shipped = open_clip.SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(token, token): number for token, number in shipped.encoder.items()}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=list(shipped.bpe_ranks), model_max_length=77)
    processor = CLIPImageProcessorPil()
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return tokenizer, processor


def openclip_clip(folder: Path, quick_gelu: bool, cfg=SMALL, preprocess=None):
    """An open_clip model, saved in the layout of its hub repositories."""
    cfg = {**cfg, **({"quick_gelu": True} if quick_gelu else {})}
    made = json.loads(json.dumps(cfg))
    made["text_cfg"]["hf_model_pretrained"] = False
    kind = open_clip.CustomTextCLIP if made.pop("custom_text", False) else open_clip.CLIP
    model = wake(kind(**made))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    config = {"model_cfg": cfg, "preprocess_cfg": preprocess or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model


def load_exact(*args):
    """The encoder, in fp32 on the CPU: ``auto`` would be bf16 where that is fast."""
    return load_encoder(*args, device="cpu", precision="fp32")


def cosines(ours, theirs) -> np.ndarray:
    theirs = np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs, np.float64)
    ours = np.asarray(ours, np.float64)
    return (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


def spread(vectors) -> float:
    """The highest cosine between two different rows: parity means nothing if all rows are one."""
    unit = np.asarray(vectors, np.float64)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return float((unit @ unit.T - 2 * np.eye(len(unit))).max())


def export_apart(model, folder) -> None:
    """Run ``t2i export`` in a process of its own, which gives back the memory that an export takes."""
    command = [sys.executable, "-c", "from t2i_pipelines.cli import main; main()", "export"]
    done = subprocess.run([*command, str(model), str(folder)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
