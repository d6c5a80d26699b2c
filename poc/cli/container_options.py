"""The options that `run` and `create` share, and what they become: keywords of `engine.containers.create`.

Values go on as they were typed; `poc.engine` reads the units and refuses what can't be used, so that the library
and the command line have the same checks. Only what concerns the caller's side is done here: files of variables and
labels, the file for the id, and the image when it is not there.
"""

from __future__ import annotations

import os

from poc.cli.parse import FLAG, LIST, VALUE, Option
from poc.errors import ImageNotFound, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from poc.cli.parse import Args
    from poc.engine import Engine
    from poc.engine.containers import Container

# The key of each is the library's keyword.
ENGINE_OPTIONS = (
    Option("--name", VALUE, "Name of the container (default: one is made up)"),
    Option("--rm", FLAG, "Remove the container when it stops", key="remove"),
    Option("-i --interactive", FLAG, "Keep stdin open, also when nothing is attached to it", key="stdin_open"),
    Option("-t --tty", FLAG, "Give the command a terminal"),
    Option("--init", FLAG, "Run an init as pid 1, which reaps processes and passes signals on"),
    Option("--entrypoint", VALUE, "Command to run in place of the image's entrypoint", metavar="COMMAND"),
    Option("-w --workdir", VALUE, "Working directory", key="working_dir", metavar="DIR"),
    Option("-u --user", VALUE, "Name or uid to run as", metavar="USER[:GROUP]"),
    Option("-h --hostname", VALUE, "Host name of the container (default: its id)", metavar="NAME"),
    Option("--stop-signal", VALUE, "Signal that `stop` sends first (default: TERM)", metavar="SIGNAL"),
    Option("--stop-timeout", VALUE, "Seconds until `stop` sends KILL (default: 10)", metavar="SECONDS"),
    # Files
    Option(
        "-v --volume",
        LIST,
        "Mount a directory or a file of the host; may be repeated",
        key="volumes",
        metavar="SOURCE:TARGET[:ro]",
        complete="file",
    ),
    Option("--tmpfs", LIST, "Mount a tmpfs", metavar="TARGET[:OPTIONS]"),
    Option("--read-only", FLAG, "Make the root file system read-only"),
    Option("--storage-opt", LIST, "size=SIZE: give the container a disk of this size of its own", metavar="KEY=VALUE"),
    Option("--shm-size", VALUE, "Size of /dev/shm (default: 64m)", metavar="SIZE"),
    # Isolation
    Option(
        "--network --net",
        VALUE,
        "bridge (the default), internal (the bridge without the outside), none or host",
        metavar="MODE",
        complete=("bridge", "internal", "none", "host"),
    ),
    Option("--privileged", FLAG, "All capabilities and devices, nothing masked: no protection of the host"),
    Option("--cap-add", LIST, "Add a Linux capability, or ALL", metavar="CAPABILITY"),
    Option("--cap-drop", LIST, "Drop a Linux capability, or ALL", metavar="CAPABILITY"),
    # Limits
    Option("--cpus", VALUE, "CPU time, in CPUs", metavar="NUMBER"),
    Option("--cpu-quota", VALUE, "CPU time per period", metavar="MICROSECONDS"),
    Option("--cpu-period", VALUE, "Length of the period for --cpu-quota (default: 100000)", metavar="MICROSECONDS"),
    Option(
        "-c --cpu-shares", VALUE, "Weight against others that compete for the CPUs (default: 1024)", metavar="WEIGHT"
    ),
    Option("--cpuset-cpus", VALUE, "CPUs to run on, such as 0-3 or 0,1", metavar="CPUS"),
    Option("--cpuset-mems", VALUE, "Memory nodes to use, such as 0-3 or 0,1", metavar="NODES"),
    Option("-m --memory", VALUE, "Memory limit, such as 512m", key="mem_limit", metavar="SIZE"),
    Option(
        "--memory-swap",
        VALUE,
        "Limit of memory and swap together; -1: swap without limit",
        key="memswap_limit",
        metavar="SIZE",
    ),
    Option("--memory-reservation", VALUE, "Memory kept under global pressure", key="mem_reservation", metavar="SIZE"),
    Option("--oom-kill-disable", FLAG, "Let processes wait for memory instead of killing one (cgroup v1 only)"),
    Option("--pids-limit", VALUE, "Number of processes and threads; -1 or 0: no limit", metavar="NUMBER"),
    Option("--blkio-weight", VALUE, "Weight of block I/O, 10 to 1000", metavar="WEIGHT"),
    Option("--device-read-bps", LIST, "Limit reading from a device", metavar="DEVICE:BYTES"),
    Option(
        "--device-write-bps",
        LIST,
        "Limit writing to a device, bytes a second. On cgroup v1 the kernel throttles direct I/O only:"
        " buffered writes are carried out later by a kernel thread and escape this limit (on v2 they do not)",
        metavar="DEVICE:BYTES",
    ),
    Option("--device-read-iops", LIST, "Limit reads from a device per second", metavar="DEVICE:NUMBER"),
    Option(
        "--device-write-iops",
        LIST,
        "Limit writes to a device per second; on cgroup v1 of direct I/O only",
        metavar="DEVICE:NUMBER",
    ),
)

