"""The base image `ubuntu`: sysbench, python3, ping and iproute2 on a minimal system, made without Docker if need be.

    registry    comes with images from registries
    bootstrap   mmdebstrap(1) on Ubuntu's archive; where that can't be reached, on the apt sources of this host
    docker      a Docker that is there builds the image and hands it over
    tar, dir    what the user has

Without a choice the first three are tried in this order. What was made is plain from the image: its `distribution`
is what its /etc/os-release says, a reference of that name is added, and `note` says so when it isn't Ubuntu.

mmdebstrap works in mount and pid namespaces of its own and dies with its parent: killed anywhere, it leaves neither a
mount nor a process, only a work directory that `Store.clean` deletes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import shutil
import subprocess
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

from poc import _fs, errors
from poc.images import archive, content, references

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from poc.images.store import Image, Store, Work

    Progress = Callable[[str, int, int], object] | None

NAME = "ubuntu:latest"
PACKAGES = ("sysbench", "python3", "iputils-ping", "iproute2")
RELEASE = "noble"
IN_ORDER = ("registry", "bootstrap", "docker")
SOURCES = (*IN_ORDER, "tar", "dir")

_KEYS = os.path.join(os.path.dirname(__file__), "keys")  # Ubuntu's: 2018, fingerprint …871920D1991BC93C
_APT_HELPER = "/usr/lib/apt/apt-helper"
_REACH_SECONDS = 4
_LISTEN_SECONDS, _SUSPICIOUS_SECONDS, _PATIENCE_SECONDS = 3, 30, 600
_LEAST_ROOM = 64 << 20  # bytes; no step of mmdebstrap's can do with less
_STEPS = 400  # Get, Unpacking and Setting up of some 130 packages: an estimate, apt knows their number only late
_STEP = re.compile(r"Get:|Unpacking |Setting up ")

_CONFINED = (
    *("setpriv", "--pdeathsig=KILL", "--", "unshare", "--kill-child=KILL", "--fork", "--pid", "--mount"),
    *("--mount-proc", "--propagation=private", "--"),
)
_MMDEBSTRAP = (
    *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"),
    "--dpkgopt=force-unsafe-io",  # the store syncs once, at the end
    *(f"--dpkgopt=path-exclude=/usr/share/{part}" for part in ("man/*", "doc/*", "info/*", "locale/*/LC_MESSAGES/*")),
    "--dpkgopt=path-include=/usr/share/doc/*/copyright",
)
_MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
_APT_OPTIONS = ("Acquire::http", "Acquire::Check-", "Acquire::ForceIPv", "Acquire::Retries")
_LOGIN_DATA = 'Dir::Etc::netrc "/etc/apt/auth.conf";\nDir::Etc::netrcparts "/etc/apt/auth.conf.d";\n'

# The engine binds a container's own over the first three, so that they have to be there, and regular files.
_FILES = {
    "etc/hostname": ("localhost\n", 0o644),
    "etc/hosts": ("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n", 0o644),
    "etc/resolv.conf": ("", 0o644),
    "usr/sbin/policy-rc.d": ("#!/bin/sh\nexit 101  # no service starts because its package is installed\n", 0o755),
}

_DOCKERFILE = """\
FROM ubuntu:24.04
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends {packages} && rm -rf /var/lib/apt/lists/*
"""


class _Archive:
    """Where packages come from: what to call it, its release, source lines or files, further options."""

    __slots__ = ("name", "options", "release", "sources")

    def __init__(self, name: str, release: str, sources: Sequence[str], options: Sequence[str]) -> None:
        self.name, self.release, self.sources, self.options = name, release, sources, options


class _Unavailable(Exception):
    """Why one of several ways is closed; the next is tried."""


def make_base(store: Store, source: str | None = None, argument: str | None = None, progress: Progress = None) -> Image:
    """The image `ubuntu`: the one that is there, or made from ``source``, one of SOURCES (None: the first that works).

    ``argument`` is tar's FILE, dir's PATH. An image that is there and whole is left alone unless another source is
    named. Of two callers at once the second waits, and takes what the first made. What killed calls left is deleted.
    `summary` says what it became. Raises InvalidArgument, OSError (a full disk), and Unsupported, which names what
    each source that was tried lacks.
    """
    _check(source, argument)
    store.clean()
    with _turn(store, progress):
        image = _present(store, source) or _make(store, source, argument, progress, NAME, PACKAGES)
        if image.distribution and image.distribution not in image.references:
            store.tag(NAME, image.distribution)
        return store.get(NAME)


def make_of_packages(
    store: Store,
    reference: str,
    packages: Sequence[str],
    source: str | None = None,
    argument: str | None = None,
    progress: Progress = None,
) -> Image:
    """An image of the base image's packages and ``packages``, from the same sources as `make_base`.

    Of tar and dir it is what is there, with whatever lacks. What the reference named before is replaced. Raises
    InvalidArgument, OSError and Unsupported.
    """
    _check(source, argument)
    store.clean()
    with _turn(store, progress):
        name, all_packages = references.normalize(reference), list(dict.fromkeys((*PACKAGES, *packages)))
        return _make(store, source, argument, progress, name, all_packages)


def summary(image: Image) -> str:
    """One line: what the image `ubuntu` really is, and why."""
    if not image.source:
        return f"ubuntu is {image.distribution or image.id}, which was here already"
    return image.note or f"ubuntu is {image.distribution} ({image.origin})"


def _check(source: str | None, argument: str | None) -> None:
    if source not in (None, *SOURCES):
        raise errors.InvalidArgument(f"--from {source}: there are {', '.join(SOURCES)}")
    if source in ("tar", "dir") and not argument:
        raise errors.InvalidArgument(
            f"--from {source} needs {'a rootfs tarball' if source == 'tar' else 'a directory'}"
        )
    if argument and source not in ("tar", "dir"):
        raise errors.InvalidArgument(f"--from {source} takes no argument, but was given {argument!r}")


@contextmanager
def _turn(store: Store, progress: Progress) -> Iterator[None]:
    """One at a time; when it is killed, the kernel passes the turn on."""
    store.prepare()
    fd = os.open(store.images, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _tell(progress, "waiting for another `poc init`")
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _present(store: Store, source: str | None) -> Image | None:
    try:
        image = store.get(NAME)
    except errors.ImageNotFound:
        return None
    wanted = source is None or (source in IN_ORDER and source == image.source)
    return image if wanted and image.complete else None


def _make(
    store: Store, source: str | None, argument: str | None, progress: Progress, name: str, packages: Sequence[str]
) -> Image:
    if argument:
        add = store.add_tar if source == "tar" else store.add_directory
        return add(argument, name, progress=progress, source=str(source), origin=f"made from {argument}")
    reasons = []
    for way in [source] if source else IN_ORDER:
        try:
            return _MAKERS[way](store, progress, name, packages)
        except _Unavailable as reason:
            reasons.append(f"{way}: {reason}")
    others = [way for way in ("bootstrap", "docker", "tar FILE", "dir PATH") if source and way != source]
    hint = f"use --from {', '.join(others or ('tar FILE', 'dir PATH'))}"
    raise errors.Unsupported(f"no image could be made ({'; '.join(reasons)}); {hint}")


def _from_registry(store: Store, progress: Progress, name: str, packages: Sequence[str]) -> Image:
    raise _Unavailable("images from a registry are not supported yet")


def _from_bootstrap(store: Store, progress: Progress, name: str, packages: Sequence[str]) -> Image:
    _need("mmdebstrap", "apt-get install mmdebstrap")
    reasons: list[str] = []
    for find in (_ubuntu_archive, _host_archive):
        _tell(progress, "looking for an archive of packages")
        try:
            with store.work() as work:
                found = find(work)
                _run_mmdebstrap(work, rootfs := work.rootfs(), found, packages, progress)
                origin = ", ".join(reasons) or f"made from {found.name}"
                return _adopt(store, rootfs, name, origin, progress)
        except _Unavailable as reason:
            reasons.append(str(reason))
    raise _Unavailable(", ".join(reasons))


def _ubuntu_archive(work: Work) -> _Archive:
    intel = os.uname().machine in ("x86_64", "i686")
    main, security, path = ("archive", "security", "ubuntu") if intel else ("ports", "ports", "ubuntu-ports")
    # 833 bytes that are always there
    if not _reachable(f"http://{main}.ubuntu.com/{path}/dists/{RELEASE}/Release.gpg", work.path):
        raise _Unavailable("Ubuntu's archive could not be reached")
    lines = [
        f"deb http://{host}.ubuntu.com/{path} {RELEASE}{pocket} main universe"
        for host, pocket in ((main, ""), (main, "-updates"), (security, "-security"))
    ]
    return _Archive("Ubuntu's archive", RELEASE, lines, (f"--keyring={_KEYS}",))


def _reachable(url: str, directory: str) -> bool:
    """Whether apt, through the proxies and with the certificates it has on this host, gets at a file within seconds."""
    options = ["-oAPT::Sandbox::User=root", "-oAcquire::Retries=0"]
    options += [f"-oAcquire::{kind}::Timeout={_REACH_SECONDS}" for kind in ("http", "https")]
    command = (*_CONFINED, _APT_HELPER, *options, "download-file", url, os.path.join(directory, "probe"))
    try:
        result = subprocess.run(command, capture_output=True, timeout=2 * _REACH_SECONDS, check=False)
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return False
    return result.returncode == 0


def _host_archive(_: Work) -> _Archive:
    """The apt sources of this host, as far as its own distribution is in them: third parties' stay outside."""
    system = content.os_release(_fs.read_text("/etc/os-release"))
    release = system.get("VERSION_CODENAME", "")
    wanted = ("--format", "$(RELEASE)\t$(SOURCESENTRY)", "Created-By: Packages")
    files: dict[str, None] = {}
    # apt's own reading of its sources; --no-release-info: also where nothing has been fetched yet
    for line in _output("apt-get", "indextargets", "--no-release-info", *wanted).splitlines():
        suite, entry = line.split("\t")
        if release and suite.partition("/")[0].partition("-")[0] == release:
            files[entry.rpartition(":")[0]] = None
    if not files:
        raise _Unavailable(f"apt on this host has no sources of {release or 'its release'}")
    # Debian 12's essential packages would pull in perl, to merge /usr where it isn't yet.
    merge = system.get("ID") == "debian" and release == "bookworm" and os.path.isdir(_MERGED_USR)
    return _Archive("this host's apt sources", release, list(files), [f"--hook-dir={_MERGED_USR}"] if merge else [])


def _adopt(store: Store, rootfs: str, name: str, origin: str, progress: Progress) -> Image:
    _tell(progress, "storing the image", _STEPS)
    _finish(rootfs)
    return store.adopt(rootfs, archive.digest_of(rootfs), name, source="bootstrap", origin=origin)


def _run_mmdebstrap(work: Work, rootfs: str, found: _Archive, wanted: Sequence[str], progress: Progress) -> None:
    options = os.path.join(work.path, "apt.conf")
    _fs.write_atomic(options, _apt_configuration())
    packages = ("apt", *wanted, *(["ca-certificates"] if _uses_https(found) else []))
    command = (
        *(*_CONFINED, *_MMDEBSTRAP, f"--include={','.join(packages)}", f"--aptopt={options}"),
        *(*found.options, found.release, rootfs, *found.sources),
    )
    with _quiet_process(command, work.fd) as process:
        last = _follow(process, work.path, progress)
    if process.returncode:
        complaint = next((line for line in last if line.startswith("E: ")), last[-1] if last else "it was killed")
        raise _Unavailable(f"mmdebstrap failed on {found.name}: {complaint.removeprefix('E: ')}")


@contextmanager
def _quiet_process(command: Sequence[str], keep: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process whose standard error is read; killed, with all it started, when the `with` ends early."""
    environment = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    environment |= {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(keep,),
        umask=0o022,
        env=environment,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            assert process.stderr
            process.stderr.read()  # to its end: which comes when the last of its children is gone
            raise


def _follow(process: subprocess.Popen[bytes], place: str, progress: Progress) -> list[str]:
    """Report progress from mmdebstrap's messages until it ends; its last lines. Raises OSError for a full disk."""
    last: deque[str] = deque(maxlen=100)
    text, done = "bootstrapping", 0
    for line in _lines(process, place):
        if "No space left on device" in line:
            raise OSError(errno.ENOSPC, f"mmdebstrap: {line.removeprefix('E: ')}")
        last.append(line)
        if line.startswith("I: ") and "/" not in line:
            text = line.removeprefix("I: ").rstrip(".")
        done += bool(_STEP.match(line))
        _tell(progress, text, min(done, _STEPS - 1))
    return list(last)


def _lines(process: subprocess.Popen[bytes], place: str) -> Iterator[str]:
    """What a process writes on standard error. Where the disk is full apt may hang instead of saying so."""
    assert process.stderr
    fd, rest, silence = process.stderr.fileno(), b"", 0
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        if not poll.poll(1000 * _LISTEN_SECONDS):
            silence += _LISTEN_SECONDS
            # apt may also take back what it could not write whole, and hang: little room and silence mean the same.
            if _is_full(place, 1 << 20 if silence < _SUSPICIOUS_SECONDS else _LEAST_ROOM):
                raise OSError(errno.ENOSPC, f"mmdebstrap in {place}: No space left on device")
            if silence >= _PATIENCE_SECONDS:
                raise errors.PocError(f"mmdebstrap has said nothing for {silence} seconds")
            continue
        silence = 0
        data = os.read(fd, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode("utf-8", "replace").strip() for line in lines)


def _is_full(place: str, room: int) -> bool:
    disk = os.statvfs(place)
    return disk.f_bfree * disk.f_frsize < room or (disk.f_files > 0 and disk.f_ffree == 0)


def _apt_configuration() -> str:
    """This host's proxies, certificates and login data for apt, which mmdebstrap would not look at."""
    lines = [line for line in _output("apt-config", "dump").splitlines() if line.startswith(_APT_OPTIONS)]
    # The store is closed to apt's own user, _apt.
    return "\n".join([*lines, 'APT::Sandbox::User "root";', _LOGIN_DATA])


def _uses_https(found: _Archive) -> bool:
    texts = (source if " " in source else _fs.read_text(source) for source in found.sources)
    return any("https:" in text for text in texts)


def _finish(rootfs: str) -> None:
    """Leave nothing of this host in a new rootfs but its apt sources, and the keys these name."""
    _fs.remove_file(os.path.join(rootfs, "etc/apt/apt.conf.d/99mmdebstrap"))
    for path, (text, mode) in _FILES.items():
        target = os.path.join(rootfs, path)
        _fs.write_atomic(target, text)
        os.chmod(target, mode)
    for keyring in _named_keyrings(os.path.join(rootfs, "etc/apt")):
        target = rootfs + keyring
        if os.path.isfile(keyring) and not os.path.exists(target):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(keyring, target)


def _named_keyrings(directory: str) -> list[str]:
    lists = os.path.join(directory, "sources.list.d")
    files = [os.path.join(directory, "sources.list"), *(os.path.join(lists, name) for name in os.listdir(lists))]
    text = "\n".join(_fs.read_text(file) for file in files if os.path.isfile(file))
    return re.findall(r"signed-by[:=]\s*(/[^\s\]]+)", text, re.IGNORECASE)


def _from_docker(store: Store, progress: Progress, name: str, packages: Sequence[str]) -> Image:
    _need("docker", "or has no daemon")
    _output("docker", "version", "--format", "{{.Server.Version}}")
    _tell(progress, "building with docker")
    image = _output("docker", "build", "--quiet", "-", text=_DOCKERFILE.format(packages=" ".join(packages)))
    try:
        container = _output("docker", "create", image, "true")
        try:
            with subprocess.Popen(("docker", "export", container), stdout=subprocess.PIPE) as export:
                assert export.stdout
                return store.add_tar(export.stdout, name, progress=progress, source="docker", origin="made by docker")
        finally:
            _output("docker", "rm", "--force", container)
    finally:
        _output("docker", "rmi", image)


def _need(program: str, otherwise: str) -> None:
    if not shutil.which(program):
        raise _Unavailable(f"{program} is not installed ({otherwise})")


def _output(*command: str, text: str | None = None) -> str:
    """What a command prints, stripped; _Unavailable with the last line of its complaint."""
    result = subprocess.run(command, input=text, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise _Unavailable(f"{command[0]} {command[1]}: {lines[-1]}")
    return result.stdout.strip()


def _tell(progress: Progress, text: str, done: int = 0) -> None:
    if progress:
        progress(text, done, _STEPS)


_MAKERS = {"registry": _from_registry, "bootstrap": _from_bootstrap, "docker": _from_docker}
