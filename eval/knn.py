"""python eval/knn.py run=runs/a: k-nearest-neighbour accuracy of a checkpoint, into runs/a/eval/knn.json."""

import sys

from ssl_kd.cli import script

if __name__ == "__main__":
    sys.exit(script("knn"))
