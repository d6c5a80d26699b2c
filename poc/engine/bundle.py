"""What a container's OCI bundle holds: ``config.json`` from the user's wishes and the image, and the files beside it.

This is the contract with the runtime. Nothing here starts or looks at a process.
"""

from __future__ import annotations

import json
import os
import socket
import stat

from poc import _fs
from poc.engine.recovery import cgroup_path
from poc.engine.users import read_layered, resolve
from poc.errors import InvalidArgument, Unsupported
from poc.oci import defaults, generate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poc.engine.config import ContainerConfig
    from poc.engine.store import Paths
    from poc.oci.types import Mount, Spec


class Bundle:
    """The bundle of one container, in its directory. ``record`` is what container.json holds."""

    __slots__ = ("_config", "_id", "_paths", "_record", "_spec")

    def __init__(self, paths: Paths, record: dict[str, Any], config: ContainerConfig) -> None:
        self._paths = paths
        self._record = record
        self._config = config
        self._id: str = record["id"]
        self._spec: Spec | None = None

    def _path(self, name: str) -> str:
        return self._paths.container(self._id, name)

    def make(self) -> None:
        """Everything on disk but container.json, which makes it exist."""
        for name in ("upper", "work", "rootfs"):
            os.mkdir(self._path(name), 0o755)
        os.chmod(self._path("upper"), 0o755)  # it is the container's /, whatever the caller's umask
        if size := self._config.storage_opt.get("size"):
            _make_disk(self._path("disk.img"), size)
            os.mkdir(self._path("disk"), 0o755)
        if self._config.network == "host" and not self._config.hostname:
            hostname = socket.gethostname()
        else:
            hostname = self._config.hostname or self._id[:12]
        self._write_spec(hostname)

    def _write_spec(self, hostname: str) -> None:
        config, image = self._config, self._record["image_config"]
        layers = [self._path("upper"), *reversed(self._record["layers"])]
        user = resolve(
            config.user or image.get("User") or "",
            read_layered(layers, "etc/passwd"),
            read_layered(layers, "etc/group"),
        )
        process = generate.process(
            args=_arguments(config, image),
            env=_environment(config, image, hostname, user.home),
            cwd=config.working_dir or image.get("WorkingDir") or "/",
            uid=user.uid,
            gid=user.gid,
            additional_gids=user.groups,
            capabilities=config.capabilities(),
            terminal=config.tty,
        )
        spec = generate.spec(
            process,
            rootfs="rootfs",
            hostname=hostname,
            cgroups_path=cgroup_path(self._id),
            resources=enforceable(config),
            mounts=self._mounts(),
            readonly=config.read_only,
            shm_size=config.shm_size or defaults.DEFAULT_SHM_SIZE,
            private_network=config.network != "host",
            privileged=config.privileged,
        )
        if config.privileged:
            spec["linux"]["devices"] = _host_devices()
        _fs.write_new(self._path("config.json"), json.dumps(spec))
        self._spec = spec

    def _mounts(self) -> list[Mount]:
        mounts: list[Mount] = [
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": self._paths.runtime(self._id, name),
                "options": ["bind", "rprivate", "ro" if self._config.read_only else "rw"],
            }
            for name in ("hostname", "hosts", "resolv.conf")
        ]
        for volume in self._config.volumes:
            options = ["rbind", "rprivate", "rro" if volume["readonly"] else "rw"]
            source, destination = volume["source"], volume["destination"]
            mounts.append({"destination": destination, "type": "bind", "source": source, "options": options})
        for destination, text in self._config.tmpfs.items():
            options = ["noexec", "nosuid", "nodev", *filter(None, text.split(","))]
            mounts.append({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
        return mounts

    def prepare(self, address: str | None) -> Spec:
        """The OCI configuration for a start, and the files it binds; the monitor calls it, the address is known."""
        spec = self.spec()
        files = {
            "hostname": spec["hostname"] + "\n",
            "hosts": _hosts(spec["hostname"], address),
            "resolv.conf": _resolv_conf(self._config.network),
        }
        for name, text in files.items():
            _fs.write_new(self._paths.runtime(self._id, name), text)
        return spec

    def overlay(self) -> dict[str, Any]:
        """The arguments of `poc.rootfs.Overlay` for its root file system."""
        place = "disk/" if self._config.storage_opt else ""
        return {
            "lower": tuple(reversed(self._record["layers"])),
            "upper": self._path(f"{place}upper"),
            "work": self._path(f"{place}work"),
            "disk": self._path("disk.img") if place else None,
        }

    def spec(self) -> Spec:
        """Its OCI configuration."""
        if self._spec is None:
            self._spec = _fs.read_json(self._path("config.json"))
        return self._spec


def enforceable(config: ContainerConfig) -> dict[str, Any]:
    """Its limits, for this host. Raises InvalidArgument and Unsupported for what this host can't enforce."""
    from poc.cgroups import host, plan

    resources = config.resources(swap_counted=host().fact("swap"))
    plan(resources, host())
    return resources


def _arguments(config: ContainerConfig, image: dict[str, Any]) -> list[str]:
    """docker's rule: an entrypoint given here does away with the image's command."""
    if config.entrypoint is not None:
        entrypoint, command = [part for part in config.entrypoint if part], config.command
    else:
        entrypoint, command = image.get("Entrypoint") or [], config.command or image.get("Cmd") or []
    arguments = [*entrypoint, *command]
    if not arguments:
        raise InvalidArgument("no command specified, and the image has none")
    if any("\0" in argument for argument in arguments):
        raise InvalidArgument("a command can't hold a NUL character")
    return arguments


def _environment(config: ContainerConfig, image: dict[str, Any], hostname: str, home: str) -> list[str]:
    entries = [f"PATH={defaults.DEFAULT_PATH}", f"HOSTNAME={hostname}", f"HOME={home}"]
    entries += ["TERM=xterm"] if config.tty else []
    merged = dict(entry.partition("=")[::2] for entry in [*entries, *(image.get("Env") or []), *config.environment])
    return [f"{name}={value}" for name, value in merged.items()]


def _hosts(hostname: str, address: str | None) -> str:
    lines = [
        "127.0.0.1\tlocalhost",
        "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet",
        "ff00::\tip6-mcastprefix",
        "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters",
    ]
    return "\n".join([*lines, f"{address or '127.0.1.1'}\t{hostname}"]) + "\n"


def _resolv_conf(network: str) -> str:
    """The host's, without servers on its own loopback, which a network namespace can't reach."""
    for path in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            text = _fs.read_text(path)
        except OSError:
            continue
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        if network == "host":
            return "\n".join(lines) + "\n"
        kept = [line for line in lines if not line.startswith(("nameserver 127.", "nameserver ::1"))]
        if any(line.startswith("nameserver") for line in kept):
            return "\n".join(kept) + "\n"
    return ""


def _host_devices() -> list[Any]:
    """Every device node below the host's /dev, for a privileged container (docker's rule)."""
    devices = []
    for directory, subdirectories, names in os.walk("/dev"):
        subdirectories[:] = [name for name in subdirectories if f"{directory}/{name}" not in _NOT_DEVICES]
        for name in names:
            path = f"{directory}/{name}"
            try:
                found = os.lstat(path)
            except FileNotFoundError:
                continue  # a device that has just gone
            kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else ""
            if kind and path not in _NOT_DEVICES:
                numbers = {"major": os.major(found.st_rdev), "minor": os.minor(found.st_rdev)}
                owner = {"uid": found.st_uid, "gid": found.st_gid}
                mode = stat.S_IMODE(found.st_mode)
                devices.append({"path": path, "type": kind, "fileMode": mode, **numbers, **owner})
    return devices


_NOT_DEVICES = ("/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx")


def _make_disk(path: str, size: int) -> None:
    """A sparse ext4 image of ``size`` bytes."""
    import shutil
    import subprocess

    program = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise Unsupported("--storage-opt size needs mkfs.ext4; install e2fsprogs")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        raise OSError(error.errno, f"--storage-opt: a disk of {size} bytes: {error.strerror}") from None
    finally:
        os.close(fd)
    # Blocks of 4096 bytes on a small disk too: as large as the loop device's, whose direct I/O needs that.
    options = ["-b", "4096", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]
    command = [program, "-q", "-F", *options, path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(5, f"mkfs.ext4 {path}: {done.stderr.strip() or done.returncode}")
