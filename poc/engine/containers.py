"""Containers: made, found, listed. What one can do: `poc.engine.container`."""

from __future__ import annotations

import os
import time

from poc import _fs
from poc.engine import events, recovery
from poc.engine.bundle import enforceable
from poc.engine.config import SETTINGS, ContainerConfig
from poc.engine.container import Container
from poc.engine.state import ALIVE
from poc.engine.store import Lock
from poc.errors import (
    ContainerError,
    ContainerExists,
    ContainerNotFound,
    ImageNotFound,
    InvalidArgument,
    PocError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from poc.engine import Engine
    from poc.images import Image

    Filters = Mapping[str, str | Iterable[str]] | Iterable[str]


class Containers:
    """All containers of an engine."""

    __slots__ = ("_engine",)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self, image: str, command: str | Sequence[str] | None = None, *, hold: bool = False, **options: Any
    ) -> Container:
        """Make a container without starting it. ``options`` as for `run`. Raises PocError and OSError.

        ``hold``: the caller is going to start it at once, and nobody comes in between; if the caller is killed
        before, it counts as one that was started.
        """
        if options.get("runtime") is not None or os.path.exists(SETTINGS):
            from poc.engine import foreign

            options["runtime"] = foreign.choose(options.get("runtime"))
        options.setdefault("stdin_once", bool(options.get("stdin_open")))
        config = ContainerConfig(image=image, command=command, **options)
        if config.joins:
            from poc.engine import sharing

            sharing.settle(self._engine, config)
        enforceable(config)  # a limit that can't be enforced is refused before anything is made
        with self._engine.paths.share():
            found = self._engine.images.get(image)
            id, lock = self._new_directory()
            try:
                container = self._fill(id, config, found, lock if hold else None)
            except BaseException:
                with lock:
                    recovery.delete(self._engine, id)
                    _fs.remove_tree(self._engine.paths.runtime(id))
                raise
        if not hold:
            lock.release()
        return container

    def _new_directory(self) -> tuple[str, Lock]:
        while True:
            id = os.urandom(32).hex()
            if id[:12].isdecimal():
                continue  # as a host name it would be taken for an IPv4 address, and nobody would find it
            os.mkdir(self._engine.paths.container(id), 0o711)
            try:
                lock = Lock.take(self._engine.paths.container(id))
            except FileNotFoundError:
                continue  # taken for a killed command's before it was locked
            if lock is not None:
                return id, lock

    def _fill(self, id: str, config: ContainerConfig, image: Image, held: Lock | None) -> Container:
        record: dict[str, Any] = {
            "id": id,
            "name": self._take_name(id, config.name),
            "created": time.time(),
            "image": image.id,
            "image_config": image.config,
            "layers": image.layers,
            "config": config.values,
        }
        if config.volumes or config.mounts or config.volumes_from or image.config.get("Volumes"):
            from poc.engine import mounting

            record["mounts"] = mounting.provide(self._engine, id, config, image)
        container = Container(self._engine, record, held)
        container.bundle.make()
        if held is not None:
            os.mkdir(self._engine.paths.runtime(id), 0o700)
        _fs.write_json(self._engine.paths.container(id, "container.json"), record)
        events.emit_container(self._engine.paths, record, "create")
        return container

    def _take_name(self, id: str, wanted: str) -> str:
        """The exclusive symlink is the lock. Without a wish: poc_ and the beginning of the id."""
        name = wanted or f"poc_{id[:12]}"
        path = self._engine.paths.name(name)
        for _ in range(2):
            try:
                os.symlink(id, path)
                return name
            except FileExistsError:
                recovery.free_stale_name(self._engine, name)
        raise ContainerExists(name)

    def run(
        self,
        image: str,
        command: str | Sequence[str] | None = None,
        *,
        detach: bool = False,
        remove: bool = False,
        check: bool = False,
        stdin: bytes | None = None,
        **options: Any,
    ) -> Any:
        """Create and start a container. Returns a `RunResult` when it has ended, or with ``detach`` a `Container`.

        ``stdin`` is what the program reads; ``check`` raises ContainerError on a non-zero status. Options are
        docker-py's: name, hostname, environment, working_dir, user, volumes, volumes_from,
        mounts, read_only, tmpfs, cap_add, cap_drop,
        privileged, entrypoint, init, labels, network, tty, stdin_open, mem_limit, memswap_limit, mem_reservation,
        oom_kill_disable, pids_limit, cpu_quota, cpu_period, cpu_shares, cpuset_cpus, cpuset_mems, blkio_weight,
        device_read_bps, device_write_bps, device_read_iops, device_write_iops, storage_opt, shm_size, stop_signal,
        stop_timeout, runtime, cgroup_parent, ulimits, sysctls, oom_score_adj, group_add, devices, device_cgroup_rules,
        security_opt, extra_hosts, dns, dns_search, dns_opt, domainname, mem_swappiness, cpu_rt_period, cpu_rt_runtime,
        blkio_weight_device, platform, mac_address, pid_mode, ipc_mode, uts_mode, userns_mode, cgroupns;
        ``expose``, a list of ports, ``annotations``, a mapping; ``cpus``, a float. Sizes are bytes or "64m".
        Raises PocError and OSError.
        """
        options["stdin_open"] = options.get("stdin_open") or stdin is not None
        options.setdefault("stdin_once", options["stdin_open"] and not detach)
        container = self.create(image, command, remove=remove, hold=True, **options)
        try:
            if detach:
                container.start()
                return container
            result = container.run_here(stdin)
        except BaseException:
            container.discard()
            raise
        if check and result.exit_code:
            raise ContainerError(f"{image} {command}: exit status {result.exit_code}", result)
        return result

    def get(self, reference: str) -> Container:
        """The container of this name, id or unique id prefix. Raises ContainerNotFound."""
        id = self._engine.paths.find(reference)
        try:
            return self._load(id)
        except FileNotFoundError:
            recovery.recover(self._engine, id)
            raise ContainerNotFound(reference) from None

    def _load(self, id: str) -> Container:
        return Container(self._engine, _fs.read_json(self._engine.paths.container(id, "container.json")))

    def list(self, all: bool = False, filters: Filters = ()) -> list[Container]:
        """The running containers, or all; newest first. Finishes for whoever was killed, as far as that is possible.

        ``filters`` as for `look`.
        """
        if filters:
            return [container for container, _ in self.look(all, filters)]
        return [container for container in self._loaded() if all or container.status in ALIVE]

    def look(
        self, all: bool = False, filters: Filters = (), limit: int | None = None
    ) -> Sequence[tuple[Container, dict[str, Any]]]:
        """What `list` gives, with the `Container.attrs` of each.

        ``filters`` are docker's, as ``{"status": "exited"}`` or ``["status=exited"]``: ancestor, before, exited,
        expose, health, id, is-task, label, name, network, publish, since, status, volume. ``limit``: the newest so
        many, in any state. Raises InvalidArgument, and ContainerNotFound for an unknown one in ``before`` or ``since``.
        """
        from poc.engine.filters import matches, parse_filters, resolve

        wanted = parse_filters(filters)
        everything = all or limit is not None or "status" in wanted or "exited" in wanted
        wanted = resolve(wanted, self._image_id, lambda name: str(self.get(name).attrs["Created"]))
        found: list[tuple[Container, dict[str, Any]]] = []
        for container in self._loaded():
            if limit is not None and len(found) == limit:
                break
            try:
                attrs = container.described()
            except ContainerNotFound:
                continue  # removed since it was listed
            if (everything or attrs["State"]["Status"] in ALIVE) and matches(attrs, wanted):
                found.append((container, attrs))
        return found

    def _image_id(self, name: str) -> str | None:
        try:
            return str(self._engine.images.get(name).id)
        except (ImageNotFound, InvalidArgument):
            return None

    def _loaded(self) -> Sequence[Container]:
        """All, the newest first."""
        try:
            recovery.recover_all(self._engine)
        except (PocError, OSError):
            pass  # a listing is not the place to report it: the next start, or `prune`, fails with it
        found = []
        for id in self._engine.paths.ids():
            try:
                found.append(self._load(id))
            except FileNotFoundError:
                continue  # removed meanwhile
        return sorted(found, key=lambda container: -container.created)

    def prune(self, filters: Filters = ()) -> dict[str, Any]:
        """Remove those that don't run: ``{"ContainersDeleted": ids, "SpaceReclaimed": bytes}``.

        Filters: until, label, label!. Raises InvalidArgument.
        """
        from poc.engine.cleaning import prune_containers

        return prune_containers(self._engine, filters)
