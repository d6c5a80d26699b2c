"""The options that `run` and `create` share, and what they become: keywords of `engine.containers.create`.

Values go on as they were typed; `poc.engine` reads the units and refuses what can't be used, so that the library
and the command line have the same checks. Only what concerns the caller's side is done here: files of variables and
labels, the file for the id, and the image when it is not there.
"""

from __future__ import annotations

import os

from poc.cli.parse import FLAG, LIST, VALUE, Option
from poc.errors import ImageNotFound, InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from poc.cli.parse import Args
    from poc.engine import Engine
    from poc.engine.container import Container

# The key of each is the library's keyword.
ENGINE_OPTIONS = (
    Option("--name", VALUE, "Name of the container (default: one is made up)"),
    Option("--rm", FLAG, "Remove the container when it stops", key="remove"),
    Option("-i --interactive", FLAG, "Keep stdin open, also when nothing is attached to it", key="stdin_open"),
    Option("-t --tty", FLAG, "Give the command a terminal"),
    Option("--init", FLAG, "Run an init as pid 1, which reaps processes and passes signals on"),
    Option(
        "--runtime",
        VALUE,
        "OCI runtime: poc (the default), a path, a name of /etc/poc/config.toml, or a program in PATH, such as runc",
        metavar="RUNTIME",
    ),
    Option("--entrypoint", VALUE, "Command to run in place of the image's entrypoint", metavar="COMMAND"),
    Option("-w --workdir", VALUE, "Working directory", key="working_dir", metavar="DIR"),
    Option("-u --user", VALUE, "Name or uid to run as", metavar="USER[:GROUP]"),
    Option("-h --hostname", VALUE, "Host name of the container (default: its id)", metavar="NAME"),
    Option(
        "--restart",
        VALUE,
        "Start it again when it ends: no (the default), on-failure[:MOST], always or unless-stopped",
        key="restart_policy",
        metavar="POLICY",
        complete=("no", "on-failure", "always", "unless-stopped"),
    ),
    Option("--stop-signal", VALUE, "Signal that `stop` sends first (default: TERM)", metavar="SIGNAL"),
    Option("--stop-timeout", VALUE, "Seconds until `stop` sends KILL (default: 10)", metavar="SECONDS"),
    Option(
        "--log-driver",
        VALUE,
        "Where its output is kept: json-file (the default), journald, syslog or none",
        metavar="DRIVER",
        complete=("json-file", "journald", "syslog", "none"),
    ),
    Option(
        "--log-opt",
        LIST,
        "Option of the log driver: max-size=10m, max-file=3, compress=true, labels=KEY,KEY, env=NAME,NAME, tag=TEXT;"
        " syslog-address=udp://HOST:PORT, syslog-facility=NAME, syslog-format=rfc5424",
        key="log_opts",
        metavar="KEY=VALUE",
    ),
    # Files
    Option(
        "-v --volume",
        LIST,
        "Mount a directory or file of the host, a volume by its name, or, with a target alone, a new volume."
        " Options: ro, rw, nocopy, rprivate, rshared, rslave and the like",
        key="volumes",
        metavar="[SOURCE:]TARGET[:OPTIONS]",
        complete="file",
    ),
    Option(
        "--mount",
        LIST,
        "The same in pairs: type=bind|volume|tmpfs, source, target, readonly, bind-propagation, bind-recursive,"
        " volume-nocopy, volume-subpath, volume-label, volume-opt, tmpfs-size, tmpfs-mode",
        key="mounts",
        metavar="KEY=VALUE,...",
    ),
    Option(
        "--volumes-from",
        LIST,
        "Mount what another container has mounted",
        metavar="CONTAINER[:ro]",
        complete="container",
    ),
    Option("--tmpfs", LIST, "Mount a tmpfs", metavar="TARGET[:OPTIONS]"),
    Option("--read-only", FLAG, "Make the root file system read-only"),
    Option("--storage-opt", LIST, "size=SIZE: give the container a disk of this size of its own", metavar="KEY=VALUE"),
    Option("--shm-size", VALUE, "Size of /dev/shm (default: 64m)", metavar="SIZE"),
    # Isolation
    Option(
        "--network --net",
        VALUE,
        "bridge (the default), internal (the bridge without the outside), none, host, or container:NAME",
        metavar="MODE",
        complete=("bridge", "internal", "none", "host"),
    ),
    Option("--add-host", LIST, "Add a line to /etc/hosts", key="extra_hosts", metavar="NAME:ADDRESS"),
    Option("--dns", LIST, "Name server in place of the host's", metavar="ADDRESS"),
    Option("--dns-search", LIST, "Domain to look names up in, in place of the host's; . for none", metavar="DOMAIN"),
    Option("--dns-option --dns-opt", LIST, "Option for /etc/resolv.conf", key="dns_opt", metavar="OPTION"),
    Option("--domainname", VALUE, "NIS domain name of the container", metavar="NAME"),
    Option("--mac-address", VALUE, "MAC address of its interface on the bridge", metavar="MAC"),
    Option("--expose", LIST, "Note a port, or a range, that the container listens on", metavar="PORT[-PORT][/udp]"),
    Option("--privileged", FLAG, "All capabilities and devices, nothing masked: no protection of the host"),
    Option("--cap-add", LIST, "Add a Linux capability, or ALL", metavar="CAPABILITY"),
    Option("--cap-drop", LIST, "Drop a Linux capability, or ALL", metavar="CAPABILITY"),
    Option(
        "--security-opt",
        LIST,
        "no-new-privileges, seccomp=FILE|builtin|unconfined, apparmor=PROFILE, label=disable, systempaths=unconfined",
        metavar="OPTION",
    ),
    Option("--pid", VALUE, "Use the processes of the host, or of container:NAME", key="pid_mode", metavar="MODE"),
    Option(
        "--ipc",
        VALUE,
        "private (the default), shareable, none (no /dev/shm), host, or container:NAME, which must be shareable",
        key="ipc_mode",
        metavar="MODE",
        complete=("private", "shareable", "none", "host"),
    ),
    Option("--uts", VALUE, "host: use its host name", key="uts_mode", metavar="MODE", complete=("host",)),
    Option("--cgroupns", VALUE, "private (the default), or host", metavar="MODE", complete=("private", "host")),
    Option("--userns", VALUE, "host, the only one there is", key="userns_mode", metavar="MODE", complete=("host",)),
    Option("--group-add", LIST, "Another group to belong to", metavar="GROUP"),
    Option("--sysctl", LIST, "Kernel setting of the container's own", key="sysctls", metavar="NAME=VALUE"),
    Option(
        "--device",
        LIST,
        "Give the container a device of the host, or all in a directory",
        key="devices",
        metavar="HOST[:CONTAINER][:rwm]",
        complete="file",
    ),
    Option("--device-cgroup-rule", LIST, "Allow devices by number", key="device_cgroup_rules", metavar="'c 42:* rwm'"),
    Option("--platform", VALUE, "linux/ARCHITECTURE, which must be the host's", metavar="PLATFORM"),
    Option("--annotation", LIST, "Note for the OCI runtime", key="annotations", metavar="KEY=VALUE"),
    # Limits
    Option("--ulimit", LIST, "Limit of each process, such as nofile", key="ulimits", metavar="NAME=SOFT[:HARD]"),
    Option("--kernel-memory", VALUE, "Deprecated, and refused: Linux no longer has this limit", metavar="SIZE"),
    Option("--oom-score-adj", VALUE, "Preference for the kernel to kill it, -1000 to 1000", metavar="NUMBER"),
    Option("--cgroup-parent", VALUE, "Cgroup below which the container's is made", metavar="PATH"),
    Option("--cpus", VALUE, "CPU time, in CPUs", metavar="NUMBER"),
    Option("--cpu-quota", VALUE, "CPU time per period", metavar="MICROSECONDS"),
    Option("--cpu-period", VALUE, "Length of the period for --cpu-quota (default: 100000)", metavar="MICROSECONDS"),
    Option(
        "-c --cpu-shares", VALUE, "Weight against others that compete for the CPUs (default: 1024)", metavar="WEIGHT"
    ),
    Option("--cpu-rt-period", VALUE, "Length of the real-time period (cgroup v1)", metavar="MICROSECONDS"),
    Option("--cpu-rt-runtime", VALUE, "Real-time CPU time per period (cgroup v1)", metavar="MICROSECONDS"),
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
    Option(
        "--memory-swappiness",
        VALUE,
        "How readily its memory is swapped, 0 to 100 (cgroup v1)",
        key="mem_swappiness",
        metavar="NUMBER",
    ),
    Option("--oom-kill-disable", FLAG, "Let processes wait for memory instead of killing one (cgroup v1 only)"),
    Option("--pids-limit", VALUE, "Number of processes and threads; -1 or 0: no limit", metavar="NUMBER"),
    Option("--blkio-weight", VALUE, "Weight of block I/O, 10 to 1000", metavar="WEIGHT"),
    Option("--blkio-weight-device", LIST, "Weight of block I/O on a device", metavar="DEVICE:WEIGHT"),
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
    Option("--health-cmd", VALUE, "Shell command whose exit code tells whether it is healthy", metavar="COMMAND"),
    Option("--health-interval", VALUE, "Time between two checks (default: 30s)", metavar="DURATION"),
    Option("--health-timeout", VALUE, "Time that a check may take (default: 30s)", metavar="DURATION"),
    Option("--health-retries", VALUE, "Failures in a row until it counts as unhealthy (default: 3)", metavar="NUMBER"),
    Option(
        "--health-start-period",
        VALUE,
        "Time after the start in which failures don't count (default: 0s)",
        metavar="DURATION",
    ),
    Option("--no-healthcheck", FLAG, "Do not do the image's health checks"),
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
    Option("-q --quiet", FLAG, "Say nothing of the image's making"),
    Option("--gpus", VALUE, "Refused: GPUs can't be handed over yet", metavar="GPUS"),
)

