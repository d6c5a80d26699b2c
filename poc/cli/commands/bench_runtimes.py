"""`poc bench runtimes`: those that can be compared, with their version or why they are not here."""

from __future__ import annotations

from poc.cli.commands.bench import RUNTIME_PATH
from poc.cli.output import FORMAT, show
from poc.cli.parse import Args, Command

COMMAND = Command(
    example="poc bench runtimes --runtime-path gvisor=/usr/local/bin/runsc", options=(RUNTIME_PATH, FORMAT)
)
COLUMNS = (("RUNTIME", "Name"), ("VERSION", "Version"), ("WHY NOT", "Reason"))


def run(args: Args) -> int:
    from poc.bench import config, machine, runtimes

    found = runtimes.known(config.paths(args.runtime_path))
    machine.go_apart_for(found)
    reasons = [runtime.absent() for runtime in found]
    rows = [
        {"Name": runtime.name, "Version": "" if reason else runtime.version(), "Reason": reason}
        for runtime, reason in zip(found, reasons, strict=True)
    ]
    show(rows, COLUMNS, args.format)
    return 0
