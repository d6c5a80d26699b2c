"""`poc version`: poc's version, and that of the Python and the kernel under it."""

from __future__ import annotations

import os
import sys

from poc import __version__
from poc.cli.parse import FLAG, Args, Command, Option

COMMAND = Command(
    root=False,
    example="poc version",
    options=(Option("--short", FLAG, "One line, with poc's version alone"),),
)


def run(args: Args) -> int:
    if args.short:
        print(f"poc version {__version__}")
        return 0
    host = os.uname()
    print(f"poc     {__version__}")
    print(f"Python  {sys.version.split()[0]}")
    print(f"Linux   {host.release} {host.machine}")
    return 0
