"""Runs `poc-runtime` on configurations that nobody has thought over, where they can't harm the host.

A process in mount, pid, network, UTS, IPC and cgroup namespaces of its own, as process 1 of them: nothing of the host
can be written but through a new mount, and all that a configuration may name, /proc/1/ns/net or a cgroup, is the
sandbox's. For each configuration it forks, and looks at what is left when that child has ended::

    Sandbox.run ──▶ process 1 ── fork ──▶ a private mount namespace, the rootfs under an overlay
                        │                 `main` of poc.runtime.__main__, or a new interpreter
                    Outcome: exit status, output, what is left, what was read
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from conftest import CHECKOUT

from poc import _libc
from poc.cgroups import Cgroup, hierarchies
from poc.namespaces import flags_of
from poc.oci import validate
from poc.runtime import __main__ as command_line
from poc.runtime.state import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import NoReturn, Self

PATIENCE = 30.0  # seconds for one command; far more than it takes, so that only a real hang is one
_SETTLE = 5.0  # seconds for the kernel to take down what was killed
_READ_ONLY, _UNMOUNT_LATER = _libc.MOUNT_ATTR_RDONLY, 2


class Outcome(NamedTuple):
    """``status``: the exit status, None for a command that did not end. ``left``: what it left behind.

    ``read``: JSON pointers of what poc has read of the configuration after checking it.
    """

    status: int | None
    stdout: str
    stderr: str
    left: list[str]
    read: list[str]


class Sandbox:
    """``directory`` is for its files, ``rootfs`` what a configuration finds at "rootfs" in its bundle."""

    def __init__(self, directory: str, rootfs: str) -> None:
        self.directory = directory
        self.rootfs = rootfs
        self.group = f"poc-sandbox-{os.getpid()}"
        self.bundle = self._work("bundle")

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            _guarded(self._begin, theirs)
        theirs.close()
        if ours.recv(100) != b"ready":
            self.__exit__(None, None, None)
            raise OSError("the sandbox can't be made")
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._socket.close()
        os.waitpid(self._pid, 0)
        group = Cgroup(self.group)
        group.kill()
        group.remove()

    def run(self, config: bytes, *words: str, real: bool = False) -> Outcome:
        """`poc-runtime run`, or ``words``, on a bundle with this config.json. ``real``: in a new interpreter."""
        with open(f"{self.directory}/wish", "wb") as file:
            file.write(config)
        self._socket.send(json.dumps([words or ("run", "--bundle", self.bundle, "id"), real]).encode())
        answer = self._socket.recv(1 << 16)
        assert answer == b"done", "the sandbox has ended"
        with open(f"{self.directory}/outcome") as outcome:
            return Outcome(**json.load(outcome))

    def _work(self, name: str) -> str:
        return f"{self.directory}/work/{name}"

    # ── in the sandbox ──

    def _begin(self, end: socket.socket) -> None:
        _libc.unshare(flags_of(("mount", "pid", "network", "uts", "ipc")))
        child = os.fork()  # into the pid namespace
        if child == 0:
            _guarded(self._serve, end)
        end.close()
        os.waitpid(child, 0)

    def _serve(self, end: socket.socket) -> None:
        os.mkdir(self._work(""))
        _libc.mount(None, "/", None, _libc.MS_REC | _libc.MS_PRIVATE)
        hierarchies._host = None
        with open("/proc/self/mountinfo") as file:
            cgroups = [line for line in file if " - cgroup" in line]
        group = Cgroup(self.group)
        group.create()
        group.add(0)
        _libc.unshare(flags_of(("cgroup",)))
        root = os.open("/", os.O_PATH)
        _libc.mount_setattr(root, set=_READ_ONLY, recursive=True)
        os.close(root)
        mine = os.open(self.directory, os.O_PATH)
        tree = _libc.open_tree("", directory=mine)
        _libc.mount_setattr(tree, clear=_READ_ONLY)
        _libc.move_mount(tree, mine)
        os.close(tree)
        os.close(mine)
        _libc.mount("tmpfs", self._work(""), "tmpfs")
        _libc.mount("proc", "/proc", "proc")
        self._remount_cgroups(cgroups)
        os.mkdir(self._work("bundle"))
        os.mkdir(self._work("bundle/rootfs"))
        end.send(b"ready")
        while wish := end.recv(1 << 16):
            words, real = json.loads(wish)
            outcome = self._try(words, real)
            with open(f"{self.directory}/outcome", "w") as result:
                json.dump(outcome._asdict(), result)
            end.send(b"done")

    def _remount_cgroups(self, lines: list[str]) -> None:
        hierarchies._host = None
        self.cgroups = []
        for line in lines:
            path = line.split()[4]
            kind, _, options = line.partition(" - ")[2].strip().split(" ", 2)
            _libc.umount(path, _UNMOUNT_LATER)
            names = [name for name in options.split(",") if name not in ("rw", "ro", "xattr", "clone_children")]
            data = ("none," if names[0].startswith("name=") else "") + ",".join(names) if kind == "cgroup" else None
            _libc.mount(kind, path, kind, 0, data)
            self.cgroups.append(path)

    def _try(self, words: list[str], real: bool) -> Outcome:
        with open(f"{self.directory}/wish", "rb") as wish, open(self._work("bundle/config.json"), "wb") as config:
            config.write(wish.read())
        for name in ("stdout", "stderr", "read", "left"):
            open(self._work(name), "w").close()
        child = os.fork()
        if child == 0:
            _guarded(self._command, words, real)
        status = _wait(child)
        left = [*_lines(self._work("left")), *_processes(), *self._groups(), *self._states()]
        read = sorted(set(_lines(self._work("read"))))
        texts = [_text(self._work(name)) for name in ("stdout", "stderr")]
        return Outcome(status, texts[0], texts[1], left, read)

    def _command(self, words: list[str], real: bool) -> NoReturn:
        self._fresh_rootfs()
        for number, name in enumerate(("/dev/null", self._work("stdout"), self._work("stderr"))):
            fd = os.open(name, os.O_RDWR | os.O_APPEND)
            os.dup2(fd, number)
        os.closerange(3, 1 << 16)
        before = _mounts()
        sys.argv = ["poc-runtime", "--root", self._work("run"), *words]
        status = self._real() if real else self._here()
        with open(self._work("left"), "w") as file:
            file.writelines(f"mount {line}" for line in _mounts() if line not in before)
        os._exit(status)

    def _fresh_rootfs(self) -> None:
        _libc.unshare(flags_of(("mount",)))
        _libc.mount("tmpfs", self._work("bundle/rootfs"), "tmpfs")
        for name in ("upper", "work"):
            os.mkdir(self._work(f"bundle/rootfs/{name}"))
        layers = f"lowerdir={self.rootfs},upperdir={self._work('bundle/rootfs/upper')},"
        layers += f"workdir={self._work('bundle/rootfs/work')}"
        _libc.mount("overlay", self._work("bundle/rootfs"), "overlay", 0, layers)

    def _real(self) -> int:
        start = os.path.join(CHECKOUT, "scripts", "start.py")
        command = [sys.executable, "-I", "-S", "-X", "utf8", start, *sys.argv]
        return os.waitstatus_to_exitcode(os.waitpid(os.spawnv(os.P_NOWAIT, command[0], command), 0)[1])

    def _here(self) -> int:
        sys.stdout = os.fdopen(1, "w")
        sys.stderr = os.fdopen(2, "w", errors="backslashreplace")
        notes = _Notes()
        _record(notes)
        status = command_line.carry_out()
        with open(self._work("read"), "wb") as file:
            file.write(notes.lines())
        sys.stdout.flush()
        sys.stderr.flush()
        return status

    def _groups(self) -> Iterator[str]:
        """Of the groups that a configuration asked for, its parents may stay, as in runc: they may be others' too."""
        path = _asked_group(f"{self.directory}/wish")
        deadline = time.monotonic() + _SETTLE
        for root in self.cgroups:
            while (left := _below(root, path)) and time.monotonic() < deadline:
                time.sleep(0.01)
            yield from (f"cgroup {directory}" for directory in left)

    def _states(self) -> Iterator[str]:
        if os.path.isdir(self._work("run")):
            yield from (f"state {name}" for name in os.listdir(self._work("run")) if name != ".seccomp")


