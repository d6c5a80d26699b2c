"""Another OCI runtime in the place of poc's own: runc, crun, or whatever has runc's command line (`--runtime`).

::

    monitor                                         runtime                    container
    ───────                                         ───────                    ─────────
    a mount namespace of its own, the overlay
    mounted on rootfs there, config.json
    create ───────────────────────────────────────▶ cgroup, namespaces ──────▶ mounts, waits
    adopts it (PR_SET_CHILD_SUBREAPER)              ends
    attaches the network
    start ────────────────────────────────────────▶ ends                       execve
    carries its streams ◀───────────────────────────────────────────────────── ends
    delete ───────────────────────────────────────▶ cgroup, state gone
    unmounts

All of a run lies in <run>/<id>/runtime: the bundle, the runtime's state (its ``--root``), its log. Nobody but a
process itself can ask to die with its parent (prctl(2), PR_SET_PDEATHSIG), so such a container outlives a monitor that
is killed, until the next command looks at it and clears up (`forget`).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import stat
from contextlib import ExitStack

from poc import _fs, _libc, namespaces, rootfs
from poc._fs import identity
from poc._processes import await_either, send_signal
from poc.cgroups import Cgroup
from poc.engine.config import APART, OWN_RUNTIME, SETTINGS
from poc.errors import CommandNotExecutable, CommandNotFound, InvalidArgument, SetupError
from poc.oci.defaults import ALL_CAPABILITIES
from poc.runtime.create import Created, adjust_oom_score
from poc.runtime.terminal import resize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from poc.engine.store import Paths
    from poc.namespaces import Process
    from poc.oci.types import Mount, Spec
    from poc.oci.types import Process as OCIProcess

_PLACES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_NOT_FOR_IT = ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")  # it would pass them on
_OCI_VERSION = "1.0.2"  # crun 1.8 refuses 1.1 and later, and nothing said here is that new
_PATIENCE = 30.0  # seconds for `delete`
_LOG = "log"
_LONGEST = 1 << 16  # bytes of what it said that are looked at

# ── which one ────────────────────────────────────────────────────────────────────────────────────────────


def choose(wanted: str | None) -> str:
    """The runtime to use, by name or absolute path: ``wanted``, or else ``default-runtime`` of the settings.

    Raises InvalidArgument when it is not there.
    """
    name = _default() if wanted is None else wanted
    if name != OWN_RUNTIME:
        find(name)
    return os.path.abspath(name) if "/" in name else name


def _default() -> str:
    # A parser is not worth loading, at every start, for settings that say nothing of it.
    if b"default-runtime" not in _fs.read_bytes(SETTINGS):
        return OWN_RUNTIME
    name: str = settings().get("default-runtime", OWN_RUNTIME)
    return name


def find(name: str) -> list[str]:
    """The command line of a runtime: ``name`` is a path, or stands in the settings, or is a program in PATH.

    Raises InvalidArgument.
    """
    if "/" in name:
        command = [name]
    elif found := settings().get("runtimes", {}).get(name):
        command = [found] if isinstance(found, str) else list(found)
    else:
        places = [*os.environ.get("PATH", "").split(":"), *_PLACES]
        paths = (f"{place}/{name}" for place in places if place.startswith("/"))
        command = [path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)][:1]
    if not command:
        raise InvalidArgument(f"unknown runtime {name!r}: it is neither in {SETTINGS} nor a program in PATH")
    if not os.path.isfile(command[0]):
        raise InvalidArgument(f"runtime {command[0]}: {'not a file' if os.path.exists(command[0]) else 'not found'}")
    if not os.access(command[0], os.X_OK):
        raise InvalidArgument(f"runtime {command[0]}: not executable")
    return command


def settings() -> dict[str, Any]:
    """The settings file, checked; {} when there is none."""
    try:
        data = _fs.read_bytes(SETTINGS)
    except FileNotFoundError:
        return {}
    import tomllib

    try:
        found = tomllib.loads(data.decode())
    except ValueError as error:
        raise InvalidArgument(f"{SETTINGS}: {error}") from None
    for key in found.keys() - {"default-runtime", "runtimes"}:
        raise InvalidArgument(f"{SETTINGS}: unknown key {key!r}; there are default-runtime and runtimes")
    runtimes = found.get("runtimes", {})
    if not isinstance(found.get("default-runtime", ""), str) or not isinstance(runtimes, dict):
        raise InvalidArgument(f"{SETTINGS}: default-runtime is a name, and runtimes a table of commands")
    for name, command in runtimes.items():
        if name == OWN_RUNTIME or "/" in name:
            raise InvalidArgument(f"{SETTINGS}: runtimes.{name}: a runtime can't be called that")
        words = [command] if isinstance(command, str) else command
        if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
            raise InvalidArgument(f"{SETTINGS}: runtimes.{name} is neither a path nor a list of words")
        if not words[0].startswith("/"):
            raise InvalidArgument(f"{SETTINGS}: runtimes.{name}: {words[0]!r} is no absolute path")
    return found


# ── a container of its ───────────────────────────────────────────────────────────────────────────────────


class Foreign(Created):
    """A container that another runtime has created."""

    __slots__ = ("_program", "_runtime")

    def __init__(self, process: Process, group: Cgroup, console: int | None, runtime: _Runtime, program: str) -> None:
        self.process = process
        self.cgroup = group
        self.console = console
        self._runtime = runtime
        self._program = program

    def start(self) -> None:
        """Let it execute its program. Raises SetupError, CommandNotFound or CommandNotExecutable."""
        self._runtime.call("start", program=self._program)

    def leave(self) -> None:
        """Leave it waiting for its start."""

    def abandon(self) -> None:
        """End it and take away what is left of it, whether it was started or not."""
        self.cgroup.remove()


def create(
    name: str,
    spec: Spec,
    paths: Paths,
    id: str,
    overlay: rootfs.Overlay,
    stdio: tuple[int, int, int] | None,
    while_mounting: Callable[[Process], None],
    trees: Mapping[str, int],
) -> Foreign:
    """As `poc.runtime.create.create`, with the runtime of that name; ``while_mounting`` is called afterwards.

    For a process of its own: it gets a mount namespace, and becomes the parent of whatever loses its own.
    Raises PocError and OSError; then nothing is left.
    """
    program = spec["process"]["args"][0]
    with ExitStack() as undo:
        command, bundle, root = find(name), paths.runtime(id, "runtime"), paths.container(id, "rootfs")
        _try_oom_score(spec["process"])
        os.mkdir(bundle, 0o700)
        _fs.write_json(f"{bundle}/command", command)
        runtime = _Runtime(command, bundle, id)
        _libc.prctl(_libc.PR_SET_CHILD_SUBREAPER, 1)
        namespaces.leave(["mount"])
        _separate(spec, root)
        undo.callback(_unmount, root, os.path.dirname(overlay.upper))
        overlay.mount(root)
        spec = _attach(spec, trees, bundle)
        _fs.write_json(f"{bundle}/config.json", _specification(spec, root))
        path = spec["linux"]["cgroupsPath"]
        cgroup = Cgroup(path, tidy=True)
        undo.callback(cgroup.end)
        if "/" in path:
            cgroup.create()  # or nobody would know afterwards whose its parents are
        undo.callback(runtime.delete)
        try:
            console = _create(runtime, spec, stdio, program)
        finally:
            _unmount(*(f"{bundle}/tree{position}" for position in range(len(trees))))
        try:
            process = runtime.adopt()
            undo.callback(_end, process)
            if not _is_root_of(process.pid, root):
                _fs.write_new(f"{bundle}/{APART}", "")
            while_mounting(process)
        except BaseException:
            if console is not None:
                os.close(console)
            raise
        group = _Group(path, undo.pop_all())
    return Foreign(process, group, console, runtime, program)


def _attach(spec: Spec, trees: Mapping[str, int], bundle: str) -> Spec:
    """Mount detached mounts where a runtime finds them, in this mount namespace of ours."""
    places = {}
    for position, (source, tree) in enumerate(trees.items()):
        places[source] = f"{bundle}/tree{position}"
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.mkdir(places[source], 0o700)
        else:
            _fs.write_new(places[source], "")
        place = os.open(places[source], os.O_PATH | os.O_CLOEXEC)
        try:
            _libc.move_mount(tree, place)
        finally:
            os.close(place)
    mounts: list[Mount] = []
    for mount in spec["mounts"]:
        source = mount.get("source", "")
        mounts.append({**mount, "source": places[source]} if source in places else mount)
    return {**spec, "mounts": mounts}


def _try_oom_score(process: OCIProcess) -> None:
    """Where it may not be set, runc ends without a word about it. Raises OSError."""
    said = os.memfd_create("said", os.MFD_CLOEXEC)

    def attempt() -> None:
        try:
            adjust_oom_score(os.getpid(), process)
        except OSError as error:
            os.write(said, f"{error.errno} {error.strerror}".encode())

    try:
        if "oomScoreAdj" in process:
            _in_child(attempt)
        number, _, text = os.pread(said, _LONGEST, 0).decode().partition(" ")
    finally:
        os.close(said)
    if number:
        raise OSError(int(number), text)


def _in_child(function: Callable[[], None]) -> None:
    child = namespaces.fork()
    if child == 0:
        namespaces.run_and_exit(function)
    namespaces.reap(child)


def _separate(spec: Spec, root: str) -> None:
    """Let nothing of ours reach the host; but what the container is to share with it stays shared."""
    if rootfs.parse_propagation(spec["linux"].get("rootfsPropagation") or "rprivate") & _libc.MS_SHARED:
        rootfs.separate(root)
    else:
        rootfs.detach_propagation(_libc.MS_SLAVE | _libc.MS_REC)  # what the host unmounts must not stay for our sake


def _create(runtime: _Runtime, spec: Spec, stdio: tuple[int, int, int] | None, program: str) -> int | None:
    if stdio is not None:
        runtime.call("create", "--bundle", runtime.directory, stdio=stdio, program=program)
        return None
    with _ConsoleSocket(runtime.directory) as listener:
        runtime.call("create", "--bundle", runtime.directory, "--console-socket", listener.path, program=program)
        console = listener.receive()
    if size := spec["process"].get("consoleSize"):
        resize(console, size["height"], size["width"])
    return console


class _Group(Cgroup):
    """The container's cgroup; with it goes all else that there is of the container."""

    __slots__ = ("_undo",)

    def __init__(self, path: str, undo: ExitStack) -> None:
        super().__init__(path)
        self._undo = undo

    def remove(self, parents: bool = False) -> None:
        self._undo.close()


