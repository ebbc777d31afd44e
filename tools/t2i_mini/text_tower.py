"""Train the text tower against images whose vectors do not change."""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import nn
from torch.nn import functional as F

from t2i_pipelines.finetune.clip import contrast
from tools.drawings.learning import encode_captions, make_optimiser, rate_at
from tools.drawings.samples import is_true
from tools.t2i_mini.space import DIMENSIONS, PhotoSpace
from tools.t2i_mini.texts import Item, Writer

log = logging.getLogger(__name__)

DRAWN = 256
"""Dimensions of the space of drawings, which follow those of photographs."""

SIZES: dict[str, Any] = {
    "embed_dim": DIMENSIONS + DRAWN,
    "image_resolution": 32,  # the image tower is another
    "vision_layers": 1,
    "vision_width": 64,
    "vision_patch_size": 32,
    "context_length": 32,
    "vocab_size": 8192,
    "transformer_width": 256,
    "transformer_heads": 4,
    "transformer_layers": 2,
}
PHOTO_SCALE, DRAWN_SCALE = 30.0, 25.0
"""What cosines are multiplied by before the softmax."""


class Material(NamedTuple):
    """What the text tower learns from.

    :ivar scenes: (N, 256) float32 unit vectors of drawings; ``keys``: what each shows.
    """

    space: PhotoSpace
    writer: Writer
    tokenizer: Tokenizer
    scenes: NDArray[np.float32]
    keys: list[list[str]]


def train(model: Any, material: Material, *, steps: int, batch: int, seed: int = 7) -> None:
    """Learn for this many steps.

    :param batch: texts of photographs, and as many of drawings, in each.
    """
    rng = np.random.default_rng(seed)
    optimiser = make_optimiser(model)
    everything = torch.from_numpy(material.space.basis)  # (nouns, D)
    all_directions = F.normalize(everything, dim=1)
    losses: list[tuple[float, float]] = []
    began = time.monotonic()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step / steps)
        texts, named = zip(*(material.writer.of_photograph() for _ in range(batch)), strict=True)
        chosen = rng.integers(len(material.keys), size=batch)
        told = [material.writer.of_drawing(material.keys[at]) for at in chosen]
        ids = material.tokenizer.encode_batch([*texts, *(text for text, _ in told)])
        with torch.autocast("cpu", torch.bfloat16):
            out = encode_captions(model, torch.tensor([one.ids for one in ids])).float()
        photo, drawn = out[:, :DIMENSIONS], out[:, DIMENSIONS:]

        targets = torch.from_numpy(material.space.directions(weights(named, len(everything))))
        known = targets.norm(dim=1) > 0
        said = F.normalize(photo[:batch][known], dim=1)
        wanted = targets[known]
        truth = wanted @ wanted.T > 0.999
        nearest = F.cross_entropy(
            PHOTO_SCALE * said @ all_directions.T,
            F.softmax(PHOTO_SCALE * wanted @ all_directions.T, dim=1),
        )
        photo_loss = (1 - (said * wanted).sum(1)).mean() + 0.3 * nearest
        photo_loss = photo_loss + 0.3 * contrast(wanted, said, truth, torch.tensor(PHOTO_SCALE))

        scenes = torch.from_numpy(material.scenes[chosen])
        drawn_loss = contrast(
            scenes,
            F.normalize(drawn[batch:], dim=1),
            is_true([keys for _, keys in told], [frozenset(material.keys[at]) for at in chosen]),
            torch.tensor(DRAWN_SCALE),
        )
        # a text has length 1 in each space that knows it, and none in one that does not: what it says there
        # by chance would put images of the other kind before those that it means
        lengths = (photo.norm(dim=1)[:batch] - known.float()).square().mean()
        has_key = torch.tensor([any(item.key for item in some) for some in named])
        lengths = lengths + (drawn.norm(dim=1)[:batch] - has_key.float()).square().mean()
        lengths = lengths + (drawn.norm(dim=1)[batch:] - 1).square().mean()
        loss = photo_loss + drawn_loss + lengths
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append((float(photo_loss.detach()), float(drawn_loss.detach())))
        if (step + 1) % 50 == 0:
            means = np.mean(losses[-50:], axis=0)
            pace = (time.monotonic() - began) / (step + 1)
            log.info("step %d, %.2f s each: photographs %.3f, drawings %.3f", step + 1, pace, *means)
    model.text_projection.data[:, DIMENSIONS - 1] = 0  # the steady dimension says nothing of what is shown


def weights(named: tuple[list[Item], ...], many: int) -> NDArray[np.float32]:
    """(texts, nouns): each item's nouns share its weight, and items share that of their text."""
    found = np.zeros((len(named), many), np.float32)
    for row, some in enumerate(named):
        for item in some:
            for number in item.nouns:
                found[row, number] += 1 / len(item.nouns)
    return found
