"""The kernel calls poc needs and Python's ``os`` lacks: one wrapper each, the error names the call and the path.

``PyDLL`` keeps the GIL during a call: none of these block, and a forked child must never wait for a lock
that a thread of its parent holds. Numbers of system calls from 424 on are the same on every architecture.
"""

from __future__ import annotations

import ctypes
import errno
import os

libc = ctypes.PyDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
_mount = libc.mount
_mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)

_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "riscv64": 41}.get(os.uname().machine, 155)
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432
_SYS_CLONE3, _SYS_CLOSE_RANGE, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 435, 436, 437, 442

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, AT_SYMLINK_NOFOLLOW = -100, 0x1000, 0x8000, 0x100

# mount(2)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC = (
    1 << n for n in range(8)
)
MS_NOSYMFOLLOW = 1 << 8
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_MOVE, MS_REC, MS_SILENT = (1 << n for n in range(10, 16))
MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED, MS_RELATIME = (1 << n for n in range(17, 22))
MS_STRICTATIME, MS_LAZYTIME = 1 << 24, 1 << 25
MNT_DETACH = 2

# mount_setattr(2), fsmount(2), open_tree(2), move_mount(2)
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x100000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 4, 0x40
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC = 1, 1
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE = 0, 1, 6

# openat2(2)
_OPEN_RETRIES = 10_000  # some microseconds each; beside one that does nothing but rename, over 200 were seen to fail
RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 1, 2, 4, 8, 16

_MADV_DONTNEED = 4

# prctl(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36

# statfs(2)
PROC_SUPER_MAGIC, CGROUP2_SUPER_MAGIC = 0x9FA0, 0x63677270


def check(result: int, call: str, path: str | bytes | None = None) -> int:
    """``result``, or the OSError of errno, whose text names the call and what it was called on."""
    if result != -1:
        return result
    number = ctypes.get_errno()
    subject = "" if path is None else " " + os.fsdecode(path)
    raise OSError(number, f"{call}{subject}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None, flags: int = 0, data: str | None = None) -> None:
    """mount(2)."""
    encoded = [None if value is None else os.fsencode(value) for value in (source, target, kind, data)]
    result = _mount(encoded[0], encoded[1], encoded[2], flags, encoded[3])
    check(result, f"mount {kind or source or 'flags'} on", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    check(libc.umount2(os.fsencode(target), flags), "umount", target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    check(libc.syscall(_SYS_PIVOT_ROOT, os.fsencode(new), os.fsencode(old)), "pivot_root", new)


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(libc.unshare(flags), f"unshare {flags:#x}")


def setns(fd: int, kind: int = 0) -> None:
    """setns(2)."""
    check(libc.setns(fd, kind), "setns")


def clone3(arguments: ctypes.Structure) -> int:
    """clone3(2): the child's pid, 0 in the child. Only `poc.namespaces.clone` knows how to call it safely."""
    return check(libc.syscall(_SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments)), "clone3")


def cloexec_from(first: int) -> None:
    """close_range(2) with CLOSE_RANGE_CLOEXEC: every descriptor from ``first`` on is closed by the next execve."""
    check(libc.syscall(_SYS_CLOSE_RANGE, first, ctypes.c_uint(0xFFFFFFFF), 4), "close_range")


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2), close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.sizeof(how)
    for _ in range(_OPEN_RETRIES):
        result = libc.syscall(_SYS_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), size)
        if result != -1 or ctypes.get_errno() != errno.EAGAIN:
            break  # EAGAIN: anywhere on this host something was mounted or renamed while it went through a ".."
    return check(result, "open", path)


def open_tree(path: str, recursive: bool = False, directory: int = AT_FDCWD) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached bind mount of ``path``, as a descriptor."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return check(libc.syscall(_SYS_OPEN_TREE, directory, os.fsencode(path), flags), "open_tree", path)


