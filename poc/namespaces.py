"""Linux namespaces: one `clone` that starts a process in new ones, and joining those of another process.

Usable alone, as root::

    process = clone(["pid", "uts"], lambda: os.execvp("hostname", ["hostname", "jail"]))
    process.wait()

Does not set anything up inside: mounts are `poc.rootfs`, links `poc.net`, limits `poc.cgroups`.
"""

from __future__ import annotations

import ctypes
import os
import sys

from poc._fs import write_text
from poc._lean import signal
from poc._libc import EVERY_SIGNAL, clone3, set_signal_mask, setns, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import NoReturn

# OCI name, name under /proc/PID/ns, CLONE_NEW* flag. Mount comes last: after it /proc/PID/ns is another file system's.
NAMESPACES = (
    ("user", "user", 0x10000000),
    ("cgroup", "cgroup", 0x02000000),
    ("ipc", "ipc", 0x08000000),
    ("uts", "uts", 0x04000000),
    ("network", "net", 0x40000000),
    ("pid", "pid", 0x20000000),
    ("time", "time", 0x00000080),
    ("mount", "mnt", 0x00020000),
)
FLAGS = {name: flag for name, _, flag in NAMESPACES}
PROC_NAMES = {name: proc for name, proc, _ in NAMESPACES}

_CLONE_PIDFD, _CLONE_PARENT, _CLONE_INTO_CGROUP = 0x1000, 0x8000, 0x200000000


class _CloneArguments(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
            *("set_tid", "set_tid_size", "cgroup"),
        )
    )


class Process:
    """A child process: ``pid`` as seen from here and ``pidfd``, which can't come to mean another process."""

    __slots__ = ("pid", "pidfd", "returncode")

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.returncode: int | None = None

    def wait(self) -> int:
        """Reap it. Returns the exit status, or minus the number of the signal that ended it."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.pidfd)
        return self.returncode

    def exit_code(self) -> int:
        """Reap it. Returns the exit status as a shell has it, 128 and the number of a signal."""
        return shell_status(self.wait())

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal; content when the process has ended."""
        if self.returncode is not None:
            return
        try:
            signal.pidfd_send_signal(self.pidfd, signum)
        except ProcessLookupError:
            pass  # ended, not yet reaped


def shell_status(returncode: int) -> int:
    """What a shell makes of an exit status, or of minus the number of a signal."""
    return returncode if returncode >= 0 else 128 - returncode


def flags_of(names: Iterable[str]) -> int:
    """The CLONE_NEW* bits of OCI namespace names. Raises KeyError for an unknown one."""
    flags = 0
    for name in names:
        flags |= FLAGS[name]
    return flags


def clone(
    names: Iterable[str],
    child: Callable[[], int | None],
    cgroup_fd: int | None = None,
    joining: Callable[[], None] | None = None,
) -> Process:
    """Start ``child`` in a new process with new namespaces: one clone3(2).

    ``names`` are OCI names (`FLAGS`); ``cgroup_fd`` is the directory of a v2 cgroup to be born in. ``joining`` is
    called first, in a process made for it: what that enters (`enter`), the child is born in, as a child of the
    caller all the same. The child never returns into the caller's frames: it executes a program, or ends with the
    value of ``child`` (None: 0), or 1 after an exception. It has a copy of the caller's memory, so it should import
    nothing; what `os.register_at_fork` asks for is not done in a program without threads. Safe in one with
    threads. Raises OSError.
    """
    arguments = _CloneArguments(flags=flags_of(names), exit_signal=signal.SIGCHLD)
    if cgroup_fd is not None:
        arguments.flags |= _CLONE_INTO_CGROUP
        arguments.cgroup = cgroup_fd
    if joining or os.stat("/proc/self/task").st_nlink > 3:  # itself, its parent, and a directory for each thread
        return _clone_from_fork(arguments, child, joining)
    pidfd = ctypes.c_int(-1)
    arguments.flags |= _CLONE_PIDFD
    arguments.pidfd = ctypes.addressof(pidfd)
    pid = _raw_clone(arguments)
    if pid == 0:
        run_and_exit(child)
    return Process(pid, pidfd.value)


def _raw_clone(arguments: _CloneArguments) -> int:
    # Of a single thread's interpreter the copy is consistent, without the hooks that os.fork runs in parent and child
    # (PyOS_AfterFork_Child): those copy half as many pages as everything else the child does. What they would have
    # seen to are signals: one that comes now is delivered to each once it is on its own.
    before = set_signal_mask(EVERY_SIGNAL)
    try:
        return clone3(arguments)
    finally:
        set_signal_mask(before)