# The key of each is this module's.
CALLER_OPTIONS = (
    Option("-e --env", LIST, "Set a variable; NAME alone takes the caller's value", metavar="NAME[=VALUE]"),
    Option("--env-file", LIST, "Read variables from a file, one a line", metavar="FILE", complete="file"),
    Option("-l --label", LIST, "Set a label", metavar="KEY[=VALUE]"),
    Option("--label-file", LIST, "Read labels from a file, one a line", metavar="FILE", complete="file"),
    Option("--cidfile", VALUE, "Write the container's id to this file, which must not exist", metavar="FILE"),
    Option(
        "--pull",
        VALUE,
        "When to make the image: missing (the default) or never",
        metavar="WHEN",
        complete=("missing", "never"),
    ),
)

CONTAINER_OPTIONS = (*ENGINE_OPTIONS, *CALLER_OPTIONS)


def create(engine: Engine, args: Args, hold: bool = False) -> Container:
    """The container that the command line describes, not started. Writes the file for its id.

    ``hold`` as for `Containers.create`.
    """
    image, *command = args.arguments
    keywords = {**engine_keywords(args), "hold": hold}
    if args.cidfile is None:
        return _create(engine, image, command, keywords, args.pull)
    try:
        fd = os.open(args.cidfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise InvalidArgument(f"--cidfile: {args.cidfile} exists; is another container using it?") from None
    try:
        container = _create(engine, image, command, keywords, args.pull)
        try:
            os.write(fd, container.id.encode())
        except OSError:
            container.remove()
            raise
    except BaseException:
        os.unlink(args.cidfile)
        raise
    finally:
        os.close(fd)
    return container


def engine_keywords(args: Args) -> dict[str, Any]:
    """The options that were given, as keywords of the library; it knows the defaults of the others."""
    keywords = {
        option.key: value for option in ENGINE_OPTIONS if (value := getattr(args, option.key)) is not option.default
    }
    if args.env or args.env_file:
        lines = [line for path in args.env_file for line in read_lines(path)]
        keywords["environment"] = [*lines, *args.env]
    if args.label or args.label_file:
        keywords["labels"] = [*(line for path in args.label_file for line in read_lines(path)), *args.label]
    return keywords


def read_lines(path: str) -> Iterator[str]:
    """The lines of a file of variables or labels: NAME=VALUE or NAME, no quotes, `#` begins a comment line.

    Raises InvalidArgument for a name with blanks in it, as docker does, and OSError.
    """
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as file:
        for number, line in enumerate(file, 1):
            line = line.rstrip("\r\n").lstrip()
            if not line or line.startswith("#"):
                continue
            name = line.partition("=")[0]
            if not name or name != "".join(name.split()):
                raise InvalidArgument(f"{path}, line {number}: {name!r} can't be a name")
            yield line


def _create(engine: Engine, image: str, command: list[str], keywords: dict[str, Any], pull: str | None) -> Container:
    if pull not in (None, "missing", "never"):
        raise InvalidArgument(f"--pull: {pull!r} is neither 'missing' nor 'never'")
    try:
        return engine.containers.create(image, command, **keywords)
    except ImageNotFound:
        if pull == "never" or image not in ("ubuntu", "ubuntu:latest"):
            raise
    _make_ubuntu(engine)
    return engine.containers.create(image, command, **keywords)


def _make_ubuntu(engine: Engine) -> None:
    import sys

    from poc.cli.output import progress

    with progress() as report:
        image = engine.images.make_base(progress=report)
    if image.note:
        print(image.note, file=sys.stderr)
