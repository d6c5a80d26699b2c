"""`poc`, the command: ``python -m poc``, scripts/poc and the installed entry point all come here."""

from __future__ import annotations

import gc
import os

gc.set_threshold(100_000)  # imports alone would set it off a dozen times, for 1 ms in all

from poc.cli import main as front  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and end the process, without taking the interpreter down: that would take 5 ms."""
    code = front.main()
    front.flush_output()
    os._exit(code)


if __name__ == "__main__":
    main()
