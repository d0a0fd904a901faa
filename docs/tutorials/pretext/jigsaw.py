"""Jigsaw (Noroozi & Favaro 2016), in small: in which of six orders are the quarters of an image?"""

import torch
import torch.nn.functional as F

ORDERS = [(0, 1, 2, 3), (1, 0, 3, 2), (2, 3, 0, 1), (3, 2, 1, 0), (0, 2, 1, 3), (3, 1, 2, 0)]


def shuffled(views):
    """views (V, B, C, S, S), S even -> the first of them in each order, (6, B, C, S, S)."""
    quarters = [part for half in views[0].chunk(2, -2) for part in half.chunk(2, -1)]
    return torch.stack([joined([quarters[i] for i in order]) for order in ORDERS])


def joined(parts):
    """Four quarters, from the top left to the bottom right, as one image."""
    return torch.cat([torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)], -2)


def loss(logits):
    """logits (6, B, 6): the number of the order is the answer."""
    answers = torch.arange(6, device=logits.device).repeat_interleave(logits.shape[1])
    return F.cross_entropy(logits.flatten(0, 1), answers)
