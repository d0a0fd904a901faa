"""Colour statistics: how light is each channel of the whole image, and how much does it vary?"""

import torch
import torch.nn.functional as F

from ssl_kd.data import Recipe


class WithColours(Recipe):
    """The views of `recipe=simclr`, and what was to be seen before them: "colours" (B, 2 * C)."""

    def __call__(self, batch, index):
        pixels = batch["image"].float().flatten(2) / 255  # (B, C, H * W)
        colours = torch.cat([pixels.mean(2), pixels.std(2)], 1)
        return {**super().__call__(batch, index), "colours": colours}


def head(in_features, channels):
    """`in_features` and `channels` are filled in: the width of what the head reads, the images' channels."""
    return torch.nn.Linear(in_features, 2 * channels)


def loss(guess, colours):
    """guess (V, B, 2 * C), from the views; colours (B, 2 * C)."""
    return F.mse_loss(guess, colours.expand_as(guess))
