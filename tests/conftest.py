"""Fixtures of all tests: what this machine must have (`needs`), directories, an engine with a small image, the
command line, and the check that every test leaves the host as it found it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import leaks
import pytest

from poc import _fs, _libc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from oci_sandbox import Sandbox

    import poc

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CAP_SYS_ADMIN = 21
CLONE_NEWNET = 0x40000000
TMPFS_MAGIC, OVERLAYFS_MAGIC = 0x01021994, 0x794C7630


def needs(*things: str) -> pytest.MarkDecorator:
    """Skip a test unless this machine has all of ``things``; the reason names what lacks.

    ``root`` (with CAP_SYS_ADMIN), ``cgroup1`` or ``cgroup1:memory``, ``cgroup2`` or ``cgroup2:memory``,
    ``cgroup:memory`` (either version), ``fs:overlay`` (or just ``overlay``), ``program:runc``, ``module:prctl``,
    ``network`` (a default route), ``systemd`` (as PID 1).
    """
    lacking = [reason for thing in things if (reason := _lack(thing))]
    return pytest.mark.skipif(bool(lacking), reason="; ".join(lacking))


def _lack(thing: str) -> str | None:
    kind, _, name = thing.partition(":")
    has, reason = REQUIREMENTS[kind]
    return None if has(name) else reason.format(name or thing)


def _is_root(_: str) -> bool:
    with open("/proc/self/status") as file:
        capabilities = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff"))
    return os.geteuid() == 0 and bool(capabilities >> CAP_SYS_ADMIN & 1)


def _has_cgroup1(controller: str) -> bool:
    with open("/proc/self/mountinfo") as file:
        options = [line.split()[-1].split(",") for line in file if " - cgroup " in line]
    return any(not controller or controller in mounted for mounted in options)


def _has_cgroup2(controller: str) -> bool:
    with open("/proc/self/mountinfo") as file:
        roots = [line.split()[4] for line in file if " - cgroup2 " in line]
    return any(not controller or controller in _fs.read_text(f"{root}/cgroup.controllers").split() for root in roots)


def _has_default_route(_: str) -> bool:
    with open("/proc/net/route") as file:
        return any(line.split()[1] == "00000000" for line in file)


def _has_filesystem(name: str) -> bool:
    with open("/proc/filesystems") as file:
        return any(line.split()[-1] == (name or "overlay") for line in file)


REQUIREMENTS: dict[str, tuple[Callable[[str], bool], str]] = {
    "root": (_is_root, "needs root (and CAP_SYS_ADMIN)"),
    "cgroup1": (_has_cgroup1, "needs {} as a cgroup v1 hierarchy, which is not mounted here"),
    "cgroup2": (_has_cgroup2, "needs {} on cgroup v2, which this host does not offer"),
    "cgroup": (lambda name: _has_cgroup1(name) or _has_cgroup2(name), "needs the cgroup controller {}"),
    "fs": (_has_filesystem, "needs the file system {} in the kernel"),
    "overlay": (_has_filesystem, "needs the file system {} in the kernel"),
    "network": (_has_default_route, "needs a default route"),
    "systemd": (
        # The directory alone says little: whoever tries what poc does with systemd makes it.
        lambda _: os.path.isdir("/run/systemd/system") and _fs.read_text("/proc/1/comm") == "systemd",
        "needs systemd as PID 1 (as in scripts/vm-test)",
    ),
    "program": (lambda name: shutil.which(name) is not None, "needs the program {}"),
    "module": (lambda name: find_spec(name) is not None, "needs the Python module {}"),
}


def _roomy_directory() -> str:
    """The first place for temporary files that is a disk, as a container's layers are; overlayfs can't be an upper."""

    def rank(place: str) -> int:
        fd = os.open(place, os.O_RDONLY)
        try:
            return {TMPFS_MAGIC: 1, OVERLAYFS_MAGIC: 2}.get(_libc.filesystem_type(fd), 0)
        finally:
            os.close(fd)

    return min((tempfile.gettempdir(), "/var/tmp", "/dev/shm"), key=rank)


def pytest_configure(config: pytest.Config) -> None:
    """One short directory for all files of this run: a socket's path has 107 bytes and a container's id 64."""
    directory = tempfile.mkdtemp(prefix="poc-", dir=_roomy_directory())
    config.stash[DIRECTORY] = directory
    os.mkdir(f"{directory}/tmp")
    os.environ["TMPDIR"] = tempfile.tempdir = f"{directory}/tmp"
    config.option.basetemp = config.option.basetemp or f"{directory}/pytest"
    name, _, value = leaks.MARK.partition("=")
    os.environ[name] = value
    os.environ.pop("POC_ROOT", None)


def pytest_unconfigure(config: pytest.Config) -> None:
    try:
        _fs.remove_tree(config.stash[DIRECTORY])
    except OSError as error:
        warnings.warn(f"{config.stash[DIRECTORY]} stays: {error}", stacklevel=1)  # a leaked mount, reported already


DIRECTORY = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def run_directory(pytestconfig: pytest.Config) -> str:
    """The directory of this test run, on a disk, short, removed at its end. A test's own is `tmp_path`."""
    return pytestconfig.stash[DIRECTORY]


