"""The space of photographs: how probable each noun is, centred and turned into fewer dimensions.

Of a photograph, ``sqrt(probability)`` of every noun, a class or a hypernym, less what it usually is; of a
noun, its own direction. So the cosine of both grows with the noun's probability, and a photograph of a
Samoyed lies near "dog" as well.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from t2i_pipelines.encoders.twofold import STEADY, TEMPERATURE, Lite0

DIMENSIONS = 512
"""Of a vector; the last is the same for all photographs."""

TOO_GENERAL = 900
"""Nouns with more classes below them say nothing about a photograph."""

PROTOTYPE = 9.0
"""Score of a class above the mean of others in the prototypes that the dimensions are chosen by."""


class PhotoSpace(NamedTuple):
    """How scores become vectors.

    :ivar below: (nouns, 1000) float32, 0 or 1: the classes of each distinct noun.
    :ivar mean: (nouns,) float32, subtracted.
    :ivar basis: (nouns, D) float32; the last column is zero.
    :ivar steady: the last dimension of a photograph's vector, before it is scaled to length 1.
    """

    below: NDArray[np.float32]
    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    steady: float

    def vectors(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        """(N, 1000) class scores -> (N, D) unit vectors."""
        made = (roots(scores, self.below) - self.mean) @ self.basis
        made[:, -1] = self.steady
        return unit(made)

    def directions(self, weights: NDArray[Any]) -> NDArray[np.float32]:
        """(M, nouns) weights of nouns -> (M, D) unit vectors."""
        return unit(weights.astype(np.float32) @ self.basis)


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each row to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-9), np.float32)


def roots(scores: NDArray[Any], below: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 1000) class scores -> (N, nouns) square roots of the nouns' probabilities."""
    probabilities = torch.from_numpy(scores.astype(np.float32) / TEMPERATURE).softmax(-1).numpy()
    return np.sqrt(probabilities @ below.T)


def fit(scores: NDArray[Any], below: NDArray[np.bool_], lite: Lite0) -> PhotoSpace:
    """Choose the mean by photographs, and the dimensions by prototypes of all classes alike.

    By photographs alone, what they do not show would have no dimension.

    :param scores: (N, 1000) of photographs, half of the mean; prototypes are the other half.
    """
    kept = below.astype(np.float32)
    made = prototypes(lite)
    both = [roots(some, kept) for some in (scores, made)]
    mean = sum(values.mean(0) for values in both) / 2
    centred = np.concatenate([(values - mean) / np.sqrt(len(values)) for values in (both[0], *[both[1]] * 4)])
    _, found = np.linalg.eigh(centred.T @ centred)
    basis = np.zeros((len(found), min(DIMENSIONS, len(found) + 1)), np.float32)
    basis[:, :-1] = found[:, : -basis.shape[1] : -1]
    usual = np.sqrt(np.square((both[0] - mean) @ basis).sum(1).mean())
    return PhotoSpace(kept, np.asarray(mean, np.float32), basis, STEADY * float(usual))


def prototypes(lite: Lite0) -> NDArray[np.float32]:
    """(1000, 1000) class scores of features that lie in the direction of each class."""
    weights = lite.classify.weight.detach()
    centred = weights - weights.mean(0)
    cosines = torch.nn.functional.normalize(centred, dim=1) @ torch.nn.functional.normalize(centred, dim=1).T
    return (PROTOTYPE * cosines).numpy()
