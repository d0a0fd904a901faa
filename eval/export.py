"""python eval/export.py run=runs/a peer=small: the network to deploy."""

import sys

from ssl_kd.cli import main
from ssl_kd.errors import guarded

if __name__ == "__main__":
    sys.exit(guarded(lambda words: main(["export", *words]), sys.argv[1:]))
