"""`python -P -m ssl_kd` is the command `ssl-kd`; without -P, modules are looked for in the current folder."""

import sys

from ssl_kd.system.safe_path import leave_current_folder

leave_current_folder()  # before anything else is imported

from ssl_kd.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
