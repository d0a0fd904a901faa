"""python eval/export.py run=runs/a peer=small: the network to deploy."""

import sys

from ssl_kd.cli import script

if __name__ == "__main__":
    sys.exit(script("export"))
