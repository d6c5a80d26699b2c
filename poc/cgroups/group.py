"""One container's cgroup: the same path in every hierarchy. Made, limited, joined, measured, killed, removed.

Every call copes with others at work on the same parent, with what a killed call left, and with being made twice.
"""

from __future__ import annotations

import errno
import os
import time

from poc import _fs
from poc.cgroups.hierarchies import host
from poc.errors import Conflict, InvalidArgument, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Any, Self

    from poc.cgroups.hierarchies import Hierarchies
    from poc.cgroups.settings import Setting

# Enabled on v2 for every group, so that its use is counted; the others (cpuset, hugetlb …) when they are asked for.
_COUNTED = ("cpu", "io", "memory", "pids")
_RACES = 100
_PATIENCE, _REMOVAL, _GRACE = 5.0, 5.0, 0.1  # seconds
_ENDLESS = 1 << 63
_MARK = "trusted.poc"  # xattr(7)
_GONE = (errno.ENOENT, errno.ENODEV)  # a cgroup's file, when the group goes while it is open


class Cgroup:
    """The group ``path`` ("poc/<id>", from the root of each hierarchy), which need not exist yet.

    As a context manager it is created with ``resources`` (OCI) in force, and at the end whatever still runs in
    it is killed, and it is removed, with its parents where it was their last::

        with Cgroup("poc/demo", resources={"pids": {"limit": 20}}) as group:
            group.add(pid)

    With ``tidy`` parents that this very class made go with their last child, and those made by others stay.
    """

    __slots__ = ("_hierarchies", "_resources", "_tidy", "path")

    def __init__(
        self,
        path: str,
        hierarchies: Hierarchies | None = None,
        resources: Mapping[str, Any] | None = None,
        tidy: bool = False,
    ) -> None:
        self.path = path.strip("/")
        if not self.path or any(part in ("", ".", "..") for part in self.path.split("/")):
            raise InvalidArgument(f"cgroup path: {path!r} is no path below the root, such as poc/name")
        self._hierarchies = hierarchies or host()
        self._resources = resources
        self._tidy = tidy

    def __enter__(self) -> Self:
        try:
            self.create()
            self.apply(self._resources or {})
        except BaseException:
            self.remove(parents=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self.remove(parents=True)

    def __repr__(self) -> str:
        return f"Cgroup({self.path!r})"

    def create(self) -> None:
        """Make the group in every hierarchy, parents too. One that is there already is taken as it is."""
        for root in self._hierarchies.directories():
            directory = f"{root}/{self.path}"
            self._make(root, directory)
            if root == self._hierarchies.unified:
                self._count(root, directory)
            elif root == self._hierarchies.controllers.get("cpuset"):
                _inherit_cpuset(directory)

    def _make(self, root: str, directory: str) -> None:
        for _ in range(_RACES):
            try:
                os.mkdir(directory, 0o755)
                return
            except FileExistsError:
                return  # the runtime specification lets a container join a group that is there
            except OSError as error:
                if error.errno not in _GONE:
                    raise
            # No parent, or no more: it may have gone with its last child since it was made, or seen.
            self._make(root, os.path.dirname(directory))
            if self._tidy:
                _mark(os.path.dirname(directory))
        raise OSError(errno.EBUSY, f"mkdir {directory}: its parent keeps vanishing")

    def missing_parents(self) -> list[str]:
        """The directories above it that `create` would have to make."""
        found = []
        for root in self._hierarchies.directories():
            path = os.path.dirname(self.path)
            while path and not os.path.isdir(f"{root}/{path}"):
                found.append(f"{root}/{path}")
                path = os.path.dirname(path)
        return found

    def _count(self, root: str, directory: str) -> None:
        counted = {name for name in _COUNTED if self._hierarchies.v2(name)}
        # Asked first: enabling what is enabled takes long where groups were just removed, the kernel waits for them.
        if counted and (missing := counted - set(_fs.read_text(f"{directory}/cgroup.controllers").split())):
            _enable(root, os.path.dirname(directory), sorted(missing))

    def apply(self, resources: Mapping[str, Any]) -> None:
        """Put OCI ``resources`` into force, on a new group or on one that runs; devices are `allow_devices`'s.

        Raises InvalidArgument, Unsupported or Conflict (less memory than is in use), naming the file and the reason.
        """
        from poc.cgroups.settings import plan

        settings = plan(resources, self._hierarchies)
        self._check_use(resources.get("memory") or {})
        refused = [setting for setting in settings if not self._try(setting)]
        # Some limits bound each other: memory and memory with swap, a quota and its period. Which one must go
        # first depends on what stands there, so what was refused has its second try after the others.
        for setting in refused:
            self._write(setting)
        if any(setting.file == "memory.low" for setting in settings):
            self._protect()

    def _check_use(self, memory: Mapping[str, Any]) -> None:
        # v1 refuses such a limit by itself; v2 puts it into force, by killing.
        if not (memory.get("checkBeforeUpdate") and self._hierarchies.v2("memory")):
            return
        used = int(_fs.read_text(self._file("memory", "memory.current")))
        for name in ("limit", "swap"):
            if 0 < (memory.get(name) or 0) <= used:
                raise Conflict(f"memory.{name}: {memory[name]} is no more than the group uses now, {used}")

    def _try(self, setting: Setting) -> bool:
        try:
            self._write(setting)
        except InvalidArgument:
            return False
        return True

    def _write(self, setting: Setting) -> None:
        path = self._file(setting.controller, setting.file)
        try:
            try:
                _fs.write_text(path, setting.value)
            except FileNotFoundError:
                if not self._hierarchies.v2(setting.controller):
                    raise
                root = str(self._hierarchies.unified)
                _enable(root, os.path.dirname(f"{root}/{self.path}"), [setting.controller])
                _fs.write_text(path, setting.value)
        except OSError as error:
            raise _explain(setting, path, error) from None

    def _file(self, controller: str, file: str) -> str:
        return f"{self._directory(controller)}/{file}"

    def _directory(self, controller: str) -> str:
        root = self._hierarchies.unified if controller == "cgroup" else self._hierarchies.controllers.get(controller)
        if root is None:
            raise Unsupported(f"{controller}: this host has no such cgroup controller")
        return f"{root}/{self.path}"

    def _protect(self) -> None:
        """Give the groups above as much memory.low as those below them have together: more than they have, no one gets.

        Only ever raised, because it may be somebody's setting; it ends with the parent (admin-guide/cgroup-v2.rst).
        """
        path = os.path.dirname(self.path)
        while path:
            directory = f"{self._hierarchies.unified}/{path}"
            wanted = sum(map(_memory_low, _children(directory)))
            if wanted > _memory_low(directory):
                _fs.write_text(f"{directory}/memory.low", "max" if wanted >= _ENDLESS else str(wanted))
            path = os.path.dirname(path)

    def allow_devices(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """Put OCI ``linux.resources.devices`` into force, in place of the rules there before.

        They are applied in order to a group that may do everything, so that a list of allowances begins with
        a rule that denies all. Without any rule nothing is changed. See `poc.cgroups.devices.fold`.
        """
        from poc.cgroups import devices

        default, exceptions = devices.fold(rules := list(rules))
        if not rules:
            return
        if "devices" in self._hierarchies.controllers:
            for file, texts in devices.lines(default, exceptions):
                _fs.write_text(self._file("devices", file), *texts)
            return
        fd = self.fd()
        if fd is None:
            raise Unsupported("devices: this host has no cgroup that could keep a container from devices")
        try:
            devices.attach(fd, default, exceptions)
        finally:
            os.close(fd)

    def fd(self) -> int | None:
        """A new descriptor of the v2 directory, for CLONE_INTO_CGROUP, or None on a host without v2. Yours to close."""
        if self._hierarchies.unified is None:
            return None
        return os.open(f"{self._hierarchies.unified}/{self.path}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def add(self, pid: int) -> None:
        """Move a process with all its threads into the group, v2 first so that `kill` finds it from then on.

        Slow on v1: the kernel waits out an RCU grace period (5 to 20 ms), for it stops every fork meanwhile.
        A process that moves itself with `join` does not wait. Raises OSError (ESRCH: it has ended).
        """
        for root in self._hierarchies.directories():
            _fs.write_text(f"{root}/{self.path}/cgroup.procs", str(pid))

    def admit(self, pid: int) -> None:
        """For a group that is made around its first process (`poc.cgroups.systemd`); this one is there before."""

    def join(self, unified: bool = True) -> None:
        """Move the calling thread (that is the process, when it has just one) into the group.

        ``unified=False`` leaves out v2, for a process that was cloned into it. Imports nothing.
        """
        if unified and self._hierarchies.unified is not None:
            _fs.write_text(f"{self._hierarchies.unified}/{self.path}/cgroup.procs", "0")
        for root in self._hierarchies.v1():
            # "tasks", not "cgroup.procs": only for one thread that is the caller the kernel takes no global lock.
            _fs.write_text(f"{root}/{self.path}/tasks", "0")

    def join_running(self, pid: int, below: Mapping[str, str] | None = None) -> None:
        """Like `join`, where a container has been running for a while, whose first process is ``pid``.

        ``below`` are groups inside this one, as for `directories_below`. Without, where v2 takes no process into this
        group any more, because its processes moved below and gave controllers there, or far away, it is ``pid``'s.
        """
        unified = self._hierarchies.unified
        for root, directory in self.directories_below(below or {}):
            if root != unified:
                _fs.write_text(f"{directory}/tasks", "0")
                continue
            try:
                _fs.write_text(f"{directory}/cgroup.procs", "0")
            except OSError as error:
                if below or error.errno not in (*_GONE, errno.EBUSY, errno.EOPNOTSUPP):
                    raise
                _fs.write_text(f"{unified}{_unified_path(pid)}/cgroup.procs", "0")

    def directories_below(self, below: Mapping[str, str]) -> list[tuple[str, str]]:
        """(mount, directory) of this group in each hierarchy, or of the group inside it that ``below`` asks for.

        That is {controller: relative path}, the controller "" for all hierarchies. Raises InvalidArgument.
        """
        if unknown := below.keys() - set(self._hierarchies.controllers) - {""}:
            raise InvalidArgument(f"{min(unknown)}: this host has no such cgroup controller")
        if any(".." in path.split("/") for path in below.values()):
            raise InvalidArgument(f"{', '.join(below.values())}: leads out of the container's cgroup")
        found = []
        for root in self._hierarchies.directories():
            names = [name for name, directory in self._hierarchies.controllers.items() if directory == root]
            wishes = [below[name].strip("/") for name in ("", *names) if name in below]
            found.append((root, "/".join([root, self.path, *filter(None, wishes[:1])])))
        return found

    def exists(self) -> bool:
        """Is the group there, in any hierarchy?"""
        return any(os.path.isdir(f"{root}/{self.path}") for root in self._hierarchies.directories())

    def pids(self) -> list[int]:
        """The processes in the group and in those below it, in ascending order. A vanished group has none."""
        return sorted({pid for root in self._hierarchies.directories() for pid in _pids(f"{root}/{self.path}")})

    def kill(self) -> None:
        """SIGKILL every process in the group and below, also frozen ones and those forked meanwhile.

        Returns when all have ended (or after 5 s: a process in an uninterruptible sleep ends when it wakes).
        Raises Conflict when the caller is inside.
        """
        if os.getpid() in self.pids():
            raise Conflict(f"kill {self.path}: the calling process is in this cgroup itself")
        start = time.monotonic()
        one_by_one = start + (_GRACE if self._kill_at_once() else 0)
        while (pids := self.pids()) and time.monotonic() < start + _PATIENCE:
            if time.monotonic() >= one_by_one:  # also who is in a v1 hierarchy alone
                self._kill_each(pids)
            time.sleep(0.001)

    def _kill_at_once(self) -> bool:
        try:
            _fs.write_text(f"{self._hierarchies.unified}/{self.path}/cgroup.kill", "1")
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False  # no v2, no such group, or Linux before 5.14
        return True

    def _kill_each(self, pids: list[int]) -> None:
        from signal import SIGKILL, pidfd_send_signal

        # Frozen, a fork bomb can't fork on while it is killed.
        self._ask_frozen(True)
        for pid in pids:
            try:
                fd = _fs.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                # The pid may have been another's by the time it was opened; a member it can't have been, then.
                if pid in self.pids():
                    pidfd_send_signal(fd, SIGKILL)
            except ProcessLookupError:
                pass  # it died first
            finally:
                os.close(fd)
        self._ask_frozen(False)

    def freeze(self) -> None:
        """Stop every process in the group where it is; returns when all have stopped.

        Raises OSError (ETIMEDOUT), and thaws, when one doesn't within 5 s: it sleeps uninterruptibly.
        """
        deadline = time.monotonic() + _PATIENCE
        self._ask_frozen(True)
        while not self._all_frozen():
            if time.monotonic() > deadline:
                self.thaw()
                raise OSError(errno.ETIMEDOUT, f"freeze {self.path}: not all of its processes stop")
            time.sleep(0.001)
            # v1 may miss a process that was forked while it froze, until it is asked again.
            self._ask_frozen(True)

    def thaw(self) -> None:
        """Let the processes go on. Content when they already do."""
        self._ask_frozen(False)

    def frozen(self) -> bool:
        """Was the group frozen, and not thawed since? False for a vanished one."""
        try:
            return _fs.read_text(self._freezer("cgroup.freeze", "freezer.self_freezing")) == "1"
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return False

    def freezer(self) -> str:
        """The file that holds 1 while the group is to be frozen; "" on a host that can't freeze."""
        try:
            return self._freezer("cgroup.freeze", "freezer.self_freezing")
        except Unsupported:
            return ""

    def _ask_frozen(self, frozen: bool) -> None:
        path = self._freezer("cgroup.freeze", "freezer.state")
        try:
            if path.endswith("state"):
                _fs.write_text(path, "FROZEN" if frozen else "THAWED")
            else:
                _fs.write_text(path, "1" if frozen else "0")
        except OSError as error:
            if error.errno not in _GONE:
                raise

    def _all_frozen(self) -> bool:
        text = _fs.read_text(self._freezer("cgroup.events", "freezer.state"))
        return text == "FROZEN" or "frozen 1" in text.splitlines()

    def _freezer(self, unified: str, v1: str) -> str:
        if self._hierarchies.unified is not None:
            return f"{self._hierarchies.unified}/{self.path}/{unified}"
        return self._file("freezer", v1)

    def oom_kills(self) -> int:
        """How many processes of the group the kernel killed for want of memory; 0 without a memory controller."""
        file = "memory.events" if self._hierarchies.v2("memory") else "memory.oom_control"
        try:
            text = _fs.read_text(self._file("memory", file))
        except Unsupported:
            return 0
        except OSError as error:
            if error.errno not in _GONE:
                raise
            return 0
        return next((int(line[9:]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)

    def oom_descriptor(self) -> int | None:
        """A new descriptor, yours to close, that select.poll(3) reports when the kernel kills here for want of memory.

        On v2 it is memory.events (POLLPRI), on v1 an eventfd (POLLIN); None without a memory controller. Read it to
        wait for the next.
        """
        if "memory" not in self._hierarchies.controllers:
            return None
        if self._hierarchies.v2("memory"):
            return os.open(self._file("memory", "memory.events"), os.O_RDONLY | os.O_CLOEXEC)
        descriptor = os.eventfd(0, os.EFD_CLOEXEC)
        control = os.open(self._file("memory", "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
        _fs.write_text(self._file("memory", "cgroup.event_control"), f"{descriptor} {control}")
        os.close(control)
        return descriptor

    def stats(self) -> dict[str, Any]:
        """What the group has used: see `poc.cgroups.stats.read`."""
        from poc.cgroups import stats

        return stats.read(self._hierarchies, self.path)

    def remove(self, parents: bool = False) -> None:
        """Remove the group and those below it from every hierarchy; ``parents``: and those above that are now empty.

        Content when they are gone. A parent costs the next `create` as much again as the group itself, and may be
        somebody else's, with limits set on it: leave it while more is to come. Raises OSError (EBUSY) when
        processes are still in the group after 5 s, naming them.
        """
        self._remove(_REMOVAL, parents)

    def end(self) -> None:
        """Kill whatever runs in the group, and remove it; content when it is gone.

        Most often nobody is left, and rmdir(2) finds that out much faster than a look into every hierarchy.
        """
        try:
            self._remove(0.0)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            self.kill()
            self.remove()

    def _remove(self, patience: float, parents: bool = False) -> None:
        deadline = time.monotonic() + patience
        for root in self._hierarchies.directories():
            _remove(f"{root}/{self.path}", deadline)
            if parents or self._tidy:
                _remove_empty(root, os.path.dirname(self.path), only_marked=not parents)


def _unified_path(pid: int) -> str:
    lines = _fs.read_text(f"/proc/{pid}/cgroup").splitlines()
    return next((line[3:] for line in lines if line.startswith("0::")), "")


def _memory_low(directory: str) -> int:
    try:
        text = _fs.read_text(f"{directory}/memory.low")
    except FileNotFoundError:
        return 0  # removed meanwhile, or no memory controller there
    return _ENDLESS if text == "max" else int(text)


def _enable(root: str, directory: str, controllers: list[str]) -> None:
    """Let the groups below ``directory`` have these v2 controllers, as far as the kernel agrees."""
    below = directory[len(root) :].split("/")
    for depth in range(len(below)):
        path = root + "/".join(below[: depth + 1]) + "/cgroup.subtree_control"
        for controller in controllers:
            try:
                _fs.write_text(path, "+" + controller)
            except OSError:
                pass  # who needs it finds its file missing, and says so with the reason (`_explain`)


def _inherit_cpuset(directory: str) -> None:
    """A new v1 cpuset has neither CPU nor memory node, and takes no process before it has both."""
    parent = os.path.dirname(directory)
    for file in ("cpuset.cpus", "cpuset.mems"):
        if _fs.read_text(f"{directory}/{file}"):
            continue
        value = _fs.read_text(f"{parent}/{file}")
        if not value:  # made by somebody who has not come to this yet
            _inherit_cpuset(parent)
            value = _fs.read_text(f"{parent}/{file}")
        _fs.write_text(f"{directory}/{file}", value)


def _pids(directory: str) -> Iterable[int]:
    for path, _, _ in os.walk(directory):
        try:
            yield from map(int, _fs.read_text(f"{path}/cgroup.procs").split())
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _remove(directory: str, deadline: float) -> None:
    pause = 0.0005
    while True:
        try:
            os.rmdir(directory)
            return
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):  # the latter never was
                return
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise
        for entry in _children(directory):
            _remove(entry, deadline)
        if time.monotonic() > deadline:
            pids = " ".join(map(str, _pids(directory)))
            raise OSError(errno.EBUSY, f"rmdir {directory}: still in use by the processes {pids or '(none listed)'}")
        # The last process is reaped before the kernel has let go of its group.
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _children(directory: str) -> list[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []


def claim(directories: Iterable[str]) -> None:
    """Take `Cgroup.missing_parents` for made by us: their maker may have been killed before it could note that."""
    for directory in directories:
        _mark(directory)


def _mark(directory: str) -> None:
    """Note that a parent was made by us. Where it can't be noted, or it has just gone again, it is as another's."""
    try:
        os.setxattr(directory, _MARK, b"1")
    except OSError:
        pass


def _is_marked(directory: str) -> bool:
    try:
        return bool(os.getxattr(directory, _MARK))
    except OSError:
        return False  # ENODATA: it has no such mark


def _remove_empty(root: str, path: str, only_marked: bool = False) -> None:
    while path:
        directory = f"{root}/{path}"
        if only_marked and os.path.isdir(directory) and not _is_marked(directory):
            return
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                raise
            if not (only_marked and error.errno == errno.ENOENT):  # then whoever went before was killed on the way up
                return
        path = os.path.dirname(path)


def _explain(setting: Setting, path: str, error: OSError) -> Exception:
    """The kernel's answer to a write, in the words of who asked for the limit."""
    what, number = f"{setting.file}: {setting.value}", error.errno
    if number == errno.ENOENT and os.path.isdir(os.path.dirname(path)):
        return Unsupported(f"{setting.controller}: can't set {setting.file}, {_why_missing(setting, path)}")
    if number in (errno.EOPNOTSUPP, errno.ENOTSUP, 524):  # 524: the kernel's own ENOTSUPP, which has no name outside
        return Unsupported(f"{setting.controller}: this kernel does not support {what}")
    if number == errno.ENODEV and setting.controller in ("blkio", "io"):
        disk = setting.value.split(" ")[0]
        return InvalidArgument(f"{setting.file}: {disk} is no disk; limits hold for whole disks, not for partitions")
    if number == errno.EBUSY and setting.controller == "memory":
        return Conflict(f"{what} is less than the group uses now")
    if number in (errno.EINVAL, errno.ERANGE, errno.EACCES, errno.EBUSY, errno.ENOSPC):
        return InvalidArgument(f"{what} is refused by the kernel ({os.strerror(number)})")
    return error


def _why_missing(setting: Setting, path: str) -> str:
    directory = os.path.dirname(path)
    controllers = f"{directory}/cgroup.controllers"
    if not os.path.exists(controllers) or setting.controller in _fs.read_text(controllers).split():
        return "this kernel has no such file"
    while os.path.exists(f"{os.path.dirname(directory)}/cgroup.subtree_control"):
        directory = os.path.dirname(directory)
        if setting.controller not in _fs.read_text(f"{directory}/cgroup.subtree_control").split():
            break
    return f"because {directory}/cgroup.subtree_control does not pass the controller on (are there processes in it?)"