def _unmount(*places: str) -> None:
    for place in places:
        try:
            _libc.umount(place, _libc.MNT_DETACH)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT):  # nothing is mounted there
                raise


def _is_root_of(pid: int, root: str) -> bool:
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat(root))
    except OSError:
        return False  # it has ended already, and won't start


def _end(process: Process) -> None:
    process.kill()
    process.wait()


def _specification(spec: Spec, root: str) -> dict[str, Any]:
    """The configuration as any runtime understands it."""
    return {
        **spec,
        "ociVersion": _OCI_VERSION,
        "process": {**spec["process"], "capabilities": _available(spec["process"]["capabilities"])},
        "root": {**spec["root"], "path": root},
        "mounts": [_mount(entry) for entry in spec["mounts"]],
        "linux": {**spec["linux"], "cgroupsPath": f"/{spec['linux']['cgroupsPath']}"},
    }


def _available(sets: dict[str, list[str]]) -> dict[str, list[str]]:
    """Capabilities that this host lacks can't be given: poc's own runtime leaves them out, others fail."""
    fields = dict(line.split(":", 1) for line in _fs.read_text("/proc/self/status").splitlines())
    held = int(fields["CapPrm"], 16)
    return {kind: [name for name in names if held >> ALL_CAPABILITIES.index(name) & 1] for kind, names in sets.items()}