@pytest.fixture(autouse=True)
def no_leaks(run_directory: str) -> Iterator[None]:
    """Every test leaves the host as it found it: mounts, cgroups, links, nftables, processes, files, descriptors."""
    with nothing_left(run_directory):
        yield


@contextmanager
def nothing_left(run_directory: str) -> Iterator[None]:
    """The same for a fixture that outlives a test: what it begins with belongs to the tests' before and after."""
    before = leaks.snapshot(run_directory)
    yield
    came, went = leaks.difference(before, run_directory)
    if not came and not went:
        return
    lines = [f"{trace.kind} left behind: {trace.what}" for trace in sorted(came)]
    lines += [f"{trace.kind} of the host gone: {trace.what}" for trace in sorted(went)]
    if any(trace.ours for trace in came | went) or not (others := leaks.neighbours()):
        pytest.fail("\n".join(lines), pytrace=False)
    warnings.warn("\n".join([*lines[:5], "or one of these did it:", *others[:5]]), stacklevel=1)


ROOTFS_DIRECTORIES = (
    *("bin", "sbin", "usr", "usr/bin", "usr/sbin"),
    *("dev", "etc", "home", "home/user", "mnt", "proc", "root", "sys", "tmp", "var", "var/tmp"),
)
ROOTFS_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:a user:/home/user:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nuser:x:1000:\nstaff:x:50:user\nnogroup:x:65534:\n",
}
IMAGE_CONFIG = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}


@pytest.fixture(scope="session")
def image_tar(run_directory: str) -> str:
    """The path of a rootfs tarball: a static busybox, its applets as links, two users, the usual directories."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox (busybox-static)")
    applets = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    path = f"{run_directory}/busybox.tar"
    with tarfile.open(path, "w") as archive:
        for name in ROOTFS_DIRECTORIES:
            _add(archive, name, kind=tarfile.DIRTYPE, mode=0o1777 if name.endswith("tmp") else 0o755)
        for name, text in ROOTFS_FILES.items():
            _add(archive, name, text.encode(), mode=0o644)
        archive.add(os.path.realpath(busybox), "bin/busybox", filter=_as_root)
        for name in applets:
            if name != "bin/busybox":
                _add(archive, name, kind=tarfile.SYMTYPE, link="/bin/busybox")
    return path


@pytest.fixture(scope="session")
def rootfs(run_directory: str, image_tar: str) -> str:
    """The same, unpacked: what the bundles of `poc-runtime` have as their root. A test that writes to it cleans up."""
    directory = f"{run_directory}/rootfs"
    os.mkdir(directory)
    subprocess.run(["tar", "-xf", image_tar, "-C", directory], check=True)
    return directory


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """Where any configuration can be run. Its root has no program but `true`."""
    from oci_sandbox import Sandbox

    if not _is_root(""):
        pytest.skip("needs root (and CAP_SYS_ADMIN)")
    root = tmp_path / "rootfs"
    for name in ("bin", "dev", "etc", "home", "mnt", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin" / "true")
    with Sandbox(str(tmp_path), str(root)) as sandbox:
        yield sandbox


def _add(
    archive: tarfile.TarFile,
    name: str,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    mode: int = 0o755,
    link: str = "",
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mode, member.linkname = kind, len(data), mode, link
    if name == "home/user":
        member.uid = member.gid = 1000
    archive.addfile(member, BytesIO(data))


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


@pytest.fixture(scope="session")
def engine_root(run_directory: str, image_tar: str) -> str:
    """The root of a store that holds the image ``busybox``, for `poc.Engine` or ``--root``."""
    from poc.images.store import Store

    root = f"{run_directory}/e"
    Store(root).add_tar(image_tar, "busybox", config=IMAGE_CONFIG)
    return root


@pytest.fixture
def own_network() -> Iterator[None]:
    """The test in a network namespace of its own, lo up: bridges, addresses and rules stay away from the host's."""
    if not _is_root(""):
        pytest.skip("needs root (and CAP_SYS_ADMIN)")
    host = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc.unshare(CLONE_NEWNET)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        _libc.setns(host, CLONE_NEWNET)
        os.close(host)


