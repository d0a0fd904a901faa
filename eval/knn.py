"""python eval/knn.py run=runs/a: k-nearest-neighbour accuracy of a checkpoint, into runs/a/eval/knn.json."""

import sys

from ssl_kd.cli import probe
from ssl_kd.errors import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda words: probe("knn", words), sys.argv[1:]))
