"""The image tower of t2i_mini 2: one for photographs, one for drawings, and a gate between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from tools.t2i_mini.features import drawing_input, photo_input
from tools.t2i_mini.lite import FEATURES, Lite0
from tools.t2i_mini.space import STEADY, TEMPERATURE, PhotoSpace

OFFSET = 1.5
"""Added to the gate's logit. A photograph taken for a drawing is the worse error: its vector then names
things that it does not show. Logits of drawings lie far below it."""

SHORT = 1 / (1 + STEADY**2) ** 0.5
"""Length of a drawing's vector without the steady dimension, about that of a photograph's."""


class TwofoldTower(nn.Module):
    """Images to (N, D) vectors: ``gate * photograph``, then ``(1 - gate) * drawing``.

    Both have the steady dimension, so that their cosines to texts are of the same size.
    """

    below: torch.Tensor
    mean: torch.Tensor
    basis: torch.Tensor
    steady: torch.Tensor
    direction: torch.Tensor

    def __init__(self, lite: Lite0, drawn: Any, space: PhotoSpace, gate: nn.Linear) -> None:
        super().__init__()
        self.lite, self.drawn, self.gate = lite, drawn, gate
        self.register_buffer("below", torch.from_numpy(space.below))
        self.register_buffer("mean", torch.from_numpy(space.mean))
        self.register_buffer("basis", torch.from_numpy(space.basis))
        direction = torch.zeros(space.basis.shape[1])
        direction[-1] = 1
        self.register_buffer("direction", direction)
        self.register_buffer("steady", space.steady * direction)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) float32, normalised as CLIP's -> (N, D)."""
        features = self.lite(photo_input(x))
        return self.join(features, self.lite.classify(features), self.drawn.encode_image(drawing_input(x)))

    def join(self, features: torch.Tensor, scores: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Compute the vectors from what the towers gave: (N, 1280), (N, 1000) and (N, 256)."""
        probabilities = (scores / TEMPERATURE).softmax(-1)
        photo = ((probabilities @ self.below.T).sqrt() - self.mean) @ self.basis + self.steady
        share = torch.sigmoid(self.gate(features))
        photo = share * F.normalize(photo, dim=-1) + (1 - share) * (1 - SHORT**2) ** 0.5 * self.direction
        return torch.cat([photo, (1 - share) * SHORT * F.normalize(drawn, dim=-1)], -1)


def fit_gate(photographs: NDArray[Any], drawings: NDArray[Any], steps: int = 400) -> nn.Linear:
    """Learn to tell photographs from drawings by logistic regression on (N, 1280) features.

    :return: features -> (N, 1), above 0 for photographs.
    """
    torch.manual_seed(0)
    values = torch.from_numpy(np.concatenate([photographs, drawings]).astype(np.float32))
    goal = torch.cat([torch.ones(len(photographs)), torch.zeros(len(drawings))])
    share = torch.where(goal > 0, 0.5 / goal.mean(), 0.5 / (1 - goal.mean()))
    gate = nn.Linear(FEATURES, 1)
    optimiser = torch.optim.AdamW(gate.parameters(), lr=3e-3, weight_decay=0.05)
    for _ in range(steps):
        chosen = torch.randint(len(values), (1024,))
        loss = F.binary_cross_entropy_with_logits(
            gate(values[chosen])[:, 0], goal[chosen], weight=share[chosen]
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    gate.bias.data += OFFSET
    return gate.eval().requires_grad_(False)
