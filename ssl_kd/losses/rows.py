"""What the formulas share: full precision, unit rows."""

import torch
import torch.nn.functional as F
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """float32 for the half precisions; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def unit(x: Tensor) -> Tensor:
    """Rows of length 1 along the last axis, in full precision; a zero row stays zero."""
    return F.normalize(full(x), dim=-1)
