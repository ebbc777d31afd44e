"""The image tower of t2i_mini, made of what was trained: both towers, the space of photographs, the gate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from t2i_pipelines.encoders.twofold import FEATURES, Lite0, TwofoldTower
from tools.t2i_mini.space import PhotoSpace

OFFSET, STEEPNESS = 4.5, 2.0
"""The gate's logit is moved by the one and multiplied by the other.

A photograph taken for a drawing is the worse error: its vector then names things that it does not show.
Things cut out before white have logits down to -4, ordinary photographs 6, and drawings -8. Chosen on the
gallery and the photographs of ``data/``.
"""


def join(lite: Lite0, drawn: Any, space: PhotoSpace, gate: nn.Linear) -> TwofoldTower:
    """Put the parts together.

    :param drawn: the tower of drawings, Towhee's ``ModifiedResNet``.
    """
    nouns, photo_dim = space.basis.shape
    tower = TwofoldTower(drawn, nouns=nouns, photo_dim=photo_dim, drawn_dim=drawn.output_dim)
    tower.lite, tower.gate = lite, gate
    tower.below, tower.mean = torch.from_numpy(space.below), torch.from_numpy(space.mean)
    tower.basis = torch.from_numpy(np.ascontiguousarray(space.basis.T))
    tower.steady[-1] = space.steady
    return tower.eval()


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
    gate.bias.data = (gate.bias.data + OFFSET) * STEEPNESS
    gate.weight.data *= STEEPNESS
    return gate.eval().requires_grad_(False)
