"""`poc bench compare`: is the second better or worse than the first?"""

from __future__ import annotations

from poc.cli.parse import Args, Command

COMMAND = Command(
    arguments="OLD.json NEW.json",
    complete="file",
    example="poc bench compare before.json after.json",
    root=False,
)


def run(args: Args) -> int:
    """Ends with 1 when something is worse by more than the noise."""
    from poc.bench import report
    from poc.bench.results import Results

    found = report.regressions(*map(Results.load, args.arguments))
    for line, worse in found:
        print(f"WORSE  {line}" if worse else f"       {line}")
    return int(any(worse for _, worse in found))