def _guarded(function: Any, *arguments: Any) -> NoReturn:
    """What a forked child does: it never returns to what the parent was doing."""
    status = 70
    try:
        function(*arguments)
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _wait(child: int) -> int | None:
    """Its exit status; None when it had to be killed, it and all that is there."""
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = bool(poller.poll(PATIENCE * 1000))
    os.close(pidfd)
    if not ended:
        os.kill(-1, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if ended else None


def _processes() -> Iterator[str]:
    """Every process but ours, once the killed ones have had the time to go."""
    deadline = time.monotonic() + _SETTLE
    while pids := [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
        if time.monotonic() > deadline:
            yield from (f"process {_text(f'/proc/{pid}/stat')}" for pid in pids)
            return
        time.sleep(0.001)


def _asked_group(config: str) -> list[str]:
    try:
        with open(config) as file:
            return [part for part in json.load(file)["linux"]["cgroupsPath"].split("/") if part]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _below(root: str, path: list[str]) -> list[str]:
    """The groups below ``root`` but for parents of ``path``, which are removed."""
    left = []
    for directory, _, _ in os.walk(root, topdown=False):
        parts = os.path.relpath(directory, root).split("/")
        if parts != ["."] and len(parts) < len(path) and parts == path[: len(parts)]:
            try:
                os.rmdir(directory)
                continue
            except OSError:
                pass  # not empty: what is in there is left as well
        if parts != ["."]:
            left.append(directory)
    return left


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return file.readlines()


def _lines(path: str) -> list[str]:
    return _text(path).splitlines()


def _text(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()


# ── what is read of a configuration ──


class _Notes:
    """What several processes write down. In memory that they share, as each may close all that it has open."""

    _SIZE, _MOST = 1 << 16, 64

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, self._SIZE * self._MOST)
        self._pid = self._end = 0

    def add(self, line: bytes) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._shared[0] += 1
            self._end = self._shared[0] * self._SIZE
        self._shared[self._end : self._end + len(line)] = line
        self._end += len(line)

    def lines(self) -> bytes:
        return self._shared[self._SIZE :].replace(b"\0", b"")


class _Recorder(dict[str, Any]):
    """An object of a configuration that writes down the JSON pointer of each property that poc reads.

    Checking is not reading, nor is copying the whole. It also does so in the container's process.
    """

    def __init__(self, pointer: str, values: dict[str, Any], notes: _Notes) -> None:
        super().__init__(values)
        self._pointer = pointer
        self._notes = notes

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def items(self) -> Any:
        for key in self:
            self._note(key)
        return super().items()

    def values(self) -> Any:
        for key in self:
            self._note(key)
        return super().values()

    def _note(self, key: str) -> None:
        reader = os.path.relpath(sys._getframe(2).f_code.co_filename, f"{CHECKOUT}/poc")
        if key in self and not reader.startswith(("..", "oci/validate", "_lean")):
            self._notes.add(f"{self._pointer}/{validate.escape(key)}\n".encode())


def _recording(value: Any, pointer: str, notes: _Notes) -> Any:
    if isinstance(value, dict):
        values = {key: _recording(item, f"{pointer}/{validate.escape(key)}", notes) for key, item in value.items()}
        return _Recorder(pointer, values, notes)
    if isinstance(value, list):
        return [_recording(item, f"{pointer}/{position}", notes) for position, item in enumerate(value)]
    return value


def _record(notes: _Notes) -> None:
    """From now on every configuration that is read, is a recorder."""
    parse, spec = validate.parse, State.spec
    validate.parse = lambda data, name: _recording(parse(data, name), "", notes)
    State.spec = lambda state: _recording(spec(state), "", notes)  # type: ignore[method-assign, assignment]
