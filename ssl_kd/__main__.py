"""`python -m ssl_kd` is the command `ssl-kd`."""

import sys

from ssl_kd.cli import main

sys.exit(main())
