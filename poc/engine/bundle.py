"""What a container's OCI bundle holds: ``config.json`` from the user's wishes and the image, and the files beside it.

This is the contract with the runtime. Nothing here starts or looks at a process.
"""

from __future__ import annotations

import os

from poc import _fs
from poc._lean import json, socket
from poc.engine import resolving
from poc.engine.config import OWN_RUNTIME
from poc.engine.networks import Networks
from poc.engine.recovery import cgroup_path
from poc.engine.users import group_ids, read_layered, resolve
from poc.engine.values import NETWORK_MODES
from poc.errors import InvalidArgument, Unsupported
from poc.oci import defaults, generate
from poc.runtime import seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from poc.engine.config import ContainerConfig
    from poc.engine.store import Paths
    from poc.oci.types import Mount, Process, Spec


class Bundle:
    """The bundle of one container, in its directory. ``record`` is what container.json holds."""

    __slots__ = ("_config", "_id", "_paths", "_record", "_spec", "trees")

    def __init__(self, paths: Paths, record: dict[str, Any], config: ContainerConfig) -> None:
        self._paths = paths
        self._record = record
        self._config = config
        self._id: str = record["id"]
        self._spec: Spec | None = None
        self.trees: dict[str, int] = {}  # by `prepare`: detached mounts, by what the specification has as their source

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
        self._write_spec(self._choose_hostname())

    def _choose_hostname(self) -> str:
        if (host := self._network_of) != self._id:
            return _fs.read_json(self._paths.container(host, "config.json"))["hostname"] or socket.gethostname()
        if "host" in (self._config.network, self._config.uts_mode) and not self._config.hostname:
            return socket.gethostname()
        return self._config.hostname or self._id[:12]

    @property
    def _network_of(self) -> str:
        """The id of the container whose network it uses, with the files that go with it: itself, or another."""
        kind, _, other = self._config.network.partition(":")
        return other if kind == "container" else self._id

    @property
    def hostname(self) -> str:
        """Its host name, which in the host's UTS namespace is the host's."""
        return self.spec()["hostname"] or socket.gethostname()

    def _write_spec(self, hostname: str) -> None:
        config = self._config
        layers = [self._path("upper"), *reversed(self._record["layers"])]
        process = self._process(
            layers, hostname, _arguments(config, self._record["image_config"]), config.user, config.working_dir
        )
        process["terminal"] = config.tty
        spec = generate.spec(
            process,
            rootfs="rootfs",
            hostname=hostname,
            cgroups_path=cgroup_path(self._id, config.cgroup_parent),
            resources=enforceable(config),
            mounts=self._mounts(),
            readonly=config.read_only,
            shm_size=config.shm_size or defaults.DEFAULT_SHM_SIZE,
            shared=config.host_namespaces,
            privileged=config.privileged,
        )
        if config.privileged:
            from poc.engine import devices

            spec["linux"]["devices"] = devices.every()
        if config.network in NETWORK_MODES and config.network != "host":
            spec["linux"]["sysctl"] = {key: value for key, value in defaults.SYSCTLS if _is_sysctl(key)}
        if config.is_special:
            from poc.engine import special

            special.put_into(spec, config)
            self._compile(spec)
        _fs.write_new(self._path("config.json"), json.dumps(spec))
        self._spec = spec

    def _compile(self, spec: Spec) -> None:
        """What is wrong with a seccomp profile is said when the container is made."""
        if self._config.runtime == OWN_RUNTIME and (profile := spec["linux"].get("seccomp")):
            seccomp.program(profile, self._paths.cache)
            seccomp.filter_flags(profile)

    def _process(
        self,
        layers: Sequence[str],
        hostname: str,
        args: Sequence[str],
        user: str | None,
        working_dir: str | None,
        environment: Iterable[str] = (),
        privileged: bool = False,
        tty: bool = False,
    ) -> Process:
        """``layers``: directories in which its files of users are looked for, the first that has one."""
        config, image = self._config, self._record["image_config"]
        group = read_layered(layers, "etc/group")
        found = resolve(user or image.get("User") or "", read_layered(layers, "etc/passwd"), group)
        more = group_ids(config.group_add, group) if config.group_add else []
        return generate.process(
            args=args,
            env=_environment(config, image, hostname, found.home, environment, config.tty or tty),
            cwd=working_dir or image.get("WorkingDir") or "/",
            uid=found.uid,
            gid=found.gid,
            # Its own group too: or a file closed to that group would be open to whoever leaves it (CVE-2022-36109).
            additional_gids=list(dict.fromkeys([found.gid, *found.groups, *more])),
            capabilities=defaults.ALL_CAPABILITIES if privileged else config.capabilities(),
        )

    def process_beside(
        self,
        pid: int,
        command: Sequence[str],
        *,
        environment: Iterable[str] = (),
        working_dir: str | None = None,
        user: str | None = None,
        privileged: bool = False,
        tty: bool = False,
    ) -> Process:
        """Another process for the container whose first one is ``pid``; what is not said is as for that."""
        config = self._config
        if not command:
            raise InvalidArgument("no command specified")
        process = self._process(
            [f"/proc/{pid}/root"],
            self.hostname,
            command,
            user or config.user,
            working_dir or config.working_dir,
            environment,
            privileged,
            tty,
        )
        process["terminal"] = tty
        # As docker's: what bounds the first process bounds the others, or it would be no bound.
        first = self.spec()["process"]
        for name in ("rlimits", "oomScoreAdj", "noNewPrivileges"):
            if name in first:
                process[name] = first[name]
        return process

    @property
    def cache(self) -> str:
        """Where compiled seccomp filters are kept."""
        return self._paths.cache

    def _mounts(self) -> list[Mount]:
        mounts: list[Mount] = [
            {
                "destination": f"/etc/{name}",
                "type": "bind",
                "source": self._paths.runtime(self._network_of, name),
                "options": ["bind", "rprivate", "ro" if self._config.read_only else "rw"],
            }
            for name in ("hostname", "hosts", "resolv.conf")
        ]
        points, tmpfs = self._record.get("mounts", ()), self._config.tmpfs
        if points or tmpfs:
            from poc.engine.mounts import oci

            mounts += oci(points, tmpfs)
        return mounts

    def prepare(self, address: str | None) -> Spec:
        """The OCI configuration for a start, and the files it binds; the monitor calls it, the address is known."""
        spec = self.spec()
        if self._config.devices:
            from poc.engine import devices

            devices.put_into(spec, self._config)  # they may have other numbers since the host was booted
        if self._network_of == self._id:
            self._write_files(address)
        if points := self._record.get("mounts"):
            from poc.engine import mounting

            spec, self.trees = mounting.prepare(self._paths, self._id, spec, points)
        return spec

    def bound(self) -> list[Mount]:
        """Its volumes, and what of the host is mounted in it, as that is now; `trees` as for a start."""
        points = self._record.get("mounts")
        if not points:
            return []
        from poc.engine import mounting

        spec, self.trees = mounting.prepare(self._paths, self._id, self.spec(), points)
        places = {point["destination"] for point in points}
        return [mount for mount in spec["mounts"] if mount["destination"] in places and mount["type"] == "bind"]

    def _write_files(self, address: str | None) -> None:
        gateway = str(Networks(self._paths).bridge().gateway) if self._config.needs_gateway else ""
        files = {
            "hostname": self.hostname + "\n",
            "hosts": resolving.hosts(self._config, self.hostname, address, gateway),
            "resolv.conf": resolving.resolv_conf(self._config),
        }
        for name, text in files.items():
            _fs.write_new(self._paths.runtime(self._id, name), text)

    def close(self) -> None:
        """Let go of what `prepare` opened, once everything is mounted."""
        while self.trees:
            os.close(self.trees.popitem()[1])

    def overlay(self) -> dict[str, Any]:
        """The arguments of `poc.rootfs.Overlay` for its root file system."""
        place = "disk/" if self._config.storage_opt else ""
        return {
            "lower": tuple(reversed(self._record["layers"])),
            "upper": self._path(f"{place}upper"),
            "work": self._path(f"{place}work"),
            "disk": self._path("disk.img") if place else None,
        }

    def change_resources(self, resources: dict[str, Any]) -> None:
        """Other limits from the next start on."""
        spec = self.spec()
        spec["linux"]["resources"] = {**resources, "devices": spec["linux"]["resources"]["devices"]}
        _fs.write_json(self._path("config.json"), spec)

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


def _environment(
    config: ContainerConfig, image: dict[str, Any], hostname: str, home: str, more: Iterable[str], tty: bool
) -> list[str]:
    entries = [f"PATH={defaults.DEFAULT_PATH}", f"HOSTNAME={hostname}", f"HOME={home}"]
    entries += ["TERM=xterm"] if tty else []
    entries += [*(image.get("Env") or []), *config.environment, *more]
    merged = dict(entry.partition("=")[::2] for entry in entries)
    return [f"{name}={value}" for name, value in merged.items()]


def _is_sysctl(key: str) -> bool:
    return os.path.exists(f"/proc/sys/{key.replace('.', '/')}")


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
