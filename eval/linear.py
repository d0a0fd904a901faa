"""python eval/linear.py run=runs/a: linear-probe accuracy of a checkpoint, into runs/a/eval/linear.json."""

import sys

from ssl_kd.cli import probe
from ssl_kd.errors import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda words: probe("linear", words), sys.argv[1:]))