OUTSIDE_ADDRESS = "198.51.100.1"


@pytest.fixture
def outside(own_network: None) -> Iterator[int]:
    """A world to route to: the pid of a process in another network namespace, `OUTSIDE_ADDRESS`, at the other end
    of the default route. ``nsenter -n -t PID`` goes there.
    """
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        _wait_for_namespace(sleeper.pid)
        there = ["nsenter", "--net", f"--target={sleeper.pid}"]
        for command in (
            ["ip", "link", "add", "uplink", "type", "veth", "peer", "name", "world", "netns", str(sleeper.pid)],
            ["ip", "address", "add", "198.51.100.2/24", "dev", "uplink"],
            ["ip", "link", "set", "uplink", "up"],
            [*there, "ip", "address", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "world"],
            [*there, "ip", "link", "set", "world", "up"],
            [*there, "ip", "link", "set", "lo", "up"],
            ["ip", "route", "add", "default", "via", OUTSIDE_ADDRESS],
        ):
            subprocess.run(command, check=True)
        yield sleeper.pid
    finally:
        sleeper.kill()
        sleeper.wait()


def _wait_for_namespace(pid: int) -> None:
    ours = os.readlink("/proc/thread-self/ns/net")
    wait_until(lambda: os.readlink(f"/proc/{pid}/ns/net") != ours)


@pytest.fixture
def engine(engine_root: str, own_network: None) -> Iterator[poc.Engine]:
    """An engine with the image ``busybox``, in a network namespace of its own; all else goes afterwards."""
    import poc

    engine = poc.Engine(root=engine_root)
    yield engine
    engine.prune(volumes=True)
    for image in engine.images.list():
        for name in set(image.references or [image.id]) - {"busybox:latest"}:
            engine.images.remove(name, force=True)
    assert len(os.listdir(engine.images.store.layers)) == 1


def wait_until(look: Callable[[], object], seconds: float = 20) -> None:
    """Until ``look`` gives something true. Fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.005)


def shell(engine: poc.Engine, script: str, **options: Any) -> str:
    """What a shell in a container prints; it must succeed."""
    import poc
    from poc.errors import ContainerError

    options = {"network": "none", "remove": True, "check": True, "image": "busybox", **options}
    try:
        result = engine.containers.run(command=["sh", "-c", script], **options)
    except ContainerError as error:
        assert isinstance(error.result, poc.RunResult)
        raise AssertionError(f"{error}: {error.result.stderr!r}") from None
    assert isinstance(result, poc.RunResult)
    return result.output


class CommandResult(NamedTuple):
    stdout: str
    stderr: str
    exit_code: int


class CommandLine:
    """Runs ``poc --root ROOT`` as scripts/poc does."""

    def __init__(self, root: str) -> None:
        self.root = root
        start = os.path.join(CHECKOUT, "scripts", "start.py")
        self.command = [sys.executable, "-I", "-S", "-X", "utf8", start, "poc", "--root", root]

    def __call__(self, *arguments: str, input: str = "", timeout: float = 60) -> CommandResult:
        """Run one command to its end. Fails with subprocess.TimeoutExpired after ``timeout`` seconds."""
        done = subprocess.run([*self.command, *arguments], input=input, capture_output=True, text=True, timeout=timeout)
        return CommandResult(done.stdout, done.stderr, done.returncode)

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        """A command that goes on running, with `subprocess.Popen`'s options."""
        return subprocess.Popen([*self.command, *arguments], **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def cli(engine: poc.Engine, engine_root: str) -> CommandLine:
    """The command line on the store of `engine`, which prunes what it leaves."""
    return CommandLine(engine_root)


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A test that fails must not wait for what it started."""
    with process:
        try:
            yield process
        finally:
            process.kill()


class Terminal:
    """A pseudo terminal: ``fd`` is the end that a person sits at, ``slave`` the other."""

    def __init__(self) -> None:
        self.fd, self.slave = pty.openpty()
        self.resize(31, 97)
        self.settings = termios.tcgetattr(self.slave)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def read_until(self, text: bytes) -> bytes:
        data = b""
        while text not in data:
            data += os.read(self.fd, 4096)
        return data

    def start(self, command: list[str], **options: Any) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """A command in a session of its own, with this as its terminal."""

        def own() -> None:
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        slave = self.slave
        return running(subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own, **options))

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.slave)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()
