"""The image that every runtime gets: the host's own programs, so that a difference is the container's alone.

The same sysbench with the same libraries on both sides: two builds of it differ by more than a container costs. A
program that this host lacks is not in the image either; suites say what they need (`poc.bench.suites`). For those there
is `poc bench prepare`, which makes an image of packages, to be named with ``--image``.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

from poc.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from poc.bench.workspace import Workspace
    from poc.engine import Engine, Progress
    from poc.images.store import Image as Stored

NAME = "poc-bench"
REFERENCE = f"docker.io/library/{NAME}:latest"
PROGRAMS = (
    *("sh", "true", "sleep", "cat", "date", "dd", "echo", "rm", "sync", "mkdir", "sysbench", "fio", "iperf3"),
    *("nginx", "ab", "redis-server", "redis-benchmark"),
)
# What `poc bench prepare` makes an image of: for hosts that lack some of these programs.
PREPARED = "poc-bench"
PACKAGES = ("sysbench", "fio", "iperf3", "nginx", "apache2-utils", "redis-server", "redis-tools")
DIRECTORIES = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "",
    "etc/hostname": "",
    "etc/resolv.conf": "",
}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_COPY = 'cp -a "$1/." "$0"'
_MERGE = 'IFS=:; all=$0/../all; mkdir "$all"; mount -t overlay overlay -o "ro,lowerdir=$*" "$all"; cp -a "$all/." "$0"'
_CONFIG = {"Cmd": ["sh"], "Env": [f"PATH={PATH}"]}


class Image:
    """``rootfs`` is its directory, ``tar`` the same as a tarball; ``programs`` are those that are in it."""

    def __init__(self, workspace: Workspace) -> None:
        self.rootfs = workspace.directory("rootfs")
        self.tar = f"{workspace.path}/image.tar"
        self._archive = f"{workspace.path}/archive.tar"
        self.programs: set[str] = set()

    @classmethod
    def of_host(cls, workspace: Workspace) -> Image:
        """Of this host's programs. Raises Unsupported."""
        image = cls(workspace)
        for name in PROGRAMS:
            if path := shutil.which(name, path=PATH):
                image._add(path, name)
        image._fill()
        return image._packed()

    @classmethod
    def of_store(cls, workspace: Workspace, stored: Stored) -> Image:
        """A copy of an image of poc's, all its layers in one. Raises Unsupported."""
        image = cls(workspace)
        # Names only, below one directory: a path may hold what means something in the options of a mount.
        directory, names = os.path.dirname(stored.layers[0]), [os.path.basename(path) for path in stored.layers]
        words = ["unshare", "--mount", "sh", "-ec", _MERGE if len(names) > 1 else _COPY, image.rootfs, *names[::-1]]
        done = subprocess.run(words, cwd=directory, capture_output=True, text=True)
        if done.returncode:
            raise Unsupported(f"the image can't be copied: {(done.stderr.strip() or 'no word why').splitlines()[-1]}")
        image.programs = _programs(image.rootfs)
        return image._packed()

    def _packed(self) -> Image:
        if not {"sh", "true", "sleep"} <= self.programs:
            raise Unsupported("there are no sh, true and sleep to make an image of")
        subprocess.run(["tar", "-cf", self.tar, "-C", self.rootfs, "--numeric-owner", "."], check=True)
        return self

    def _fill(self) -> None:
        for name in DIRECTORIES:
            os.makedirs(f"{self.rootfs}/{name}", exist_ok=True)
        for name in ("tmp", "var/tmp"):
            os.chmod(f"{self.rootfs}/{name}", 0o1777)
        for name, text in _FILES.items():
            with open(f"{self.rootfs}/{name}", "w") as file:
                file.write(text)

    def _add(self, path: str, name: str) -> None:
        """Copy a program under /bin, and the libraries it is linked with to where it looks for them."""
        os.makedirs(f"{self.rootfs}/bin", exist_ok=True)
        shutil.copy(os.path.realpath(path), f"{self.rootfs}/bin/{name}")
        self.programs.add(name)
        for library in _libraries(path):
            target = self.rootfs + os.path.abspath(library)
            if not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copy(os.path.realpath(library), target)

    @property
    def archive(self) -> str:
        """It as `docker save` writes it, for those who take no plain tarball; made when it is first asked for."""
        if not os.path.exists(self._archive):
            _write_archive(self.tar, self._archive)
        return self._archive


def prepare(
    engine: Engine, source: str | None = None, argument: str | None = None, progress: Progress | None = None
) -> Stored:
    """The image PREPARED, from the sources that `Engine.init` has. Raises what that does."""
    return engine.images.make_of_packages(PREPARED, list(PACKAGES), source, argument, progress)


def lacking(stored: Stored) -> list[str]:
    """Those of the programs of the suites that an image does not have."""
    there = {name for layer in stored.layers for name in _programs(layer)}
    return [name for name in PROGRAMS if name not in there]


def _programs(rootfs: str) -> set[str]:
    places = [f"{rootfs}{place}" for place in PATH.split(":")]
    return {name for place in places if os.path.isdir(place) for name in os.listdir(place)}


def _libraries(path: str) -> list[str]:
    """The files that ldd(1) finds, the loader too; none of a program that is static."""
    listed = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    words = [line.split("=>")[-1].split() for line in listed.splitlines()]
    return [line[0] for line in words if line and line[0].startswith("/")]


def _write_archive(tar: str, path: str) -> None:
    with open(tar, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{digest}"]}
    config = {"architecture": machine, "os": "linux", "config": _CONFIG, "rootfs": rootfs}
    manifest = [{"Config": "config.json", "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as archive:
        archive.add(tar, "layer.tar")
        for name, value in (("config.json", config), ("manifest.json", manifest)):
            data = json.dumps(value).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
