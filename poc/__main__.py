"""`poc`, the command: `python -m poc` and the installed entry point both come here."""

from __future__ import annotations

import sys

from poc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
