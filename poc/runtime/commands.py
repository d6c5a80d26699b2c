"""What each word of `poc-runtime` does: its options to one call, the call's result to stdout or an exit status.

A command imports what it needs when it runs: `state` and `kill` are called often, and need little.
"""

from __future__ import annotations

import os
import sys

from poc import _fs
from poc._lean import json
from poc.errors import InvalidArgument, NotFound, PocError
from poc.runtime import state as states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.runtime.create import Created
    from poc.runtime.log import Log


def create(root: str, options: dict[str, Any], arguments: list[str], _: Log) -> int:
    _make(root, options, arguments[0], detach=True)
    return 0


def run(root: str, options: dict[str, Any], arguments: list[str], log: Log) -> int:
    from poc.runtime import console, lifecycle

    id, detach = arguments[0], options.get("detach", False)
    created, terminal = _make(root, options, id, detach)
    try:
        reaping = not (detach or options.get("no-subreaper"))
        if reaping:
            console.be_subreaper()
        lifecycle.start(root, id)
        code = 0 if detach else console.attend(created.process, terminal, reaping)
    except PocError:
        lifecycle.delete(root, id, force=True)
        raise
    if not detach and not options.get("keep"):
        log.warn(lifecycle.delete(root, id, force=True))
    return code


def _make(root: str, options: dict[str, Any], id: str, detach: bool) -> tuple[Created, int | None]:
    """Create, and hand out what the caller asked for. The terminal's master is left when it is for us."""
    from poc.runtime import console, creation, lifecycle, phases

    phases.mark("imports")
    bundle, socket = creation.Bundle(options.get("bundle") or "."), options.get("console-socket", "")
    console.check(bundle.spec["process"].get("terminal", False), detach, socket)
    phases.mark("spec")
    if sockets := _sockets():
        bundle.spec["process"].setdefault("env", []).extend([f"LISTEN_FDS={sockets}", "LISTEN_PID=1"])
    _, created = creation.create(
        root,
        id,
        bundle,
        preserved=_preserved(options),
        keyring=not options.get("no-new-keyring"),
        pivot=not options.get("no-pivot"),
        systemd=options.get("systemd-cgroup", False),
    )
    try:
        terminal = _give_away(created, options, b"standard")
    except BaseException:
        created.leave()
        lifecycle.delete(root, id, force=True)
        raise
    created.leave()
    return created, terminal


def _give_away(created: Created, options: dict[str, Any], kind: bytes) -> int | None:
    from poc.runtime import console

    terminal = created.console
    if terminal is not None and options.get("console-socket"):
        console.hand_over(terminal, b"/dev/ptmx", options["console-socket"])
        os.close(terminal)
        terminal = None
    if path := options.get("pidfd-socket"):
        console.hand_over(created.process.pidfd, kind, path)
    if path := options.get("pid-file"):
        _fs.write_atomic(path, str(created.process.pid))
    return terminal


def _preserved(options: dict[str, Any]) -> int:
    """How many descriptors from 3 on the container keeps: systemd's sockets, and then those asked for."""
    sockets, asked = _sockets(), options.get("preserve-fds", 0)
    for fd in range(3, 3 + sockets + asked):
        try:
            os.set_inheritable(fd, True)
        except OSError:
            if fd >= 3 + sockets:
                raise InvalidArgument(f"--preserve-fds {asked}: descriptor {fd} is not open") from None
    return sockets + int(asked)


def _sockets() -> int:
    """How many descriptors from 3 on are sockets that systemd opened for the container (sd_listen_fds(3))."""
    count, meant = os.environ.get("LISTEN_FDS", ""), os.environ.get("LISTEN_PID")
    return int(count) if count.isdecimal() and meant in (None, str(os.getpid())) else 0


def start(root: str, _: dict[str, Any], arguments: list[str], __: Log) -> int:
    from poc.runtime import lifecycle

    lifecycle.start(root, arguments[0])
    return 0