def _mount(entry: Mount) -> Mount:
    """Whoever does not know ``rro`` and passes over it has ``ro`` beside it."""
    options = entry.get("options", [])
    return {**entry, "options": [*options, "ro"]} if "rro" in options else entry


def forget(directory: str, id: str) -> None:
    """Let the runtime of a run whose monitor was killed end its container; ``directory`` was the bundle."""
    try:
        command = _fs.read_json(f"{directory}/command")
    except FileNotFoundError:
        return  # it was killed before it used the runtime
    _Runtime(command, directory, id).delete()


# ── its command line ─────────────────────────────────────────────────────────────────────────────────────


class _Runtime:
    """A runtime at work on one container. ``directory`` is the bundle, where its state is too."""

    __slots__ = ("_command", "_id", "directory")

    def __init__(self, command: Sequence[str], directory: str, id: str) -> None:
        self._command = command
        self._id = id
        self.directory = directory

    def call(
        self,
        verb: str,
        *options: str,
        stdio: tuple[int, int, int] | None = None,
        program: str = "",
        patience: float | None = None,
    ) -> None:
        """Run one of its commands to the end. Raises SetupError with the last that it said.

        ``stdio`` becomes the container's; ``program`` is what the container is to execute.
        """
        pid_file = ["--pid-file", self._pid_file] if verb == "create" else []
        # The log's name has no colon in it, wherever the store is: crun takes what stands before one for a kind of log.
        settings = ["--root", f"{self.directory}/state", "--log", _LOG, "--log-format", "json"]
        words = [*self._command, *settings, verb, *options, *pid_file, self._id]
        said = os.memfd_create("said", os.MFD_CLOEXEC)
        try:
            status = _run(words, self.directory, stdio or (-1, said, said), patience)
            if status == 0:
                return
            stderr = os.pread(said, _LONGEST, 0) if stdio is None else _take_back(stdio[2])
        finally:
            os.close(said)
        text = _last_error(f"{self.directory}/{_LOG}") or _last_line(stderr) or f"it ended with {status}"
        raise _error_for(text, program)(f"{os.path.basename(self._command[0])} {verb}: {text}", verb)

    @property
    def _pid_file(self) -> str:
        return f"{self.directory}/pid"

    def adopt(self) -> Process:
        """The first process of the created container, whose parent we are now. Raises SetupError."""
        try:
            pid = int(_fs.read_text(self._pid_file))
            pidfd = _fs.pidfd_open(pid)
        except (OSError, ValueError) as error:
            raise SetupError(f"{self._command[0]} has created a container without a process: {error}") from None
        if _parent(pid) != os.getpid():
            os.close(pidfd)
            raise SetupError(f"{self._command[0]}: process {pid} is not its child, so poc can't learn how it ends")
        return namespaces.Process(pid, pidfd)

    def delete(self) -> None:
        """Have it forget the container; whether or not it can, the caller ends what is in the cgroup."""
        try:
            self.call("delete", "--force", patience=_PATIENCE)
        except (SetupError, OSError):
            pass  # nothing was created, or the runtime is no longer there


