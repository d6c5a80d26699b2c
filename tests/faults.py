"""Killing poc at a chosen step, or at a random moment, and looking for what is left then.

A step is a system call that Python makes (a call of posix, fcntl, socket or _libc). `killed_at` forks a command and
counts the steps of one of the processes that take part in it: the *command* itself, the *monitor* it forks, the
network *helper* and the container's *init*. Before the n-th of them that process is killed; so n = 0, 1, 2, … goes
through every moment there is, and not only through those that chance finds.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import sysconfig
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import leaks
from conftest import CHECKOUT, CommandLine

from poc import _libc
from poc.engine import checks, monitor, networks
from poc.runtime.init import Init

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    import poc

COMMAND, MONITOR, HELPER, INIT, CHECKER = "command", "monitor", "helper", "init", "checker"
_BEGINNINGS = {
    monitor.Monitor.run.__code__: MONITOR,
    networks._help.__code__: HELPER,
    Init.run.__code__: INIT,
    checks.Checks._help.__code__: CHECKER,
}
_SYSTEM_CALLS = {"posix", "fcntl", "_socket", "socket", "select"}
_PURE = {
    "fspath",
    "fsencode",
    "WIFSTOPPED",
    "waitstatus_to_exitcode",
    "urandom",
    "getpid",
    "register",
    "major",
    "minor",
}
KILLED = 137
PATIENCE = 30.0

# Every id begins with this, so that what is ours among the host's cgroups is known.
MARK = os.urandom(4).hex()


class Killed(NamedTuple):
    """What became of a command: ``reached``: there was such a step; ``text``: the exception it ended with."""

    reached: bool
    text: str


def mark_ids() -> None:
    """Let every id that this process makes begin with MARK."""
    random = os.urandom
    os.urandom = lambda size: bytes.fromhex(MARK) + random(size)[4:] if size == 32 else random(size)


def killed_at(step: int, role: str, action: Callable[[], object]) -> Killed:
    """Do ``action`` in a process of its own, and kill who plays ``role`` at its ``step``."""
    reader, writer = os.pipe()
    with mmap.mmap(-1, 1) as reached:  # shared with all that are forked
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _command(writer, Steps(role, step, reached), action)
        os.close(writer)
        try:
            text = _read_all(reader)
        finally:
            os.close(reader)
            os.kill(pid, signal.SIGKILL)  # it has closed its end, unless it hangs
            os.waitpid(pid, 0)
        return Killed(reached[0] == 1, text)


def _read_all(reader: int) -> str:
    data, deadline = b"", time.monotonic() + PATIENCE
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        if not (chunk := os.read(reader, 1 << 16)):
            return data.decode()
        data += chunk
    raise AssertionError(f"a command has hung for {PATIENCE} seconds: {data.decode()}")


def _command(writer: int, steps: Steps, action: Callable[[], object]) -> None:
    mark_ids()
    try:
        sys.setprofile(steps)
        action()
        sys.setprofile(None)
    except BaseException:
        sys.setprofile(None)
        os.write(writer, traceback.format_exc().encode())
    finally:
        os._exit(0)


class Steps:
    """A profile function that kills the process when its time has come."""

    def __init__(self, role: str, step: int, reached: mmap.mmap) -> None:
        self._wanted = role
        self._left = step
        self._role = COMMAND
        self._reached = reached

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            self._role = _BEGINNINGS.get(code, self._role)
            if code is _libc.check.__code__:
                self._count()
        elif event == "c_call" and _is_system_call(argument):
            self._count()

    def _count(self) -> None:
        if self._role != self._wanted:
            return
        self._left -= 1
        if self._left >= 0:
            return
        self._reached[0] = 1
        sys.setprofile(None)
        if self._role == INIT:
            os._exit(KILLED)  # nobody kills process 1 from within its namespace, not even itself
        os.kill(os.getpid(), signal.SIGKILL)


def _is_system_call(function: Any) -> bool:
    module = function.__module__ or type(function.__self__).__module__
    return module in _SYSTEM_CALLS and function.__name__ not in _PURE


def leftovers(engine: poc.Engine) -> list[str]:
    """What there is of containers that do not exist, of runs that have ended, and of processes; in words."""
    paths = engine.paths
    found = [f"process {process.pid} {process.command}" for process in leaks.our_processes()]
    for directory in (f"{paths.data}/containers", paths.names, paths.leases, paths.run):
        found += [f"{directory}/{name}" for name in _names(directory) if name not in ("leases", "seccomp")]
    found += [path for path in leaks.cgroups() if MARK in path]
    found += [f"link {name}" for name in leaks.links() if MARK in name]
    found += [f"mount {mount}" for mount in leaks.mounts() if paths.data in mount]
    found += [f"loop device {device}" for device in leaks.loop_devices() if paths.data in device]
    return found


def await_nothing(look: Callable[[], list[str]], note: str = "") -> None:
    """The kernel takes namespaces and links down some time after the last process has gone."""
    deadline = time.monotonic() + 10.0
    while (found := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not found, note + ", ".join(found)


def role_of(process: leaks.Process) -> str | None:
    """Which part a process of ours plays: it is a poc command, or forked by one without an exec."""
    try:
        with open(f"/proc/{process.pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        with open(f"/proc/{process.parent}/comm") as file:
            parent = file.read().strip()
    except OSError:
        return None  # it has ended
    if len(fields["NSpid"].split()) > 1:
        return INIT if fields["NSpid"].split()[1] == "1" else None
    if process.command == "poc-monitor":
        return HELPER if parent == "poc-monitor" else MONITOR
    return COMMAND if process.parent == os.getpid() else None


class MarkedCommandLine(CommandLine):
    """The command line, whose containers' ids begin with MARK."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        program = (
            "import os, sys; sys.path[:0] = sys.argv[1:3]; del sys.argv[1:3]; random = os.urandom; "
            f"os.urandom = lambda size: bytes.fromhex('{MARK}') + random(size)[4:] if size == 32 else random(size); "
            "from poc.cli.main import main; sys.exit(main())"
        )
        places = [CHECKOUT, sysconfig.get_path("purelib")]
        self.command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", program, *places, "--root", root]


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
