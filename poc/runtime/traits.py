"""What config.json may ask for a process beyond the common: scheduler, I/O priority, execution domain, memory policy,
and the labels of AppArmor and SELinux.

Rare, so loaded only where one of them is asked for. `plan` reads the configuration in the parent, what comes of it
the child applies while it still has every capability and no seccomp filter. Errors name the JSON pointer.
"""

from __future__ import annotations

import os
import struct

from poc import _libc
from poc.errors import InvalidArgument, Unsupported
from poc.oci import validate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from poc.oci.types import Mount

_SCHED_ATTR = struct.Struct("IIQiIQQQII")  # struct sched_attr, with the two clamps of Linux 5.3
_IOPRIO_CLASS_SHIFT = 13  # linux/ioprio.h
_PERSONALITIES = {"LINUX": 0, "LINUX32": 8}  # linux/personality.h
_FIRST_POLICY_FLAG = 13  # linux/mempolicy.h: MPOL_F_NUMA_BALANCING
_APPARMOR, _SELINUX = "/sys/module/apparmor/parameters/enabled", "/sys/fs/selinux/enforce"


class Trait:
    """One thing to do to the calling process, for the property at ``pointer``. ``labels`` the next execve(2)?"""

    __slots__ = ("arguments", "call", "pointer")
    labels = False

    def __init__(self, pointer: str, call: Callable[..., object], *arguments: Any) -> None:
        self.pointer = pointer
        self.call = call
        self.arguments = arguments

    def apply(self) -> None:
        """Do it. Raises OSError."""
        try:
            self.call(*self.arguments)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise OSError(error.errno, f"{self.pointer}: {error.strerror or reason}") from None

    def close(self) -> None:
        """Let go of what `apply` needs."""


class Label(Trait):
    """A label for the program, asked of the security module through the first of ``files`` that there is.

    They are in the host's procfs: the container's /proc may be made of anything (CVE-2019-16884, CVE-2025-52881).
    """

    __slots__ = ("proc",)
    labels = True

    def __init__(self, pointer: str, files: tuple[str, ...], text: str) -> None:
        super().__init__(pointer, self._write, files, text)
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def _write(self, files: tuple[str, ...], text: str) -> None:
        paths = [f"self/attr/{file}" for file in files]
        path = next((path for path in paths if _exists(path, self.proc)), paths[-1])
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=self.proc)
        os.write(fd, text.encode())
        os.close(fd)

    def close(self) -> None:
        os.close(self.proc)


def _exists(path: str, directory: int) -> bool:
    try:
        os.stat(path, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True


def plan(process: Mapping[str, Any], linux: Mapping[str, Any]) -> list[Trait]:
    """What a process is to do before its program. Raises Unsupported for what this host lacks, InvalidArgument."""
    return [*_tuning(process, linux), *_labels(process)]


def _tuning(process: Mapping[str, Any], linux: Mapping[str, Any]) -> Iterator[Trait]:
    if wish := process.get("scheduler"):
        yield Trait("/process/scheduler", _libc.sched_setattr, sched_attr(wish))
    if wish := process.get("ioPriority"):
        number = validate.IO_CLASSES.index(wish["class"]) + 1
        yield Trait("/process/ioPriority", _libc.ioprio_set, number << _IOPRIO_CLASS_SHIFT | wish.get("priority", 0))
    if wish := linux.get("personality"):
        yield Trait("/linux/personality", _libc.personality, _PERSONALITIES[wish["domain"]])
    if wish := linux.get("memoryPolicy"):
        yield Trait("/linux/memoryPolicy", _libc.set_mempolicy, *mempolicy(wish))


def sched_attr(scheduler: Mapping[str, Any]) -> bytes:
    """OCI ``process.scheduler`` as sched_setattr(2) takes it."""
    policy = validate.SCHEDULERS.index(scheduler["policy"])
    flags = sum(1 << bit for bit, name in enumerate(validate.SCHEDULER_FLAGS) if name in scheduler.get("flags", ()))
    times = (scheduler.get(name, 0) for name in ("runtime", "deadline", "period"))
    nice, priority = scheduler.get("nice", 0), scheduler.get("priority", 0)
    return _SCHED_ATTR.pack(_SCHED_ATTR.size, policy, flags, nice, priority, *times, 0, 0)


def mempolicy(wish: Mapping[str, Any]) -> tuple[int, bytes]:
    """OCI ``linux.memoryPolicy`` as set_mempolicy(2) takes it: (mode and flags, mask of nodes)."""
    mode = validate.MEMORY_POLICIES.index(wish["mode"])
    for bit, name in enumerate(validate.MEMORY_POLICY_FLAGS, _FIRST_POLICY_FLAG):
        mode |= (name in wish.get("flags", ())) << bit
    nodes = validate.numbers(wish.get("nodes", ""), "/linux/memoryPolicy/nodes")
    words = 1 + max(nodes) // 64 if nodes else 0
    return mode, sum(1 << node for node in nodes).to_bytes(8 * words, "little")


def _labels(process: Mapping[str, Any]) -> Iterator[Label]:
    if profile := process.get("apparmorProfile"):
        if not has_apparmor():
            raise Unsupported(f"/process/apparmorProfile: AppArmor is not on here (see {_APPARMOR})")
        yield Label("/process/apparmorProfile", ("apparmor/exec", "exec"), f"exec {profile}")
    if label := process.get("selinuxLabel"):
        require_selinux("/process/selinuxLabel")
        yield Label("/process/selinuxLabel", ("exec",), label)


def has_apparmor() -> bool:
    """Is AppArmor on here?"""
    try:
        with open(_APPARMOR) as file:
            return file.read(1) == "Y"
    except OSError:
        return False


def has_selinux() -> bool:
    """Is SELinux on here?"""
    return os.path.exists(_SELINUX)


def require_selinux(pointer: str) -> None:
    """Raises Unsupported where SELinux is not on."""
    if not has_selinux():
        raise Unsupported(f"{pointer}: SELinux is not on here (there is no {_SELINUX})")


def label_mounts(mounts: Iterable[Mount], label: str) -> None:
    """Put OCI ``linux.mountLabel`` on the container's own file systems; those of the kernel take none (mount(8))."""
    if '"' in label:
        raise InvalidArgument(f"/linux/mountLabel: {label!r} is no SELinux label")
    for mount in mounts:
        if mount.get("type") in ("tmpfs", "devpts"):
            mount["options"] = [*mount.get("options", ()), f'context="{label}"']
