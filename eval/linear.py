"""python eval/linear.py run=runs/a: linear-probe accuracy of a checkpoint, into runs/a/eval/linear.json."""

import sys

from ssl_kd.cli import script

if __name__ == "__main__":
    sys.exit(script("linear"))
