"""The usual recipe, for comparison: torchvision's transforms on one PIL image after the other."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torchvision import transforms

from ssl_kd.streams import seed_of


class Torchvision:
    """`ssl_kd.data.Recipe` by torchvision; its options, as far as torchvision has them. Views on the CPU."""

    def __init__(
        self,
        size: int,
        *,
        views: int = 2,
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        rotate: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        jitter: float = 0.8,
        gray: float = 0.0,
        blur: float = 0.0,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.views, self.noise, self.seed = views, noise, seed
        colour = transforms.ColorJitter(brightness, contrast, saturation, hue)
        kernel = 2 * (size // 10 // 2) + 1
        soft = transforms.GaussianBlur(kernel, tuple(blur_sigma)) if kernel > 1 else transforms.Lambda(_same)
        bilinear = transforms.InterpolationMode.BILINEAR
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, tuple(scale), tuple(ratio)),
                transforms.RandomHorizontalFlip(flip),
                transforms.RandomRotation(rotate, bilinear),
                transforms.RandomApply([colour], jitter),
                transforms.RandomGrayscale(gray),
                transforms.RandomApply([soft], blur),
                transforms.ToTensor(),
            ]
        )

    def __call__(self, batch: Mapping[str, Any], index: int) -> dict[str, Any]:
        images = [_pil(image) for image in batch["image"]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "torchvision", index, int(batch["row"][0])))
            views = [torch.stack([self.transform(image) for image in images]) for _ in range(self.views)]
            x = torch.stack(views)
            if self.noise > 0:
                x = (x + self.noise * torch.randn_like(x)).clamp_(0, 1)
        return {**{key: value for key, value in batch.items() if key != "image"}, "views": x}


def _pil(image: torch.Tensor) -> Image.Image:
    array = image.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)


def _same(image: Image.Image) -> Image.Image:
    return image
