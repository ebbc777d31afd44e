"""The contrastive loss of images and captions, in which every true pair is a positive.

With unit vectors ``u`` of captions and ``v`` of images, a scale ``s``, and ``T[i]`` the images that
caption ``i`` is true of::

    to image = - mean over i of mean over k in T[i] of log(exp(s u_i v_k) / sum over j of exp(s u_i v_j))

``to caption`` is the same with captions and images exchanged, and the loss is the mean of the two. It is
the bidirectional loss of UniCL (Yang et al. 2022, arXiv:2204.03610, equations 3 to 5), whose sum over
positives stands outside of the logarithm, as in SupCon (Khosla et al. 2020, arXiv:2004.11362, equation 2).
Where each caption has one image and each image one caption it is CLIP's InfoNCE.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

MOST_SCALE = math.log(100)
"""CLIP's bound of ``logit_scale`` (Radford et al. 2021, section 2.5)."""


def contrast(
    pictures: torch.Tensor, captions: torch.Tensor, truth: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """The loss of a batch, in nats.

    :param pictures: (N, D), of any length; each row a different image.
    :param captions: (C, D), likewise.
    :param truth: (C, N) bool: whether the caption is true of the image; every row and column has a True.
    :param scale: what cosines are multiplied with, the inverse temperature.
    """
    logits = scale * F.normalize(captions, dim=-1) @ F.normalize(pictures, dim=-1).T
    goal = truth.float()
    to_picture = (goal / goal.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    to_caption = (goal / goal.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return -(to_picture + to_caption) / 2
