"""`poc system doctor`: what this host offers, what stops working for want of the rest, and how to mend it."""

from __future__ import annotations

import sys

from poc.cli.output import FORMAT, paint, show
from poc.cli.parse import Args, Command
from poc.engine import Engine
from poc.engine.doctor import failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.engine.doctor import Finding

COMMAND = Command(example="poc system doctor --format json", options=(FORMAT,))
COLUMNS = (("NAME", "Name"), ("OK", "Ok"), ("DETAIL", "Detail"), ("EFFECT", "Effect"), ("REMEDY", "Remedy"))
_GREEN, _RED = "32", "31"


def run(args: Args) -> int:
    findings = Engine(args.root).doctor()
    if args.format:
        rows = [finding.as_dict() for finding in findings]
        show([{**row, "Ok": str(row["Ok"])} for row in rows] if args.format == "table" else rows, COLUMNS, args.format)
    else:
        for finding in findings:
            _print(finding)
    return 1 if failed(findings) else 0


def _print(finding: Finding) -> None:
    word = paint("ok   ", _GREEN, sys.stdout) if finding.ok else paint("lacks", _RED, sys.stdout)
    print(f"{word}  {finding.name}: {finding.detail}")
    if not finding.ok:
        print(f"       stops working: {finding.effect}")
        print(f"       to mend it:    {finding.remedy}")
