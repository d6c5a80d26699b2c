"""`poc-runtime`: an OCI runtime with runc's command line, for engines and people. Its words are in `_COMMANDS`.

Errors are one line on stderr and, with ``--log``, one in that file; the exit status is 1, or 255 for `exec`.
"""

from __future__ import annotations

import gc
import os
import sys
import time

gc.set_threshold(100_000)  # imports alone would set it off a dozen times, for 1 ms in all

from poc.errors import InvalidArgument, PocError, Unsupported  # noqa: E402
from poc.runtime import phases  # noqa: E402
from poc.runtime.log import Log  # noqa: E402
from poc.runtime.options import FLAG, LIST, NUMBER, VALUE, Command, read  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_MANY = 1 << 30
_GLOBAL = {
    "--root": VALUE,
    "--log": VALUE,
    "--log-format": VALUE,
    "--debug": FLAG,
    "--systemd-cgroup": FLAG,
    "--criu": VALUE,
    "--rootless": VALUE,
    "--help": FLAG,
    "-h": "--help",
    "--version": FLAG,
    "-v": "--version",
}
_CONSOLE = {"--console-socket": VALUE, "--pidfd-socket": VALUE, "--pid-file": VALUE, "--preserve-fds": NUMBER}
_CREATE = {"--bundle": VALUE, "-b": "--bundle", **_CONSOLE, "--no-pivot": FLAG, "--no-new-keyring": FLAG}
_FORMAT = {"--format": VALUE, "-f": "--format"}
_EXEC = {
    **_CONSOLE,
    "--cwd": VALUE,
    "--env": LIST,
    "-e": "--env",
    "--tty": FLAG,
    "-t": "--tty",
    "--user": VALUE,
    "-u": "--user",
    "--additional-gids": LIST,
    "-g": "--additional-gids",
    "--process": VALUE,
    "-p": "--process",
    "--detach": FLAG,
    "-d": "--detach",
    "--process-label": VALUE,
    "--apparmor": VALUE,
    "--no-new-privs": FLAG,
    "--cap": LIST,
    "-c": "--cap",
    "--cgroup": LIST,
    "--ignore-paused": FLAG,
}
_UPDATE = {
    "--resources": VALUE,
    "-r": "--resources",
    "--cpuset-cpus": VALUE,
    "--cpuset-mems": VALUE,
    **dict.fromkeys(
        (
            *("--blkio-weight", "--cpu-period", "--cpu-quota", "--cpu-burst", "--cpu-share", "--cpu-rt-period"),
            *("--cpu-rt-runtime", "--cpu-idle", "--memory", "--memory-reservation", "--memory-swap", "--pids-limit"),
        ),
        NUMBER,
    ),
    "--l3-cache-schema": VALUE,
    "--mem-bw-schema": VALUE,
}
_RUN = {**_CREATE, "--detach": FLAG, "-d": "--detach", "--keep": FLAG, "--no-subreaper": FLAG}

# The name of its function in poc.runtime.commands, and what it takes.
_COMMANDS = {
    "create": ("create", Command("create", "make a container, and wait for start", _CREATE)),
    "delete": ("delete", Command("delete", "undo create", {"--force": FLAG, "-f": "--force"})),
    "events": ("events", Command("events", "how much it uses", {"--stats": FLAG, "--interval": VALUE})),
    "exec": ("execute", Command("exec", "start another process in a container", _EXEC, (1, _MANY), own=True)),
    "features": ("features", Command("features", "what this runtime can do", {}, (0, 0))),
    "kill": ("kill", Command("kill", "send a signal (TERM)", {"--all": FLAG, "-a": "--all"}, (1, 2))),
    "list": ("list_all", Command("list", "the containers", {**_FORMAT, "--quiet": FLAG, "-q": "--quiet"}, (0, 0))),
    "pause": ("pause", Command("pause", "stop all processes where they are", {})),
    "ps": ("processes", Command("ps", "the processes in a container", _FORMAT, (1, _MANY), own=True)),
    "resume": ("resume", Command("resume", "let them go on", {})),
    "run": ("run", Command("run", "create, start, wait and delete", _RUN)),
    "spec": (
        "specification",
        Command("spec", "write a config.json", {"--bundle": VALUE, "-b": "--bundle", "--rootless": FLAG}, (0, 0)),
    ),
    "start": ("start", Command("start", "run the program of a created container", {})),
    "state": ("state", Command("state", "a container's state as JSON", {})),
    "update": ("update", Command("update", "change the limits", _UPDATE)),
}


def main() -> NoReturn:
    """Run the command line and end the process, without taking the interpreter down: that would take 2 ms."""
    code = carry_out()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


def carry_out() -> int:
    """Run the command line. Returns the exit status."""
    begun = time.process_time()
    log = Log()
    failure = 1
    try:
        options, words = read(_GLOBAL, sys.argv[1:], stop=True)
        log = Log(options.get("log", ""), options.get("log-format", "text"), options.get("debug", False))
        if options.get("version"):
            return _version()
        if options.get("help") or not words:
            return _help()
        failure = 255 if words[0] == "exec" else 1
        if options.get("debug"):
            phases.count(begun)
        return _dispatch(options, words, log)
    except PocError as error:
        log.error(str(error))
    except OSError as error:
        log.error(_text(error))
    except (ValueError, RecursionError) as error:
        log.error(str(error) or type(error).__name__)
    return failure


def _dispatch(options: dict[str, str], words: Sequence[str], log: Log) -> int:
    if log.form not in ("text", "json"):
        raise InvalidArgument(f"--log-format {log.form!r}: it is text or json")
    if options.get("criu"):
        raise Unsupported("--criu: poc has no checkpoint and no restore, which would use it")
    _check_rootless(options.get("rootless", "auto"))
    if words[0] not in _COMMANDS:
        raise InvalidArgument(f"unknown command {words[0]!r}; they are {', '.join(_COMMANDS)}")
    function, command = _COMMANDS[words[0]]
    if {"--help", "-h"} & set(words[1:2]):
        return _help()
    values, arguments = command.parse(words[1:])
    if options.get("systemd-cgroup"):
        from poc.cgroups import systemd

        systemd.require()
        values["systemd-cgroup"] = True
    from poc.runtime import commands
    from poc.runtime.state import DEFAULT_ROOT

    log.check()
    root = os.path.abspath(options.get("root") or DEFAULT_ROOT)
    phases.mark("imports")
    status: int = getattr(commands, function)(root, values, arguments, log)
    phases.mark("rest")
    log.debug(f"{words[0]}: {phases.summary()}")
    return status


def _check_rootless(wish: str) -> None:
    if wish not in ("true", "false", "auto"):
        raise InvalidArgument(f"--rootless {wish!r}: it is true, false or auto")
    if wish == "true":
        raise Unsupported("--rootless: poc needs root for now")


def _text(error: OSError) -> str:
    if error.strerror != os.strerror(error.errno or 0) or not error.filename:
        return error.strerror or str(error)
    return f"{os.fsdecode(error.filename)}: {error.strerror}"


def _version() -> int:
    from poc.oci.defaults import OCI_VERSION

    print(f"poc-runtime version {sys.modules['poc'].__version__}\nspec: {OCI_VERSION}")
    return 0


def _help() -> int:
    print("usage: poc-runtime [--root DIRECTORY] [--log FILE] [--log-format text|json] [--debug] COMMAND …\n")
    for name, (_, command) in _COMMANDS.items():
        options = " ".join(option for option in command.options if option.startswith("--"))
        print(f"  {name:9} {command.summary}{f': {options}' if options else ''}")
    return 0


if __name__ == "__main__":
    main()
