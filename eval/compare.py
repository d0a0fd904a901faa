"""python eval/compare.py runs/solo-* runs/pair-*: did the peers help? Into runs/comparison.json."""

import sys

from ssl_kd.compare import main
from ssl_kd.errors import guarded

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
