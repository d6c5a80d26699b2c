"""Seccomp filters: compiled once, kept in a cache, loaded with one system call.

    profile (OCI dict) ── `program` ──▶ BPF ── fork ──▶ `load` ──▶ execve
                             │ cache directory: a hit costs one read
                             └ a miss: `poc.runtime.seccomp_compiler`, which alone needs libseccomp

Knows nothing of what a profile should say (`poc.oci.seccomp`) nor of how one is compiled.
"""

from __future__ import annotations

import binascii
import ctypes
import os
import stat

from poc import _fs
from poc._lean import json, socket
from poc._libc import check, libc
from poc.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

_SYS_SECCOMP = {"x86_64": 317, "i686": 354, "armv7l": 383, "ppc64le": 358, "s390x": 348}.get(os.uname().machine, 277)
_SET_MODE_FILTER = 1
_NEW_LISTENER = "SECCOMP_FILTER_FLAG_NEW_LISTENER"
_SPEC_ALLOW = "SECCOMP_FILTER_FLAG_SPEC_ALLOW"
_WAIT_KILLABLE_RECV = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
_FLAGS = {
    # With TSYNC_ESRCH (0x10): a thread that can't be synchronised is an errno, not a thread id or a listener.
    "SECCOMP_FILTER_FLAG_TSYNC": 0x11,
    "SECCOMP_FILTER_FLAG_LOG": 0x02,
    _SPEC_ALLOW: 0x04,
    _NEW_LISTENER: 0x08,
    _WAIT_KILLABLE_RECV: 0x20,
}
FLAGS = tuple(name for name in _FLAGS if name != _NEW_LISTENER)
_PASSING = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")

# Profiles share this many files: the cache needs no sweeping, and two that meet in one only compile more often.
_SLOTS = 1024


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def program(seccomp: Mapping[str, Any], cache_directory: str) -> bytes:
    """The BPF program of a profile (``linux.seccomp``), compiled if the cache has none.

    The cache is believed only where nobody but this user could have written it and the file is for exactly this
    profile and undamaged. Raises what `poc.runtime.seccomp_compiler.compile_profile` raises, and OSError.
    """
    key = _key(seccomp)
    path = f"{cache_directory}/{binascii.crc32(key) % _SLOTS:03x}"
    compiled = _cached(path, key)
    if compiled is None:
        from poc.runtime.seccomp_compiler import compile_profile

        compiled = compile_profile(seccomp)
        os.makedirs(cache_directory, 0o700, exist_ok=True)
        _fs.write_atomic(path, key + _checksum(compiled) + compiled, 0o600)
    return compiled


def filter_flags(seccomp: Mapping[str, Any]) -> tuple[str, ...]:
    """The flags that `load` needs for a profile that `program` took. Raises InvalidArgument with a JSON pointer.

    A profile that names none gets SPEC_ALLOW, as with runc and crun. One with a SCMP_ACT_NOTIFY gets a listener.
    """
    flags = seccomp.get("flags")
    if flags is None:
        flags = [_SPEC_ALLOW]
    elif not isinstance(flags, list):
        raise InvalidArgument(f"/linux/seccomp/flags: {flags!r:.60} is no array")
    asking = notifies(seccomp)
    for position, flag in enumerate(flags):
        pointer = f"/linux/seccomp/flags/{position}"
        if flag not in FLAGS:
            raise InvalidArgument(f"{pointer}: {flag!r} is none of {', '.join(FLAGS)}")
        if flag == _WAIT_KILLABLE_RECV and not asking:
            raise InvalidArgument(f"{pointer}: {flag} is for profiles with a SCMP_ACT_NOTIFY")
    return (*flags, _NEW_LISTENER) if asking else tuple(flags)


def permits(seccomp: Mapping[str, Any], calls: Iterable[str]) -> bool:
    """Does a profile that `program` took let these calls pass, whatever their arguments?"""
    otherwise = seccomp.get("defaultAction") in _PASSING
    for call in calls:
        rules = [entry for entry in seccomp.get("syscalls") or () if call in entry["names"]]
        if not all(entry["action"] in _PASSING for entry in rules):
            return False
        if not otherwise and all(entry.get("args") for entry in rules):
            return False
    return True


def notifies(seccomp: Mapping[str, Any]) -> bool:
    """Does a profile that `program` took leave anything to an agent?"""
    actions = [seccomp.get("defaultAction"), *(entry.get("action") for entry in seccomp.get("syscalls") or ())]
    return "SCMP_ACT_NOTIFY" in actions


def load(program: bytes, flags: Iterable[str] = ()) -> int | None:
    """Put the calling thread, and all it will execute, under a filter for good: seccomp(2).

    Returns the listener's descriptor (close-on-exec) if ``flags`` ask for one. Raises OSError: EACCES without
    CAP_SYS_ADMIN and no_new_privs, EINVAL for a program or flag this kernel does not take, EBUSY for a second listener.
    From here on the filter judges every call of the caller's, the interpreter's own included.
    """
    names = tuple(flags)
    bits = sum(_FLAGS[name] for name in names)
    argument = _Program(len(program) // 8, program)
    result = check(libc.syscall(_SYS_SECCOMP, _SET_MODE_FILTER, bits, ctypes.byref(argument)), "seccomp")
    return result if _NEW_LISTENER in names else None


def agent(path: str) -> socket.socket:
    """A connection to the agent at ``listenerPath``, for one `send_listener`. Raises OSError."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        end.connect(path)
    except BaseException:
        end.close()
        raise
    return end


def send_listener(agent: socket.socket, listener: int, pid: int, state: Mapping[str, Any], metadata: str = "") -> None:
    """Hand an agent the listener of the process ``pid``, with the container's ``state`` (a runtime-spec state).

    One connection, one message: the runtime spec's "container process state" (config-linux.md). Not for a process
    under the filter: the agent it asks may be the one it is still talking to. Raises OSError.
    """
    message = {
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": dict(state),
    }
    data = json.dumps(message).encode()
    sent = socket.send_fds(agent, [data], [listener])
    agent.sendall(data[sent:])


def _key(seccomp: Mapping[str, Any]) -> bytes:
    """All that the compiled program depends on: the profile, the machine, and this very version of the compiler."""
    compiler = os.path.join(os.path.dirname(__file__), "seccomp_compiler.py")
    try:
        version = os.stat(compiler).st_mtime_ns
    except OSError:
        version = 0  # installed without sources
    return f"poc {version} {os.uname().machine} {json.dumps(seccomp)}\n".encode()


def _checksum(program: bytes) -> bytes:
    return b"%08x" % binascii.crc32(program)


def _cached(path: str, key: bytes) -> bytes | None:
    """The program in a cache file, None unless every byte of it is as `program` wrote it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None  # not compiled yet, or something that is no file of ours: `program` replaces it
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode != stat.S_IFREG | 0o600:
            return None
        data = _fs.read_all(fd)
    finally:
        os.close(fd)
    checksum, compiled = data[len(key) : len(key) + 8], data[len(key) + 8 :]
    intact = data.startswith(key) and compiled and len(compiled) % 8 == 0 and checksum == _checksum(compiled)
    return compiled if intact else None
