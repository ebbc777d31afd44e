"""Write the weights of a random CLIP of ViT-B/32's shape where OpenAI's ``clip`` or transformers keep them.

Run as a program, which returns the memory that it takes: ``python weights_at_home.py HOME FORM``.
"""

import json
import sys
import warnings
from pathlib import Path

import torch

SIZES = (512, 224, 12, 768, 32, None, 77, 49408, 512, 8, 12)


def main(home: Path, form: str) -> None:
    """Write ``openai`` (a TorchScript archive in half precision) or ``transformers``."""
    torch.manual_seed(0)
    if form == "openai":
        openai(home / ".cache/clip/ViT-B-32.pt")
    else:
        transformers(home / ".cache/huggingface/hub/models--openai--clip-vit-base-patch32")


def openai(path: Path) -> None:
    """Write an archive as OpenAI publishes them: a traced model, its sizes beside the weights."""
    from t2i_pipelines._towhee.door import clip_models

    model = clip_models().CLIP(*SIZES).eval()

    class Published(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual, self.transformer = model.visual, model.transformer
            self.token_embedding, self.ln_final = model.token_embedding, model.ln_final
            self.positional_embedding = model.positional_embedding
            self.text_projection, self.logit_scale = model.text_projection, model.logit_scale
            for name, size in {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}.items():
                self.register_buffer(name, torch.tensor(size))

        def forward(self, image, text):
            sizes = self.input_resolution + self.context_length + self.vocab_size + self.logit_scale
            return self.visual(image), model.__class__.encode_text(self, text, device="cpu") + 0 * sizes

        dtype = torch.float32

    path.parent.mkdir(parents=True)
    example = (torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.long))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Published(), example, check_trace=False)
        traced.half().save(str(path))


def transformers(repository: Path) -> None:
    """Write what ``CLIPModel.from_pretrained`` leaves in the cache: no tokenizer, no preprocessing."""
    sys.path[:0] = ["tests", "."]
    import clips

    config = clips.CLIPConfig()  # its defaults are ViT-B/32's
    snapshot = repository / "snapshots/3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
    clips.CLIPModel(config).save_pretrained(snapshot)
    assert json.loads((snapshot / "config.json").read_text())["model_type"] == "clip"
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(snapshot.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
