"""python eval/report.py run=runs/a: everything about a run as one HTML file, runs/a/report.html."""

import sys

from ssl_kd.cli import script

if __name__ == "__main__":
    sys.exit(script("report"))