def _run(words: Sequence[str], directory: str, stdio: tuple[int, int, int], patience: float | None) -> int:
    """Its exit status. After ``patience`` seconds it is killed. A descriptor of -1 is /dev/null."""
    parent = os.getpid()
    child = namespaces.fork()
    if child == 0:
        namespaces.run_and_exit(lambda: _execute(words, directory, stdio, parent))
    try:
        if patience is not None:
            _kill_late(child, patience)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except ChildProcessError:
        return 0  # a program that ignores SIGCHLD, or reaps what it does not know, cleans up after a killed monitor


def _kill_late(child: int, patience: float) -> None:
    process = identity(child)
    if not await_either([process], patience):
        send_signal(process, signal.SIGKILL)


def _execute(words: Sequence[str], directory: str, stdio: tuple[int, int, int], parent: int) -> int:
    _libc.prctl(_libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return 1  # killed before the call, so there was no signal
    opened = [os.open(os.devnull, os.O_RDWR) if fd < 0 else fd for fd in stdio]
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in opened]
    for number, fd in enumerate(above):
        os.dup2(fd, number)
    _libc.cloexec_from(3)
    _libc.reset_signals()  # the monitor ignores some, and so would the container
    _libc.set_signal_mask(_libc.NO_SIGNAL)
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
    try:
        os.chdir(directory)
        os.execve(words[0], list(words), environment)
    except OSError as error:
        _fs.write_all(2, f"{error.filename}: {error.strerror}".encode())
    return 127


def _take_back(writer: int) -> bytes:
    """What was written to a pipe, of which there is this end: a runtime that fails writes to the container's stderr."""
    reader = os.open(f"/proc/self/fd/{writer}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(reader, _LONGEST)
    except BlockingIOError:
        return b""
    finally:
        os.close(reader)


def _parent(pid: int) -> int:
    return int(_fs.read_bytes(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])


def _last_error(log: str) -> str:
    """The last message of level "error" in a log of JSON lines, which is how runtimes say why they fail."""
    try:
        lines = _fs.read_bytes(log)[-_LONGEST:].splitlines()
    except FileNotFoundError:
        return ""
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # not everybody heeds --log-format
        if isinstance(entry, dict) and entry.get("level") == "error":
            return " ".join(str(entry.get("msg", "")).split())
    return ""


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _error_for(text: str, program: str) -> type[SetupError]:
    """Was it for want of the program? There is no telling but by the words, as docker does."""
    named = any(quoted in text for quoted in (f'"{program}"', f"`{program}'", f"`{program}`", f"'{program}'"))
    text = text.lower()
    if "permission denied" in text and (named or "executable" in text):
        return CommandNotExecutable
    return CommandNotFound if named and ("not found" in text or "no such file" in text) else SetupError


class _ConsoleSocket:
    """Where a runtime sends the master of the container's pty. ``path`` is short enough for unix(7)."""

    __slots__ = ("_directory", "_socket", "path")

    def __init__(self, directory: str) -> None:
        self._directory = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.path = f"/proc/{os.getpid()}/fd/{self._directory}/console"

    def __enter__(self) -> _ConsoleSocket:
        self._socket.bind(self.path)
        self._socket.listen(1)
        return self

    def receive(self) -> int:
        """What it has sent. Raises SetupError when it did not."""
        try:
            with self._socket.accept()[0] as connection:
                connection.setblocking(False)
                return socket.recv_fds(connection, 4096, 1, socket.MSG_CMSG_CLOEXEC)[1].pop()
        except (BlockingIOError, IndexError):
            raise SetupError("the runtime has sent no terminal") from None

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        os.close(self._directory)
