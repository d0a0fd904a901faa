"""Rotation prediction (Gidaris et al. 2018): which of four quarter turns was an image given?"""

import torch
import torch.nn.functional as F


def recipe(batch, index):
    """The four turns of every image are its views, (4, B, C, H, W), in [0, 1]."""
    images = batch["image"].float() / 255
    return {**batch, "views": torch.stack([images.rot90(k, (-2, -1)) for k in range(4)])}


def loss(logits):
    """logits: (4, B, 4); the number of the view is the answer."""
    turns = torch.arange(4, device=logits.device).repeat_interleave(logits.shape[1])
    return F.cross_entropy(logits.flatten(0, 1), turns)
