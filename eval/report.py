"""python eval/report.py run=runs/a: everything about a run as one HTML file, runs/a/report.html."""

import sys

from ssl_kd.errors import guarded
from ssl_kd.report import main

if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
