"""Did the peers help? Groups of finished runs against each other, paired by seed."""

from ssl_kd.compare.command import main, plain
from ssl_kd.compare.differences import Comparison, Difference, compare
from ssl_kd.compare.groups import Group
from ssl_kd.compare.runs import Entry
from ssl_kd.compare.scores import scored, scores
from ssl_kd.compare.words import conclusion, label, points, table

__all__ = [
    "Comparison",
    "Difference",
    "Entry",
    "Group",
    "compare",
    "conclusion",
    "label",
    "main",
    "plain",
    "points",
    "scored",
    "scores",
    "table",
]