def _clone_from_fork(
    arguments: _CloneArguments, child: Callable[[], int | None], joining: Callable[[], None] | None
) -> Process:
    # A raw clone3 skips glibc's fork handlers, and a malloc lock that another thread holds would stay locked
    # in the child for ever. os.fork runs them; its only thread then clones a sibling of its own.
    arguments.flags |= _CLONE_PARENT
    arguments.exit_signal = 0
    reader, writer = os.pipe()
    stub = fork()
    if stub == 0:
        os.close(reader)
        run_and_exit(lambda: _clone_and_tell(arguments, child, joining, writer))
    os.close(writer)
    try:
        answer, _, text = os.read(reader, 512).partition(b" ")
        reap(stub)
    finally:
        os.close(reader)
    pid = int(answer or b"-5")
    if pid < 0:
        raise OSError(-pid, text.decode(errors="replace"))
    return Process(pid, os.pidfd_open(pid))


def _clone_and_tell(
    arguments: _CloneArguments, child: Callable[[], int | None], joining: Callable[[], None] | None, writer: int
) -> None:
    try:
        if joining is not None:
            joining()
        pid = _raw_clone(arguments)
    except OSError as error:
        os.write(writer, b"-%d %s" % (error.errno or 5, str(error.strerror).encode(errors="replace")[:256]))
        return
    if pid == 0:
        os.close(writer)
        run_and_exit(child)
    os.write(writer, b"%d" % pid)


def fork() -> int:
    """fork(2), with an error that says so."""
    try:
        return os.fork()
    except OSError as error:
        raise OSError(error.errno, f"fork: {error.strerror}") from None


def reap(pid: int) -> None:
    """Wait for a child's end; content when the program's own SIGCHLD handler, or its ignoring SIGCHLD, did so."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass


def run_and_exit(child: Callable[[], int | None]) -> NoReturn:
    """Call ``child`` and end this process with its result; no caller's ``finally`` or ``except`` runs."""
    status = 1
    try:
        status = child() or 0
    except BaseException:
        sys.__excepthook__(*sys.exc_info())  # prints without importing anything
    finally:
        os._exit(status)


def join(pid: int, names: Iterable[str]) -> None:
    """Enter namespaces of a process with setns(2), in the order that works. Raises OSError.

    Joining ``pid`` counts for children made afterwards, not for the caller (pid_namespaces(7)).
    """
    wanted = set(names)
    opened = {
        name: os.open(f"/proc/{pid}/ns/{proc}", os.O_RDONLY | os.O_CLOEXEC)
        for name, proc, _ in NAMESPACES
        if name in wanted
    }
    try:
        enter(opened)
    finally:
        for fd in opened.values():
            os.close(fd)


def enter(opened: Mapping[str, int]) -> None:
    """Enter namespaces by descriptors, {OCI name: descriptor}, in the order that works. Raises OSError."""
    # The user namespace takes the right to those that are not its own, and to an unprivileged caller grants the right
    # to those that are: what can be entered before it is.
    late = {}
    for name, _, _ in NAMESPACES:
        if name in opened and name != "user":
            try:
                _enter(name, opened[name])
            except PermissionError:
                if "user" not in opened:
                    raise
                late[name] = opened[name]
    if "user" in opened:
        _enter("user", opened["user"])
    for name, fd in late.items():
        _enter(name, fd)


def _enter(name: str, fd: int) -> None:
    try:
        setns(fd, FLAGS[name])
    except OSError as error:
        raise OSError(error.errno, f"join {name} namespace: {os.strerror(error.errno or 0)}") from None


def shift_clocks(offsets: Mapping[str, Mapping[str, int]]) -> None:
    """Have children born in a new time namespace with OCI ``timeOffsets`` (time_namespaces(7)). Raises OSError.

    Not by `clone`: the child of a clone3(2) with CLONE_NEWTIME is in it already, and from then on offsets are fixed.
    """
    leave(["time"])
    lines = [f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n" for clock, offset in offsets.items()]
    write_text("/proc/self/timens_offsets", "".join(lines))


def leave(names: Iterable[str]) -> None:
    """Move the calling thread into new namespaces with unshare(2). Raises OSError."""
    unshare(flags_of(names))