CONTAINER_OPTIONS = (*ENGINE_OPTIONS, *CALLER_OPTIONS)


def create(engine: Engine, args: Args, hold: bool = False) -> Container:
    """The container that the command line describes, not started. Writes the file for its id.

    ``hold`` as for `Containers.create`.
    """
    if args.gpus is not None:
        raise Unsupported("--gpus: GPUs can't be handed over; give the container their devices with --device")
    image, *command = args.arguments
    keywords = {**engine_keywords(args), "hold": hold}
    if hold and args.detach:
        keywords["stdin_once"] = False  # it is for who attaches later
    if args.cidfile is None:
        return _create(engine, image, command, keywords, args)
    try:
        fd = os.open(args.cidfile, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise InvalidArgument(f"--cidfile: {args.cidfile} exists; is another container using it?") from None
    try:
        container = _create(engine, image, command, keywords, args)
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
    if environment := read_environment(args):
        keywords["environment"] = environment
    if healthcheck := _healthcheck(args):
        keywords["healthcheck"] = healthcheck
    if args.label or args.label_file:
        keywords["labels"] = [*(line for path in args.label_file for line in read_lines(path)), *args.label]
    return keywords


def _healthcheck(args: Args) -> dict[str, Any]:
    wishes = {
        "test": args.health_cmd,
        "interval": args.health_interval,
        "timeout": args.health_timeout,
        "start_period": args.health_start_period,
        "retries": args.health_retries,
    }
    given = {name: value for name, value in wishes.items() if value}
    if args.no_healthcheck and given:
        raise InvalidArgument("--no-healthcheck conflicts with --health-* options")
    return {"test": ["NONE"]} if args.no_healthcheck else given


def read_environment(args: Args) -> list[str]:
    """What --env-file and --env say, the latter last."""
    return [*(line for path in args.env_file for line in read_lines(path)), *args.env]


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


def _create(engine: Engine, image: str, command: list[str], keywords: dict[str, Any], args: Args) -> Container:
    if args.pull == "always":
        raise Unsupported("--pull always: poc does not fetch images from a registry yet")
    if args.pull not in (None, "missing", "never"):
        raise InvalidArgument(f"--pull: {args.pull!r} is none of 'always', 'missing' and 'never'")
    try:
        return engine.containers.create(image, command, **keywords)
    except ImageNotFound:
        if args.pull == "never" or image not in ("ubuntu", "ubuntu:latest"):
            raise
    _make_ubuntu(engine, args.quiet)
    return engine.containers.create(image, command, **keywords)


def _make_ubuntu(engine: Engine, quiet: bool) -> None:
    if quiet:
        engine.images.make_base()
        return
    import sys

    from poc.cli.progress import progress

    print("Unable to find image 'ubuntu' locally; making it, as poc init does", file=sys.stderr)
    with progress() as report:
        image = engine.images.make_base(progress=report)
    if image.note:
        print(image.note, file=sys.stderr)
