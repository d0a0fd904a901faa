"""python eval/compare.py runs/solo-* runs/pair-*: did the peers help? Into runs/comparison.json."""

import sys

from ssl_kd.cli import script

if __name__ == "__main__":
    sys.exit(script("compare"))
