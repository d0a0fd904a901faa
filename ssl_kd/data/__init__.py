"""From files to views: sources (which images), loaders (raw batches), recipes (views on the device)."""

from ssl_kd.data.loaders import Batches, in_order, resident
from ssl_kd.data.recipes import Plain, Recipe, Supervised
from ssl_kd.data.sources import (
    Arrays,
    Data,
    FolderSource,
    Source,
    arrays,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    folder,
)

__all__ = [
    "Arrays",
    "Batches",
    "Data",
    "FolderSource",
    "Plain",
    "Recipe",
    "Source",
    "Supervised",
    "arrays",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "folder",
    "in_order",
    "resident",
]