def move_mount(mount_fd: int, target_fd: int) -> None:
    """move_mount(2): attach a detached mount where ``target_fd`` (an O_PATH descriptor) points."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    check(libc.syscall(_SYS_MOVE_MOUNT, mount_fd, b"", target_fd, b"", flags), "move_mount")


class _MountAttr(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd"))


def mount_setattr(
    fd: int, set: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False, userns_fd: int = 0
) -> None:
    """mount_setattr(2) on the mount that ``fd`` is the root of."""
    attributes = _MountAttr(set, clear, propagation, userns_fd)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    size = ctypes.sizeof(attributes)
    check(libc.syscall(_SYS_MOUNT_SETATTR, fd, b"", flags, ctypes.byref(attributes), size), "mount_setattr")


def new_mount(kind: str, options: dict[str, str | None], source: str | None = None, attributes: int = 0) -> int:
    """fsopen(2), fsconfig(2) for each option (None: a flag), fsmount(2): a new, detached mount as a descriptor."""
    fs = check(libc.syscall(_SYS_FSOPEN, kind.encode(), FSOPEN_CLOEXEC), "fsopen", kind)
    try:
        for key, value in (("source", source or kind), *options.items()):
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            data = None if value is None else os.fsencode(value)
            check(libc.syscall(_SYS_FSCONFIG, fs, command, key.encode(), data, 0), "fsconfig", f"{kind} {key}={value}")
        check(libc.syscall(_SYS_FSCONFIG, fs, _FSCONFIG_CMD_CREATE, None, None, 0), "mount", kind)
        return check(libc.syscall(_SYS_FSMOUNT, fs, FSMOUNT_CLOEXEC, attributes), "fsmount", kind)
    finally:
        os.close(fs)


_NS_GET_NSTYPE = 0xB703


def namespace_type(fd: int) -> int:
    """ioctl_ns(2), NS_GET_NSTYPE: the CLONE_NEW* flag of a namespace's descriptor. ENOTTY for another file's."""
    return check(libc.ioctl(fd, ctypes.c_ulong(_NS_GET_NSTYPE)), "ioctl NS_GET_NSTYPE")


class _StatFS(ctypes.Structure):
    _fields_ = (("type", ctypes.c_long), ("rest", ctypes.c_long * 31))


def filesystem_type(fd: int) -> int:
    """fstatfs(2): the magic number of the file system that ``fd`` lies on, such as PROC_SUPER_MAGIC."""
    result = _StatFS()
    check(libc.fstatfs(fd, ctypes.byref(result)), "fstatfs")
    return int(result.type)


def sethostname(name: str) -> None:
    """sethostname(2)."""
    data = os.fsencode(name)
    check(libc.sethostname(data, len(data)), "sethostname", name)


def setdomainname(name: str) -> None:
    """setdomainname(2)."""
    data = os.fsencode(name)
    check(libc.setdomainname(data, len(data)), "setdomainname", name)


_SignalSet = ctypes.c_ulong * (1024 // (8 * ctypes.sizeof(ctypes.c_ulong)))  # glibc's sigset_t
EVERY_SIGNAL, NO_SIGNAL = _SignalSet(*[~0] * len(_SignalSet())), _SignalSet()
_SIG_SETMASK, _SIG_DFL, _LAST_SIGNAL = 2, None, 64


def set_signal_mask(mask: ctypes.Array[ctypes.c_ulong]) -> ctypes.Array[ctypes.c_ulong]:
    """pthread_sigmask(3): block these signals and no others; the mask before. Ten times as fast as Python's own."""
    before = _SignalSet()
    libc.pthread_sigmask(_SIG_SETMASK, ctypes.byref(mask), ctypes.byref(before))
    return before


def reset_signals() -> None:
    """signal(2): what every signal does is the kernel's default again, also of those that were ignored."""
    for number in range(1, _LAST_SIGNAL + 1):
        libc.signal(number, _SIG_DFL)  # refused for SIGKILL, SIGSTOP and the C library's own two


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), for the options that python-prctl does not know."""
    values = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return check(libc.prctl(option, *values), f"prctl {option}")


_SYS_PIDFD_GETFD = 438


def pidfd_getfd(pidfd: int, number: int) -> int:
    """pidfd_getfd(2): a copy of another process's descriptor. EBADF while it has none of that number."""
    return check(libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0), "pidfd_getfd")


_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: two words for each set, the sets in turn
_SETS_OF_CAPABILITIES = ctypes.c_uint32 * 6


def capabilities() -> tuple[int, int, int]:
    """capget(2): the effective, permitted and inheritable set of the calling thread, a bit for each number."""
    data = _SETS_OF_CAPABILITIES()
    check(libc.capget((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), data), "capget")
    return data[0] | data[3] << 32, data[1] | data[4] << 32, data[2] | data[5] << 32


def set_capabilities(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), the same three."""
    sets = (effective, permitted, inheritable)
    data = _SETS_OF_CAPABILITIES(*(bits & 0xFFFFFFFF for bits in sets), *(bits >> 32 for bits in sets))
    check(libc.capset((ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), data), "capset")


_SYS_KEYCTL = {"x86_64": 250}.get(os.uname().machine, 219)
_KEYCTL_JOIN_SESSION_KEYRING = 1


def join_session_keyring(name: str) -> None:
    """keyctl(2): a new session keyring, out of reach of the caller's keys. Without effect on a kernel without."""
    result = libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, os.fsencode(name), 0, 0, 0)
    if result != -1 or ctypes.get_errno() != errno.ENOSYS:
        check(result, "keyctl", name)


_MACHINE_CALLS = {"x86_64": (314, 251, 238)}.get(os.uname().machine, (274, 30, 237))
_SYS_SCHED_SETATTR, _SYS_IOPRIO_SET, _SYS_SET_MEMPOLICY = _MACHINE_CALLS
_IOPRIO_WHO_PGRP = 2


def sched_setattr(attributes: bytes) -> None:
    """sched_setattr(2) on the caller; ``attributes`` is its struct sched_attr."""
    check(libc.syscall(_SYS_SCHED_SETATTR, 0, attributes, 0), "sched_setattr")


def ioprio_set(value: int) -> None:
    """ioprio_set(2) on the caller's process group."""
    check(libc.syscall(_SYS_IOPRIO_SET, _IOPRIO_WHO_PGRP, 0, value), "ioprio_set")


def set_mempolicy(mode: int, nodes: bytes) -> None:
    """set_mempolicy(2); ``nodes`` is its mask in whole longs, or empty."""
    # One bit more than there are: the kernel takes the number less one (mm/mempolicy.c, get_nodes).
    check(libc.syscall(_SYS_SET_MEMPOLICY, mode, nodes or None, ctypes.c_ulong(8 * len(nodes) + 1)), "set_mempolicy")


def personality(persona: int) -> None:
    """personality(2)."""
    check(libc.personality(ctypes.c_ulong(persona)), "personality")


def malloc_trim() -> None:
    """malloc_trim(3): give the pages of free memory back to the kernel. Without effect where libc is not glibc."""
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(ctypes.c_size_t(0))


def forget_pages(start: int, length: int) -> None:
    """madvise(2) with MADV_DONTNEED: let go of the pages there. What is not in a file is lost."""
    check(libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED), "madvise")
