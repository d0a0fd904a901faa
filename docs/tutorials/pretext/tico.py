"""TiCo (Zhu et al. 2022): views of an image agree, and all images do not lie along the same directions."""

import torch
import torch.nn.functional as F

import ssl_kd


class Covariance(torch.nn.Module):
    """The running mean of z z^T over unit rows z: a peer that remembers. reads: "peer.output", (V, B, D)."""

    outputs = ("matrix", "new")

    def __init__(self, reads, shapes, momentum=0.9):  # shapes: of what was said before, filled in
        super().__init__()
        self.reads, self.momentum = reads, momentum
        self.register_buffer("matrix", torch.zeros(*shapes[reads], *shapes[reads]))  # (D, D)

    def forward(self, batch, seen):
        peer, output = self.reads.split(".")
        z = F.normalize(seen[peer][output].detach().flatten(0, 1), dim=1)
        return {"matrix": self.matrix, "new": (z.T @ z / len(z))[None]}

    def advance(self, outputs):  # after the optimisers, with what all processes saw
        self.matrix.lerp_(ssl_kd.gather(outputs["new"]).mean(0), 1 - self.momentum)


def loss(student, teacher, covariance):
    z, other = F.normalize(student, dim=-1), F.normalize(teacher.flip(0), dim=-1)
    return 1 - (z * other).sum(-1).mean() + 8 * (z @ covariance * z).sum(-1).mean()
