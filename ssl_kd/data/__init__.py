"""From files to views: sources (which images), loaders (raw batches), recipes (views on the device)."""

from ssl_kd.data.datasets import dataset
from ssl_kd.data.folders import folder
from ssl_kd.data.hub import hub
from ssl_kd.data.loaders import Batches, in_order, resident
from ssl_kd.data.recipes import Fixed, Plain, Recipe, Supervised
from ssl_kd.data.shards import shards
from ssl_kd.data.sources import (
    Arrays,
    Data,
    Encoded,
    Source,
    arrays,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
)

__all__ = [
    "Arrays",
    "Batches",
    "Data",
    "Encoded",
    "Fixed",
    "Plain",
    "Recipe",
    "Source",
    "Supervised",
    "arrays",
    "cifar10",
    "cifar100",
    "dataset",
    "digits",
    "fashion_mnist",
    "folder",
    "hub",
    "in_order",
    "resident",
    "shards",
]
