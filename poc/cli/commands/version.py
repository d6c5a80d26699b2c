"""`poc version`: poc's version, and that of the Python and the kernel under it."""

from __future__ import annotations

from poc.cli.parse import FLAG, VALUE, Args, Command, Option

COMMAND = Command(
    root=False,
    example="poc version --format '{{.Server.Version}}'",
    options=(
        Option("--short", FLAG, "One line, with poc's version alone"),
        Option(
            "-f --format",
            VALUE,
            "json, or a Go template such as '{{.Server.Arch}}'",
            metavar="FORMAT",
            complete=("json",),
        ),
    ),
)


def run(args: Args) -> int:
    if args.short:
        from poc import __version__

        print(f"poc version {__version__}")
        return 0
    from poc.engine.system import version

    found = version()
    if args.format:
        from poc.cli.output import show_object

        show_object(found, args.format)
        return 0
    server = found["Server"]
    print(f"poc     {server['Version']}")
    print(f"Python  {server['PythonVersion']}")
    print(f"Linux   {server['KernelVersion']} {server['Arch']}")
    return 0
