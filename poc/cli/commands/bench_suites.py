"""`poc bench suites`: what can be measured, and the programs that it needs."""

from __future__ import annotations

from poc.cli.output import FORMAT, show
from poc.cli.parse import Args, Command

COMMAND = Command(example="poc bench suites", options=(FORMAT,), root=False)
COLUMNS = (("SUITE", "Name"), ("WHAT IT MEASURES", "Title"), ("NEEDS", "Needs"))


def run(args: Args) -> int:
    from poc.bench.suites import SUITES

    needed = {suite.name: dict.fromkeys((*suite.programs, *suite.host_programs)) for suite in SUITES}
    rows = [{"Name": suite.name, "Title": suite.title, "Needs": ", ".join(needed[suite.name])} for suite in SUITES]
    show(rows, COLUMNS, args.format)
    return 0
