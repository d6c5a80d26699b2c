"""Executes the container's program by way of a tiny one: none ever meets the host's interpreter (CVE-2019-5736).

    the interpreter ── execve ──▶ 80 bytes in a sealed memfd ── execve ──▶ the container's program

To whoever executes a file, /proc/self/exe is what it is itself running. What the container names as its program, or a
script as its ``#!`` interpreter, may lead there; and whoever has once opened the host's interpreter waits until nobody
runs it, and overwrites it. No look at the file beforehand keeps that away: another process can change it until the
kernel reads it. Behind the trampoline /proc/self/exe is the trampoline, which nobody can write to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from poc import _fs, _libc
from poc.errors import CommandNotExecutable, CommandNotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


# uname(2)'s machine: (ELF's e_machine, the code). Behind it comes the descriptor to report to, 4 bytes. Its arguments
# are the path, room for errno and a text, and those of the program:
#
#     if (fcntl(fd, F_SETFD, FD_CLOEXEC) >= 0)
#         execve(argv[0], argv + 2, envp);
#     *(int *)argv[1] = errno;
#     write(fd, argv[1], argv[2] - argv[1]);
#     exit(1);
_CODE = {
    "x86_64": (
        62,
        "8b1d4a00000089df6a025e6a015a6a48580f0585c07818488b0c24488b7c2408488d742418488d54cc106a3b580f05f7d848"
        "8b742410488b5424184829f2890689df6a01580f056a015f6a3c580f05cc",
    ),
    "aarch64": (
        183,
        "33030018e003132a410080d2220080d2280380d2010000d40001f837e30340f9e00740f9e1630091e2430091420c038ba81b"
        "80d2010000d4e003004be10b40f9e20f40f9420001cb200000b9e003132a080880d2010000d420008052a80b80d2010000d4",
    ),
}
_BASE, _HEADERS, _PAGE = 0x400000, 64 + 56, 0x10000
_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_EXEC = 1, 2, 0x10
_F_ADD_SEALS, _EVERY_SEAL = 1033, 0xF
_PROC_ROOT_INODE = 1
_ROOM = "????"
CALLS = ("execve", "fcntl", "write")  # what a seccomp filter has to allow
_MOST_SCRIPTS, _LONGEST_HEAD = 5, 256  # fs/exec.c, BINPRM_BUF_SIZE


class Trampoline:
    """One of them, ready before anything forbids to make it. ``fds`` are its own until `execute`."""

    __slots__ = ("_program", "_report", "fds")

    def __init__(self) -> None:
        """Raises OSError where there can be none: vm.memfd_noexec, or a machine that is not in `_CODE`."""
        self._program: int | str = _memfd()
        self._report = os.dup(self._program)  # takes the number
        self.fds = (self._program, self._report)
        os.write(self._program, elf(os.uname().machine, self._report))
        fcntl.fcntl(self._program, _F_ADD_SEALS, _EVERY_SEAL)

    def report_to(self, channel: int) -> None:
        """Get ready: what `explain` understands will come through ``channel`` if the program can't be executed."""
        os.dup2(channel, self._report)
        # By its path, as a filter may know execve(2) and not execveat(2), where that can't be the container's own file.
        if _is_procfs("/proc"):
            self._program = f"/proc/self/fd/{self._program}"

    def execute(self, path: str, args: Sequence[str], env: dict[str, str]) -> None:
        """Execute the program at ``path``. Returns where this host's policy allows no trampoline. Raises OSError."""
        try:
            os.execve(self._program, [path, f"{_ROOM}{args[0]:.200}", *args], env)
        except PermissionError:
            os.close(self._report)


def failure(name: str, number: int, where: str = "") -> CommandNotFound | CommandNotExecutable:
    """What an errno of execve(2) means for a command line."""
    if number in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFound(f"{name!r:.200} not found{where} in the container", "execve")
    return CommandNotExecutable(f"{name!r:.200} can't be executed: {os.strerror(number)}", "execve")


def refuse_interpreter(path: str, interpreter: os.stat_result) -> None:
    """Say clearly what the trampoline would only make harmless, also where there is none.

    ``interpreter`` is what we ourselves run. Raises CommandNotExecutable, and OSError as execve(2).
    """
    for _ in range(_MOST_SCRIPTS):
        found = os.stat(path)
        # Through a mount of the container's own it is a file like any other.
        if os.path.samestat(found, interpreter) and _mount_of(path) == _mount_of("/proc/self/exe"):
            raise CommandNotExecutable(f"{path!r:.200} is the host's interpreter", "execve")
        if not stat.S_ISREG(found.st_mode) or not (path := _interpreter_of(path)):
            return


def _mount_of(path: str) -> bytes:
    """The line of proc_pid_fdinfo(5) that names the mount by which a path reaches its file."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = _fs.read_bytes(f"/proc/self/fdinfo/{fd}").splitlines()
    finally:
        os.close(fd)
    return next(line for line in lines if line.startswith(b"mnt_id:"))


def _interpreter_of(script: str) -> str:
    """What stands behind a script's ``#!``, "" for any other file."""
    try:
        fd = os.open(script, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return ""  # one that may only be executed
    try:
        head, _, _ = os.read(fd, _LONGEST_HEAD).partition(b"\n")
    finally:
        os.close(fd)
    words = head[2:].split(None, 1) if head.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else ""


def elf(machine: str, report: int) -> bytes:
    """The program: elf(5)'s header, one segment, the code. Raises OSError (ENOEXEC) for an unknown machine."""
    if machine not in _CODE:
        raise OSError(errno.ENOEXEC, f"no trampoline for {machine}")
    number, text = _CODE[machine]
    code = bytes.fromhex(text) + struct.pack("<I", report)
    size = _HEADERS + len(code)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<HHIQQQIHHHHHH", 2, number, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, _PAGE)
    return identity + header + segment + code


def explain(report: bytes) -> CommandNotFound | CommandNotExecutable:
    """What a report says: an errno, whose upper half is zero, and the text."""
    return failure(report[4:].rstrip(b"\0").decode(errors="replace"), int.from_bytes(report[:4], "little"))


def _memfd() -> int:
    try:
        return os.memfd_create("poc", _MFD_CLOEXEC | _MFD_ALLOW_SEALING | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create("poc", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)  # before Linux 6.3


def _is_procfs(path: str) -> bool:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return _libc.filesystem_type(fd) == _libc.PROC_SUPER_MAGIC and os.fstat(fd).st_ino == _PROC_ROOT_INODE
    finally:
        os.close(fd)