def state(root: str, _: dict[str, Any], arguments: list[str], __: Log) -> int:
    import json as indenting

    print(indenting.dumps(states.State.load(root, arguments[0]).as_json(), indent=2))
    return 0


def kill(root: str, options: dict[str, Any], arguments: list[str], _: Log) -> int:
    from poc.runtime import lifecycle

    number = signal_number(arguments[1] if len(arguments) > 1 else "TERM")
    lifecycle.kill(root, arguments[0], number, options.get("all", False))
    return 0


def signal_number(text: str) -> int:
    """The number of a signal given as 9, KILL or SIGKILL."""
    import signal

    if text.isascii() and text.isdigit() and 0 <= int(text) < signal.NSIG:
        return int(text)
    number = getattr(signal, f"SIG{text.upper().removeprefix('SIG')}", None)
    if isinstance(number, signal.Signals):
        return int(number)
    raise InvalidArgument(f"unknown signal {text!r}")


def delete(root: str, options: dict[str, Any], arguments: list[str], log: Log) -> int:
    from poc.runtime import lifecycle

    log.warn(lifecycle.delete(root, arguments[0], options.get("force", False)))
    return 0


def list_all(root: str, options: dict[str, Any], _: list[str], __: Log) -> int:
    shown = [state.as_json() for state in states.all_of(root)]
    form = _format(options)
    if options.get("quiet"):
        sys.stdout.write("".join(f"{entry['id']}\n" for entry in shown))
    elif form == "json":
        print(json.dumps(shown))
    else:
        columns = ("id", "pid", "status", "bundle", "created")
        rows = [["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]]
        rows += [[*(str(entry[column]) for column in columns), "root"] for entry in shown]
        _print_table(rows)
    return 0


def _format(options: dict[str, Any]) -> str:
    form: str = options.get("format", "table")
    if form not in ("table", "json"):
        raise InvalidArgument(f"--format {form!r}: it is table or json")
    return form


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(11, *map(len, column)) + 1 for column in zip(*rows, strict=True)]
    for row in rows:
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def processes(root: str, options: dict[str, Any], arguments: list[str], _: Log) -> int:
    from poc.runtime import lifecycle, report

    pids = lifecycle.processes(root, arguments[0])
    if _format(options) == "json":
        print(json.dumps(pids))
        return 0
    titles, rows = report.list_processes(pids, arguments[1:] or ["-ef"])
    _print_table([titles, *rows])
    return 0


def pause(root: str, _: dict[str, Any], arguments: list[str], __: Log) -> int:
    from poc.runtime import lifecycle

    lifecycle.pause(root, arguments[0])
    return 0


def resume(root: str, _: dict[str, Any], arguments: list[str], __: Log) -> int:
    from poc.runtime import lifecycle

    lifecycle.resume(root, arguments[0])
    return 0


# Options of update: where in linux.resources their value goes.
UPDATE = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-burst": ("cpu", "burst"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "cpuset-cpus": ("cpu", "cpus"),
    "cpuset-mems": ("cpu", "mems"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}


def update(root: str, options: dict[str, Any], arguments: list[str], _: Log) -> int:
    from poc.oci import validate
    from poc.runtime import lifecycle

    resources: Any = {}
    if source := options.get("resources"):
        data = sys.stdin.buffer.read() if source == "-" else _fs.read_bytes(source)
        resources = validate.parse(data, "standard input" if source == "-" else source)
    else:
        for name, (controller, key) in UPDATE.items():
            if name in options:
                resources.setdefault(controller, {})[key] = options[name]
    schemata = (options.get("l3-cache-schema", ""), options.get("mem-bw-schema", ""))
    lifecycle.update(root, arguments[0], validate.check_resources(resources), [line for line in schemata if line])
    return 0


def execute(root: str, options: dict[str, Any], arguments: list[str], _: Log) -> int:
    from poc.runtime import console
    from poc.runtime.joining import join

    process = _process(root, options, arguments)
    detach, socket = options.get("detach", False), options.get("console-socket", "")
    console.check(process.get("terminal", False), detach, socket)
    created = join(
        root,
        arguments[0],
        process,
        ignore_paused=options.get("ignore-paused", False),
        preserved=_preserved(options),
        below=_below(options.get("cgroup", ())),
    )
    try:
        terminal = _give_away(created, options, b"setns")
        created.start()
    except BaseException:
        created.process.kill()
        created.process.wait()
        raise
    return 0 if detach else console.attend(created.process, terminal)


def _below(words: list[str]) -> dict[str, str]:
    """--cgroup: PATH for all hierarchies, or CONTROLLER[,CONTROLLER…]:PATH, the latter more than once."""
    below: dict[str, str] = {}
    for word in words:
        controllers, colon, path = word.rpartition(":")
        if not colon and len(words) > 1:
            raise InvalidArgument(f"--cgroup {word}: more than one of them takes CONTROLLER:PATH")
        for controller in controllers.split(","):
            if colon and (not controller or controller in below):
                raise InvalidArgument(f"--cgroup {word}: a controller is empty, or comes twice")
            below[controller] = path
    return below


def _process(root: str, options: dict[str, Any], arguments: list[str]) -> Any:
    """The process of --process, or the container's own with what the options change."""
    from poc.oci import validate
    from poc.runtime.creation import complete_process

    if file := options.get("process"):
        process: Any = validate.check_process(validate.read(file))
    else:
        if len(arguments) < 2:
            raise InvalidArgument("exec takes a command, or --process")
        process = validate.check(states.State.load(root, arguments[0]).spec())["process"]
        _change_process(process, options, arguments[1:])
        validate.check_process(process)
    complete_process(process)
    return process


def _change_process(process: Any, options: dict[str, Any], command: list[str]) -> None:
    process.update(args=command, terminal=options.get("tty", False))
    process["cwd"] = options.get("cwd") or process["cwd"]
    process.setdefault("env", []).extend(options.get("env", ()))
    user = process.setdefault("user", {})
    if "user" in options:
        uid, colon, gid = options["user"].partition(":")
        user["uid"] = _number("--user", uid)
        if colon:
            user["gid"] = _number("--user", gid)
    user.setdefault("additionalGids", []).extend(
        _number("--additional-gids", gid) for gid in options.get("additional-gids", ())
    )
    process["apparmorProfile"] = options.get("apparmor") or process.get("apparmorProfile", "")
    process["selinuxLabel"] = options.get("process-label") or process.get("selinuxLabel", "")
    if "no-new-privs" in options:
        process["noNewPrivileges"] = options["no-new-privs"]
    capabilities = process.setdefault("capabilities", {})
    kinds = ["bounding", "effective", "permitted", *(["ambient"] if capabilities.get("inheritable") else [])]
    for name in kinds:
        capabilities.setdefault(name, []).extend(options.get("cap", ()))


def _number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidArgument(f"{option} {text!r} is no number")
    return int(text)


def events(root: str, options: dict[str, Any], arguments: list[str], _: Log) -> int:
    from poc.runtime import report

    interval = report.seconds("--interval", options.get("interval", "5s"))
    container = states.State.load(root, arguments[0])
    if container.status() == states.STOPPED:
        raise NotFound(f"container not running: {container.id}")
    if options.get("stats"):
        print(json.dumps(report.reading(container)))
        return 0
    for event in report.watch(container, interval):
        print(json.dumps(event), flush=True)
    return 0


def features(_: str, __: dict[str, Any], ___: list[str], ____: Log) -> int:
    import json as indenting

    from poc.runtime import report

    print(indenting.dumps(report.features(), indent=4))
    return 0


def specification(_: str, options: dict[str, Any], __: list[str], ___: Log) -> int:
    from poc.runtime import report

    path = os.path.join(options.get("bundle") or ".", "config.json")
    import json as indenting

    text = indenting.dumps(report.example(options.get("rootless", False)), indent="\t")
    try:
        _fs.write_new(path, text)
    except FileExistsError:
        raise InvalidArgument(f"{path} is there already; remove it first") from None
    return 0
